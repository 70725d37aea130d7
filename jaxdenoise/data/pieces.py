"""Packed rows: documents cut into pieces, and which pieces share a row, planned epoch by epoch.

A plan follows from the lengths of the documents and the keys of their pieces alone: the objective
says how many positions each piece will take before any token is read. So any process can build any
row of any batch.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt

from jaxdenoise import keys
from jaxdenoise.arrays import AnyArray, Key, Pieces, Rows
from jaxdenoise.corruption.lengths import Lengths
from jaxdenoise.data.packing import pack_pieces
from jaxdenoise.data.rows import ByStep, Tokens
from jaxdenoise.errors import require

_CHUNK = 4096  # pieces whose lengths are computed together
_KEPT = 2  # plans that are kept: a batch may lie across two epochs


class Packable(Protocol):
    """What a plan asks of an objective; it is hashed, as a static argument of `jit`."""

    @property
    def raw_lengths(self) -> tuple[int, ...] | None:
        """The most tokens of its pieces; several numbers for the members of a mixture."""
        ...

    def piece_length(self, key: Key) -> AnyArray:
        """Int[], the most tokens of the piece with this key."""
        ...

    def output_lengths(self, key: Key, length: AnyArray, *, raw_length: int) -> Lengths:
        """Positions that pieces of these lengths take in either stack."""
        ...


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a packed row has room for.

    Attributes:
      sizes: positions of the encoder and of the decoder; 0 for a stack that is not there.
      most: pieces.
    """

    sizes: tuple[int, int]
    most: int


class Plan(NamedTuple):
    """The packed rows of one epoch, in the order in which they are visited.

    Attributes:
      starts: the first token of each piece, in the stream.
      lengths: its raw tokens.
      example_ids: with seed and epoch, the identity of its randomness.
      rows: the pieces of each row, then −1.
      before: how many pieces stand in rows before each row.
      filled: share of the encoder's and of the decoder's positions that are kept for pieces.
    """

    starts: Int[np.ndarray, "M"]
    lengths: Int[np.ndarray, "M"]
    example_ids: UInt[np.ndarray, "M"]
    rows: Int[np.ndarray, "R N"]
    before: Int[np.ndarray, "R"]
    filled: tuple[float, float]


def find_documents(tokens: np.ndarray, separator_id: int) -> Int[np.ndarray, "D 2"]:
    """Where each document of a stream starts, and its tokens, the separator behind it included.

    Example:
      >>> find_documents(np.array([7, 8, 3, 9, 3, 5]), separator_id=3).tolist()
      [[0, 3], [3, 2], [5, 1]]
    """
    ends = np.flatnonzero(np.asarray(tokens) == separator_id) + 1
    if len(tokens) and (not len(ends) or ends[-1] < len(tokens)):
        ends = np.append(ends, len(tokens))
    starts = np.append(0, ends[:-1])[: len(ends)]
    return np.stack([starts, ends - starts], axis=1).astype(np.int64)


def some_documents(documents: Int[np.ndarray, "D 2"], number: int) -> Int[np.ndarray, "D 2"]:
    """Documents of `number` tokens in all, from all over the stream; the last one is cut.

    Those of a smaller number are among those of a larger.

    Example:
      >>> some_documents(np.array([[0, 3], [3, 2], [5, 1]]), 4).tolist()
      [[3, 2], [5, 1], [0, 1]]
    """
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(documents))
    starts, lengths = documents[order].T
    lengths = np.minimum(lengths, number - (np.cumsum(lengths) - lengths))
    return np.stack([starts, lengths], axis=1)[lengths > 0]


def plan_epoch(
    objective: Packable,
    documents: Int[np.ndarray, "D 2"],
    packing: Packing,
    *,
    seed: int,
    epoch: int,
) -> Plan:
    """Cuts documents into pieces and packs these into rows, in an order of the epoch's own.

    Args:
      objective: from `objectives.packed.within`.
      documents: start and length of each, from `find_documents`.
      packing: what a row has room for.
      seed: of the run.
      epoch: how often the documents have been seen before.
    """
    root = keys.stream("corruption", seed)
    starts, lengths, ids = _cut(objective, documents, root, epoch)
    taken = _positions(objective, root, epoch, ids, lengths)
    used = [n for n, size in enumerate(packing.sizes) if size]
    capacity = [packing.sizes[n] for n in used]
    rows = pack_pieces(_room(taken, lengths, packing)[:, used], capacity, packing.most)
    order = np.random.Generator(np.random.Philox(key=keys.host_seed("rows", seed, epoch)))
    rows = rows[order.permutation(len(rows))]
    count = (rows >= 0).sum(axis=1)
    positions = len(rows) * np.maximum(packing.sizes, 1)
    encoder, decoder = (taken.sum(axis=0) / positions).tolist()
    return Plan(starts, lengths, ids, rows, np.cumsum(count) - count, (encoder, decoder))


def _cut(
    objective: Packable, documents: np.ndarray, root: Key, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, lengths and ids of all pieces; each is as long as what its key draws has room for."""
    shortest = min(objective.raw_lengths or (1,))
    slots = -(-documents[:, 1] // shortest)  # of each document, if all its pieces were short
    require(
        slots.sum() < 2**32, "the corpus has more than 2³² pieces; give a larger data.raw_length"
    )
    owner = np.repeat(np.arange(len(documents)), slots)
    ids = np.arange(len(owner), dtype=np.uint32)
    if len(objective.raw_lengths or ()) > 1:
        most = _in_chunks(functools.partial(_most_tokens, objective), root, epoch, ids)[:, 0]
    else:
        most = np.full(len(ids), shortest, np.int64)
    until = np.cumsum(most)
    first = np.cumsum(slots) - slots
    offsets = until - most - (until - most)[first][owner]
    left = documents[owner, 1] - offsets
    real = left > 0
    starts, lengths = documents[owner, 0] + offsets, np.minimum(most, left)
    return starts[real], lengths[real], ids[real]


def _positions(
    objective: Packable, root: Key, epoch: int, ids: np.ndarray, lengths: np.ndarray
) -> Int[np.ndarray, "M 2"]:
    """Positions that each piece will take in either stack."""
    return _in_chunks(functools.partial(_output_lengths, objective), root, epoch, ids, lengths)


def _in_chunks(function, root: Key, epoch: int, ids: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """A jitted function of keys and further numbers, on pieces of one size."""
    columns = [np.pad(x, (0, -len(x) % _CHUNK)) for x in (ids, *more)]
    found = [
        np.asarray(function(root, epoch, *(x[start : start + _CHUNK] for x in columns)))
        for start in range(0, len(columns[0]), _CHUNK)
    ]
    return np.concatenate(found)[: len(ids)].astype(np.int64)


@functools.partial(jax.jit, static_argnums=0)
def _most_tokens(objective: Packable, root: Key, epoch: int, ids: AnyArray) -> AnyArray:
    own = jax.vmap(keys.example_key, in_axes=(None, None, 0))(root, epoch, ids)
    return jax.vmap(objective.piece_length)(own)[:, None]


@functools.partial(jax.jit, static_argnums=0)
def _output_lengths(
    objective: Packable, root: Key, epoch: int, ids: AnyArray, lengths: AnyArray
) -> AnyArray:
    own = jax.vmap(keys.example_key, in_axes=(None, None, 0))(root, epoch, ids)
    raw_length = max(objective.raw_lengths or (1,))
    made: Lengths = objective.output_lengths(own, lengths, raw_length=raw_length)
    return jnp.stack([jnp.broadcast_to(jnp.asarray(n), ids.shape) for n in made], axis=1)


def _room(taken: np.ndarray, lengths: np.ndarray, packing: Packing) -> np.ndarray:
    """Positions to keep for each piece: no fewer in all than its raw tokens, which travel too."""
    main = 0 if packing.sizes[0] else 1
    lost = np.maximum(lengths - taken.sum(axis=1), 0)
    room = taken.copy()
    room[:, main] = np.minimum(room[:, main] + lost, packing.sizes[main])
    return room


def take_packed_rows(
    tokens: Tokens,
    objective: Packable,
    packing: Packing,
    visits: Sequence[tuple[Plan, int, int, int]],
    seed: int,
) -> Rows:
    """Copies the pieces of rows out of a stream.

    Args:
      tokens: Int[tokens].
      objective: that the plans were made for.
      packing: as in the plans.
      visits: of each row its plan, its place in there, its epoch, and how many pieces the run has
        had before that epoch.
      seed: of the run.
    """
    raw_length = max(objective.raw_lengths or (1,))
    block = np.zeros((len(visits), max(sum(packing.sizes), raw_length)), np.int32)
    shape = (len(visits), packing.most)
    lengths, ids = np.zeros(shape, np.int32), np.zeros(shape, np.uint32)
    places = np.zeros(shape, np.uint32)
    for line, (plan, place, _, before) in enumerate(visits):
        chosen = plan.rows[place]
        chosen = chosen[chosen >= 0]
        number = len(chosen)
        lengths[line, :number], ids[line, :number] = plan.lengths[chosen], plan.example_ids[chosen]
        first = before + int(plan.before[place])
        places[line] = np.arange(first, first + packing.most) % 2**32
        parts = [
            tokens[start : start + length]
            for start, length in zip(plan.starts[chosen], plan.lengths[chosen], strict=True)
        ]
        row = np.concatenate(parts)
        block[line, : len(row)] = row
    return Rows(
        tokens=block,
        lengths=lengths.sum(axis=1, dtype=np.int32),
        example_ids=ids[:, 0],
        epochs=np.array([epoch for _, _, epoch, _ in visits], np.uint32),
        places=places[:, 0],
        pieces=Pieces(
            lengths=lengths,
            example_ids=ids,
            places=places,
            raw_length=raw_length,
            sizes=packing.sizes,
        ),
        seeds=np.full(len(visits), seed, np.uint32),
    )


@dataclass(frozen=True, kw_only=True)
class PackedBatches(ByStep):
    """The batches of a run with packed rows.

    An epoch has as many rows as its plan, so that the place of a row is known once the epochs
    before it are planned: a run that goes on plans them anew, in seconds for a million pieces.

    Attributes:
      tokens: the stream of a split; slices of it are taken.
      documents: of the stream: of a store, or from `find_documents`.
      objective: from `objectives.packed.within`.
      packing: what a row has room for.
      first_epoch: its number, as in `Batches`.
    """

    tokens: Tokens
    documents: np.ndarray
    objective: Packable
    packing: Packing
    first_epoch: int = 0
    _plans: dict[int, Plan] = field(default_factory=dict, repr=False, compare=False)
    _ends: list[tuple[int, int]] = field(default_factory=list, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def take(self, numbers: Sequence[int]) -> Rows:
        """See `ByStep.take`."""
        visits = [self._visit(int(number)) for number in numbers]
        return take_packed_rows(self.tokens, self.objective, self.packing, visits, self.seed)

    @property
    def filled(self) -> tuple[float, float]:
        """Share of the encoder's and of the decoder's positions in use, in the first epoch."""
        with self._lock:
            return self._plan(0).filled

    def _visit(self, row: int) -> tuple[Plan, int, int, int]:
        """The plan, the place in it, the epoch, and the pieces before it, of a row of the run."""
        with self._lock:
            while not self._ends or self._ends[-1][0] <= row:
                self._measure(len(self._ends))
            epoch = next(n for n, (rows, _) in enumerate(self._ends) if row < rows)
            rows, pieces = self._ends[epoch - 1] if epoch else (0, 0)
            return self._plan(epoch), row - rows, self.first_epoch + epoch, pieces

    def _measure(self, epoch: int) -> None:
        plan, (rows, pieces) = self._plan(epoch), self._ends[-1] if self._ends else (0, 0)
        self._ends.append((rows + len(plan.rows), pieces + len(plan.lengths)))

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            settings = {"seed": self.seed, "epoch": self.first_epoch + epoch}
            plan = plan_epoch(self.objective, self.documents, self.packing, **settings)
            self._plans[epoch] = plan
            for old in list(self._plans)[:-_KEPT]:
                del self._plans[old]
        return self._plans[epoch]


def sample_packed_rows(
    tokens: Tokens,
    documents: Int[np.ndarray, "D 2"],
    objective: Packable,
    packing: Packing,
    number: int,
    epoch: int = 0,
) -> Rows:
    """A fixed sample of packed rows, the same for every run: for evaluation; see `sample_rows`."""
    seed = keys.host_seed("held_out")
    plan = plan_epoch(objective, documents, packing, seed=seed, epoch=epoch)
    visits = [(plan, row, epoch, 0) for row in range(min(number, len(plan.rows)))]
    return take_packed_rows(tokens, objective, packing, visits, seed)
