"""The rows of metrics.jsonl: written once each, in the order of their steps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended, never rewritten but to resume.

    Args:
      path: of the file.
      step: where the run is resumed; rows of later steps belong to work that was lost, and go.
      writes: of several processes, one does.
    """

    def __init__(self, path: Path, step: int, *, writes: bool = True):
        self.path, self._writes = path, writes
        if not writes:
            return
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        temporary = path.with_suffix(".partial")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, path)

    def append(self, row: dict[str, Any]) -> None:
        """Writes one row; arrays become numbers and lists."""
        if self._writes:
            with self.path.open("a") as file:
                file.write(json.dumps(_plain(row)) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _plain(value: Any) -> Any:
    """Arrays as numbers and lists of nine significant digits (float32 whole), at any depth."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
