"""Attention for one example: who sees whom from integers, T5's relative bias, the products.

No [T, T] mask is stored: every position carries a segment and two integers, and key k is seen
from query q when both are in one segment and visible_at[k] <= sees_until[q]. That covers causal,
prefix and bidirectional attention, in packed rows too.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, wide
from jaxdenoise.config import ModelConfig
from jaxdenoise.model.layers import FAN_IN, Dropout, Hidden, dense, query_init

HIDDEN_LOGIT = -1e9  # finite, so that a position which sees nothing gives no NaN


@struct.dataclass
class Visibility:
    """Integers of each position that decide which keys a query sees.

    Attributes:
      segment_ids: 0 for padding, 1, 2, … for documents.
      visible_at: a key is seen by queries whose `sees_until` is at least this.
      sees_until: see `visible_at`.
    """

    segment_ids: Int[AnyArray, "T"]
    visible_at: Int[AnyArray, "T"]
    sees_until: Int[AnyArray, "T"]

    @classmethod
    def bidirectional(cls, segment_ids: Int[AnyArray, "T"]) -> Visibility:
        """Every position of a segment sees all of it."""
        nowhere = jnp.zeros_like(segment_ids)
        return cls(segment_ids, nowhere, nowhere)

    @classmethod
    def causal(cls, segment_ids: Int[AnyArray, "T"]) -> Visibility:
        """A position sees itself and what stands before it in its segment."""
        place = jnp.arange(segment_ids.shape[-1])
        return cls(segment_ids, place, place)


def visible(queries: Visibility, keys: Visibility) -> Bool[AnyArray, "Tq Tk"]:
    """True where the key is seen from the query."""
    same_segment = queries.segment_ids[:, None] == keys.segment_ids
    return same_segment & (keys.visible_at <= queries.sees_until[:, None])


def relative_bucket(
    distance: Int[AnyArray, "*N"], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[AnyArray, "*N"]:
    """T5's bucket of a distance key − query: exact when near, logarithmic when far.

    Args:
      distance: key position − query position.
      bidirectional: whether keys behind the query have buckets of their own (half of them);
        otherwise they share bucket 0, being hidden.
      buckets: how many.
      max_distance: all distances from here on share the last bucket.

    Source: Raffel et al. 2020, section 2.1; mesh_tensorflow transformer_layers,
    _relative_position_bucket.

    Example:
      >>> relative_bucket(jnp.array([-200, -9, -1, 0, 1, 9]), bidirectional=True, buckets=32,
      ...                 max_distance=128).tolist()
      [15, 8, 1, 0, 17, 24]
    """
    back = -distance
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = jnp.where(back < 0, buckets, 0)
        back = jnp.abs(back)
    else:
        back = jnp.maximum(back, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(back, 1) / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(back < exact, back, jnp.minimum(far, buckets - 1))


class RelativeBias(nn.Module):
    """T5's learned bias on attention logits, one table shared by all layers of a stack."""

    config: ModelConfig
    bidirectional: bool

    @nn.compact
    def __call__(
        self, length: int, positions: Int[AnyArray, "T"] | None = None
    ) -> Float[AnyArray, "H T T"]:
        config = self.config
        table = self.param(
            "table",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (config.relative_buckets, config.heads),
            jnp.float32,
        )

        def bucket(distance: Int[AnyArray, "*N"]) -> Int[AnyArray, "*N"]:
            return relative_bucket(
                distance,
                bidirectional=self.bidirectional,
                buckets=config.relative_buckets,
                max_distance=config.relative_max_distance,
            )

        if positions is not None:
            return jnp.moveaxis(table[bucket(positions - positions[:, None])], -1, 0)
        # Distances 0 … length − 1, then −length … −1: index d mod 2·length.
        distance = jnp.concatenate([jnp.arange(length), jnp.arange(-length, 0)])
        return _unroll_distances(table[bucket(distance)].T, length)


def _unroll_distances(by_distance: Float[AnyArray, "H P"], length: int) -> Float[AnyArray, "H T T"]:
    """out[h, q, k] = by_distance[h, (k − q) mod P] with P = 2·length, without a gather.

    A row repeated and cut one element short each time shifts by one; so the gradient is a padded
    sum, where that of a gather would scatter length² numbers and cost as much as attention.
    """
    heads, period = by_distance.shape
    repeated = jnp.broadcast_to(by_distance[:, None], (heads, length, period))
    shifted = repeated.reshape(heads, -1)[:, : length * (period - 1)]
    return shifted.reshape(heads, length, period - 1)[:, :, :length]


def attend(
    query: Float[AnyArray, "H Tq D"],
    key: Float[AnyArray, "H Tk D"],
    value: Float[AnyArray, "H Tk D"],
    seen: Bool[AnyArray, "Tq Tk"],
    bias: Float[AnyArray, "H Tq Tk"] | None = None,
) -> tuple[Float[AnyArray, "H Tq D"], Float[AnyArray, "H Tq"]]:
    """softmax(q·kᵀ + bias)·v over the keys that are seen, unscaled as in T5, softmax in float32.

    The division by the softmax's sum comes after the product with the values: D numbers a query
    to divide instead of Tk.

    Returns:
      The output, and the largest logit of each query (no gradient).
    """
    logits = jnp.einsum("hqd,hkd->hqk", query, key, preferred_element_type=wide(query.dtype))
    if bias is not None:
        logits = _add_bias(logits, bias)
    logits = jnp.where(seen, logits, HIDDEN_LOGIT)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    weights = jnp.exp(logits - largest[..., None])
    total = jnp.sum(weights, axis=-1, keepdims=True)
    summed = jnp.einsum("hqk,hkd->hqd", weights.astype(value.dtype), value)
    return (summed.astype(total.dtype) / total).astype(value.dtype), largest


@jax.custom_batching.custom_vmap
def _add_bias(
    logits: Float[AnyArray, "H Tq Tk"], bias: Float[AnyArray, "H Tq Tk"]
) -> Float[AnyArray, "H Tq Tk"]:
    return logits + bias


@_add_bias.def_vmap
def _add_bias_of_batch(
    size: int, batched: list[bool], logits: jax.Array, bias: jax.Array
) -> tuple[jax.Array, bool]:
    del size
    return (logits + bias if batched[1] else _add_shared_bias(logits, bias)), True


@jax.custom_vjp
def _add_shared_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """logits[B, …] + bias[…]; its gradient sums over the batch by a product with ones.

    XLA's own sum over a leading axis takes as long as all of attention on a CPU. For it the model
    can be differentiated in reverse mode alone.
    """
    return logits + bias


def _add_shared_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return logits + bias, None


def _add_shared_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    return gradient, jnp.tensordot(ones, gradient, axes=1)


_add_shared_bias.defvjp(_add_shared_bias_forward, _add_shared_bias_backward)


class Attention(nn.Module):
    """Multi-head attention of `x` on itself, or on `memory`; no biases, no 1/√d.

    Source: Vaswani et al. 2017; Raffel et al. 2020, section 2.1.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        queries: Visibility,
        keys: Visibility,
        *,
        memory: Float[AnyArray, "Tk width"] | None = None,
        bias: Float[AnyArray, "H Tq Tk"] | None = None,
    ) -> Hidden:
        config = self.config
        inner = config.heads * config.head_width

        def kernel(name: str, init: nn.initializers.Initializer = FAN_IN) -> jax.Array:
            return self.param(name, init, (config.width, inner), jnp.float32).astype(x.dtype)

        projections = [
            kernel("query", query_init(config.head_width)),
            kernel("key"),
            kernel("value"),
        ]
        if memory is None:  # one product for all three is faster than three
            query, key, value = jnp.split(dense(x, jnp.concatenate(projections, axis=1)), 3, axis=1)
        else:
            query = dense(x, projections[0])
            key, value = jnp.split(
                dense(memory, jnp.concatenate(projections[1:], axis=1)), 2, axis=1
            )
        output, largest = attend(
            *(_split_heads(part, config.heads) for part in (query, key, value)),
            seen=visible(queries, keys),
            bias=bias,
        )
        real = queries.segment_ids > 0
        self.sow("intermediates", "max_logit", jnp.max(jnp.where(real, largest, HIDDEN_LOGIT)))
        joined = jnp.moveaxis(output, 0, 1).reshape(x.shape[0], inner)
        out = self.param("out", FAN_IN, (inner, config.width), jnp.float32).astype(x.dtype)
        return Dropout(config)(dense(joined, out))


def _split_heads(x: Float[AnyArray, "T inner"], heads: int) -> Float[AnyArray, "H T D"]:
    return jnp.moveaxis(x.reshape(x.shape[0], heads, -1), 1, 0)
