"""The user's own corpus: .txt, .jsonl and .parquet files, read as a stream of documents."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from jaxdenoise.errors import UserError, require

DocumentUnit = Literal["paragraph", "line", "file"]
OnBad = Callable[[UserError], None]
SUFFIXES = (".txt", ".jsonl", ".parquet")


def find_files(patterns: tuple[str, ...]) -> list[Path]:
    """Resolves paths and globs to a sorted list of files, each once, however it was spelled.

    Raises:
      UserError: a pattern that matches nothing, or a file of a kind that has no reader.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        literal = Path(pattern).is_file()  # a name may hold a glob's own signs
        paths = [pattern] if literal else glob.glob(pattern, recursive=True)
        matches = {Path(p).resolve(): Path(p) for p in paths if Path(p).is_file()}
        require(
            bool(matches),
            f"data.files: no file matches '{pattern}'; give paths or globs of "
            f"{', '.join(SUFFIXES)} files, seen from {Path.cwd()}",
        )
        found = matches | found
    for path in found.values():
        require(
            path.suffix in SUFFIXES,
            f"data.files: '{path}' is not one of {', '.join(SUFFIXES)}; convert it or name others",
        )
    return [found[resolved] for resolved in sorted(found)]


def fingerprint(paths: list[Path], field: str, unit: DocumentUnit) -> dict[str, str]:
    """What identifies the files without reading them: paths, sizes and modification times."""
    stats = {str(p.resolve()): p.stat() for p in paths}
    files = {name: f"{stat.st_size} bytes, {stat.st_mtime_ns} ns" for name, stat in stats.items()}
    return {"corpus": "files", "field": field, "documents": unit, **files}


def read_documents(
    paths: list[Path], *, field: str, unit: DocumentUnit, on_bad: OnBad
) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of every document that is not blank.

    Args:
      paths: from `find_files`.
      field: the text's field in .jsonl and .parquet records.
      unit: what a document is in a .txt file; paragraphs are parted by blank lines.
      on_bad: gets a `UserError` naming file and place for each record that cannot be read. It
        may raise it; if it returns, the record is skipped.
    """
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    for path in paths:
        if path.suffix == ".txt":
            records = _read_text(path, unit, on_bad)
        else:
            records = readers[path.suffix](path, field, on_bad)
        for place, text in records:
            if text.strip():
                yield f"{path}:{place}", text


def _read_text(path: Path, unit: DocumentUnit, on_bad: OnBad) -> Iterator[tuple[int, str]]:
    """Yields (line number, text)."""
    offset, begin, lines = 0, 1, []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = _decode(raw, path, offset, on_bad)
            offset += len(raw)
            ends = unit == "line" or (unit == "paragraph" and not line.strip())
            lines.append(line)
            if ends:
                yield begin, "".join(lines).strip("\r\n")
                begin, lines = number + 1, []
    yield begin, "".join(lines).strip("\r\n")


def _decode(raw: bytes, path: Path, offset: int, on_bad: OnBad) -> str:
    try:
        text = raw.decode("utf-8")
        return text if offset else text.removeprefix("\ufeff")  # a file may begin with its mark
    except UnicodeDecodeError as error:
        where = offset + error.start
        on_bad(
            UserError(
                f"{path}: byte {where} (0x{raw[error.start]:02x}) is not UTF-8; convert the file "
                f"(iconv -t utf-8), or skip such records with --data.bad-records skip"
            )
        )
        return ""


def _read_jsonl(path: Path, field: str, on_bad: OnBad) -> Iterator[tuple[int, str]]:
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = _decode(raw, path, offset, on_bad)
            offset += len(raw)
            if line.strip():
                text, problem = _field_of(line, field)
                if problem:
                    on_bad(UserError(f"{path}: line {number} {problem}"))
                else:
                    yield number, text


def _field_of(line: str, field: str) -> tuple[str, str]:
    """Returns the text of a JSON record, or what is wrong with it."""
    way_out = "mend it, or skip such records with --data.bad-records skip"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return "", f"is not JSON ({error}); {way_out}"
    if not isinstance(record, dict):
        return "", f"is not a JSON object; {way_out}"
    if not isinstance(record.get(field), str):
        fields = ", ".join(record) or "none"
        return "", f"has no text field '{field}' (fields: {fields}); name it with --data.field"
    try:
        record[field].encode()
    except UnicodeEncodeError:
        return "", f"has half a surrogate pair in '{field}', which is no text; {way_out}"
    return record[field], ""


def _read_parquet(path: Path, field: str, on_bad: OnBad) -> Iterator[tuple[int, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            column = _text_column(path, file.schema_arrow, field)
            number = 0
            for batch in file.iter_batches(columns=[column]):
                for value in batch.column(0):
                    number += 1
                    text, problem = _text_of(value)
                    if problem:
                        on_bad(
                            UserError(
                                f"{path}: row {number} {problem} '{field}'; mend it, or skip such "
                                "records with --data.bad-records skip"
                            )
                        )
                    else:
                        yield number, text
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: is not a Parquet file, or damaged ({error}); name others"
        ) from error


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


def _text_of(value: Any) -> tuple[str, str]:
    """Returns the text of a Parquet value, or what is wrong with it."""
    try:
        text = value.as_py()
    except UnicodeDecodeError:
        return "", "is not UTF-8 in"
    return (text, "") if text is not None else ("", "has no")
