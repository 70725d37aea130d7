"""Mixtures: which corpus a row is of, and which of its rows, from the row's number alone.

Rows come in blocks, in each of which every corpus has its exact share, in an order of the block's
own. Inside its corpus a row is the next one of the corpus's own epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Int

from jaxdenoise import keys
from jaxdenoise.arrays import Rows
from jaxdenoise.data.pieces import PackedBatches
from jaxdenoise.data.rows import Batches, ByStep
from jaxdenoise.data.shards import Stream

T = TypeVar("T", int, np.ndarray)

_EPOCHS = 1 << 24  # of each corpus; the corpora's epochs are numbered one behind the other
_CHUNK = 1024  # tokens of one corpus in a row, where streams are interleaved


def first_epoch(corpus: T) -> T:
    """The number of a corpus's first epoch in a mixture, so that no two rows share their keys.

    A key is made of epoch and example id, and ids count the rows of one corpus. The first corpus
    has what it would have by itself.
    """
    return corpus * _EPOCHS


def assign(
    numbers: Sequence[int], rows: Sequence[int], seed: int
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """The corpus of each row, and which of the corpus's rows it is, counting from the begin.

    Args:
      numbers: of rows, from the begin of the run; any, in any order.
      rows: of each corpus in a block.
      seed: of the run.

    Example:
      >>> corpus, number = assign(range(6), rows=(2, 1), seed=0)
      >>> sorted(zip(corpus.tolist(), number.tolist()))
      [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    """
    size = sum(rows)
    block, place = np.divmod(np.asarray(numbers, np.int64), size)
    # Stored, since a block is small: `rows.shuffled` takes milliseconds for a permutation of few.
    blocks, which = np.unique(block, return_inverse=True)
    seeds = [keys.host_seed("mixture", seed, b) for b in blocks.tolist()]
    orders = [np.random.Generator(np.random.Philox(key=k)).permutation(size) for k in seeds]
    slot = np.array(orders, np.int64).reshape(-1, size)[which, place]
    ends = np.cumsum(rows)
    corpus = np.searchsorted(ends, slot, "right")
    own = np.asarray(rows)[corpus]
    return corpus, block * own + slot - (ends[corpus] - own)


@dataclass(frozen=True, kw_only=True)
class MixedBatches(ByStep):
    """The batches of a run on several corpora.

    Attributes:
      members: those of each corpus, with epochs from `first_epoch`.
      rows: of each corpus in a block.
    """

    members: tuple[Batches | PackedBatches, ...]
    rows: tuple[int, ...]

    def take(self, numbers: Sequence[int]) -> Rows:
        """See `ByStep.take`."""
        corpus, number = assign(numbers, self.rows, self.seed)
        where = [np.flatnonzero(corpus == place) for place in range(len(self.members))]
        parts = [
            member.take(number[own].tolist())
            for member, own in zip(self.members, where, strict=True)
            if len(own)
        ]
        found = join(parts, np.concatenate(where))
        if found.pieces is None:
            places = (np.asarray(numbers) % 2**32).astype(np.uint32)
            return dataclasses.replace(found, places=places)
        # Pieces are counted corpus by corpus; apart, so that no two have the same place.
        places = found.pieces.places + first_epoch(corpus).astype(np.uint32)[:, None]
        pieces = dataclasses.replace(found.pieces, places=places)
        return dataclasses.replace(found, places=places[:, 0], pieces=pieces)

    @property
    def filled(self) -> tuple[float, float]:
        """Share of the encoder's and of the decoder's positions in use, in the first epochs."""
        shares = [member.filled for member in self.members if isinstance(member, PackedBatches)]
        encoder, decoder = np.average(shares, axis=0, weights=self.rows).tolist()
        return encoder, decoder


def sample_mixed(sample: Callable[[int, int], Rows], rows: Sequence[int], number: int) -> Rows:
    """Held-out rows of several corpora, in proportion, one corpus behind another.

    Args:
      sample: from a corpus and how many rows are wanted, its rows.
      rows: of each corpus in a block.
      number: of all rows together.
    """
    ends = np.round(np.cumsum(rows) * number / sum(rows)).astype(int)
    wanted = np.diff(ends, prepend=0).tolist()
    parts = [sample(corpus, own) for corpus, own in enumerate(wanted) if own]
    return join(parts, np.arange(sum(len(part.lengths) for part in parts)))


def join(parts: Sequence[Rows], places: np.ndarray) -> Rows:
    """Rows of several parts, the k-th of all at `places[k]`."""
    order = np.argsort(places)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[order], *parts)


def interleave(streams: Sequence[Stream], rows: Sequence[int], number: int) -> np.ndarray:
    """Int[up to `number`]: tokens of several streams, chunk by chunk, in their proportions.

    As many as there are in all, whole chunks of them; a stream that is too short comes again.
    """
    number = min(number, sum(map(len, streams)))
    size = max(1, min(_CHUNK, number, *map(len, streams)))
    corpora, chunks = assign(range(max(number // size, 1)), rows, 0)
    found = []
    for corpus, chunk in zip(corpora.tolist(), chunks.tolist(), strict=True):
        stream = streams[corpus]
        begin = chunk % (len(stream) // size) * size
        found.append(stream[begin : begin + size])
    return np.concatenate(found)
