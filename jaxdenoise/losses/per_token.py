"""What one position costs: functions of (logits[…, V], target[…]), unreduced."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, wide
from jaxdenoise.errors import require

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
      targets: Int[…]; an id outside [0, V) gives 0, never NaN.

    Returns:
      Float32[…], at least 0.

    Source: Raffel et al. 2020, section 2.4 ("teacher forcing and a cross-entropy loss").

    Example:
      >>> logits = jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> round(float(cross_entropy(logits, jnp.array(1))), 4)  # −ln 0.2
      1.6094
    """
    logits = logits.astype(wide(logits.dtype))
    inside = is_inside(targets, logits.shape[-1])
    safe = jnp.where(inside, targets, 0)
    at_target = jnp.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]
    return jnp.where(inside, jax.nn.logsumexp(logits, axis=-1) - at_target, 0.0)


def soft_cross_entropy(
    logits: Logits, target_probs: Float[AnyArray, "*T V"]
) -> Float[AnyArray, "*T"]:
    """−Σ_v p(v) log softmax(logits)[v]: how far one distribution is from another, in nats.

    Args:
      logits: Float[…, V].
      target_probs: Float[…, V], at least 0, of sum 1; one-hot gives `cross_entropy`.

    Returns:
      Float32[…].

    Source: Xiao and Zhu 2025, "Foundations of Large Language Models", section 1.2.2.

    Example:
      >>> logits = jnp.log(jnp.array([0.7, 0.2, 0.1]))
      >>> round(float(soft_cross_entropy(logits, jnp.array([0.0, 1.0, 0.0]))), 4)
      1.6094
    """
    logits = logits.astype(wide(logits.dtype))
    probs = target_probs.astype(logits.dtype)
    expected = jnp.sum(jnp.where(probs > 0, probs * logits, 0), axis=-1)
    return jnp.sum(probs, axis=-1) * jax.nn.logsumexp(logits, axis=-1) - expected


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """The cross-entropy with (1 − ε) of each target on its id and ε on all ids alike.

    Source: Szegedy et al. 2016, section 7; Vaswani et al. 2017 with ε = 0.1.

    Raises:
      UserError: ε outside [0, 1).

    Example:
      >>> loss = smoothed_cross_entropy(0.1)
      >>> round(float(loss(jnp.zeros(4), jnp.array(2))), 4)  # ln 4, wherever the target is
      1.3863
    """
    require(0 <= smoothing < 1, f"label smoothing is {smoothing}; it must be in [0, 1)")
    if smoothing == 0:
        return cross_entropy

    def loss(logits: Logits, targets: Targets) -> Float[AnyArray, "*T"]:
        precise = logits.astype(wide(logits.dtype))
        uniform = jax.nn.logsumexp(precise, axis=-1) - jnp.mean(precise, axis=-1)
        mixed = (1 - smoothing) * cross_entropy(logits, targets) + smoothing * uniform
        return jnp.where(is_inside(targets, logits.shape[-1]), mixed, 0.0)

    return loss


def z_losses(logits: Logits) -> Float[AnyArray, "*T"]:
    """log(Z)² for each position: keeps the softmax's normaliser near 1.

    Source: de Brébisson and Vincent 2016; Chowdhery et al. 2022 (PaLM), section 5, with 1e-4.
    """
    return jax.nn.logsumexp(logits.astype(wide(logits.dtype)), axis=-1) ** 2


class TokenValues(NamedTuple):
    """What each position contributes, before its weight.

    Attributes:
      loss: z-loss included.
      z_loss: of it; its coefficient included.
      correct: whether the likeliest id is the target.
    """

    loss: Float[AnyArray, "*T"]
    z_loss: Float[AnyArray, "*T"]
    correct: Bool[AnyArray, "*T"]


def token_values(
    logits: Logits, targets: AnyArray, *, loss: Loss = cross_entropy, z_loss: float = 0.0
) -> TokenValues:
    """The values of every position; `targets` are ids, or whatever else the loss takes.

    Raises:
      UserError: a loss that does not give one number for each target.
    """
    losses = loss(logits, targets)
    require(
        losses.shape == logits.shape[:-1],
        f"the loss gives {losses.shape} for logits {logits.shape}; it must give one number for "
        "each target, unreduced; wrap one that is written for a single target in jax.vmap, once "
        "for each leading axis",
    )
    squares = z_loss * z_losses(logits) if z_loss else jnp.zeros_like(losses)
    ids = targets if targets.ndim < logits.ndim else jnp.argmax(targets, axis=-1)
    return TokenValues(losses + squares, jax.lax.stop_gradient(squares), _is_likeliest(logits, ids))


def _is_likeliest(logits: Logits, ids: Targets) -> Bool[AnyArray, "*T"]:
    """True where argmax(logits) is the id, the first one if several share the largest logit.

    As a sum over the ids that stand in its way, which a CPU adds up several times as fast as it
    finds an argmax.
    """
    size = logits.shape[-1]
    inside = is_inside(ids, size)
    ids = jnp.where(inside, ids, 0)[..., None]
    own = jnp.take_along_axis(logits, ids, axis=-1)
    beaten = (logits < own) | ((logits == own) & (jnp.arange(size) >= ids))
    return inside & (jnp.sum(jnp.where(beaten, 0.0, 1.0), axis=-1) == 0)


def is_inside(targets: Targets, size: int) -> Bool[AnyArray, "*T"]:
    """True where the target is an id of [0, size)."""
    return (targets >= 0) & (targets < size)
