"""Held-out rows as every arm sees them: corrupted, asked for, predicted, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdenoise.report.page import RunView

EXAMPLES = 8  # that a page shows

Tokens = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """One row.

    Attributes:
      source: its text.
      arms: by arm, what its first run made of it: "inputs", "targets" and "prediction".
    """

    source: str
    arms: Mapping[str, Mapping[str, Tokens]]


def side_by_side(runs: Mapping[str, RunView]) -> list[SideBySide]:
    """The rows that several arms have in common, in order.

    Args:
      runs: one with a gallery an arm; rows whose source is another than the first arm's are not
        shown of that arm.
    """
    if not runs:
        return []
    first = next(iter(runs.values())).gallery
    found = []
    for row, example in enumerate(first[:EXAMPLES]):
        source = _texts(example["source"])
        same = {
            arm: view.gallery[row]
            for arm, view in runs.items()
            if row < len(view.gallery) and _same(source, _texts(view.gallery[row]["source"]))
        }
        plain = min((_texts(other["source"]) for other in same.values()), key=len)
        arms = {arm: _shown(other) for arm, other in same.items()}
        found.append(SideBySide(source="".join(plain), arms=arms))
    return found


def _same(source: Sequence[str], other: Sequence[str]) -> bool:
    """Whether these are the same text; before one of them a mode token may stand."""
    return source == other or source[1:] == other or source == other[1:]


def _texts(tokens: Tokens) -> list[str]:
    return [token["text"] for token in tokens]


def _shown(example: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """Neighbours of one span become one piece, but in targets, each of which has its loss."""
    joined = {name: joined_spans(example[name]) for name in ("inputs", "prediction")}
    return {**joined, "targets": example["targets"]}


def joined_spans(tokens: Tokens) -> Tokens:
    """Tokens with neighbours of one span in one piece.

    Example:
      >>> joined_spans([{"text": "a", "span": 0}, {"text": "b", "span": 0}])
      [{'text': 'ab', 'span': 0}]
    """
    return [
        {"text": "".join(token["text"] for token in group), "span": span}
        for span, group in itertools.groupby(tokens, key=lambda token: token["span"])
    ]
