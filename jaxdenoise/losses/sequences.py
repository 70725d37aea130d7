"""The losses that papers name, from logits to `LossTerms`: which positions count, and for what.

All take the options of `loss_terms`: `loss`, `z_loss`, `count`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, LossTerms
from jaxdenoise.losses.per_token import Logits, Targets
from jaxdenoise.losses.terms import Weights, loss_terms

Segments = Int[AnyArray, "*B T"]


def target_sequence_terms(
    logits: Logits, targets: Targets, segment_ids: Segments, **options: Any
) -> LossTerms:
    """The cross-entropy of a whole target sequence, as an encoder-decoder is trained.

    Args:
      logits: Float[…, T, V]; position t predicts target t.
      targets: Int[…, T].
      segment_ids: Int[…, T], 0 for padding, which weighs nothing.
      **options: of `loss_terms`.

    Source: Raffel et al. 2020, section 2.4; Xiao and Zhu 2025, section 1.2.3.

    Example:
      Under teacher forcing a position reads the true tokens before it, so a wrong third token
      changes the third term alone.

      >>> from jaxdenoise.losses import cross_entropy
      >>> logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]] * 4))
      >>> right, wrong = jnp.array([0, 0, 0, 0]), jnp.array([0, 0, 2, 0])
      >>> (cross_entropy(logits, wrong) != cross_entropy(logits, right)).tolist()
      [False, False, True, False]
      >>> terms = target_sequence_terms(logits, wrong, jnp.array([1, 1, 1, 1]))
      >>> round(float(terms.loss), 4)  # −3 ln .7 − ln .1
      3.3726
    """
    return loss_terms(logits, targets, _real(segment_ids), **options)


def masked_lm_terms(
    logits: Logits, tokens: Targets, noise: Bool[AnyArray, "*T"], **options: Any
) -> LossTerms:
    """The cross-entropy of the selected positions alone, as masked LM is trained.

    Args:
      logits: Float[…, T, V]; position t predicts token t.
      tokens: Int[…, T], the clean ones.
      noise: Bool[…, T], True where the token was selected.
      **options: of `loss_terms`.

    Source: Devlin et al. 2019, section 3.1; Xiao and Zhu 2025, section 1.2.2.

    Example:
      With the second and the fourth token masked, the loss is the sum of two terms.

      >>> logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]] * 2))
      >>> noise = jnp.array([0, 1, 0, 1], bool)
      >>> terms = masked_lm_terms(logits, jnp.array([2, 0, 2, 1]), noise)
      >>> round(float(terms.loss), 4), round(float(-jnp.log(0.5) - jnp.log(0.4)), 4)
      (1.6094, 1.6094)
    """
    return loss_terms(logits, tokens, noise.astype(jnp.float32), **options)


def causal_lm_terms(
    logits: Logits, tokens: Targets, segment_ids: Segments, **options: Any
) -> LossTerms:
    """The likelihood of a sequence: position t predicts token t + 1 of the same segment.

    The first token of a segment is given, not predicted.

    Args:
      logits: Float[…, T, V].
      tokens: Int[…, T], not shifted.
      segment_ids: Int[…, T], 0 for padding; packed documents do not predict one another.
      **options: of `loss_terms`.

    Source: Radford et al. 2018, section 3.1; Xiao and Zhu 2025, section 1.2.1.

    Example:
      >>> logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]] * 4))
      >>> terms = causal_lm_terms(logits, jnp.array([2, 0, 2, 0]), jnp.array([1, 1, 2, 2]))
      >>> float(terms.targets), round(float(terms.loss), 4)  # −2 ln .7
      (2.0, 0.7133)
    """
    return subsequence_terms(logits, tokens, jnp.ones(tokens.shape, bool), segment_ids, **options)


def subsequence_terms(
    logits: Logits,
    tokens: Targets,
    output: Bool[AnyArray, "*T"],
    segment_ids: Segments,
    **options: Any,
) -> LossTerms:
    """The likelihood of parts of a sequence, given all that stands before them.

    Any set of output parts: one answer behind a question, or every turn of one speaker.

    Args:
      logits: Float[…, T, V]; position t predicts token t + 1.
      tokens: Int[…, T], context and output, not shifted.
      output: Bool[…, T], True for output tokens.
      segment_ids: Int[…, T], 0 for padding.
      **options: of `loss_terms`.

    Source: Xiao and Zhu 2025, chapter 4 (the loss on the output alone).

    Example:
      The same two tokens of context and one of output: a model that gives the output .8 has less
      to learn than one that gives it .2, and what it thinks of the context does not matter.

      >>> tokens, output = jnp.array([2, 0, 1]), jnp.array([0, 0, 1], bool)
      >>> sure = jnp.log(jnp.array([[0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))
      >>> unsure = jnp.log(jnp.array([[0.9, 0.05, 0.05], [0.4, 0.2, 0.4], [0.1, 0.1, 0.8]]))
      >>> [
      ...     round(float(subsequence_terms(logits, tokens, output, jnp.ones(3, int)).loss), 4)
      ...     for logits in (sure, unsure)
      ... ]  # −ln .8 and −ln .2
      [0.2231, 1.6094]
    """
    here, after = segment_ids, _next(segment_ids)
    weights = _real(here) * (here == after) * _next(output)
    return loss_terms(logits, _next(tokens), weights, **options)


def _next(x: Float[AnyArray, "*T"] | Int[AnyArray, "*T"] | Bool[AnyArray, "*T"]) -> AnyArray:
    """Each position's successor; 0 behind the last."""
    return jnp.pad(x[..., 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)])


def _real(segment_ids: Segments) -> Weights:
    return (jnp.asarray(segment_ids) > 0).astype(jnp.float32)
