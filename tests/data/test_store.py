"""The token store: built once, whole or not at all."""

import dataclasses
import shutil

import numpy as np
import pytest
import tokenizers

from jaxdenoise.config import DataConfig
from jaxdenoise.data import store as stores
from jaxdenoise.data.stand_in import vocabulary_of
from jaxdenoise.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(500)]
    path.write_text("\n\n".join(" ".join(rng.choice(words, 30)) for _ in range(200)), "utf-8")
    return path


def config(path, **fields):
    return DataConfig(files=(str(path),), vocabulary_size=400, sentinels=20, **fields)


def test_every_document_is_in_one_split_followed_by_a_separator(corpus, tmp_path):
    store = stores.prepare(config(corpus, held_out=0.2), cache=tmp_path / "cache")
    tokenizer = store.tokenizer
    texts = []
    for split in ("train", "held_out"):
        tokens = np.asarray(store.tokens(split), np.int32)
        assert tokens[-1] == tokenizer.vocab.separator_id
        ends = np.flatnonzero(tokens == tokenizer.vocab.separator_id)
        documents = [tokenizer.decode(part) for part in np.split(tokens, ends + 1)[:-1]]
        counts = store.manifest[split]
        assert counts["documents"] == len(documents)
        assert counts["tokens"] == len(tokens)
        assert counts["bytes"] == sum(len(text.encode()) for text in documents)
        texts += documents
    assert sorted(texts) == sorted(corpus.read_text().split("\n\n"))


def test_a_store_is_built_once_and_again_when_anything_changes(corpus, tmp_path):
    cache = tmp_path / "cache"
    first = stores.prepare(config(corpus), cache=cache)
    stamp = (first.path / "manifest.json").stat().st_mtime_ns
    again = stores.prepare(config(corpus), cache=cache)
    assert again.path == first.path
    assert (again.path / "manifest.json").stat().st_mtime_ns == stamp
    assert stores.prepare(config(corpus, held_out=0.3), cache=cache).path != first.path
    corpus.write_text(corpus.read_text() + "\n\nmore text here")
    assert stores.prepare(config(corpus), cache=cache).path != first.path


def test_a_store_that_another_process_finished_first_is_taken(corpus, tmp_path, monkeypatch):
    """The same store, built by both at once; a disk that refuses is still an error."""
    expected = stores.prepare(config(corpus), cache=tmp_path / "one")

    def rename_late(building, place):
        shutil.copytree(expected.path, place)
        raise OSError("Directory not empty")

    monkeypatch.setattr(stores.os, "rename", rename_late)
    found = stores.prepare(config(corpus), cache=tmp_path / "two")
    np.testing.assert_array_equal(found.tokens("train"), expected.tokens("train"))
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]

    def refuse(building, place):
        raise OSError("No space left on device")

    monkeypatch.setattr(stores.os, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        stores.prepare(config(corpus), cache=tmp_path / "three")


def test_the_raw_length_is_not_part_of_a_store(corpus, tmp_path):
    one, other = (
        stores.prepare(config(corpus, raw_length=length), cache=tmp_path) for length in (16, 32)
    )
    assert one.path == other.path


def test_a_build_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "fine"}\nnot json\n')
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="line 2 is not JSON"):
        stores.prepare(config(path), cache=cache)
    assert list((cache / "stores").iterdir()) == []


def test_skipped_records_are_counted_and_named(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = [f'{{"text": "document number {i} {i * 7919}"}}' for i in range(100)]
    path.write_text("\n".join([*lines, "not json"]) + "\n")
    store = stores.prepare(config(path, bad_records="skip", held_out=0.3), cache=tmp_path)
    assert len(store.manifest["bad_records"]) == 1
    assert "line 101" in store.manifest["bad_records"][0]


def test_an_empty_corpus_and_one_that_cannot_be_split_are_refused(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n \n")
    with pytest.raises(UserError, match="is empty"):
        stores.prepare(config(path), cache=tmp_path)
    path.write_text("one document alone")
    with pytest.raises(UserError, match=r"1 documents and its (held-out|training) part is empty"):
        stores.prepare(config(path), cache=tmp_path)


def test_a_tokenizer_file_is_used_as_it_is(corpus, tmp_path):
    first = stores.prepare(config(corpus), cache=tmp_path)
    file = first.path / "tokenizer.json"
    second = stores.prepare(config(corpus, tokenizer=str(file)), cache=tmp_path)
    np.testing.assert_array_equal(first.tokens("train"), second.tokens("train"))
    assert second.tokenizer.vocab == first.tokenizer.vocab


def test_tokenizers_are_loaded_by_run_or_file(corpus, tmp_path):
    store = stores.prepare(config(corpus), cache=tmp_path)
    by_folder = stores.load_tokenizer(store.path)
    by_file = stores.load_tokenizer(store.path / "tokenizer.json")
    assert by_folder.vocab == by_file.vocab == store.tokenizer.vocab
    with pytest.raises(UserError, match="unknown corpus 'pydoc'.*did you mean 'pydocs'"):
        stores.load_tokenizer("pydoc")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDENOISE_CACHE", str(tmp_path))
    assert stores.cache_directory() == tmp_path


def test_what_a_given_tokenizer_lacks_is_appended_where_that_is_asked(corpus, tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=["[PAD]", "[SEP]", "[UNK]"])
    backend.train_from_iterator(["w1 w2"], trainer)
    (tmp_path / "bare.json").write_text(backend.to_str(), "utf-8")
    given = config(corpus, tokenizer=str(tmp_path / "bare.json"))
    asked = dataclasses.replace(given, add_special_tokens=True)
    bare, whole = (stores.prepare(one, cache=tmp_path / "cache") for one in (given, asked))
    assert bare.path != whole.path
    assert bare.tokenizer.vocab.sentinel_ids == ()
    assert len(whole.tokenizer.vocab.sentinel_ids) == asked.sentinels
    for one, store in ((given, bare), (asked, whole)):
        assert vocabulary_of(one) == store.tokenizer.vocab
