"""Reading the user's files, and what is said of those that cannot be read."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from jaxdenoise.data import files
from jaxdenoise.errors import UserError


def read(path, *, field="text", unit="paragraph", on_bad=None):
    def refuse(error):
        raise error

    return list(files.read_documents([path], field=field, unit=unit, on_bad=on_bad or refuse))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One\nline.\n\n\nTwo ☃.\r\n\r\nThree", "utf-8")
    return path


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("paragraph", ["One\nline.", "Two ☃.", "Three"]),
        ("line", ["One", "line.", "Two ☃.", "Three"]),
        ("file", ["One\nline.\n\n\nTwo ☃.\r\n\r\nThree"]),
    ],
)
def test_text_files_by_unit(text_file, unit, expected):
    assert read(text_file, unit=unit) == expected


def test_a_byte_that_is_not_utf8_is_named_by_file_and_place(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\n\ncaf\xe9 au lait\n")
    with pytest.raises(UserError, match=rf"{path}: byte 9 \(0xe9\) is not UTF-8"):
        read(path)


def test_bad_records_can_be_skipped_and_are_told(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\n\ncaf\xe9\n\nalso fine\n")
    told = []
    assert read(path, on_bad=told.append) == ["fine", "also fine"]
    assert len(told) == 1


def test_jsonl_takes_the_named_field(tmp_path):
    path = tmp_path / "a.jsonl"
    records = [{"text": "one", "body": "1"}, {"text": "two\nlines", "body": "2"}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n", "utf-8")
    assert read(path) == ["one", "two\nlines"]
    assert read(path, field="body") == ["1", "2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 'x'}", "line 2 is not JSON"),
        ('["text"]', "line 2 is not a JSON object"),
        ('{"body": "x"}', r"line 2 has no text field 'text' \(fields: body\)"),
        ('{"text": 3}', "line 2 has no text field 'text'"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_bad_json_lines_are_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", "utf-8")
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_parquet_takes_the_named_column(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["one", "two"], "number": [1, 2]})
    pyarrow.parquet.write_table(table, path)
    assert read(path) == ["one", "two"]
    with pytest.raises(UserError, match=r"no text column 'number' \(text columns: text\)"):
        read(path, field="number")


def test_parquet_without_a_value_or_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None]}), path)
    with pytest.raises(UserError, match="row 2 has no 'text'"):
        read(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="is not a Parquet file"):
        read(path)


def test_globs_are_resolved_sorted_and_without_repetition(tmp_path):
    for name in ("b.txt", "a.txt", "c.jsonl"):
        (tmp_path / name).write_text("x")
    found = files.find_files((str(tmp_path / "*.txt"), str(tmp_path / "*.*")))
    assert [path.name for path in found] == ["a.txt", "b.txt", "c.jsonl"]


def test_a_file_is_read_once_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    spelled = ("a.txt", str(tmp_path / "a.txt"), "./a.txt", "*.txt")
    assert len(files.find_files(spelled)) == 1


def test_a_name_may_hold_a_globs_own_signs(tmp_path):
    path = tmp_path / "d[1].txt"
    path.write_text("x")
    assert files.find_files((str(path),)) == [path]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "One"}\n')
    assert read(tmp_path / "a.txt") == ["One"]
    assert read(tmp_path / "a.jsonl") == ["One"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(UserError, match=r"byte 5 \(0xff\)"):
        read(tmp_path / "a.txt")


def test_half_a_surrogate_pair_is_a_bad_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "\\ud800"}\n', "utf-8")
    with pytest.raises(UserError, match="line 2 has half a surrogate pair in 'text'"):
        read(path)
    told = []
    assert read(path, on_bad=told.append) == ["fine"]
    assert len(told) == 1


def test_parquet_strings_of_every_kind_are_text(tmp_path):
    plain = pyarrow.array(["one", "two", "one"])
    for kind in (plain.dictionary_encode(), plain.cast("large_string"), plain.cast("string_view")):
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": kind}), path)
        assert read(path) == ["one", "two", "one"]


def test_parquet_bytes_that_are_not_utf8_are_a_bad_record(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pyarrow.array([b"one", b"caf\xe9", b"two"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), path)
    with pytest.raises(UserError, match="row 2 is not UTF-8 in 'text'"):
        read(path)
    assert read(path, on_bad=lambda error: None) == ["one", "two"]


def test_a_damaged_parquet_page_names_its_file(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one" * 500, "two"] * 500}), path)
    content = bytearray(path.read_bytes())
    content[8:200] = bytes(192)
    path.write_bytes(content)
    with pytest.raises(UserError, match="or damaged") as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_pattern_without_files_or_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file matches"):
        files.find_files((str(tmp_path / "*.txt"),))
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(UserError, match=r"is not one of \.txt, \.jsonl, \.parquet, \.array_record"):
        files.find_files((str(tmp_path / "*.pdf"),))
