"""Parts of files: wherever a file is cut, every document comes once and every mistake is told."""

import json
from itertools import pairwise

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxdenoise.data import files
from jaxdenoise.data.records import FilePart
from jaxdenoise.errors import UserError

LINES = [b"one", b"", b"  ", b"two \xe2\x98\x83", b"caf\xe9", b'{"text": "three"}', b'{"no": 1}']
ENDS = [b"\n", b"\r\n", b"\n\n"]


def read_cut(path, bounds, **fields) -> tuple[list[str], list[str]]:
    """Documents and complaints of a file's parts, one after another."""
    texts, told = [], []
    for begin, end in pairwise(bounds):
        part = FilePart(path=path, begin=begin, end=end, **fields)
        texts += part.read(lambda error: told.append(str(error)))
    return texts, told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cut")


@pytest.mark.parametrize(
    ("name", "unit"), [("a.txt", "paragraph"), ("a.txt", "line"), ("a.jsonl", "paragraph")]
)
@given(
    lines=st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)), max_size=12),
    last=st.sampled_from([b"", b"the last"]),
    cuts=st.lists(st.integers(0, 100), max_size=5),
)
@example(lines=[(b"one", b"\n"), (b"caf\xe9", b"\n"), (b"one", b"\n")], last=b"", cuts=[2])
def test_a_file_may_be_cut_at_any_byte(folder, name, unit, lines, last, cuts):
    """Inside a line, a word, a character or an empty line: the same texts and complaints."""
    content = b"".join(map(b"".join, lines)) + last
    path = folder / name
    path.write_bytes(content)
    bounds = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    bounds = bounds if len(bounds) > 1 else [0, 0]
    assert read_cut(path, bounds, unit=unit) == read_cut(path, [0, len(content)], unit=unit)


def test_lines_are_counted_from_the_begin_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"document {i}"}) for i in range(50)]
    lines[41] = "not json"
    path.write_text("\n".join(lines))
    size = path.stat().st_size
    texts, told = read_cut(path, [0, size // 3, size // 2, size])
    assert len(texts) == 49
    assert [message.split(" is ")[0] for message in told] == [f"{path}: line 42"]


@pytest.mark.parametrize("unit", ["paragraph", "line", "file"])
def test_large_files_are_cut_and_documents_of_a_whole_file_are_not(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(files, "PART_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"document number {i}" for i in range(40)))
    parts = files.plan_parts([path], field="text", unit=unit)
    assert len(parts) == (1 if unit == "file" else round(path.stat().st_size / 100))
    assert (parts[0].begin, parts[-1].end) == (0, path.stat().st_size)
    texts = [text for part in parts for text in part.read(pytest.fail)]
    assert texts == ([path.read_text()] if unit == "file" else path.read_text().split("\n\n"))


def test_parquet_is_cut_between_row_groups_and_rows_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", 3000)
    path = tmp_path / "a.parquet"
    texts = [f"{i} " * 50 if i != 77 else None for i in range(100)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=10)
    parts = files.plan_parts([path], field="text", unit="paragraph")
    assert 1 < len(parts) < 10
    told = []
    assert [t for part in parts for t in part.read(told.append)] == [t for t in texts if t]
    assert [str(error).split(" has")[0] for error in told] == [f"{path}: row 78"]


def write_arrays(path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize(
    "name", ["a.array_record", "a.arrayrecord", "a.array_record-00000-of-00002"]
)
def test_array_records_are_text_or_objects_with_the_field(tmp_path, monkeypatch, name):
    records = [b"plain", b'{"text": "a field"}', b'{"other": 1}', b"{no json", b"caf\xe9", b" "]
    path = tmp_path / name
    write_arrays(path, [*records, *(f"number {i}".encode() for i in range(2000))])
    monkeypatch.setattr(files, "PART_BYTES", path.stat().st_size // 3)
    parts = files.plan_parts([path], field="text", unit="paragraph")
    assert len(parts) == 3
    told = []
    texts = [text for part in parts for text in part.read(told.append)]
    assert texts[:4] == ["plain", "a field", '{"other": 1}', "{no json"]
    assert texts[4:] == [f"number {i}" for i in range(2000)]
    assert [str(error).split(";")[0] for error in told] == [f"{path}: record 5 is not UTF-8"]


def test_what_is_no_array_record_is_named(tmp_path):
    path = tmp_path / "a.array_record"
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(UserError, match="a.array_record: is not an ArrayRecord file, or damaged"):
        list(files.read_documents([path], field="text", unit="paragraph", on_bad=pytest.fail))
    rng = np.random.default_rng(0)
    write_arrays(path, [rng.bytes(100) for _ in range(3000)])
    content = bytearray(path.read_bytes())
    content[100_000:110_000] = bytes(10_000)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not an ArrayRecord file, or damaged"):
        list(
            files.read_documents([path], field="text", unit="paragraph", on_bad=lambda error: None)
        )


def test_a_broken_file_is_told_in_its_turn(tmp_path):
    """Planning looks into files of some kinds; an earlier file's mistake still comes first."""
    (tmp_path / "a.jsonl").write_text("not json")
    (tmp_path / "b.parquet").write_bytes(b"nor this")
    paths = files.find_files((str(tmp_path / "*"),))

    def refuse(error):
        raise error

    with pytest.raises(UserError, match="line 1 is not JSON"):
        list(files.read_documents(paths, field="text", unit="paragraph", on_bad=refuse))
