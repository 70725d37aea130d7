"""Reading a part of a file: bytes of text or JSON Lines, row groups of Parquet, ArrayRecords.

A part has the documents that begin in it, so that the parts of a file, one after another, give
every document once, wherever the file is cut. `on_bad` gets a `UserError` naming file and place
for each record that cannot be read; it may raise it, and if it returns, the record is skipped.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxdenoise.data.pairs import pair_of
from jaxdenoise.errors import UserError, require
from jaxdenoise.paths import is_local, local_copy, version

DocumentUnit = Literal["paragraph", "line", "file"]
OnBad = Callable[[UserError], None]
_SKIP = "skip such records with --data.bad-records skip"
_TOGETHER = 1000  # records that are read at a time


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """A stretch of one file.

    Attributes:
      path: a file of a known kind.
      begin: its first byte, row group or record.
      end: behind the last.
      field: the text's field in JSON records and Parquet.
      unit: what a document is in a .txt file; paragraphs are parted by blank lines.
      pairs: whether JSON records are pairs; see `pairs.pair_of`.
    """

    path: Path
    begin: int
    end: int
    field: str = "text"
    unit: DocumentUnit = "paragraph"
    pairs: bool = False

    def read(self, on_bad: OnBad) -> Iterator[str]:
        """Yields the documents that are not blank."""
        for text in READERS[kind(self.path)](self, on_bad):
            if text.strip():
                yield text


def kind(path: Path) -> str:
    """The suffix of a file, also where it is numbered: a.array_record-00003-of-00128."""
    return re.sub(r"-\d+-of-\d+$", "", path.suffix)


def _read_text(part: FilePart, on_bad: OnBad) -> Iterator[str]:
    lines: list[str] = []
    inside = part.begin == 0 or part.unit == "line"  # or in what the part before goes on with
    for offset, raw in _lines(part):
        own = offset < part.end
        if not own and (part.unit == "line" or not inside):
            return
        line = _decode(raw, part.path, offset, on_bad if own else _ignore)
        lines.append(line)
        if part.unit == "line" or (part.unit == "paragraph" and not line.strip()):
            if inside:
                yield "".join(lines).strip("\r\n")
            lines, inside = [], True
            if not own:
                return
    if inside:
        yield "".join(lines).strip("\r\n")


def _read_jsonl(part: FilePart, on_bad: OnBad) -> Iterator[str]:
    first = None if part.begin else 1  # number of the first line, counted when it is asked for
    for place, (offset, raw) in enumerate(_lines(part)):
        if offset >= part.end:
            return
        line = _decode(raw, part.path, offset, on_bad)
        if not line.strip():
            continue
        text, problem = _text_of_record(line, part.field, part.pairs)
        if problem:
            first = first or _lines_before(part.path, offset) + 1 - place
            on_bad(UserError(f"{part.path}: line {first + place} {problem}"))
        else:
            yield text


def _lines(part: FilePart) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, line) of those that begin in a part or behind it."""
    with part.path.open("rb") as file:
        offset = 0
        if part.begin:
            file.seek(part.begin - 1)
            offset = part.begin - 1 + len(file.readline())
        for raw in file:
            yield offset, raw
            offset += len(raw)


def _lines_before(path: Path, offset: int) -> int:
    found = 0
    with path.open("rb") as file:
        while offset > 0:
            block = file.read(min(offset, 1 << 20))
            found += block.count(b"\n")
            offset -= len(block)
    return found


def _ignore(error: UserError) -> None:
    """For a line that is another part's to tell."""


def _decode(raw: bytes, path: Path, offset: int, on_bad: OnBad) -> str:
    try:
        text = raw.decode("utf-8")
        return text if offset else text.removeprefix("\ufeff")  # a file may begin with its mark
    except UnicodeDecodeError as error:
        where = offset + error.start
        on_bad(
            UserError(
                f"{path}: byte {where} (0x{raw[error.start]:02x}) is not UTF-8; convert the file "
                f"(iconv -t utf-8), or {_SKIP}"
            )
        )
        return ""


def _text_of_record(line: str, field: str, pairs: bool = False) -> tuple[str, str]:
    """Returns the text or the pair of a JSON record, or what is wrong with it."""
    way_out = f"mend it, or {_SKIP}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return "", f"is not JSON ({error}); {way_out}"
    if not isinstance(record, dict):
        return "", f"is not a JSON object; {way_out}"
    if pairs:
        text, problem = pair_of(record)
        if text is None:
            return "", f"{problem}; {way_out}"
    else:
        text = record.get(field)
        if not isinstance(text, str):
            fields = ", ".join(record) or "none"
            return "", f"has no text field '{field}' (fields: {fields}); name it with --data.field"
    try:
        text.encode()
    except UnicodeEncodeError:
        where = "" if pairs else f" in '{field}'"
        return "", f"has half a surrogate pair{where}, which is no text; {way_out}"
    return text, ""


def _read_parquet(part: FilePart, on_bad: OnBad) -> Iterator[str]:
    import pyarrow

    try:
        with open_parquet(part.path) as file:
            column = _text_column(part.path, file.schema_arrow, part.field)
            groups = range(part.begin, part.end)
            number = sum(file.metadata.row_group(k).num_rows for k in range(part.begin))
            for batch in file.iter_batches(_TOGETHER, columns=[column], row_groups=groups):
                for value in batch.column(0):
                    number += 1
                    text, problem = text_of(value.as_py)
                    if problem:
                        on_bad(bad_row(str(part.path), number, problem, part.field))
                    else:
                        yield text
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{part.path}: is not a Parquet file, or damaged ({reason}); name others"
        ) from error


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, for `with`; of a local file mapped, else read by ranges."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path if is_local(path) else path.open("rb"))


def _text_column(path: Path, schema: Any, field: str) -> str:
    """Returns the field, or raises `UserError` with the names of the columns that hold text."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    known = [column.name for column in schema if is_text(column.type)]
    require(
        field in known,
        f"{path}: has no text column '{field}' (text columns: {', '.join(known) or 'none'}); "
        "name it with --data.field",
    )
    return field


def text_of(get: Callable[[], Any]) -> tuple[str, str]:
    """Returns the text of a table's cell, or what is wrong with it."""
    try:
        text = get()
    except UnicodeDecodeError:
        return "", "is not UTF-8 in"
    return (text, "") if isinstance(text, str) else ("", "has no")


def bad_row(table: str, number: int, problem: str, field: str) -> UserError:
    """What is said of a row without a text."""
    return UserError(f"{table}: row {number} {problem} '{field}'; mend it, or {_SKIP}")


def _read_arrays(part: FilePart, on_bad: OnBad) -> Iterator[str]:
    """A record is a JSON object with the field, or else its bytes are the text."""
    with open_arrays(part.path) as reader:
        for begin in range(part.begin, part.end, _TOGETHER):
            try:
                records = reader.read(begin, min(begin + _TOGETHER, part.end))
            except (RuntimeError, IndexError) as error:
                raise _no_arrays(part.path, error) from error
            for number, raw in enumerate(records, begin + 1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError:
                    way_out = f"mend it, or {_SKIP}"
                    on_bad(UserError(f"{part.path}: record {number} is not UTF-8; {way_out}"))
                    continue
                found, problem = (
                    _text_of_record(text, part.field) if raw[:1] == b"{" else ("", "is text")
                )
                yield text if problem else found


def open_arrays(path: Path) -> Any:
    """An `ArrayRecordReader`, for `with`; it reads local files, so that others are copied."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(local_copy(path, of="" if is_local(path) else version(path))))
    if not reader.ok():
        raise _no_arrays(path, "its header cannot be read")
    return contextlib.closing(reader)


def _no_arrays(path: Path, reason: object) -> UserError:
    reason = str(reason).splitlines()[0]
    return UserError(f"{path}: is not an ArrayRecord file, or damaged ({reason}); name others")


READERS: dict[str, Callable[[FilePart, OnBad], Iterator[str]]] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".array_record": _read_arrays,
    ".arrayrecord": _read_arrays,
}
