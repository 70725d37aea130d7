"""Building stores: by any number of workers, after any interruption, in any folder."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxdenoise.bench import tokenise
from jaxdenoise.config import DataConfig
from jaxdenoise.data import build, corpora, files, split
from jaxdenoise.data import store as stores
from jaxdenoise.data.pieces import find_documents
from jaxdenoise.errors import UserError

SIZES = {"vocabulary_size": 400, "sentinels": 20}
WORDS = [f"w{i}" for i in range(500)]


def text(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, 40))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Files of two kinds that make nine shards; one record cannot be read."""
    monkeypatch.setattr(files, "PART_BYTES", 4000)
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(map(text, range(100))))
    lines = [f'{{"text": "{text(seed)}"}}' for seed in range(100, 160)]
    (folder / "b.jsonl").write_text("\n".join([*lines[:30], "not json", *lines[30:]]))
    return folder


@pytest.fixture
def config(corpus):
    return DataConfig(files=(str(corpus / "*"),), bad_records="skip", held_out=0.2, **SIZES)


def content(store) -> list[bytes]:
    """All files of a store, and what it says."""
    names = sorted(path.name for path in store.path.iterdir())
    return [*map(str.encode, names), *((store.path / name).read_bytes() for name in names)]


def shards(store) -> int:
    return len(list(store.path.glob("*.shard")))


def test_the_number_of_workers_changes_no_bit(config, tmp_path):
    one, two = (
        stores.prepare(dataclasses.replace(config, workers=n), cache=tmp_path / str(n))
        for n in (1, 2)
    )
    assert shards(one) >= 8
    assert one.identity == two.identity
    assert content(one) == content(two)
    assert "line 31" in one.manifest["bad_records"][0]


def test_shards_are_the_corpus_in_order_however_it_is_cut(config, tmp_path, monkeypatch):
    one = stores.prepare(config, cache=tmp_path / "one")
    monkeypatch.setattr(files, "PART_BYTES", 1 << 26)
    whole = stores.prepare(config, cache=tmp_path / "whole")
    assert shards(whole) == 2 < shards(one)
    for side in ("train", "held_out"):
        tokens = np.asarray(whole.tokens(side))
        np.testing.assert_array_equal(one.tokens(side), tokens)
        np.testing.assert_array_equal(one.documents(side), whole.documents(side))
        expected = find_documents(tokens, whole.tokenizer.separator_id)
        np.testing.assert_array_equal(one.documents(side), expected)


class Killed(BaseException):
    pass


def test_a_build_goes_on_where_it_was_stopped(config, tmp_path, monkeypatch):
    expected = stores.prepare(config, cache=tmp_path / "whole")
    write, made = build.Shard.write, []

    def write_some(shard, tokenizer):
        if len(made) == 3:
            raise Killed
        made.append(shard.path.name)
        return write(shard, tokenizer)

    monkeypatch.setattr(build.Shard, "write", write_some)
    for _ in range(2):  # again from the third
        with pytest.raises(Killed):
            stores.prepare(config, cache=tmp_path)
    monkeypatch.setattr(build.Shard, "write", lambda *args: made.append(args[0]) or write(*args))
    monkeypatch.setattr(stores, "train_tokenizer", pytest.fail)  # it is there
    store = stores.prepare(config, cache=tmp_path)
    assert len(made) == shards(store)
    assert content(store) == content(expected)


def test_a_shard_of_another_part_is_made_again(config, tmp_path, monkeypatch):
    """Left by a version that cut files elsewhere."""
    expected = stores.prepare(config, cache=tmp_path / "whole")
    write = build.Shard.write
    monkeypatch.setattr(files, "PART_BYTES", 2000)
    count = itertools.count()

    def write_some(shard, tokenizer):
        if next(count) == 5:
            raise Killed
        return write(shard, tokenizer)

    monkeypatch.setattr(build.Shard, "write", write_some)
    with pytest.raises(Killed):
        stores.prepare(config, cache=tmp_path)
    monkeypatch.setattr(build.Shard, "write", write)
    monkeypatch.setattr(files, "PART_BYTES", 4000)
    assert content(stores.prepare(config, cache=tmp_path)) == content(expected)


def test_large_corpora_are_split_document_by_document(config, tmp_path, monkeypatch):
    """Where none is like another, as small ones are; and nothing is read beforehand."""
    expected = stores.prepare(config, cache=tmp_path / "small")
    monkeypatch.setattr(build, "LARGE", 1000)
    monkeypatch.setattr(build, "held_out_mask", pytest.fail)
    store = stores.prepare(config, cache=tmp_path / "large")
    texts = [f"{text(seed)}" for seed in range(160)]
    mask = split.held_out_mask(texts, 0.2)
    assert [split.is_held_out(t, 0.2) for t in texts] == mask.tolist()
    assert store.manifest["held_out"]["documents"] == mask.sum()
    assert store.manifest["held_out"]["bytes"] == expected.manifest["held_out"]["bytes"]


def test_a_tokenizer_of_a_large_corpus_sees_some_of_every_part(config, tmp_path, monkeypatch):
    divided = build.divide(corpora.open_corpus(config), config)
    everything = list(divided.training_texts())
    monkeypatch.setattr(build, "LARGE", 1000)
    monkeypatch.setattr(build, "SAMPLE_BYTES", 4000)
    large = build.divide(corpora.open_corpus(config), config)
    some = list(large.training_texts())
    assert 4000 <= sum(map(len, some)) < 4000 + len(large.parts) * 200
    assert some == list(large.training_texts())
    places = [everything.index(one) / len(everything) for one in some]
    assert np.histogram(places, 5, (0, 1))[0].min() >= 1


@dataclasses.dataclass(frozen=True)
class Part:
    """A part that ends the process which reads it, as long as there is a certain file."""

    number: int
    ends: Path

    def read(self, on_bad):
        if self.number == 2 and self.ends.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return iter([text(seed) for seed in range(self.number * 40, self.number * 40 + 40)])


@pytest.mark.slow
def test_a_worker_that_dies_is_told_and_the_build_can_go_on(tmp_path, monkeypatch):
    ends = tmp_path / "ends"
    config = DataConfig(corpus="deadly", workers=2, held_out=0.2, **SIZES)

    def deadly():
        parts = [Part(number, ends) for number in range(4)]
        return corpora.Corpus(
            name="deadly", fingerprint={}, cut=lambda: parts, size=build.LARGE + 1
        )

    with corpora.corpora.scope():
        corpora.corpora.add("deadly", deadly)
        divided = build.divide(deadly(), config)
        tokenizer = stores._trained(config, divided.training_texts())
        monkeypatch.setattr(stores, "_trained", lambda *_: tokenizer)
        ends.touch()
        with pytest.raises(UserError, match="a worker that tokenises died.*data.workers"):
            stores.prepare(config, cache=tmp_path)
        ends.unlink()
        store = stores.prepare(config, cache=tmp_path)
    assert store.manifest["train"]["documents"] + store.manifest["held_out"]["documents"] == 160


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["refuse", "skip"])
def test_workers_say_what_one_would_say(config, corpus, tmp_path, monkeypatch, bad):
    """In the order of the corpus, whoever is first; a large one is read by workers alone."""
    monkeypatch.setattr(build, "LARGE", 1000)
    path = corpus / "b.jsonl"
    path.write_text(path.read_text() + '\n["no object"]\n')
    (corpus / "c.txt").write_bytes(b"caf\xe9\n\n" * 10)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(stores.prepare(config, cache=tmp_path).tokenizer.to_json())
    said = []
    for workers in (1, 2):
        chosen = dataclasses.replace(
            config, workers=workers, bad_records=bad, tokenizer=str(tokenizer)
        )
        try:
            found = stores.prepare(chosen, cache=tmp_path / str(workers))
            said.append(found.manifest["bad_records"])
        except UserError as error:
            said.append(str(error))
            assert list((tmp_path / str(workers) / "stores").iterdir()) == []
    assert said[0] == said[1]
    assert len(said[0]) == 12 if bad == "skip" else "line 31 is not JSON" in said[0]


BUILD = """
import sys
from jaxdenoise.config import DataConfig
from jaxdenoise.data import files
from jaxdenoise.data.store import prepare
if __name__ == "__main__":
    files.PART_BYTES = 4000
    prepare(DataConfig(files=(sys.argv[1],), workers=2, vocabulary_size=400, sentinels=20))
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed_and_shards_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDENOISE_CACHE", str(tmp_path))
    script, corpus = tmp_path / "script.py", tmp_path / "corpus.txt"
    script.write_text(BUILD)
    corpus.write_text("\n\n".join(map(text, range(20_000))))
    command = [sys.executable, str(script), str(corpus)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    running = subprocess.Popen(command, env=environment, start_new_session=True)
    begin = time.monotonic()
    while not (found := list(tmp_path.glob("stores/.*/*.shard"))):
        assert running.poll() is None and time.monotonic() < begin + 120
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    while _group(running.pid):
        assert time.monotonic() < begin + 180
        time.sleep(0.1)
    stamps = {path.name: path.stat().st_mtime_ns for path in found}
    subprocess.run(command, env=environment, check=True)
    (made,) = tmp_path.glob("stores/corpus-*")
    assert {name: (made / name).stat().st_mtime_ns for name in stamps} == stamps


@pytest.mark.slow
def test_builds_at_the_same_time_share_their_work_and_all_find_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDENOISE_CACHE", str(tmp_path))
    script, corpus = tmp_path / "script.py", tmp_path / "corpus.txt"
    script.write_text(BUILD)
    corpus.write_text("\n\n".join(map(text, range(3000))))
    command = [sys.executable, str(script), str(corpus)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    (made,) = tmp_path.glob("stores/*")
    assert not made.name.startswith(".") and list(made.glob(".*")) == []


def _group(leader: int) -> bool:
    """Whether a process of this group is alive."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_bench_of_workers_measures_what_it_says(monkeypatch):
    monkeypatch.setattr(tokenise, "COPIES", 1)
    monkeypatch.setattr(tokenise, "documents", lambda: [("name", text(k)) for k in range(500)])
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    pair, size = tokenise.workers_against_one(2, rounds=2)
    assert size == sum(len(text(seed)) for seed in range(500))
    assert len(pair.first) == len(pair.second) == 2 and min(pair.first + pair.second) > 0
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
