"""Pairs of a source and a target, to fine-tune on: from records, and as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxdenoise.data.shards import Stream
from jaxdenoise.errors import require

FIELDS = (("source", "target"), ("prompt", "completion"))
"""What the two are called in a record."""


class Pair(str):
    r"""A source and its target, as one document of a corpus.

    Its text is what is looked at to keep near-duplicates on one side of the split, and what a
    tokenizer is trained on.

    Example:
      >>> pair = Pair("Return the sum.", "sum")
      >>> pair.source, pair.target, str(pair)
      ('Return the sum.', 'sum', 'Return the sum.\nsum')
    """

    __slots__ = ("source", "target")
    source: str
    target: str

    def __new__(cls, source: str, target: str, text: str | None = None) -> Pair:
        """`text` is the document's, where it is more than the two."""
        pair = super().__new__(cls, f"{source}\n{target}" if text is None else text)
        pair.source, pair.target = source, target
        return pair


def pair_of(record: dict[str, Any]) -> tuple[Pair | None, str]:
    """The pair of a record, or what is wrong with it.

    Example:
      >>> pair_of({"prompt": "2 + 2 =", "completion": "4"})[0].target
      '4'
      >>> pair_of({"source": "2 + 2 ="})[1]
      "has no text 'target' beside 'source'"
    """
    # A record may have a `source` of another meaning beside its prompt.
    for names in sorted(FIELDS, key=lambda names: -sum(name in record for name in names)):
        if names[0] in record:
            for name in names:
                text = record.get(name)
                other = names[names[0] == name]
                if not isinstance(text, str) or not text.strip():
                    return None, f"has no text '{name}' beside '{other}'"
            return Pair(*(record[name] for name in names)), ""
    known = " nor ".join(f"'{source}' and '{target}'" for source, target in FIELDS)
    return None, f"has neither {known} (fields: {', '.join(record) or 'none'})"


@dataclass(frozen=True)
class Pairs(Sequence[np.ndarray]):
    """The pairs of a stream: of each the source, a separator, the target and EOS.

    Attributes:
      tokens: of all pairs, one behind the other.
      documents: where each starts, and its tokens.
      separator_id: between source and target.
      most: tokens that a pair may have; None for all. Source and target are cut at their ends, the
        target only where it has more than half and more than the source leaves.
    """

    tokens: Stream | np.ndarray
    documents: Int[np.ndarray, "D 2"]
    separator_id: int
    most: int | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]  # no slices
        start, length = map(int, self.documents[number])
        ids = np.asarray(self.tokens[start : start + length])
        if self.most is None or length <= self.most:
            return ids
        border = int(np.argmax(ids == self.separator_id))
        room = max(self.most // 2, self.most - border)
        tail = ids[border:] if length - border <= room else [*ids[border:][: room - 1], ids[-1]]
        return np.concatenate([ids[: self.most - len(tail)], tail])

    def parts(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target of a pair, without what parts and ends them."""
        ids = self[number]
        border = int(np.argmax(ids == self.separator_id))
        return ids[:border], ids[border + 1 : -1]


def check_pairs(name: str, pairs: bool, wanted: bool) -> None:
    """Raises `UserError` unless a corpus has pairs where they are wanted, and only there."""
    require(
        pairs or not wanted,
        f"data.pairs is set, and '{name}' has none; give data.files, .jsonl with "
        + " or ".join(f"{source} and {target}" for source, target in FIELDS),
    )
    require(wanted or not pairs, f"the corpus '{name}' is of pairs; set data.pairs")
