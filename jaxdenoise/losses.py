"""Losses: per-token values come out unreduced, sums travel as `LossTerms`, one division at the end.

No collectives in here: whoever sums over devices does so once, on the terms.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, LossTerms, wide
from jaxdenoise.errors import unknown

Logits = Float[AnyArray, "*T V"]
Targets = Int[AnyArray, "*T"]
Loss = Callable[[AnyArray, AnyArray], AnyArray]
"""Anything that maps (logits[…, V], targets[…]) to a number for each target."""


def cross_entropy(logits: Logits, targets: Targets) -> Float[AnyArray, "*T"]:
    """−log p(target), in nats, for each position.

    −log softmax(logits)[target] = log Σ exp(logits) − logits[target], in float32 whatever comes in
    (float64 stays).

    Args:
      logits: Float[…, V].
      targets: Int[…]; an id outside [0, V) gives 0, never NaN. Give it weight 0.

    Returns:
      Float32[…], at least 0.

    Source: Raffel et al. 2020, section 2.4 ("teacher forcing and a cross-entropy loss").

    Example:
      >>> logits = jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> round(float(cross_entropy(logits, jnp.array(1))), 4)  # −ln 0.2
      1.6094
    """
    logits = logits.astype(wide(logits.dtype))
    inside = (targets >= 0) & (targets < logits.shape[-1])
    safe = jnp.where(inside, targets, 0)
    at_target = jnp.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]
    return jnp.where(inside, jax.nn.logsumexp(logits, axis=-1) - at_target, 0.0)


def z_losses(logits: Logits) -> Float[AnyArray, "*T"]:
    """log(Z)² for each position: keeps the softmax's normaliser near 1.

    Source: de Brébisson and Vincent 2016; Chowdhery et al. 2022 (PaLM), section 5, with 1e-4.
    """
    return jax.nn.logsumexp(logits.astype(wide(logits.dtype)), axis=-1) ** 2


def loss_terms(
    logits: Logits,
    targets: Targets,
    weights: Float[AnyArray, "*T"],
    *,
    loss: Loss = cross_entropy,
    z_loss: float = 0.0,
    count: Float[AnyArray, "*B"] | None = None,
) -> LossTerms:
    """Sums a loss over positions, by weight.

    Args:
      logits: Float[B, T, V], or any leading axes.
      targets: Int[B, T].
      weights: Float[B, T]; positions of weight 0 add nothing to any sum, whatever they hold.
      loss: per-token loss of (logits, targets).
      z_loss: coefficient of log(Z)².
      count: Float[B], what each example divides by; the number of its targets if None.

    Returns:
      `LossTerms`; add those of several batches or devices, then `mean_loss`.

    Example:
      >>> logits, targets = jnp.zeros((1, 2, 4)), jnp.array([[3, 0]])
      >>> terms = loss_terms(logits, targets, jnp.array([[1.0, 0.0]]))
      >>> round(float(mean_loss(terms)), 4)  # ln 4
      1.3863
    """
    counted = weights > 0
    losses = jnp.where(weights != 0, loss(logits, targets) * weights, 0)
    if z_loss:
        z_sum = z_loss * jnp.sum(jnp.where(weights != 0, z_losses(logits) * weights, 0))
    else:
        z_sum = jnp.zeros((), jnp.float32)
    correct = counted & (jnp.argmax(logits, axis=-1) == targets)
    number = jnp.sum(counted, dtype=jnp.float32)
    return LossTerms(
        loss=jnp.sum(losses, dtype=wide(losses.dtype)),
        z_loss=z_sum,
        correct=jnp.sum(correct, dtype=jnp.float32),
        targets=number,
        weight=jnp.sum(weights, dtype=jnp.float32),
        count=number if count is None else jnp.sum(count, dtype=jnp.float32),
    )


def denominator(terms: LossTerms, by: str = "tokens") -> Float[AnyArray, ""]:
    """What the sums are divided by; 1 where it would be 0, so that no targets give loss 0.

    Args:
      terms: sums over everything, all devices included.
      by: "tokens" (the sum of the weights), "count" (of the examples), or "sum" (nothing).
    """
    divisors = {
        "tokens": terms.weight,
        "count": terms.count,
        "sum": jnp.ones((), jnp.float32),
    }
    if by not in divisors:
        raise unknown("normalisation", by, divisors)
    return jnp.where(divisors[by] > 0, divisors[by], 1.0)


def mean_loss(terms: LossTerms, by: str = "tokens") -> Float[AnyArray, ""]:
    """The loss that is minimised, z-loss included, in nats per token (or what `by` says)."""
    return (terms.loss + terms.z_loss) / denominator(terms, by)
