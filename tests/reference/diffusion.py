"""Masked diffusion in NumPy: encoder only, every position sees every other unless `sees` says no.

Written from Sahoo et al. 2024 (MDLM), Nie et al. 2025 (LLaDA), Arriola et al. 2025 (BD3-LM) and
the definitions of this project. `count` is the number of ordinary tokens, masked or not.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from .common import Drawn, Result, ordinary, random_ids, subset, to_list

GOLDEN = 0.6180339887


def time_of(u: float, epsilon: float = 1e-3, time: str = "uniform") -> float:
    """The time in (ε, 1) of a uniform u: spread evenly, or logit-normal, a bell around 1/2."""
    assert time in ("uniform", "bell")
    s = u
    if time == "bell":
        s = 1 / (1 + math.exp(-NormalDist().inv_cdf(u)))
    return epsilon + (1 - epsilon) * s


def time_density(at: float, epsilon: float = 1e-3, time: str = "uniform") -> float:
    """The density of s at a time, where time = ε + (1 − ε) s."""
    if time == "uniform":
        return 1.0
    s = (at - epsilon) / (1 - epsilon)
    return NormalDist().pdf(math.log(s / (1 - s))) / (s * (1 - s))


def masking_probability(at: float, schedule: str = "linear") -> float:
    """1 − α at a time."""
    if schedule == "linear":
        return at
    assert schedule == "cosine"
    return 1 - math.cos(math.pi * at / 2)


def masked_weight(at: float, schedule: str = "linear") -> float:
    """−α′/(1 − α) at a time."""
    if schedule == "linear":
        return 1 / at
    assert schedule == "cosine"
    return math.pi / 2 * math.sin(math.pi * at / 2) / (1 - math.cos(math.pi * at / 2))


def masked(tokens: np.ndarray, noise: np.ndarray, vocab: Any) -> list[int]:
    """The text with masks where noise."""
    x = to_list(tokens)
    return [vocab.mask_id if noise[place] else x[place] for place in range(len(x))]


def draw_masked_diffusion(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    form: str = "mdlm",
    epsilon: float = 1e-3,
    schedule: str = "linear",
    weighting: str = "unbiased",
    time: str = "uniform",
) -> Drawn:
    """`time`, for LLaDA its probability p; `noise`: every ordinary position on its own."""
    at = time_of(rng.random(), epsilon, time)
    probability = at if form == "llada" else masking_probability(at, schedule)
    noise = ordinary(tokens, vocab) & (rng.random(len(tokens)) < probability)
    return {"time": at, "noise": noise}


def masked_diffusion(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    form: str = "mdlm",
    epsilon: float = 1e-3,
    schedule: str = "linear",
    weighting: str = "unbiased",
    time: str = "uniform",
) -> Result:
    """`noise` becomes masks, each with the weight that belongs to `time`."""
    assert form == "mdlm" or (form == "llada" and schedule == "linear")
    assert weighting in ("unbiased", "plain")
    weight = 1.0
    if weighting == "unbiased":
        at = drawn["time"]
        weight = 1 / at if form == "llada" else masked_weight(at, schedule)
        weight /= time_density(at, epsilon, time)
    return {
        "encoder_inputs": masked(tokens, drawn["noise"], vocab),
        "encoder_targets": to_list(tokens),
        "encoder_weights": [weight if hidden else 0.0 for hidden in drawn["noise"]],
        "count": int(ordinary(tokens, vocab).sum()),
    }


def draw_any_order(rng: np.random.Generator, tokens: np.ndarray, vocab: Any) -> Drawn:
    """`noise`: a subset of the ordinary positions, of a size uniform in 1 to all of them."""
    maskable = ordinary(tokens, vocab)
    m = int(maskable.sum())
    size = int(rng.integers(1, m + 1)) if m > 0 else 0
    return {"noise": subset(rng, maskable, size)}


def any_order(tokens: np.ndarray, drawn: Drawn, vocab: Any) -> Result:
    """`noise` becomes masks, l of m; each weighs m/l."""
    m, size = int(ordinary(tokens, vocab).sum()), int(np.sum(drawn["noise"]))
    return {
        "encoder_inputs": masked(tokens, drawn["noise"], vocab),
        "encoder_targets": to_list(tokens),
        "encoder_weights": [m / size if hidden else 0.0 for hidden in drawn["noise"]],
        "count": m,
    }


def block_times(rng: np.random.Generator, n: int, block_length: int, epsilon: float) -> list[float]:
    """A time for every block, their uniforms the golden ratio apart."""
    u = rng.random()
    blocks = math.ceil(n / block_length)
    return [time_of((u + block * GOLDEN) % 1, epsilon) for block in range(blocks)]


def block_noise(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, times: list[float], block_length: int
) -> np.ndarray:
    """Bool[n]: every ordinary position on its own, as likely as the time of its block."""
    maskable = ordinary(tokens, vocab)
    noise = np.zeros(len(tokens), bool)
    for place in range(len(tokens)):
        noise[place] = maskable[place] and rng.random() < times[place // block_length]
    return noise


def sees_blocks(n: int, block_length: int) -> np.ndarray:
    """Bool[2n, 2n]: noisy positions see their own block and clean ones before; clean ones clean."""
    seen = np.zeros((2 * n, 2 * n), bool)
    for query in range(2 * n):
        for key in range(2 * n):
            query_is_clean, query_block = query >= n, query % n // block_length
            key_is_clean, key_block = key >= n, key % n // block_length
            if query_is_clean:
                seen[query, key] = key_is_clean and key_block <= query_block
            elif key_is_clean:
                seen[query, key] = key_block < query_block
            else:
                seen[query, key] = key_block == query_block
    return seen


def two_copies(
    tokens: np.ndarray, noisy: list[int], weights: list[float], block_length: int, vocab: Any
) -> Result:
    """The noisy copy, then the clean one, at the same positions."""
    x = to_list(tokens)
    return {
        "encoder_inputs": noisy + x,
        "encoder_targets": x + x,
        "encoder_weights": weights + [0.0] * len(x),
        "encoder_positions": [*range(len(x)), *range(len(x))],
        "sees": sees_blocks(len(x), block_length),
        "count": int(ordinary(tokens, vocab).sum()),
    }


def draw_block_diffusion(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    block_length: int = 16,
    epsilon: float = 1e-3,
) -> Drawn:
    """`times`, one for every block; `noise`: ordinary positions, as likely as that time."""
    times = block_times(rng, len(tokens), block_length, epsilon)
    return {"times": times, "noise": block_noise(rng, tokens, vocab, times, block_length)}


def block_diffusion(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    block_length: int = 16,
    epsilon: float = 1e-3,
) -> Result:
    """`noise` becomes masks in the first copy, each with the weight 1/t of its block."""
    weights = [0.0] * len(tokens)
    for place in np.flatnonzero(drawn["noise"]):
        weights[place] = 1 / drawn["times"][place // block_length]
    noisy = masked(tokens, drawn["noise"], vocab)
    return two_copies(tokens, noisy, weights, block_length, vocab)


def draw_canvas(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    block_length: int | None = None,
    epsilon: float = 1e-3,
) -> Drawn:
    """`times` of the blocks, or of the one; `noise` as in blocks; `ids` of every position."""
    n = len(tokens)
    length = max(n, 1) if block_length is None else block_length
    times = block_times(rng, n, length, epsilon)
    noise = block_noise(rng, tokens, vocab, times, length)
    return {"times": times, "noise": noise, "ids": random_ids(rng, n, vocab)}


def canvas(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    block_length: int | None = None,
    epsilon: float = 1e-3,
) -> Result:
    """`noise` becomes `ids`; every ordinary position weighs 1. Two copies, if there are blocks."""
    noisy = to_list(tokens)
    for place in np.flatnonzero(drawn["noise"]):
        noisy[place] = int(drawn["ids"][place])
    weights = [1.0 if maskable else 0.0 for maskable in ordinary(tokens, vocab)]
    if block_length is not None:
        return two_copies(tokens, noisy, weights, block_length, vocab)
    return {
        "encoder_inputs": noisy,
        "encoder_targets": to_list(tokens),
        "encoder_weights": weights,
        "count": int(ordinary(tokens, vocab).sum()),
    }
