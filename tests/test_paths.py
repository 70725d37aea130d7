"""Addresses: corpora and stores that are elsewhere, by any file system that fsspec knows."""

import json
import shutil
import uuid

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxdenoise import paths
from jaxdenoise.config import DataConfig
from jaxdenoise.data import files
from jaxdenoise.data.store import cache_directory, load_tokenizer, prepare
from jaxdenoise.errors import UserError

WORDS = [f"w{i}" for i in range(500)]


@pytest.fixture
def local(tmp_path, monkeypatch):
    """This machine's own cache, where copies lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "local"))
    monkeypatch.delenv("JAXDENOISE_CACHE")
    return tmp_path / "local" / "jaxdenoise"


@pytest.fixture
def folder(tmp_path):
    """A corpus of every kind of file."""
    from array_record.python.array_record_module import ArrayRecordWriter

    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 30)) for _ in range(160)]
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(texts[:40]))
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts[40:80]))
    table = pyarrow.table({"text": texts[80:120]})
    pyarrow.parquet.write_table(table, folder / "c.parquet", row_group_size=10)
    writer = ArrayRecordWriter(str(folder / "d.array_record"), "group_size:1")
    for text in texts[120:]:
        writer.write(text.encode())
    writer.close()
    return folder


@pytest.fixture
def elsewhere(folder):
    """The same in the memory file system of fsspec, as an address."""
    address = f"memory://{uuid.uuid4().hex}"
    there = paths.as_path(address)
    for path in folder.iterdir():
        (there / "texts").mkdir(parents=True, exist_ok=True)
        (there / "texts" / path.name).write_bytes(path.read_bytes())
    return address


def config(pattern: str) -> DataConfig:
    return DataConfig(files=(pattern,), vocabulary_size=400, sentinels=20, held_out=0.2)


def test_paths_of_this_machine_are_paths(tmp_path):
    assert paths.as_path(f"file://{tmp_path}") == paths.as_path(tmp_path) == tmp_path
    assert paths.is_local(tmp_path)
    assert not paths.is_local(paths.as_path("memory://a"))
    assert paths.local_copy(tmp_path) == tmp_path


def test_files_elsewhere_are_found_and_cut_and_read_as_those_here(
    folder, elsewhere, local, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "PART_BYTES", 2000)
    here = prepare(config(f"{folder}/*"), cache=tmp_path)
    there = prepare(config(f"{elsewhere}/texts/*"), cache=tmp_path)
    assert here.path != there.path
    assert len(list(there.path.glob("*.shard"))) > 4
    for split in ("train", "held_out"):
        np.testing.assert_array_equal(here.tokens(split), there.tokens(split))
        np.testing.assert_array_equal(here.documents(split), there.documents(split))
    assert prepare(config(f"{elsewhere}/texts/?.*"), cache=tmp_path).path == there.path
    mixture = DataConfig(
        mixture=((f"{elsewhere}/texts/a.txt", 1.0), (f"{folder}/b.jsonl", 1.0)), held_out=0.4
    )
    assert len(prepare(mixture, cache=tmp_path).members) == 2


def test_a_store_may_be_elsewhere_and_its_shards_come_when_they_are_touched(
    folder, elsewhere, local, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "PART_BYTES", 2000)
    monkeypatch.setenv("JAXDENOISE_CACHE", elsewhere)
    expected = prepare(config(f"{folder}/*"), cache=tmp_path)
    store = prepare(config(f"{folder}/*"))
    assert str(store.path).startswith(elsewhere)
    assert store.tokenizer.to_json() == expected.tokenizer.to_json()
    assert list((local / "stores").iterdir()) == []  # moved, nothing is left of the building

    shutil.rmtree(local)  # another machine
    store = prepare(config(f"{folder}/*"))
    tokens = store.tokens("train")
    assert not local.exists()
    np.testing.assert_array_equal(tokens[:10], expected.tokens("train")[:10])
    assert len(list(local.glob("copies/*/*.shard"))) == 1
    np.testing.assert_array_equal(tokens, expected.tokens("train"))
    assert len(list(local.glob("copies/*/*.shard"))) > 20
    np.testing.assert_array_equal(store.documents("held_out"), expected.documents("held_out"))


def test_tokenizers_are_read_from_elsewhere(folder, elsewhere, tmp_path):
    store = prepare(config(f"{folder}/*"), cache=tmp_path)
    address = f"{elsewhere}/run/tokenizer.json"
    paths.as_path(f"{elsewhere}/run").mkdir(parents=True)
    paths.write_whole(paths.as_path(address), store.tokenizer.to_json().encode())
    assert load_tokenizer(address).to_json() == store.tokenizer.to_json()
    assert load_tokenizer(f"{elsewhere}/run").to_json() == store.tokenizer.to_json()


def test_another_content_is_another_store(elsewhere, tmp_path):
    one = prepare(config(f"{elsewhere}/texts/a.txt"), cache=tmp_path)
    path = paths.as_path(f"{elsewhere}/texts/a.txt")
    path.write_bytes(path.read_bytes() + b"\n\nmore")
    assert prepare(config(f"{elsewhere}/texts/a.txt"), cache=tmp_path).path != one.path


def test_what_cannot_be_opened_is_said(monkeypatch):
    with pytest.raises(UserError, match="'nothing://a' cannot be opened"):
        paths.as_path("nothing://a")
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"install jaxdenoise\[gcs\]"):
        paths.as_path("gs://bucket/a.txt")
    with pytest.raises(UserError, match="no file matches 'memory://none/"):
        files.find_files(("memory://none/*.txt",))


def test_what_cannot_be_reached_is_said_in_a_line(elsewhere, folder, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*args, **kwargs):
        raise RuntimeError("no credentials\nat all")

    for name in ("info", "exists", "isfile"):
        monkeypatch.setattr(MemoryFileSystem, name, refuse)
    with pytest.raises(UserError, match=r"^'memory://.*' cannot be reached \(no credentials\);"):
        files.find_files((f"{elsewhere}/texts/a.txt",))
    with pytest.raises(UserError, match="manifest.json' cannot be reached"):
        prepare(config(f"{folder}/*"), cache=paths.as_path(elsewhere))


def test_the_cache_may_be_an_address(monkeypatch, local, tmp_path):
    monkeypatch.setenv("JAXDENOISE_CACHE", "memory://cache")
    assert str(cache_directory()) == "memory://cache"
    assert paths.local_cache() == local
    monkeypatch.setenv("JAXDENOISE_CACHE", f"file://{tmp_path}")
    assert cache_directory() == paths.local_cache() == tmp_path
