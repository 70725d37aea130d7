"""How many noise tokens, spans and output tokens: host arithmetic, with Python's rounding.

Rounding is half to even, in float64. The same sums in float32 on a device give other counts:
190 tokens at density .15 would have 29 noise tokens instead of 28.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxdenoise.errors import require


class Lengths(NamedTuple):
    """Tokens in each stack, EOS included; 0 where an objective has no such stack.

    Integers of one row, or arrays for a batch.
    """

    encoder: Any
    decoder: Any


def check_spans(noise_density: float, mean_noise_span_length: float) -> None:
    """Raises `UserError` unless both are in the range for which span masks are defined."""
    require(
        0 < noise_density < 1,
        f"objective.noise_density is {noise_density}; a span mask needs a density inside (0, 1), "
        "such as 0.15",
    )
    require(
        mean_noise_span_length >= 1,
        f"objective.mean_noise_span_length is {mean_noise_span_length}; a span has at least 1 "
        "token, T5's default is 3",
    )


def check_sentinels(spans: int, sentinels: int) -> None:
    """Raises `UserError` if a row may have more noise spans than the vocabulary has sentinels."""
    require(
        spans <= sentinels,
        f"a row has up to {spans} noise spans but the vocabulary has only {sentinels} sentinels; "
        "raise data.sentinels or objective.mean_noise_span_length, or lower "
        "objective.noise_density or data.raw_length",
    )


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


@functools.lru_cache
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


@functools.lru_cache
def exact_count_table(raw_length: int, noise_density: float) -> np.ndarray:
    """Int32[L + 1]: max(1, round(n · density)) noise tokens of n up to L; none of none.

    Source: Devlin et al. 2019; google-research/bert, create_pretraining_data.py.
    """
    counts = [max(round(n * noise_density), 1) for n in range(raw_length + 1)]
    table = np.array([0, *counts[1:]], np.int32)
    table.setflags(write=False)
    return table


def max_spans(raw_length: int, noise_density: float, mean_noise_span_length: float) -> int:
    """The most noise spans in any row of at most `raw_length` tokens."""
    return int(noise_count_table(raw_length, noise_density, mean_noise_span_length)[:, 1].max())


def span_lengths(raw_length: int, noise_density: float, mean_noise_span_length: float) -> Lengths:
    """The longest inputs and targets of span corruption for rows of at most `raw_length` tokens.

    Example:
      >>> span_lengths(568, 0.15, 3)
      Lengths(encoder=512, decoder=114)
    """
    table = noise_count_table(raw_length, noise_density, mean_noise_span_length)
    noise, spans = table[:, 0], table[:, 1]
    inputs = np.arange(raw_length + 1) - noise + spans + 1
    return Lengths(int(inputs.max()), int((noise + spans + 1).max()))


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
    check_spans(noise_density, mean_noise_span_length)
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
