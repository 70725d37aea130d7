"""How many noise tokens, spans and output tokens: host arithmetic, with Python's rounding.

Rounding is half to even, in float64. The same sums in float32 on a device give other counts:
190 tokens at density .15 would have 29 noise tokens instead of 28.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from jaxdenoise.corruption import checks, rates
from jaxdenoise.corruption.rates import Chosen
from jaxdenoise.errors import require


class Lengths(NamedTuple):
    """Tokens in each stack, EOS included; 0 where an objective has no such stack.

    Integers of one row, or arrays for a batch.
    """

    encoder: Any
    decoder: Any


def noise_counts(
    length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """Number of noise tokens N and of noise spans K for `length` tokens; 0, 0 below two tokens.

    N = round(length · density) in [1, length − 1]; K = round(N / mean span) in
    [1, min(N, length − N)]. The last bound is missing in T5, whose masks are then undefined.

    Source: Raffel et al. 2020, section 3.1.4; t5/data/preprocessors.py, random_spans_noise_mask.

    Example:
      >>> noise_counts(568, 0.15, 3)
      (85, 28)
    """
    if length < 2:
        return 0, 0
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = max(round(noise / mean_noise_span_length), 1)
    return noise, min(spans, noise, length - noise)


@functools.lru_cache(maxsize=1024)
def noise_count_table(
    raw_length: int, noise_density: float, mean_noise_span_length: float
) -> np.ndarray:
    """Int32[L + 1, 2]: `noise_counts` of every length up to L, to be indexed by a traced length."""
    counts = [
        noise_counts(length, noise_density, mean_noise_span_length)
        for length in range(raw_length + 1)
    ]
    table = np.array(counts, np.int32)
    table.setflags(write=False)
    return table


@functools.lru_cache(maxsize=1024)
def exact_count_table(raw_length: int, noise_density: float) -> np.ndarray:
    """Int32[L + 1]: max(1, round(n · density)) noise tokens of n up to L; none of none.

    Source: Devlin et al. 2019; google-research/bert, create_pretraining_data.py.
    """
    counts = [max(round(n * noise_density), 1) for n in range(raw_length + 1)]
    table = np.array([0, *counts[1:]], np.int32)
    table.setflags(write=False)
    return table


@functools.lru_cache(maxsize=1024)
def budget_table(raw_length: int, ratio: float) -> np.ndarray:
    """Int32[L + 1]: ceil(n · ratio) of n up to L, as BART counts its noise.

    Example:
      >>> budget_table(10, 0.3).tolist()
      [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    """
    # 10 · 0.3 is 3, whatever the last bit of the product says.
    table = np.array([math.ceil(n * ratio - 1e-9) for n in range(raw_length + 1)], np.int32)
    table.setflags(write=False)
    return table


@functools.lru_cache
def poisson_cumulative(mean: float) -> np.ndarray:
    """Float64[S]: P(n ≤ 0, 1, …) of the Poisson distribution, until all but 1e-8 is covered."""
    total, term, sums = 0.0, math.exp(-mean), []
    while total < 1 - 1e-8:
        total += term
        sums.append(total)
        term *= mean / len(sums)
    return np.array([*sums[:-1], 1.0])


@functools.lru_cache
def geometric_cumulative(probability: float, longest: int) -> np.ndarray:
    """Float64[longest + 1]: P(n ≤ 0, 1, …) of a geometric number from 1, cut at `longest`."""
    chances = probability * (1 - probability) ** np.arange(longest)
    return np.append(0.0, np.cumsum(chances / chances.sum()))


def budget_slots(budget: int, cumulative: np.ndarray, odds: float = 1e-9) -> int:
    """Spans that use up `budget` tokens, but for one row in a billion.

    Args:
      budget: tokens.
      cumulative: of the length of a span, as from `poisson_cumulative`.
      odds: of needing more.

    Example:
      >>> budget_slots(171, poisson_cumulative(3.0))
      88
    """
    if budget == 0:
        return 1
    chances = np.diff(cumulative, prepend=0.0)
    left = np.zeros(budget)  # of a budget of `budget`, how likely is each rest still to be used up
    left[-1], slots = 1.0, 0
    while left.sum() > odds:
        left = np.convolve(left[::-1], chances)[:budget][::-1]
        slots += 1
    return slots


@functools.lru_cache(maxsize=1024)
def infilling_slots(raw_length: int, mask_ratio: float, poisson_lambda: float) -> int:
    """Slots for the spans of text infilling in rows of at most `raw_length` tokens."""
    budget = int(budget_table(raw_length, mask_ratio)[-1])
    return budget_slots(budget, poisson_cumulative(poisson_lambda))


def max_spans(raw_length: int, noise_density: Chosen, mean_noise_span_length: Chosen) -> int:
    """The most noise spans in any row of at most `raw_length` tokens."""
    chosen = rates.sized_combinations(raw_length, noise_density, mean_noise_span_length)
    return max(int(noise_count_table(size, *values)[:, 1].max()) for size, values in chosen)


def span_lengths(raw_length: int, noise_density: Chosen, mean_noise_span_length: Chosen) -> Lengths:
    """The longest inputs and targets of span corruption for rows of at most `raw_length` tokens.

    Example:
      >>> span_lengths(568, 0.15, 3)
      Lengths(encoder=512, decoder=114)
    """
    longest = []
    chosen = rates.sized_combinations(raw_length, noise_density, mean_noise_span_length)
    for size, values in chosen:
        noise, spans = noise_count_table(size, *values).T
        inputs = np.arange(size + 1) - noise + spans + 1
        longest.append((int(inputs.max()), int((noise + spans + 1).max())))
    return Lengths(*(max(side) for side in zip(*longest, strict=True)))


def iid_slots(raw_length: int, noise_density: float) -> int:
    """Noise tokens of a row where each is noise independently, all but surely the most."""
    mean = raw_length * noise_density
    return min(math.ceil(mean + 6 * math.sqrt(mean * (1 - noise_density))) + 6, raw_length)


def most_noise(raw_length: int, noise_density: Chosen, mean_noise_span_length: Chosen) -> Lengths:
    """The longest text without its noise, and the longest noise, EOS included on both sides."""
    longest = []
    chosen = rates.sized_combinations(raw_length, noise_density, mean_noise_span_length)
    for size, values in chosen:
        noise = noise_count_table(size, *values)[:, 0]
        longest.append((int((np.arange(size + 1) - noise).max()) + 1, int(noise.max()) + 1))
    return Lengths(*(max(side) for side in zip(*longest, strict=True)))


def iid_run_slots(raw_length: int, noise_density: float) -> int:
    """Runs of noise in a row where every token is noise independently, all but surely the most.

    Their number has mean L·v + d² and variance near L·v·(1 − 3·v), v = d·(1 − d); six deviations.
    """
    v = noise_density * (1 - noise_density)
    most = raw_length * v + 1 + 6 * math.sqrt(raw_length * v * (1 - 3 * v) + 1)
    return min(math.ceil(most), (raw_length + 1) // 2)


def raw_length_for(
    inputs_length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """The raw row length whose corrupted inputs fill `inputs_length`, and its targets' length.

    The most raw tokens whose inputs fit. Where density is a half and targets would outgrow
    inputs, T5 takes one token less on both, and so do we.

    Source: t5/data/preprocessors.py, random_spans_helper.

    Example:
      >>> raw_length_for(512, 0.15, 3)
      (568, 114)
    """
    checks.check_spans(noise_density, mean_noise_span_length)
    require(inputs_length >= 3, f"inputs_length is {inputs_length}; the least is 3")

    def outputs(raw_length: int) -> tuple[int, int]:
        noise, spans = noise_counts(raw_length, noise_density, mean_noise_span_length)
        return raw_length - noise + spans + 1, noise + spans + 1

    raw_length = 2
    while outputs(raw_length + 1)[0] <= inputs_length:
        raw_length += 1
    targets_length = outputs(raw_length)[1]
    if noise_density == 0.5 and targets_length > inputs_length:
        return raw_length - 1, targets_length - 1
    return raw_length, targets_length
