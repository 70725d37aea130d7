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
from jaxdenoise.model.sharding import Axes, gathered, named, scattered

Hidden = Float[AnyArray, "T width"]
Initializer = nn.initializers.Initializer

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
}


def dense(
    x: Float[AnyArray, "T rows"], kernel: Float[AnyArray, "rows columns"], axes: Axes
) -> Float[AnyArray, "T columns"]:
    """X @ kernel in the dtype of x; vmapped over a batch, one product of [B · T, rows].

    `jax.vmap` alone would make the kernel's gradient a contraction over two axes, batch and
    position, which XLA computes through transposed copies on a CPU: three times slower. It comes in
    the kernel's own dtype, so that devices sum it in float32. On a mesh, where `axes` says how the
    kernel is cut, it is gathered here for each use, and not kept for the backward pass.
    """
    return _dense(axes)(x, kernel)


@functools.cache
def _dense(axes: Axes) -> Callable[[AnyArray, AnyArray], jax.Array]:
    @jax.custom_batching.custom_vmap
    def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _product(x, kernel, axes)

    @dense.def_vmap
    def of_batch(size: int, batched: list[bool], x: Any, kernel: Any) -> tuple[jax.Array, bool]:
        x_batched, kernel_batched = batched
        if kernel_batched or not x_batched:
            return jnp.matmul(x, kernel.astype(x.dtype)), True
        product: Any = _product(x.reshape(size * x.shape[1], x.shape[2]), kernel, axes)
        return product.reshape(size, x.shape[1], kernel.shape[1]), True

    return dense


def _multiply(x: jax.Array, kernel: jax.Array, axes: Axes) -> jax.Array:
    return x @ gathered(kernel.astype(x.dtype), axes)


_product = jax.custom_vjp(_multiply, nondiff_argnums=(2,))


def _product_forward(x: jax.Array, kernel: jax.Array, axes: Axes) -> tuple[jax.Array, Any]:
    return _multiply(x, kernel, axes), (x, kernel)  # plainly: remat policies look for products


def _product_backward(axes: Axes, kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    whole = gathered(kernel.astype(x.dtype), axes)
    at_x = jax.lax.dot_general(gradient, whole, (((1,), (1,)), ((), ())))
    at_kernel = jax.lax.dot_general(
        x, gradient, (((0,), (0,)), ((), ())), preferred_element_type=kernel.dtype
    )
    return at_x, scattered(at_kernel, axes)


_product.defvjp(_product_forward, _product_backward)


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

    def affine(
        self,
        name: str,
        x: Float[AnyArray, "T rows"],
        shape: tuple[int, int],
        axes: Axes,
        *,
        frozen: bool = False,
    ) -> Float[AnyArray, "T columns"]:
        """X times the matrix of that name, plus a bias where the model has biases."""
        kernel = self.weight(name, matrix_init(self.config), shape, axes, frozen=frozen)
        product = dense(x, kernel, axes)
        if not self.config.biases:
            return product
        zeros, name = nn.initializers.zeros, "bias" if name == "kernel" else f"{name}_bias"
        return plus(product, self.weight(name, zeros, shape[1:], axes[1:], frozen=frozen), axes[1:])

    def computed(self, value: jax.Array) -> jax.Array:
        """The value in the compute dtype."""
        return value.astype(self.config.compute_dtype)


def plus(x: AnyArray, bias: AnyArray, axes: Axes) -> jax.Array:
    """X plus a parameter, in the dtype of x; summed in the parameter's, like its gradient."""
    return (x + gathered(bias, axes)).astype(x.dtype)


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
        normed = rms_norm(centred, scale, self.config.norm_epsilon)
        return plus(normed, bias, ("embed",)).astype(x.dtype)


class MLP(Layer):
    """wo(act(wi x)), or gated wo(act(wi_0 x) ⊙ wi_1 x).

    Source: Vaswani et al. 2017; Shazeer 2020, "GLU variants improve transformer".
    """

    @nn.compact
    def __call__(self, x: Hidden, frozen: bool = False) -> Hidden:
        config, activation = self.config, ACTIVATIONS[self.config.activation]
        sizes = {"embed": config.width, "mlp": config.mlp_width}

        def project(name: str, x: AnyArray, *axes: str) -> AnyArray:
            return self.affine(name, x, (sizes[axes[0]], sizes[axes[1]]), axes, frozen=frozen)

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
        hidden = self.affine("kernel", x, (width, width), ("embed", "rest"))
        return Norm(self.config, name="norm")(ACTIVATIONS[self.config.activation](hidden))


class Dropout(Layer):
    """Dropout, when the model is applied with a dropout key."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "..."]) -> Float[AnyArray, "..."]:
        return nn.Dropout(self.config.dropout_rate)(x, deterministic=not self.has_rng("dropout"))
