"""The rows of metrics.jsonl: written once each, in the order of their steps."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdenoise import paths
from jaxdenoise.training.loggers import Loggers


class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended, never rewritten but to resume.

    Stores of objects cannot append: there the file is written anew by each `flush`.

    Args:
      path: of the file.
      step: where the run is resumed; rows of later steps belong to work that was lost, and go.
      writes: of several processes, one does.
      loggers: are handed the rows that are kept, and each that comes.
    """

    def __init__(
        self, path: Path, step: int, *, writes: bool = True, loggers: Loggers | None = None
    ):
        self.path, self._writes, self._loggers = path, writes, loggers or Loggers()
        self._held: list[str] | None = None
        if writes:
            rows = [row for row in read_metrics(path) if row["step"] <= step]
            kept = [json.dumps(row) for row in rows]
            self._write(kept)
            self._held = None if paths.is_local(path) else kept
            for row in rows:
                self._loggers.log(row)

    def append(self, row: dict[str, Any]) -> None:
        """Writes one row; arrays become numbers and lists."""
        row = _plain(row)
        line = json.dumps(row)
        if self._held is not None:
            self._held.append(line)
        elif self._writes:
            with self.path.open("a") as file:
                file.write(line + "\n")
        self._loggers.log(row)

    def flush(self) -> None:
        """Makes sure that all rows are in the file, before a checkpoint says that they are."""
        if self._held is not None:
            self._write(self._held)
        self._loggers.flush()

    def _write(self, lines: list[str]) -> None:
        paths.write_whole(self.path, "".join(line + "\n" for line in lines).encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    with paths.sound(path, "; take the line out, or choose another --run-dir"):
        return [_row(number, line) for number, line in enumerate(_lines(path), 1)]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def _row(number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        return {**row, "step": operator.index(row["step"])}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from error


def _plain(value: Any) -> Any:
    """Arrays as numbers and lists of nine significant digits (float32 whole), at any depth."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
