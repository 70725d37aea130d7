"""Datasets of Hugging Face by name: here those of local folders."""

import json

import numpy as np
import pytest

from jaxdenoise.config import DataConfig
from jaxdenoise.data import huggingface
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed ([hf])")
TEXTS = [" ".join(f"w{(i * k) % 400}" for k in range(1, 31)) for i in range(200)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The library's own cache, away from the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    huggingface.open_dataset.cache_clear()


def config(name: str, **fields) -> DataConfig:
    sizes = {"vocabulary_size": 400, "sentinels": 20, "held_out": 0.2}
    return DataConfig(corpus=name, **sizes, **fields)


@pytest.fixture
def saved(tmp_path):
    """A folder that `save_to_disk` wrote, with two splits."""
    splits = {
        "train": datasets.Dataset.from_dict({"text": TEXTS, "number": list(range(200))}),
        "tiny": datasets.Dataset.from_dict({"text": TEXTS[:20], "number": list(range(20))}),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def text_file(tmp_path):
    """The same documents, for `data.files`."""
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    return str(tmp_path / "texts.txt")


def test_a_dataset_is_a_corpus_like_any_other(saved, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "PART_ROWS", 60)
    sizes = {"vocabulary_size": 400, "sentinels": 20, "held_out": 0.2}
    expected = prepare(DataConfig(files=(text_file,), **sizes), cache=tmp_path)
    store = prepare(config(f"hf:{saved}"), cache=tmp_path)
    assert len(list(store.path.glob("*.shard"))) == 4
    assert store.path.name.startswith("saved-")
    np.testing.assert_array_equal(store.tokens("train"), expected.tokens("train"))
    huggingface.open_dataset.cache_clear()
    assert prepare(config(f"hf:{saved}"), cache=tmp_path).path == store.path
    tiny = prepare(config(f"hf:{saved}?split=tiny"), cache=tmp_path)
    assert sum(tiny.manifest[s]["documents"] for s in ("train", "held_out")) == 20


def test_a_folder_of_data_files_is_loaded_by_the_library(tmp_path):
    folder = tmp_path / "jokes"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"body": t}) for t in TEXTS))
    store = prepare(config(f"hf:{folder}?split=train", field="body"), cache=tmp_path)
    assert sum(store.manifest[s]["documents"] for s in ("train", "held_out")) == 200
    mixture = ((f"hf:{folder}", 1.0), ("pydocs", 2.0))
    assert DataConfig(mixture=mixture).block == (1, 2)


def test_rows_without_a_text_are_told_by_number(tmp_path):
    texts = [*TEXTS[:50], None, *TEXTS[50:]]
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "holes")
    name = f"hf:{tmp_path / 'holes'}"
    with pytest.raises(UserError, match="holes: row 51 has no 'text'; mend it"):
        prepare(config(name), cache=tmp_path)
    store = prepare(config(name, bad_records="skip"), cache=tmp_path)
    assert store.manifest["bad_records"] == [f"{name}: row 51 has no 'text'"]


@pytest.mark.parametrize(
    ("query", "fields", "message"),
    [
        ("?split=test", {}, "cannot be opened"),
        ("?part=1", {}, "has the option 'part'; it takes config, revision, split"),
        ("", {"field": "number"}, r"no text column 'number' \(text columns: text\)"),
        ("/nowhere", {}, "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_said(saved, query, fields, message, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        prepare(config(f"hf:{saved}{query}", **fields), cache=tmp_path)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'jaxdenoise\[hf\]'"):
        huggingface.open_dataset("hf:anything")
