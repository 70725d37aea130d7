"""The times of masked diffusion, made of numbers in [0, 1)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdenoise import keys
from jaxdenoise.arrays import AnyArray

_STEPS = 2**24
_LEAST = 1 / _STEPS  # of a number whose quantile is taken


def draw(
    uniform: Float[AnyArray, ""] | float, epsilon: float, time: str
) -> tuple[Float[AnyArray, ""], Float[AnyArray, ""]]:
    """A time in [ε, 1), and the density with which it is drawn.

    Args:
      uniform: Float[] in [0, 1).
      epsilon: the least time.
      time: "uniform"; or "bell", the sigmoid of a normal number.

    Source: Esser et al. 2024, section 3.1 (logit-normal).

    Example:
      >>> [round(float(x), 4) for x in draw(0.5, 0.001, "bell")]
      [0.5005, 1.5958]
    """
    share, density = jnp.asarray(uniform, jnp.float32), jnp.ones(())
    if time == "bell":
        normal = jax.scipy.stats.norm.ppf(jnp.clip(share, _LEAST, 1 - _LEAST))
        share = jax.nn.sigmoid(normal)
        density = jax.scipy.stats.norm.pdf(normal) / (share * (1 - share))
    return _from(epsilon, share), density


def noise(
    time: Float[AnyArray, ""], schedule: str
) -> tuple[Float[AnyArray, ""], Float[AnyArray, ""]]:
    """The probability 1 − α of being masked at a time, and the weight −α′ / (1 − α).

    Args:
      time: Float[] in (0, 1].
      schedule: "linear", α = 1 − t; or "cosine", α = cos(πt/2).

    Source: Sahoo et al. 2024, equations 10 and 11; Shi et al. 2024, section 2.

    Example:
      >>> [float(x) for x in noise(jnp.array(0.25), "linear")]
      [0.25, 4.0]
    """
    if schedule == "linear":
        return time, 1 / time
    angle = jnp.pi / 2 * time
    chance = 2 * jnp.sin(angle / 2) ** 2  # 1 − cos, exact for small times too
    return chance, jnp.pi / 2 * jnp.sin(angle) / chance


def of_blocks(
    uniform: Float[AnyArray, ""] | float, epsilon: float, size: int, block_length: int
) -> Float[AnyArray, "L"]:
    """The time of each position's block: of block b from frac(uniform + b / φ).

    Example:
      >>> [round(float(time), 3) for time in of_blocks(0.25, 0.001, 4, 2)]
      [0.251, 0.251, 0.868, 0.868]
    """
    steps = (np.arange(size) // block_length * (keys.GOLDEN / 2**32)) % 1.0
    return _from(epsilon, (uniform + steps.astype(np.float32)) % 1.0)


def _from(epsilon: float, share: AnyArray) -> AnyArray:
    """ε + (1 − ε) · share, as a multiple of 2⁻²⁴: its reciprocal is the same however compiled."""
    least = math.ceil(epsilon * _STEPS)
    steps = jnp.floor(share * (_STEPS - least)).astype(jnp.int32) + least
    return steps.astype(jnp.float32) * (1 / _STEPS)
