"""Packing: several pieces share a row, so that few of its positions are padding.

One row is filled after another, from all that is left, the largest piece first. That alone would
leave the small pieces to the end, where `most` of them do not fill a row. So where slots are
scarce, a row keeps some, and room, for its share of the small ones. With two stacks, each piece is
chosen by its size and by how evenly it leaves the row, so that neither stack is full too early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxdenoise.errors import require

WINDOW = 8192  # pieces that are packed together; the time for each grows with their number
# How to choose: (weight of a piece's size against balance, exponent of the stacks' scarcity).
TASTES = ((0.05, 8), (0.25, 4), (0.5, 1), (2.0, 16))
_BUSY = 0.85  # share of the slots that must be needed on average before rows keep some
_ROWS_PER_SURVEY = 16  # what is left changes slowly
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio: multiples are spread evenly


def pack_pieces(
    lengths: Int[np.ndarray, "N S"], capacity: Sequence[int], most: int
) -> Int[np.ndarray, "R most"]:
    """Distributes pieces over rows, each into one. Depends on the arguments alone.

    Many pieces are packed in windows, of as many large and small ones each. Which of `TASTES` is
    best differs with the lengths: the first window tries all, the others follow the winner.

    Args:
      lengths: positions that each piece takes; S is 1, or 2: the encoder's and the decoder's.
      capacity: S numbers, the positions of a row.
      most: pieces in a row.

    Returns:
      The pieces of each row, ascending, then −1. Rows that are full and rows that are not, those
      of large pieces and those of small, are spread over the whole.

    Raises:
      UserError: a piece larger than a row.

    Source: after the greedy vector packing of Panigrahy et al. 2011, "Heuristics for vector bin
    packing"; for sequences Krell et al. 2021, "Efficient sequence packing without
    cross-contamination".

    Example:
      >>> pack_pieces(np.array([[3], [6], [7], [2], [2]]), capacity=[10], most=3)
      array([[ 0,  2, -1],
             [ 1,  3,  4]])
    """
    _check(lengths, capacity, most)
    tastes = TASTES
    if len(capacity) == 1:  # a second stack that nobody uses, and nothing to balance
        lengths, capacity, tastes = np.pad(lengths, ((0, 0), (0, 1))), [*capacity, 1], TASTES[:1]
    order = np.lexsort((*lengths.T, -(lengths / np.array(capacity)).max(axis=1)))
    windows = -(-len(order) // WINDOW)
    rows: list[np.ndarray] = []
    for window in range(windows):
        pieces = order[window::windows]
        tries = {taste: _pack_window(lengths[pieces], capacity, most, *taste) for taste in tastes}
        best = min(tries, key=lambda taste: len(tries[taste]))
        tastes = (best,)
        rows += [np.sort(pieces[row]) for row in tries[best]]
    table = np.full((len(rows), most), -1)
    for place, row in enumerate(np.argsort(np.arange(len(rows), dtype=np.uint64) * _GOLDEN)):
        table[place, : len(rows[row])] = rows[row]
    return table


def _check(lengths: np.ndarray, capacity: Sequence[int], most: int) -> None:
    stacks = len(capacity)
    require(
        lengths.ndim == 2 and lengths.shape[1] == stacks and stacks in (1, 2),
        f"packing: lengths of shape {lengths.shape} for {stacks} capacities; "
        "give Int[N, S] and S numbers, S being 1 or 2",
    )
    require(most >= 1, f"packing: at most {most} pieces in a row; give 1 or more")
    require(lengths.min(initial=0) >= 0, "packing: a piece has a negative length")
    for piece, stack in np.argwhere(lengths > np.array(capacity))[:1]:
        require(
            False,
            f"packing: piece {piece} takes {lengths[piece, stack]} positions of stack {stack}, "
            f"and a row has {capacity[stack]}; cut shorter pieces or give longer rows",
        )


def _pack_window(
    sizes: np.ndarray, capacity: Sequence[int], most: int, weight: float, exponent: int
) -> list[list[int]]:
    """Packs Int[n, 2] `sizes`, equal ones adjacent, the largest first; rows of their indices."""
    shelf, rows = _Shelf(sizes, capacity, most, weight, exponent), []
    while shelf.survey():
        rows += [row for _ in range(_ROWS_PER_SURVEY) if (row := shelf.fill())]
    return rows


class _Shelf:
    """The pieces that are left, by size, the largest first."""

    def __init__(
        self, sizes: np.ndarray, capacity: Sequence[int], most: int, weight: float, exponent: int
    ):
        new = np.append(True, np.any(sizes[1:] != sizes[:-1], axis=1))
        self.ends = np.append(np.flatnonzero(new)[1:], len(sizes))  # where pieces of a size end
        self.counts = np.diff(self.ends, prepend=0)  # how many of them are left: the last ones
        self.sizes = sizes[new].astype(np.int64)
        self.capacity, self.most, self.weight, self.exponent = capacity, most, weight, exponent

    def survey(self) -> bool:
        """Looks at what is left, and forgets sizes that are used up; whether anything is left.

        Sums are of integers and powers are products, so that every machine rounds alike.
        """
        left = self.counts > 0
        self.sizes, self.counts, self.ends = self.sizes[left], self.counts[left], self.ends[left]
        if not left.any():
            return False
        pieces = int(self.counts.sum())
        positions = (self.sizes * self.counts[:, None]).sum(axis=0)
        full = (positions / np.array(self.capacity)).tolist()  # rows, for each stack alone
        needed = pieces / max(*full, pieces / self.most)  # pieces that a row takes on average
        self.needed = needed if needed > _BUSY * self.most else 0
        # Mean size of the smaller half.
        small = np.cumsum(self.counts[::-1])[::-1] <= max(pieces / 2, self.counts[-1])
        self.small = np.average(self.sizes[small], axis=0, weights=self.counts[small]).tolist()
        self.demand = [math.prod([f / max(*full, 1e-9)] * self.exponent) for f in full]
        encoder, decoder = (self.sizes / np.array(self.capacity)).T
        worth = self.weight * (encoder * self.demand[0] + decoder * self.demand[1])
        lean, size = self._lean(encoder, decoder), np.arange(len(encoder))
        self.table = np.stack([*self.sizes.T, worth, lean, size])
        return True

    def fill(self) -> list[int]:
        """Takes pieces for one row; none if nothing is left."""
        table = self.table
        encoder, decoder = self.capacity
        row: list[int] = []
        while len(row) < self.most:
            fits = (table[0] <= encoder) & (table[1] <= decoder)
            if not fits.all():
                table = table.compress(fits, axis=1)
            if not table.size:
                break
            choice = self._choose(table, encoder, decoder, len(row))
            size = int(table[4, choice])
            row.append(int(self.ends[size] - self.counts[size]))
            encoder -= int(self.sizes[size, 0])
            decoder -= int(self.sizes[size, 1])
            self.counts[size] -= 1
            if not self.counts[size]:
                table[0, choice] = self.table[0, size] = np.inf  # fits nowhere
        return row

    def _choose(self, table: np.ndarray, encoder: int, decoder: int, taken: int) -> int:
        """The best of the sizes in `table`, all of which fit into what is left of a row."""
        reserved = max(self.needed - taken - 1, 0)  # slots for small pieces after this one
        room = True
        if reserved:
            room = table[0] <= encoder - reserved * self.small[0]
            room &= table[1] <= decoder - reserved * self.small[1]
            if not room.any():
                return table.shape[1] - 1
        if not taken:
            return int(np.argmax(room))
        lean = self._lean(encoder / self.capacity[0], decoder / self.capacity[1])
        score = table[2] - np.abs(table[3] - lean)
        return int(np.argmax(np.where(room, score, -np.inf) if reserved else score))

    def _lean(self, encoder, decoder):
        """How far shares of the encoder's and the decoder's positions are from the demand's."""
        return encoder * self.demand[1] - decoder * self.demand[0]
