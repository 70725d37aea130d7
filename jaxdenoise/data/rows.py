"""Rows: batch k as a pure function of (seed, k), for any number of threads and any restart."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import grain
import numpy as np

from jaxdenoise import keys
from jaxdenoise.arrays import Rows
from jaxdenoise.data.pairs import Pairs
from jaxdenoise.data.shards import Stream
from jaxdenoise.errors import UserError, require
from jaxdenoise.tokenizer import Tokenizer

_SHUFFLE_ROUNDS = 4
_SPREAD = 0  # the seed of the order in which rows are left out, the same for every run
_PERMUTED = 1 << 22  # more rows are sampled from a permutation that is not stored
Tokens = np.ndarray | Stream
"""A stream of tokens, Int[n]."""


@dataclass(frozen=True)
class Cut(Sequence[np.ndarray]):
    """A stream cut into lines of one length; the last one may be shorter."""

    tokens: Tokens
    length: int

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.length)

    def __getitem__(self, line: int) -> np.ndarray:  # type: ignore[override]  # no slices
        return np.asarray(self.tokens[line * self.length : (line + 1) * self.length])


def lines_of(tokens: Tokens | Pairs, raw_length: int) -> Cut | Pairs:
    """What each row is made of: so many tokens of a stream, or a pair, cut where it is longer."""
    if isinstance(tokens, Pairs):
        return dataclasses.replace(tokens, most=raw_length)
    return Cut(tokens, raw_length)


@dataclass(frozen=True, kw_only=True)
class ByStep(Sequence[Rows]):
    """The batches of a run, by index: nothing is drawn, everything is looked up.

    Attributes:
      batch_size: B, over all devices.
      steps: how many batches there are.
      seed: of the experiment.
      part: places in a batch of the rows that are read; None for all.
    """

    batch_size: int
    steps: int
    seed: int
    part: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Rows:  # type: ignore[override]  # Grain asks for no slices
        if not 0 <= step < self.steps:
            raise IndexError(step)
        first = step * self.batch_size
        places = range(self.batch_size) if self.part is None else self.part
        return self.take([first + place for place in places])

    def only(self, places: Iterable[int]) -> Self:
        """The same batches, but of each only the rows at these places."""
        return dataclasses.replace(self, part=tuple(map(int, places)))

    @abc.abstractmethod
    def take(self, numbers: Sequence[int]) -> Rows:
        """The rows of these numbers, counted from the begin of the run."""


@dataclass(frozen=True, kw_only=True)
class Batches(ByStep):
    """The stream cut into rows of `raw_length`, of which the last may be shorter; or pairs.

    Each epoch visits every row once, in an order that depends on the seed and the epoch alone.

    Attributes:
      tokens: the stream of a split: an array or `shards.Stream`, of which slices are taken. Or
        the pairs of one, a row each.
      raw_length: L.
      train_tokens: visit only rows that make so many tokens, or one row less: the first in an order
        of the stream's own, so that they lie all over it. None for all rows.
      first_epoch: its number. Corpora of a mixture count from elsewhere, each from its own: see
        `mixing`.
    """

    tokens: Tokens | Pairs
    raw_length: int
    train_tokens: int | None = None
    first_epoch: int = 0

    def __post_init__(self):
        require(
            len(self.tokens) >= (1 if isinstance(self.tokens, Pairs) else self.raw_length),
            f"the corpus has {len(self.tokens)} tokens, less than one row of {self.raw_length}; "
            "give more text or a smaller data.raw_length",
        )

    @property
    def rows_per_epoch(self) -> int:
        """Rows that are visited."""
        if self.train_tokens is None:
            return self._rows
        return min(self.train_tokens // self.raw_length, self._rows)

    @property
    def _rows(self) -> int:
        """Rows in the split."""
        return len(lines_of(self.tokens, self.raw_length))

    def take(self, numbers: Sequence[int]) -> Rows:
        """See `ByStep.take`."""
        visits = [divmod(int(number), self.rows_per_epoch) for number in numbers]
        visits = [(self.first_epoch + epoch, place) for epoch, place in visits]
        index = [self._row(epoch, place) for epoch, place in visits]
        epochs = np.array([epoch for epoch, _ in visits], np.uint32)
        rows = take_rows(self.tokens, self.raw_length, np.array(index), epochs, self.seed)
        places = np.array(numbers) % 2**32
        return dataclasses.replace(rows, places=places.astype(np.uint32))

    def _row(self, epoch: int, place: int) -> int:
        """Which row is visited at `place` of an epoch: a permutation that is never stored."""
        row = shuffled(place, self.rows_per_epoch, keys.host_seed("rows", self.seed, epoch))
        return row if self.train_tokens is None else shuffled(row, self._rows, _SPREAD)


def shuffled(place: int, number: int, seed: int) -> int:
    """What stands at a place of a permutation of `number` things that is never stored."""
    return grain.experimental.index_shuffle(
        place, max_index=number - 1, seed=seed, rounds=_SHUFFLE_ROUNDS
    )


def iterate(
    batches: Sequence[Rows],
    *,
    start: int = 0,
    threads: int = 1,
    prefetch: int = 8,
    vocabulary_size: int | None = None,
) -> Iterator[Rows]:
    """Reads batches `start`, `start + 1`, … ahead of their use, in order.

    Args:
      batches: random access by step.
      start: the first step; resuming costs nothing.
      threads: that read; their number changes nothing but speed.
      prefetch: batches kept ready.
      vocabulary_size: V, to check every batch by `check_ids`.
    """
    dataset = grain.MapDataset.source(batches)[start:]
    if vocabulary_size is not None:
        dataset = dataset.map(functools.partial(check_ids, vocabulary_size=vocabulary_size))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(read_options=options))


def sample_rows(tokens: Tokens | Pairs, raw_length: int, number: int, epoch: int = 0) -> Rows:
    """A fixed sample of rows, the same for every run: for evaluation.

    Their randomness has a seed of its own: an experiment's would corrupt row i of the training
    part and row i held out alike.

    Args:
      tokens: Int[tokens] of the held-out split, or its pairs.
      raw_length: L.
      number: rows wanted; all of them if there are fewer.
      epoch: that they count as, in the identity of their randomness.
    """
    total = len(lines_of(tokens, raw_length))
    if total <= _PERMUTED:
        order = np.random.Generator(np.random.Philox(key=0)).permutation(total)[:number]
    else:
        order = [shuffled(place, total, 0) for place in range(number)]
    index = np.sort(order)
    epochs = np.full(len(index), epoch, np.uint32)
    return take_rows(tokens, raw_length, index, epochs, keys.host_seed("held_out"))


def take_rows(
    tokens: Tokens | Pairs, raw_length: int, index: np.ndarray, epochs: np.ndarray, seed: int
) -> Rows:
    """Copies rows out of a stream; what lies past its end, or a pair's, is padding."""
    lines = lines_of(tokens, raw_length)
    return padded_rows([lines[int(row)] for row in index], raw_length, index, epochs, seed)


def padded_rows(
    lines: Sequence[np.ndarray], raw_length: int, ids: np.ndarray, epochs: np.ndarray, seed: int
) -> Rows:
    """A row of each line, with padding behind.

    Args:
      lines: tokens, at most `raw_length` each.
      raw_length: L.
      ids: of the rows, the identity of their randomness with epoch and seed.
      epochs: of the rows.
      seed: of all.
    """
    block = np.zeros((len(lines), raw_length), np.int32)
    for place, line in enumerate(lines):
        block[place, : len(line)] = line
    return Rows(
        tokens=block,
        lengths=np.array([len(line) for line in lines], np.int32),
        example_ids=ids.astype(np.uint32),
        epochs=epochs,
        seeds=np.full(len(lines), seed, np.uint32),
    )


def check_ids(rows: Rows, vocabulary_size: int) -> Rows:
    """The rows themselves, whose ids are all in the vocabulary.

    A device would not complain: it takes another id, or none.

    Raises:
      UserError: an id outside [0, V), with its row.
    """
    tokens = np.asarray(rows.tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary_size:
        row, place = np.argwhere((tokens < 0) | (tokens >= vocabulary_size))[0]
        raise UserError(
            f"row {row} of a batch (example {rows.example_ids[row]}) has the id "
            f"{tokens[row, place]} at place {place}, and the vocabulary ends at "
            f"{vocabulary_size - 1}: the tokens are damaged or another tokenizer's; remove the "
            "token store, so that it is made anew, or give the tokenizer that made it"
        )
    return rows


def rows(tokenizer: Tokenizer, texts: Sequence[str], length: int, seed: int = 0) -> Rows:
    """Tokenises texts and cuts them into rows, for a notebook: separators between, none lost.

    Args:
      tokenizer: from `load_tokenizer`.
      texts: documents.
      length: L; the last row may be shorter.
      seed: of the rows' randomness.
    """
    separator = tokenizer.separator_id
    encoded = tokenizer.encode_batch(texts)
    stream = np.concatenate([np.append(ids, separator) for ids in encoded] or [np.zeros(0, int)])
    require(len(stream) > 0, "rows: the texts are empty; give at least one with a token")
    index = np.arange(-(-len(stream) // length))
    taken = take_rows(stream, length, index, np.zeros(len(index), np.uint32), seed)
    return check_ids(taken, tokenizer.vocab.size)
