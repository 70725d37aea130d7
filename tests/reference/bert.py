"""The BERT family in NumPy: encoder only, predictions read at the inputs' own positions.

Written from Devlin et al. 2019, Joshi et al. 2020 (spans), Wettig et al. 2023 (two rates) and
Charpentier and Samuel 2024 (masked next-token prediction).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import (
    Drawn,
    Result,
    number_weighted,
    ordinary,
    place_spans,
    random_ids,
    replace,
    subset,
    to_list,
)

GEOMETRIC, LONGEST_SPAN = 0.2, 10


def exact(m: int, density: float) -> int:
    """How many of m positions: at least one, if there is one."""
    return max(1, round(m * density)) if m > 0 else 0


def words(tokens: np.ndarray, vocab: Any) -> list[list[int]]:
    """The places of every word, special tokens left out."""
    maskable, x = ordinary(tokens, vocab), to_list(tokens)
    found: list[list[int]] = []
    for place, token in enumerate(x):
        if not maskable[place]:
            continue
        if place == 0 or not maskable[place - 1] or vocab.word_starts[token]:
            found.append([])
        found[-1].append(place)
    return found


def word_noise(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, density: float
) -> np.ndarray:
    """Bool[n]: whole words in a random order, up to the first that is too many; one at least."""
    found = words(tokens, vocab)
    noise = np.zeros(len(tokens), bool)
    budget = exact(sum(len(word) for word in found), density)
    for rank, number in enumerate(rng.permutation(len(found))):
        if rank > 0 and noise.sum() + len(found[number]) > budget:
            break
        noise[found[number]] = True
    return noise


def geometric_lengths(rng: np.random.Generator, budget: int) -> list[int]:
    """SpanBERT's lengths, 1 to 10, until they reach the budget; the last is cut to meet it."""
    possible = np.arange(1, LONGEST_SPAN + 1)
    chances = GEOMETRIC * (1 - GEOMETRIC) ** (possible - 1)
    lengths: list[int] = []
    while sum(lengths) < budget:
        length = int(rng.choice(possible, p=chances / chances.sum()))
        lengths.append(min(length, budget - sum(lengths)))
    return lengths


def span_noise(rng: np.random.Generator, tokens: np.ndarray, vocab: Any, density: float) -> Drawn:
    """`spans`; `noise`, what is ordinary in them; `share`, the same for all of a span."""
    n = len(tokens)
    spans = place_spans(rng, geometric_lengths(rng, exact(n, density)), n)
    noise, share = np.zeros(n, bool), np.zeros(n)
    for start, length in spans:
        noise[start : start + length] = True
        share[start : start + length] = rng.random()
    return {"spans": spans, "noise": noise & ordinary(tokens, vocab), "share": share}


def draw_masked_lm(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    evaluation_noise_density: float | None = None,
    prediction_density: float | None = None,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
    count: str = "exact",
    unit: str = "token",
    evaluation: bool = False,
) -> Drawn:
    """`noise`, `predicted` Bool[n], `share` and `ids` of every position; `spans` if those are it.

    `evaluation` says whether the evaluation's noise density, if there is one, holds.
    """
    assert count in ("exact", "iid")
    assert unit in ("token", "word", "span")
    assert unit == "token" or count == "exact"
    assert prediction_density is None or (unit == "token" and count == "exact")
    if evaluation and evaluation_noise_density is not None:
        noise_density = evaluation_noise_density
    n, maskable = len(tokens), ordinary(tokens, vocab)
    m = int(maskable.sum())
    drawn: Drawn = {"share": rng.random(n), "ids": random_ids(rng, n, vocab)}
    if unit == "span":
        drawn |= span_noise(rng, tokens, vocab, noise_density)
    elif unit == "word":
        drawn["noise"] = word_noise(rng, tokens, vocab, noise_density)
    elif count == "iid":
        drawn["noise"] = maskable & (rng.random(n) < noise_density)
    elif prediction_density is not None and prediction_density > noise_density:
        drawn["predicted"] = subset(rng, maskable, exact(m, prediction_density))
        drawn["noise"] = subset(rng, drawn["predicted"], exact(m, noise_density))
    else:
        drawn["noise"] = subset(rng, maskable, exact(m, noise_density))
        if prediction_density is not None:
            drawn["predicted"] = subset(rng, drawn["noise"], exact(m, prediction_density))
    drawn.setdefault("predicted", drawn["noise"].copy())
    return drawn


def masked_lm(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    evaluation_noise_density: float | None = None,
    prediction_density: float | None = None,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
    count: str = "exact",
    unit: str = "token",
    evaluation: bool = False,
) -> Result:
    """`noise` becomes masks, random ids or stays, by `share`; `predicted` positions weigh 1."""
    weights = [1.0 if predicted else 0.0 for predicted in drawn["predicted"]]
    return {
        "encoder_inputs": replace(tokens, drawn, vocab, mask_replace_prob, random_replace_prob),
        "encoder_targets": to_list(tokens),
        "encoder_weights": weights,
        "count": number_weighted(weights),
    }


def draw_masked_next_token(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
) -> Drawn:
    """`noise`, never the first position; `share` and `ids` of every position."""
    n, maskable = len(tokens), ordinary(tokens, vocab)
    maskable[:1] = False
    return {
        "noise": subset(rng, maskable, exact(int(maskable.sum()), noise_density)),
        "share": rng.random(n),
        "ids": random_ids(rng, n, vocab),
    }


def masked_next_token(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
) -> Result:
    """As `masked_lm`, every prediction read one position earlier; targets are the next tokens."""
    x = to_list(tokens)
    targets, weights = [vocab.pad_id] * len(x), [0.0] * len(x)
    for place in range(1, len(x)):
        targets[place - 1] = x[place]
        if drawn["noise"][place]:
            weights[place - 1] = 1.0
    return {
        "encoder_inputs": replace(tokens, drawn, vocab, mask_replace_prob, random_replace_prob),
        "encoder_targets": targets,
        "encoder_weights": weights,
        "count": number_weighted(weights),
    }
