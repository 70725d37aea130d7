"""The T5 family in NumPy, and the plain autoencoder. Encoder-decoder throughout.

Written from Raffel et al. 2020 and the definitions of this project.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import (
    Drawn,
    Result,
    encoder_decoder,
    noise_counts,
    ordinary,
    output_length,
    random_ids,
    replace,
    runs,
    split,
    to_list,
)


def t5_mask(rng: np.random.Generator, n: int, d: float, mu: float) -> np.ndarray:
    """Bool[n], K noise spans of N tokens together, non-noise first; no noise if n < 2."""
    if n < 2:
        return np.zeros(n, bool)
    noise, spans = noise_counts(n, d, mu)
    mask: list[bool] = []
    kept_lengths, noise_lengths = split(rng, n - noise, spans), split(rng, noise, spans)
    for kept, corrupted in zip(kept_lengths, noise_lengths, strict=True):
        mask += [False] * kept + [True] * corrupted
    return np.array(mask, bool)


def spans_to_sentinels(
    tokens: np.ndarray, noise: np.ndarray, vocab: Any, trailing_sentinel: bool = False
) -> tuple[list[int], list[int]]:
    """Inputs with a sentinel for every run of noise; targets with the run behind its sentinel."""
    x, spans = to_list(tokens), runs(noise)
    inputs: list[int] = []
    targets: list[int] = []
    end = 0
    for number, (start, length) in enumerate(spans):
        sentinel = vocab.sentinel_ids[number]
        inputs += [*x[end:start], sentinel]
        targets += [sentinel, *x[start : start + length]]
        end = start + length
    inputs += x[end:]
    if trailing_sentinel:
        targets.append(vocab.sentinel_ids[len(spans)])
    return inputs, targets


def draw_span_corruption(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
    unbiased: bool = False,
    trailing_sentinel: bool = False,
) -> Drawn:
    """`noise`: T5's mask; if unbiased, rolled by 0..n−1 places."""
    noise = t5_mask(rng, len(tokens), noise_density, mean_noise_span_length)
    if unbiased and len(tokens) > 0:
        noise = np.roll(noise, rng.integers(len(tokens)))
    return {"noise": noise}


def span_corruption(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
    unbiased: bool = False,
    trailing_sentinel: bool = False,
) -> Result:
    """Runs of `noise` become sentinels, the targets tell what they stand for."""
    noise = drawn["noise"]
    inputs, targets = spans_to_sentinels(tokens, noise, vocab, trailing_sentinel and noise.any())
    return encoder_decoder(inputs, targets, vocab, bool(np.any(noise)))


def draw_drop_spans(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
) -> Drawn:
    """`noise`: T5's mask."""
    return {"noise": t5_mask(rng, len(tokens), noise_density, mean_noise_span_length)}


def drop_spans(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
) -> Result:
    """`noise` is deleted from the inputs and is, joined, the targets."""
    x, noise = to_list(tokens), drawn["noise"]
    inputs = [x[place] for place in range(len(x)) if not noise[place]]
    targets = [x[place] for place in range(len(x)) if noise[place]]
    return encoder_decoder(inputs, targets, vocab, len(targets) > 0)


def draw_iid_denoising(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, noise_density: float = 0.15
) -> Drawn:
    """`noise`: every position, special or not, on its own."""
    return {"noise": rng.random(len(tokens)) < noise_density}


def iid_denoising(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, noise_density: float = 0.15
) -> Result:
    """Runs of `noise` become sentinels."""
    inputs, targets = spans_to_sentinels(tokens, drawn["noise"], vocab)
    return encoder_decoder(inputs, targets, vocab, bool(np.any(drawn["noise"])))


def draw_bert_style(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mask_replace_prob: float = 0.9,
    random_replace_prob: float = 0.1,
) -> Drawn:
    """`noise`: every ordinary position on its own; `share` and `ids` of every position."""
    n = len(tokens)
    return {
        "noise": ordinary(tokens, vocab) & (rng.random(n) < noise_density),
        "share": rng.random(n),
        "ids": random_ids(rng, n, vocab),
    }


def bert_style(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    noise_density: float = 0.15,
    mask_replace_prob: float = 0.9,
    random_replace_prob: float = 0.1,
) -> Result:
    """`noise` becomes masks, random ids or stays, by `share`; the target is the text."""
    inputs = replace(tokens, drawn, vocab, mask_replace_prob, random_replace_prob)
    return encoder_decoder(inputs, to_list(tokens), vocab, len(tokens) > 0)


def draw_mass_style(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, noise_density: float = 0.15
) -> Drawn:
    """`noise`: every ordinary position on its own."""
    return {"noise": ordinary(tokens, vocab) & (rng.random(len(tokens)) < noise_density)}


def mass_style(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, noise_density: float = 0.15
) -> Result:
    """All `noise` becomes masks; the target is the text."""
    inputs = to_list(tokens)
    for place in np.flatnonzero(drawn["noise"]):
        inputs[place] = vocab.mask_id
    return encoder_decoder(inputs, to_list(tokens), vocab, len(tokens) > 0)


def draw_deshuffling(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, noise_density: float = 1.0
) -> Drawn:
    """`noise`: every ordinary position on its own; `order` of all n places, noise among noise."""
    noise = ordinary(tokens, vocab) & (rng.random(len(tokens)) < noise_density)
    order = list(range(len(tokens)))
    places = np.flatnonzero(noise)
    for place, taken in zip(places, rng.permutation(places), strict=True):
        order[place] = int(taken)
    return {"noise": noise, "order": order}


def deshuffling(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, noise_density: float = 1.0
) -> Result:
    """Input i is token `order`[i]; the target is the text."""
    x = to_list(tokens)
    inputs = [x[place] for place in drawn["order"]]
    return encoder_decoder(inputs, x, vocab, len(x) > 0)


def draw_prefix_lm(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, longest_output: float = 1.0
) -> Drawn:
    """`output_length` of the row."""
    return {"output_length": output_length(rng, len(tokens), longest_output)}


def prefix_lm(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, longest_output: float = 1.0
) -> Result:
    """The last `output_length` tokens are the targets, those before the inputs."""
    x = to_list(tokens)
    cut = len(x) - drawn["output_length"]
    return encoder_decoder(x[:cut], x[cut:], vocab, drawn["output_length"] > 0)


def draw_identity(rng: np.random.Generator, tokens: np.ndarray, vocab: Any) -> Drawn:
    """Nothing."""
    return {}


def identity(tokens: np.ndarray, drawn: Drawn, vocab: Any) -> Result:
    """The text from itself."""
    return encoder_decoder(to_list(tokens), to_list(tokens), vocab, len(tokens) > 0)
