"""Steps that are not applied: numbers that are not finite, losses that leap. In the graph."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxdenoise.arrays import AnyArray, Scalar

WINDOW = 128  # losses that a spike is told from


def no_losses() -> Float[AnyArray, "W"]:
    """The memory of `remember` before any step: NaN for what has not been seen."""
    return jnp.full(WINDOW, jnp.nan)


def is_good(
    loss: Scalar,
    gradient_norm: Scalar,
    recent: Float[AnyArray, "W"] | None = None,
    spikes: float | None = None,
) -> Bool[AnyArray, ""]:
    """Whether a step may be applied: its loss and its gradient's norm are finite, and no spike.

    A norm that is finite has no leaf that is not, and none whose squares an optimizer could not
    keep. All devices see the same two numbers, so all decide alike.

    Args:
      loss: of the batch, divided.
      gradient_norm: of the whole gradient, divided, in its own dtype.
      recent: the last losses; needed for spikes.
      spikes: a loss so many standard deviations above the mean of `recent` is one, once all
        `WINDOW` of them have been seen; None for no such limit.

    Example:
      >>> bool(is_good(jnp.float32(2.0), jnp.float32(jnp.nan)))
      False
    """
    good = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    if spikes is None or recent is None:
        return good
    # With a loss still to come the mean is NaN, and nothing is above it.
    return good & ~(loss > jnp.mean(recent) + spikes * jnp.std(recent))


def remember(recent: Float[AnyArray, "W"], step: Scalar, loss: Scalar) -> Float[AnyArray, "W"]:
    """The memory with one loss more, in the place of the oldest."""
    return jnp.where(jnp.arange(WINDOW) == step % WINDOW, loss, recent)


def keep_unless(good: Bool[AnyArray, ""], new: Any, old: Any) -> Any:
    """`new` where the step is good, else `old`: trees alike, leaf by leaf."""
    return jax.tree.map(lambda after, before: jnp.where(good, after, before), new, old)
