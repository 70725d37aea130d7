"""What an objective does to many rows, in numbers that objectives can be compared by."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxdenoise.arrays import Example, Rows
from jaxdenoise.objectives import Objective
from jaxdenoise.report.alignment import align
from jaxdenoise.training.step import corrupted
from jaxdenoise.vocabulary import Vocabulary

DRAWS = 256
"""How many corruptions are counted at least."""
BINS = (1, 2, 3, 5, 8)
"""The longest span of each bar of a histogram; from there on it doubles."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of the rows, or of a stack.

    Attributes:
      mean: of the real tokens.
      largest: number of real tokens.
      bound: positions that the array has, known before anything is corrupted.
    """

    mean: float
    largest: int
    bound: int

    @property
    def padding(self) -> float:
        """Share of the positions that is padding."""
        return 1 - self.mean / self.bound


@dataclass(frozen=True, kw_only=True)
class CorruptionStatistics:
    """What was counted; None where a number has no meaning for the objective.

    Attributes:
      draws: corruptions.
      corrupted: share of the source tokens that the model is not given: changed, missing or out
        of order in what an encoder reads. BERT's noise that stays as it is does not count, though
        it is predicted. A lone decoder is not given what it predicts.
      targets: targets (positions of positive weight, EOS and sentinels too) per source token.
      source: tokens of a row.
      encoder: positions of the encoder.
      decoder: positions of the decoder.
      spans: runs of corrupted tokens in a row, on average; None for a lone decoder.
      span_lengths: each length with how many spans have it, ascending.
    """

    draws: int
    corrupted: float
    targets: float
    source: Lengths
    encoder: Lengths | None
    decoder: Lengths | None
    spans: float | None
    span_lengths: tuple[tuple[int, int], ...] | None

    @property
    def mean_span_length(self) -> float | None:
        """Tokens of a span; None without spans."""
        number = sum(count for _, count in self.span_lengths or ())
        total = sum(length * count for length, count in self.span_lengths or ())
        return total / number if number else None

    @property
    def padding(self) -> float:
        """Share of all positions, of both stacks, that is padding."""
        stacks = [stack for stack in (self.encoder, self.decoder) if stack is not None]
        return 1 - sum(s.mean for s in stacks) / sum(s.bound for s in stacks)

    def histogram(self) -> list[tuple[str, float]]:
        """The share of the spans with 1, 2, 3, 4-5, 6-8, 9-16, … tokens; empty without spans."""
        counts = dict(self.span_lengths or ())
        total, bars, first = sum(counts.values()), [], 1
        for last in _bins(max(counts, default=0)):
            label = str(last) if first == last else f"{first}-{last}"
            inside = sum(counts.get(length, 0) for length in range(first, last + 1))
            bars.append((label, inside / total))
            first = last + 1
        return bars


def corruption_statistics(
    objective: Objective, rows: Rows, *, draws: int = DRAWS
) -> CorruptionStatistics:
    """Corrupts rows and counts: any objective, of any architecture; schedules at their end.

    Args:
      objective: with its vocabulary.
      rows: Int[B, L] tokens, from `jd.rows` or a run's batches.
      draws: corruptions to count at least; the rows come again, in further epochs, until there
        are as many.

    Returns:
      `CorruptionStatistics`, of whole numbers of rounds through the rows.

    Example:
      >>> from jaxdenoise.arrays import Rows
      >>> from jaxdenoise.objectives import configure
      >>> rows = Rows(
      ...     tokens=np.arange(10, 50)[None],
      ...     lengths=np.array([40]),
      ...     example_ids=np.zeros(1, np.uint32),
      ...     epochs=np.zeros(1, np.uint32),
      ... )
      >>> objective = configure("span_corruption").build(Vocabulary.with_sentinels(size=1000))
      >>> found = corruption_statistics(objective, rows)
      >>> found.corrupted, found.spans, found.targets
      (0.15, 2.0, 0.225)
      >>> found.encoder
      Lengths(mean=37.0, largest=37, bound=37)
    """
    rows = repeat(rows, draws)
    return count(corrupt_rows(objective, rows), rows, objective.vocab)


def repeat(rows: Rows, number: int) -> Rows:
    """The rows, at least `number` of them: as often as it takes, each time in a further epoch."""
    size = len(rows.lengths)
    times = -(-number // size)
    tiled = jax.tree.map(lambda x: np.tile(x, (times,) + (1,) * (np.ndim(x) - 1)), rows)
    epochs = tiled.epochs + np.repeat(np.arange(times), size).astype(np.uint32)
    places = np.arange(times * size, dtype=np.uint32)
    return dataclasses.replace(tiled, epochs=epochs, places=places)


def corrupt_rows(objective: Objective, rows: Rows) -> Example:
    """The batch of these rows on the host; compiled, which is seconds sooner."""
    return jax.device_get(corrupted(objective, rows))


def count(batch: Example, rows: Rows, vocab: Vocabulary) -> CorruptionStatistics:
    """The statistics of rows that are corrupted already.

    Args:
      batch: of these rows, on the host.
      rows: as `batch` was made of.
      vocab: of the objective.
    """
    stack = predicting_stack(batch)
    weights = np.asarray(batch.targets(stack)[1])
    tokens = max(int(np.sum(rows.lengths)), 1)
    lost, spans = 0, Counter[int]()
    for example, source in _pairs(batch, rows):
        aligned = align(example, source, vocab)
        if aligned is None:
            lost += _predicted(example, source)
        else:
            spans.update(_runs(aligned[1] < 0))
            lost += int((aligned[1] < 0).sum())
    reads = batch.encoder_input_tokens is not None
    return CorruptionStatistics(
        draws=len(rows.lengths),
        corrupted=lost / tokens,
        targets=int((weights > 0).sum()) / tokens,
        source=_lengths(np.asarray(rows.lengths), rows.tokens.shape[-1]),
        encoder=_stack_lengths(batch, "encoder"),
        decoder=_stack_lengths(batch, "decoder"),
        spans=spans.total() / len(rows.lengths) if reads else None,
        span_lengths=tuple(sorted(spans.items())) if reads else None,
    )


def predicting_stack(example: Example) -> str:
    """The stack that has the targets; the decoder where both have."""
    return "encoder" if example.decoder_target_tokens is None else "decoder"


def _pairs(batch: Example, rows: Rows) -> Iterator[tuple[Example, np.ndarray]]:
    """Each example with its source."""
    for row, length in enumerate(np.asarray(rows.lengths)):
        source = np.asarray(rows.tokens[row])[: int(length)]
        yield jax.tree.map(lambda x, row=row: x[row], batch), source


def _predicted(example: Example, source: np.ndarray) -> int:
    """How many source tokens a lone decoder predicts, wherever they were moved to."""
    targets, weights = map(np.asarray, example.targets("decoder"))
    return (Counter(targets[weights > 0].tolist()) & Counter(source.tolist())).total()


def _runs(noise: np.ndarray) -> list[int]:
    """The lengths of the runs of True.

    Example:
      >>> _runs(np.array([1, 1, 0, 1], bool))
      [2, 1]
    """
    edges = np.flatnonzero(np.diff(np.pad(noise.astype(np.int8), 1)))
    return (edges[1::2] - edges[::2]).tolist()


def _stack_lengths(batch: Example, stack: str) -> Lengths | None:
    if getattr(batch, f"{stack}_input_tokens") is None:
        return None
    real = np.asarray(batch.inputs(stack)[1]) > 0
    return _lengths(real.sum(axis=-1), batch.size(stack))


def _lengths(lengths: np.ndarray, bound: int) -> Lengths:
    return Lengths(mean=float(lengths.mean()), largest=int(lengths.max()), bound=bound)


def _bins(longest: int) -> Sequence[int]:
    """The last length of each bar, up to the one that holds the longest."""
    lasts: list[int] = list(BINS)
    while lasts[-1] < longest:
        lasts.append(2 * lasts[-1])
    number = sum(last < longest for last in lasts) + 1
    return lasts[:number] if longest else []
