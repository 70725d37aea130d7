"""What the reference objectives share: counts, runs, uniform choices, and the layout of results.

An objective is two functions. `draw_NAME(rng, tokens, vocab, **options)` makes every random
decision and returns them by name; `NAME(tokens, drawn, vocab, **options)` rewrites, without
randomness. Both take the same options. Tokens are the real ones of one row; nothing is padded.

Names of decisions: `noise` Bool[n], True where corrupted; `spans`, (start, length) in order;
`order`, a permutation: place j of the result takes item order[j]; `share`, uniforms that decide
between mask, random id and kept; `ids`, a random ordinary id for every place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Drawn = dict[str, Any]
Result = dict[str, Any]


def noise_counts(n: int, d: float, mu: float) -> tuple[int, int]:
    """Noise tokens N and noise spans K of n ≥ 2 tokens at density d and mean span length mu."""
    noise = min(max(round(n * d), 1), n - 1)
    spans = max(round(noise / mu), 1)
    return noise, min(spans, noise, n - noise)


def ceil(x: float) -> int:
    """The ceiling, of 3.0000000000000004 too: .3 · 10 is 3."""
    return math.ceil(x - 1e-9)


def runs(noise: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) of every run of True, in order."""
    found: list[tuple[int, int]] = []
    for place, corrupted in enumerate(noise):
        if not corrupted:
            continue
        if found and sum(found[-1]) == place:
            start, length = found[-1]
            found[-1] = (start, length + 1)
        else:
            found.append((place, 1))
    return found


def to_list(tokens: Sequence[int] | np.ndarray) -> list[int]:
    """Tokens as Python ints."""
    return [int(token) for token in tokens]


def ordinary(tokens: np.ndarray, vocab: Any) -> np.ndarray:
    """Bool[n], True where the token is not special."""
    return np.array([not vocab.is_special[token] for token in to_list(tokens)], bool)


def subset(rng: np.random.Generator, among: np.ndarray, size: int) -> np.ndarray:
    """Bool like `among`: exactly `size` of its True places, every subset equally likely."""
    chosen = np.zeros(len(among), bool)
    chosen[rng.choice(np.flatnonzero(among), size, replace=False)] = True
    return chosen


def split(rng: np.random.Generator, total: int, parts: int) -> list[int]:
    """Lengths ≥ 1 of `parts` parts of `total`, every split equally likely."""
    breaks = sorted(to_list(rng.choice(np.arange(1, total), parts - 1, replace=False)))
    edges = [0, *breaks, total]
    return [end - start for start, end in itertools.pairwise(edges)]


def gaps(rng: np.random.Generator, total: int, parts: int) -> list[int]:
    """Lengths ≥ 0 of `parts` parts of `total`, every split equally likely."""
    return [length - 1 for length in split(rng, total + parts, parts)]


def place_spans(rng: np.random.Generator, lengths: list[int], n: int) -> list[tuple[int, int]]:
    """Spans of these lengths, in this order, somewhere in n places without overlap, uniformly."""
    between = gaps(rng, n - sum(lengths), len(lengths) + 1)
    spans, end = [], 0
    for gap, length in zip(between[:-1], lengths, strict=True):
        spans.append((end + gap, length))
        end += gap + length
    return spans


def random_ids(rng: np.random.Generator, size: int, vocab: Any) -> np.ndarray:
    """Int[size], ordinary ids, uniform."""
    return rng.choice(np.asarray(vocab.ordinary_ids), size)


def replace(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, mask_prob: float, random_prob: float
) -> list[int]:
    """Noise tokens become the mask, a random id, or stay; `noise`, `share` and `ids` decide."""
    result = to_list(tokens)
    for place in range(len(result)):
        if not drawn["noise"][place]:
            continue
        if drawn["share"][place] < mask_prob:
            result[place] = vocab.mask_id
        elif drawn["share"][place] < mask_prob + random_prob:
            result[place] = int(drawn["ids"][place])
    return result


def encoder_decoder(
    inputs: list[int], targets: list[int], vocab: Any, predicts: bool = True
) -> Result:
    """Inputs and targets, each with EOS; every target weighs 1, or none if nothing is predicted."""
    targets = [*targets, vocab.eos_id]
    weights = [1.0 if predicts else 0.0] * len(targets)
    return {
        "encoder_inputs": [*inputs, vocab.eos_id],
        "decoder_inputs": [vocab.start_id, *targets[:-1]],
        "decoder_targets": targets,
        "decoder_weights": weights,
        "count": number_weighted(weights),
    }


def decoder(targets: list[int], weights: list[float], vocab: Any) -> Result:
    """A decoder that reads its targets shifted by one."""
    return {
        "decoder_inputs": [vocab.start_id, *targets[:-1]] if targets else [],
        "decoder_targets": targets,
        "decoder_weights": weights,
        "count": number_weighted(weights),
    }


def number_weighted(weights: list[float]) -> int:
    """How many weights are above 0."""
    return sum(weight > 0 for weight in weights)


def output_length(rng: np.random.Generator, n: int, longest_output: float) -> int:
    """1 to the longest output, uniformly; 0 if n < 2."""
    if n < 2:
        return 0
    longest, _ = noise_counts(n, longest_output, 1.0)
    return int(rng.integers(1, longest + 1))


def sees_causally(size: int, together: int = 0) -> np.ndarray:
    """Bool[size, size], query by key: no later key, but the first `together` see each other."""
    seen = np.zeros((size, size), bool)
    for query in range(size):
        for key in range(size):
            seen[query, key] = key <= query or (query < together and key < together)
    return seen
