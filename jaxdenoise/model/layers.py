"""Linen layers for one example, [T, width]; batches come from `jax.vmap` over the whole model.

So each example has its own dropout key, and padding or batch size never reach its randomness.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdenoise.arrays import AnyArray, wide
from jaxdenoise.config import ModelConfig

Hidden = Float[AnyArray, "T width"]

FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def query_init(head_width: int) -> nn.initializers.Initializer:
    """The small query of T5, which makes up for attention without 1/√d.

    Source: t5x/examples/t5/layers.py; without it a small model hardly leaves the unigram.
    """
    return nn.initializers.variance_scaling(1.0 / head_width, "fan_in", "truncated_normal")


@jax.custom_batching.custom_vmap
def dense(x: Float[AnyArray, "T rows"], kernel: Float[AnyArray, "rows columns"]) -> Hidden:
    """X @ kernel; vmapped over a batch, one product of [B · T, rows].

    `jax.vmap` alone would make the kernel's gradient a contraction over two axes, batch and
    position, which XLA computes through transposed copies on a CPU: three times slower.
    """
    return x @ kernel


@dense.def_vmap
def _dense_of_batch(
    size: int, batched: list[bool], x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, bool]:
    x_batched, kernel_batched = batched
    if kernel_batched or not x_batched:
        return jnp.matmul(x, kernel), True
    rows = x.reshape(size * x.shape[1], x.shape[2])
    return (rows @ kernel).reshape(size, x.shape[1], -1), True


class RMSNorm(nn.Module):
    """x / rms(x) · scale, in float32.

    Source: Zhang and Sennrich 2019; Raffel et al. 2020, section 2.1.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        precise = x.astype(wide(x.dtype))
        rms = jax.lax.rsqrt(jnp.mean(precise**2, axis=-1, keepdims=True) + 1e-6)
        return (precise * rms * scale).astype(x.dtype)


class GatedMLP(nn.Module):
    """wo(gelu(wi_0 x) ⊙ wi_1 x), without biases.

    Source: Shazeer 2020, "GLU variants improve transformer", GEGLU; the MLP of T5 1.1.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        config = self.config

        def kernel(name: str, rows: int, columns: int) -> jax.Array:
            return self.param(name, FAN_IN, (rows, columns), jnp.float32).astype(x.dtype)

        wi_0 = kernel("wi_0", config.width, config.mlp_width)
        wi_1 = kernel("wi_1", config.width, config.mlp_width)
        hidden = nn.gelu(dense(x, wi_0), approximate=True) * dense(x, wi_1)
        hidden = Dropout(config)(hidden)
        return dense(hidden, kernel("wo", config.mlp_width, config.width))


class Dropout(nn.Module):
    """Dropout, when the model is applied with a dropout key."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[AnyArray, "..."]) -> Float[AnyArray, "..."]:
        return nn.Dropout(self.config.dropout_rate)(x, deterministic=not self.has_rng("dropout"))
