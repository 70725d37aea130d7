"""Linen layers for one example, [T, width]; batches come from `jax.vmap` over the whole model.

So each example has its own dropout key, and padding or batch size never reach its randomness.

A layer may be applied `frozen`: with the same parameters, stopped. Positions that are only context
run so under `output_only` gradients; see `transformer`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdenoise.arrays import AnyArray, wide
from jaxdenoise.config import ModelConfig
from jaxdenoise.model.sharding import Axes, gathered, named

Hidden = Float[AnyArray, "T width"]
Initializer = nn.initializers.Initializer

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
}


@jax.custom_batching.custom_vmap
def dense(
    x: Float[AnyArray, "T rows"], kernel: Float[AnyArray, "rows columns"]
) -> Float[AnyArray, "T columns"]:
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
    return (rows @ kernel).reshape(size, x.shape[1], kernel.shape[1]), True


class Layer(nn.Module):
    """A module whose parameters can be taken as they are or stopped."""

    config: ModelConfig

    def weight(
        self,
        name: str,
        init: Initializer,
        shape: tuple[int, ...],
        axes: Axes,
        *,
        frozen: bool = False,
    ) -> jax.Array:
        """The parameter of that name, float32 when fresh; `axes` are the names of `sharding`."""
        value = self.param(name, named(init, axes), shape, jnp.float32)
        return jax.lax.stop_gradient(value) if frozen else value

    def factor(
        self,
        name: str,
        init: Initializer,
        shape: tuple[int, ...],
        axes: Axes,
        *,
        frozen: bool = False,
    ) -> jax.Array:
        """A parameter in the compute dtype, whole where a mesh cuts its width."""
        return gathered(self.computed(self.weight(name, init, shape, axes, frozen=frozen)), axes)

    def kernel(
        self, name: str, shape: tuple[int, int], axes: Axes, *, frozen: bool = False
    ) -> jax.Array:
        """A matrix, in the compute dtype."""
        return self.factor(name, matrix_init(self.config), shape, axes, frozen=frozen)

    def offset(self, name: str, x: AnyArray, axis: str, *, frozen: bool = False) -> AnyArray:
        """X plus the bias of that name, where the model has biases."""
        if not self.config.biases:
            return x
        zeros = nn.initializers.zeros
        return x + self.factor(name, zeros, x.shape[-1:], (axis,), frozen=frozen)

    def computed(self, value: jax.Array) -> jax.Array:
        """The value in the compute dtype."""
        return value.astype(self.config.compute_dtype)


def matrix_init(config: ModelConfig) -> Initializer:
    """Fresh matrices: normal with the config's scale, or T5's by fan-in."""
    if config.initial_scale is not None:
        return nn.initializers.normal(config.initial_scale)
    return nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def embedding_init(config: ModelConfig) -> Initializer:
    """Fresh embeddings: normal with the config's scale, or T5's of deviation 1."""
    return nn.initializers.normal(config.initial_scale or 1.0)


def rms_norm(
    x: Float[AnyArray, "... width"], scale: Float[AnyArray, "width"], epsilon: float
) -> AnyArray:
    """X / √(mean(x²) + ε) · scale, in float32 whatever comes in.

    Source: Zhang and Sennrich 2019.
    """
    precise = x.astype(wide(x.dtype))
    inverse = jax.lax.rsqrt(jnp.mean(precise**2, axis=-1, keepdims=True) + epsilon)
    return (precise * inverse * scale).astype(x.dtype)


class Norm(Layer):
    """RMSNorm, or LayerNorm: (x − mean) / deviation · scale + bias. In float32 inside.

    Source: Zhang and Sennrich 2019; Ba et al. 2016.
    """

    @nn.compact
    def __call__(self, x: Float[AnyArray, "... width"], frozen: bool = False) -> AnyArray:
        shape = x.shape[-1:]
        scale = self.weight("scale", nn.initializers.ones, shape, ("embed",), frozen=frozen)
        scale = gathered(scale, ("embed",))
        if self.config.norm == "rms":
            return rms_norm(x, scale, self.config.norm_epsilon)
        bias = self.weight("bias", nn.initializers.zeros, shape, ("embed",), frozen=frozen)
        precise = x.astype(wide(x.dtype))
        centred = precise - jnp.mean(precise, axis=-1, keepdims=True)
        return (rms_norm(centred, scale, self.config.norm_epsilon) + bias).astype(x.dtype)


class MLP(Layer):
    """wo(act(wi x)), or gated wo(act(wi_0 x) ⊙ wi_1 x).

    Source: Vaswani et al. 2017; Shazeer 2020, "GLU variants improve transformer".
    """

    @nn.compact
    def __call__(self, x: Hidden, frozen: bool = False) -> Hidden:
        config, activation = self.config, ACTIVATIONS[self.config.activation]

        sizes = {"embed": config.width, "mlp": config.mlp_width}

        def project(name: str, x: AnyArray, *axes: str) -> AnyArray:
            shape = sizes[axes[0]], sizes[axes[1]]
            product = dense(x, self.kernel(name, shape, axes, frozen=frozen))
            return self.offset(f"{name}_bias", product, axes[1], frozen=frozen)

        if config.gated:
            hidden = activation(project("wi_0", x, "embed", "mlp"))
            hidden = hidden * project("wi_1", x, "embed", "mlp")
        else:
            hidden = activation(project("wi", x, "embed", "mlp"))
        return project("wo", Dropout(config)(hidden), "mlp", "embed")


class PredictionHead(Layer):
    """BERT's head before the projection: norm(act(x W + b)).

    Source: Devlin et al. 2019; google-research/bert, run_pretraining.py.
    """

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        width = self.config.width
        kernel = self.kernel("kernel", (width, width), ("embed", "rest"))
        hidden = self.offset("bias", dense(x, kernel), "embed")
        return Norm(self.config, name="norm")(ACTIVATIONS[self.config.activation](hidden))


class Dropout(Layer):
    """Dropout, when the model is applied with a dropout key."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "..."]) -> Float[AnyArray, "..."]:
        return nn.Dropout(self.config.dropout_rate)(x, deterministic=not self.has_rng("dropout"))
