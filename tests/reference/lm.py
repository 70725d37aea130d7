"""Language models in NumPy: decoder only, and MASS, whose decoder continues a masked text.

`sees` is Bool[T, T], query by key, where attention is not the usual causal one or may be another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import (
    Drawn,
    Result,
    decoder,
    number_weighted,
    output_length,
    sees_causally,
    to_list,
)


def draw_causal_lm(rng: np.random.Generator, tokens: np.ndarray, vocab: Any) -> Drawn:
    """Nothing."""
    return {}


def causal_lm(tokens: np.ndarray, drawn: Drawn, vocab: Any) -> Result:
    """Every token from those before it."""
    return decoder(to_list(tokens), [1.0] * len(tokens), vocab)


def draw_causal_prefix_lm(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, longest_output: float = 1.0
) -> Drawn:
    """`output_length` of the row."""
    return {"output_length": output_length(rng, len(tokens), longest_output)}


def causal_prefix_lm(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, longest_output: float = 1.0
) -> Result:
    """The last `output_length` tokens weigh; positions that read the prefix see each other."""
    n = len(tokens)
    prefix = n - drawn["output_length"]
    weights = [0.0] * prefix + [1.0] * drawn["output_length"]
    result = decoder(to_list(tokens), weights, vocab)
    # The shift by one: inputs 0..prefix are the start and the prefix.
    return {**result, "sees": sees_causally(n, prefix + 1)}


def draw_fill_in_the_middle(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    fim_rate: float = 0.5,
    spm_rate: float = 0.5,
) -> Drawn:
    """`fim`, whether anything moves; `cuts` (a, b), sorted; `spm`, whether the suffix leads."""
    first, second = sorted(to_list(rng.integers(0, len(tokens) + 1, 2)))
    return {
        "fim": bool(rng.random() < fim_rate),
        "spm": bool(rng.random() < spm_rate),
        "cuts": (first, second),
    }


def fill_in_the_middle(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    fim_rate: float = 0.5,
    spm_rate: float = 0.5,
) -> Result:
    """The text with its middle last, or as it is, by `fim`, `spm` and `cuts`; then EOS."""
    x = to_list(tokens)
    first, second = drawn["cuts"]
    prefix, middle, suffix = x[:first], x[first:second], x[second:]
    pre, suf, mid = (vocab.named(f"fim_{part}") for part in ("prefix", "suffix", "middle"))
    if not drawn["fim"]:
        targets = x
    elif drawn["spm"]:
        targets = [pre, suf, *suffix, mid, *prefix, *middle]
    else:
        targets = [pre, *prefix, suf, *suffix, mid, *middle]
    targets = [*targets, vocab.eos_id]
    weights = [0.0 if token in (pre, suf, mid) or not x else 1.0 for token in targets]
    return decoder(targets, weights, vocab)


def mass_length(n: int, noise_density: float) -> int:
    """Tokens of MASS's span."""
    return min(max(round(n * noise_density), 1), n)


def draw_mass(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, noise_density: float = 0.5
) -> Drawn:
    """`start` of the span."""
    last = len(tokens) - mass_length(len(tokens), noise_density)
    return {"start": int(rng.integers(0, last + 1))}


def mass(tokens: np.ndarray, drawn: Drawn, vocab: Any, *, noise_density: float = 0.5) -> Result:
    """The encoder reads the text without the span from `start`, the decoder writes the span."""
    x, start = to_list(tokens), drawn["start"]
    length = mass_length(len(x), noise_density)
    span = x[start : start + length]
    before = x[start - 1] if start > 0 else vocab.start_id
    weights = [1.0] * length
    return {
        "encoder_inputs": [
            *x[:start],
            *[vocab.mask_id] * length,
            *x[start + length :],
            vocab.eos_id,
        ],
        "decoder_inputs": [before, *span[:-1]] if span else [],
        "decoder_targets": span,
        "decoder_weights": weights,
        "decoder_positions": list(range(start, start + length)),
        "count": number_weighted(weights),
    }


def draw_subsequence(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    context_length: int | None = None,
    bidirectional_context: bool = False,
) -> Drawn:
    """Nothing."""
    return {}


def subsequence(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    context_length: int | None = None,
    bidirectional_context: bool = False,
) -> Result:
    """What follows the context weighs; the context ends with the first separator, or is given."""
    x = to_list(tokens)
    if context_length is not None:
        context = min(context_length, len(x))
    elif vocab.separator_id in x:
        context = x.index(vocab.separator_id) + 1
    else:
        context = 0
    weights = [0.0] * context + [1.0] * (len(x) - context)
    together = context + 1 if bidirectional_context else 0
    return {**decoder(x, weights, vocab), "sees": sees_causally(len(x), together)}


def draw_text_to_text(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    longest_target: int | None = None,
) -> Drawn:
    """Nothing."""
    return {}


def text_to_text(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, longest_target: int | None = None
) -> Result:
    """The encoder reads what stands before the first separator, the decoder writes what follows."""
    x = to_list(tokens)
    border = x.index(vocab.separator_id) if vocab.separator_id in x else len(x)
    target = x[border + 1 :]
    if vocab.eos_id in target:
        target = target[: target.index(vocab.eos_id)]
    target = target[:longest_target]
    weights = [float(len(target) > 0)] * (len(target) + 1)
    return {
        "encoder_inputs": [*x[:border], vocab.eos_id],
        "decoder_inputs": [vocab.start_id, *target],
        "decoder_targets": [*target, vocab.eos_id],
        "decoder_weights": weights,
        "count": number_weighted(weights),
    }
