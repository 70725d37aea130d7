"""T5's span corruption of one example in NumPy, by masks: arrays throughout, no loop over tokens.

The careful version of what data collators do: `mask` as t5/data/preprocessors.py draws it,
`rewrite` by boolean indexing. Another way to the same result than the package takes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """One corrupted example, padded."""

    inputs: np.ndarray
    inputs_segments: np.ndarray
    decoder_inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def counts(length: int, density: float, mean: float) -> tuple[int, int]:
    """Noise tokens and noise spans."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / mean), 1), noise, length - noise)


def mask(rng: np.random.Generator, length: int, density: float, mean: float) -> np.ndarray:
    """Bool[length], True where noise."""
    noise, spans = counts(length, density, mean)
    lengths = np.empty(2 * spans, np.int64)
    lengths[0::2] = _parts(rng, length - noise, spans)
    lengths[1::2] = _parts(rng, noise, spans)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def rewrite(
    tokens: np.ndarray,
    noise: np.ndarray,
    sentinels: np.ndarray,
    eos: int,
    pad: int,
    inputs_size: int,
    targets_size: int,
) -> Pair:
    """Inputs and targets of a noise mask, whatever it begins or ends with."""
    starts = noise & ~np.concatenate([[False], noise[:-1]])
    number = np.cumsum(starts) - 1
    inputs = np.where(starts, sentinels[number], tokens)[~noise | starts]
    order = np.flatnonzero(noise)
    where = np.flatnonzero(starts[order])
    targets = np.insert(tokens[order], where, sentinels[: len(where)])
    weighted = np.zeros(targets_size, np.float32)
    weighted[: len(targets) + 1] = 1
    segments = np.zeros(inputs_size, np.int32)
    segments[: len(inputs) + 1] = 1
    padded_targets = _pad(targets, eos, pad, targets_size)
    shifted = np.empty_like(padded_targets)
    shifted[0], shifted[1:] = pad, padded_targets[:-1]
    return Pair(_pad(inputs, eos, pad, inputs_size), segments, shifted, padded_targets, weighted)


def corrupt(
    rng: np.random.Generator,
    tokens: np.ndarray,
    density: float,
    mean: float,
    sentinels: np.ndarray,
    eos: int,
    pad: int,
    inputs_size: int,
    targets_size: int,
) -> Pair:
    """Draws a mask and rewrites."""
    noise = mask(rng, len(tokens), density, mean)
    return rewrite(tokens, noise, sentinels, eos, pad, inputs_size, targets_size)


def _parts(rng: np.random.Generator, total: int, parts: int) -> np.ndarray:
    breaks = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], breaks, [total]]))


def _pad(tokens: np.ndarray, eos: int, pad: int, size: int) -> np.ndarray:
    padded = np.full(size, pad, np.int32)
    padded[: len(tokens)] = tokens
    padded[len(tokens)] = eos
    return padded
