"""Shards, and the stream over many of them: as an array, but never in memory."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.data import shards
from jaxdenoise.data.shards import SPLITS, Stream, documents_of, parts_of, read_header, write_shard
from jaxdenoise.errors import UserError

lengths = st.lists(st.integers(1, 9), max_size=4)


def write(folder, contents, dtype="<u2") -> list[dict]:
    """Shards of (train, held out) documents, given by their lengths; tokens count up."""
    found, token = [], iter(range(10**6))
    for number, both in enumerate(contents):
        documents = {
            split: [np.array([next(token) for _ in range(n)]) for n in lengths]
            for split, lengths in zip(SPLITS, both, strict=True)
        }
        path = folder / shards.shard_name(number)
        write_shard(path, documents, dict.fromkeys(SPLITS, 0), dtype, {"bad_records": []})
        found.append({"path": path, "documents": documents})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@given(contents=st.lists(st.tuples(lengths, lengths), max_size=5), bounds=st.data())
def test_a_stream_is_the_array_of_all_tokens(folder, dtype, contents, bounds):
    made = write(folder, contents, dtype)
    opened = [parts_of(m["path"], read_header(m["path"])) for m in made]
    for split in SPLITS:
        documents = [d for m in made for d in m["documents"][split]]
        whole = np.concatenate([np.zeros(0, dtype), *documents]).astype(dtype)
        stream = Stream([part[split] for part in opened], dtype)
        assert len(stream) == len(whole) and stream.dtype == dtype
        np.testing.assert_array_equal(np.asarray(stream, np.int32), whole)
        places = st.none() | st.integers(-len(whole) - 2, len(whole) + 2)
        steps = st.sampled_from([None, 2, -1])
        for _ in range(5):
            part = slice(bounds.draw(places), bounds.draw(places), bounds.draw(steps))
            np.testing.assert_array_equal(stream[part], whole[part])
            assert stream[part].dtype == dtype
        if len(whole):
            assert [stream[k] for k in (0, -1)] == [whole[0], whole[-1]]
        table = documents_of([part[split] for part in opened])
        assert [whole[start : start + n].tolist() for start, n in table] == [
            d.tolist() for d in documents
        ]
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(stream))[:], whole)


@pytest.mark.parametrize("left", [None, 0, 200])
def test_a_shard_that_is_cut_or_gone_is_named(left, tmp_path):
    [made] = write(tmp_path, [([50, 60], [5])])
    parts = parts_of(made["path"], read_header(made["path"]))
    if left is None:
        made["path"].unlink()
    else:
        os.truncate(made["path"], left)
    for read in (
        lambda: Stream([parts["train"]], "<u2")[0],
        lambda: documents_of([parts["train"]]),
    ):
        with pytest.raises(UserError, match=r"0.shard' is missing, or not as long as its"):
            read()


def test_a_place_outside_is_an_index_error(folder):
    made = write(folder, [([3], [])])
    stream = Stream([parts_of(m["path"], read_header(m["path"]))["train"] for m in made], "<u2")
    with pytest.raises(IndexError):
        stream[3]


def test_a_slice_inside_a_shard_is_not_copied_and_few_files_are_open(folder, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN", 3)
    made = write(folder, [([5], [1])] * 40)
    stream = Stream([parts_of(m["path"], read_header(m["path"]))["train"] for m in made], "<u2")
    assert not stream[6:9].flags.owndata
    before = len(os.listdir("/proc/self/fd"))
    for start in range(0, 200, 5):
        assert stream[start] == start // 5 * 6
    assert len(os.listdir("/proc/self/fd")) <= before + 3


OPENING = """
import json, resource, sys, time
from pathlib import Path
from jaxdenoise.data.rows import Batches, sample_rows
from jaxdenoise.data.store import TokenStore
manifest = json.loads((Path(sys.argv[1]) / "manifest.json").read_text())
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, begin = memory(), time.perf_counter()
store = TokenStore(Path(sys.argv[1]), manifest)
batches = Batches(tokens=store.tokens("train"), raw_length=512, batch_size=64, steps=1000, seed=0)
rows = [batches[k] for k in (0, 999)] + [sample_rows(store.tokens("held_out"), 512, 64)]
print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": memory() - before}))
"""


def test_a_store_of_ten_gigabytes_opens_in_flat_memory(tmp_path):
    """Sparse files: 160 shards of 64 MB, of which nothing is read but the rows asked for."""
    tokens = {"train": 30 << 20, "held_out": 2 << 20}
    headers = []
    for number in range(160):
        header = {s: {"documents": 1000, "tokens": n, "bytes": 4 * n} for s, n in tokens.items()}
        head = json.dumps({**header, "dtype": "<u2"}).encode() + b"\n"
        path = tmp_path / shards.shard_name(number)
        path.write_bytes(head)
        os.truncate(path, len(head) + 2 * 1000 * 8 + 2 * sum(tokens.values()))
        headers.append(read_header(path))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 10 << 30
    (tmp_path / "shards.json").write_text(json.dumps(headers))
    (tmp_path / "manifest.json").write_text(json.dumps({"dtype": "<u2", "identity_digest": "x"}))
    command = [sys.executable, "-c", OPENING, str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    figures = json.loads(ran.stdout)
    assert figures["bytes"] < 32 << 20  # ids, rows and the library that shuffles; not the store
