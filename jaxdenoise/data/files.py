"""The user's own files: which there are, what identifies them, and the parts they are read in."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from jaxdenoise.data.records import (
    READERS,
    DocumentUnit,
    FilePart,
    OnBad,
    kind,
    open_arrays,
    open_parquet,
)
from jaxdenoise.errors import UserError, require
from jaxdenoise.paths import as_path, elsewhere, is_local, reaching, version

SUFFIXES = tuple(READERS)
PART_BYTES = 1 << 26  # what a worker reads at a time, and what becomes one shard


def find_files(patterns: tuple[str, ...], who: str = "data.files:") -> list[Path]:
    """Resolves paths, addresses and globs to a sorted list of files, each once.

    Args:
      patterns: of local files, or addresses as `gs://bucket/texts/*.jsonl`.
      who: asks, for messages.

    Raises:
      UserError: a pattern that matches nothing, or a file of a kind that has no reader.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        matches = {_name(path): path for path in _matches(pattern)}
        require(
            bool(matches),
            f"{who} no file matches '{pattern}'; give paths or globs of "
            f"{', '.join(SUFFIXES)} files, seen from {Path.cwd()}",
        )
        found = matches | found
    for path in found.values():
        require(
            kind(path) in SUFFIXES,
            f"data.files: '{path}' is not one of {', '.join(SUFFIXES)}; convert it or name others",
        )
    # As paths are compared, folder by folder.
    return [found[name] for name in sorted(found, key=lambda name: name.split("/"))]


def _matches(pattern: str) -> list[Path]:
    path = as_path(pattern)
    with reaching(path):
        return _files(path)


def _files(path: Path) -> list[Path]:
    if path.is_file():  # a name may hold a glob's own signs
        return [path]
    if is_local(path):
        return [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    system, pattern = elsewhere(path).fs, elsewhere(path).path
    found = [as_path(system.unstrip_protocol(name)) for name in map(str, system.glob(pattern))]
    return [p for p in found if p.is_file()]


def _name(path: Path) -> str:
    """What is the same however a file is spelled."""
    return str(path.resolve()) if is_local(path) else str(path)


def fingerprint(
    paths: list[Path], field: str, unit: DocumentUnit, pairs: bool = False
) -> dict[str, str]:
    """What identifies the files without reading them: paths, sizes and modification times."""
    files = {_name(path): version(path) for path in paths}
    read = {"pairs": "whole records"} if pairs else {"field": field, "documents": unit}
    return {"corpus": "files", **read, **files}


def plan_parts(
    paths: list[Path], *, field: str, unit: DocumentUnit, pairs: bool = False
) -> list[FilePart]:
    """Cuts files into parts of about `PART_BYTES`, by their sizes alone.

    Args:
      paths: from `find_files`.
      field: the text's field in JSON records and Parquet.
      unit: what a document is in a .txt file; a file that is one is not cut.
      pairs: whether records are pairs, which .jsonl files have.
    """
    for path in paths if pairs else ():
        require(
            kind(path) == ".jsonl",
            f"data.pairs: '{path}' is not a .jsonl file; convert it, or name others",
        )
    parts = []
    for path in paths:
        try:
            bounds = _bounds(path, unit)
        except (UserError, OSError, ValueError):
            bounds = [0, 1]  # what is wrong is said when it is read, in its turn
        parts += [
            FilePart(path=path, begin=begin, end=end, field=field, unit=unit, pairs=pairs)
            for begin, end in pairwise(bounds)
        ]
    return parts


def read_documents(
    paths: list[Path], *, field: str, unit: DocumentUnit, on_bad: OnBad
) -> Iterator[str]:
    """Yields every document of the files that is not blank; arguments as in `plan_parts`."""
    for part in plan_parts(paths, field=field, unit=unit):
        yield from part.read(on_bad)


def _bounds(path: Path, unit: DocumentUnit) -> list[int]:
    """Where the parts of a file begin, and where the last one ends."""
    size = path.stat().st_size
    if kind(path) == ".parquet":
        with open_parquet(path) as file:
            groups = [file.metadata.row_group(k) for k in range(file.num_row_groups)]
            return _cut([group.total_byte_size for group in groups])
    if kind(path) in (".txt", ".jsonl"):
        whole = kind(path) == ".txt" and unit == "file"
        return _evenly(size, 1 if whole else size / PART_BYTES)
    with open_arrays(path) as reader:
        return _evenly(reader.num_records(), size / PART_BYTES)


def _evenly(number: int, parts: float) -> list[int]:
    parts = max(1, min(round(parts), number))
    return [number * part // parts for part in range(parts + 1)]


def _cut(sizes: Sequence[int]) -> list[int]:
    """Bounds of stretches of at least `PART_BYTES`, but for the last."""
    bounds, filled = [0], 0
    for number, size in enumerate(sizes, 1):
        filled += size
        if filled >= PART_BYTES or number == len(sizes):
            bounds.append(number)
            filled = 0
    return bounds
