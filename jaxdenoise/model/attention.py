"""Attention for one example: who sees whom from integers, and the products.

Each of a stack's streams (`streams`) has its own queries; all see the keys of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, wide
from jaxdenoise.config import ModelConfig
from jaxdenoise.model.layers import Hidden, Initializer, Layer, dense, matrix_init, plus, rms_norm
from jaxdenoise.model.positions import rotate
from jaxdenoise.model.sharding import is_cut
from jaxdenoise.model.streams import Reach, Sight, Slots, Streams, Surroundings

INWARDS, OUTWARDS = ("embed", "heads"), ("heads", "embed")  # of kernels; see `sharding`
HIDDEN_LOGIT = -1e9  # finite, so that a query which sees nothing gives no NaN

Heads = Float[AnyArray, "H _ D"]
Parts = Sequence[Heads]


def visible(
    queries: Sight, keys: Sight, window: Int[AnyArray, ""] | None = None
) -> Bool[AnyArray, "Tq Tk"]:
    """True where the key is seen from the query.

    Args:
      queries: sight of the queries.
      keys: sight of the keys.
      window: positions that a query sees around it, half of them to either side; None for all.
    """
    same_segment = queries.segment_ids[:, None] == keys.segment_ids
    asks, shows = queries.visibility, keys.visibility
    seen = shows.visible_at <= asks.sees_until[:, None]
    if asks.groups is not None and shows.groups is not None:
        seen |= asks.groups[:, None] == shows.groups
    if window is not None:
        seen &= jnp.abs(keys.positions - queries.positions[:, None]) <= window // 2
    return same_segment & seen


def attend(
    query: Float[AnyArray, "H Tq D"],
    keys: Sequence[Heads],
    values: Sequence[Heads],
    seen: Bool[AnyArray, "Tq Tk"],
    bias: Float[AnyArray, "H Tq Tk"] | None = None,
) -> tuple[Float[AnyArray, "H Tq D"], Float[AnyArray, "H Tq"]]:
    """softmax(q·kᵀ + bias)·v over the keys that are seen, unscaled, softmax in float32.

    Keys and values come in parts, whose sizes add up to Tk, and each part has products of its own:
    where one is stopped, its gradient is not computed to be thrown away.

    The division by the softmax's sum comes after the product with the values: D numbers a query
    to divide instead of Tk.

    Returns:
      The output, 0 for a query that sees nothing, and the largest logit of each query (no
      gradient).
    """
    precise = wide(query.dtype)
    parts = [jnp.einsum("hqd,hkd->hqk", query, k, preferred_element_type=precise) for k in keys]
    logits = _joined(parts)
    if bias is not None:
        logits = _add_bias(logits, bias)
    logits = _hide(logits, seen)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, initial=HIDDEN_LOGIT / 2))
    weights = jnp.exp(logits - largest[..., None])
    total = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    shares = [weights.astype(query.dtype)]
    if len(values) > 1:  # one part would be split into a copy, kept for the backward pass
        shares = jnp.split(shares[0], np.cumsum([v.shape[1] for v in values])[:-1], axis=-1)
    summed = [jnp.einsum("hqk,hkd->hqd", w, v) for w, v in zip(shares, values, strict=True)]
    return (sum(summed[1:], summed[0]).astype(total.dtype) / total).astype(query.dtype), largest


@jax.custom_jvp
def _hide(
    logits: Float[AnyArray, "H Tq Tk"], seen: Bool[AnyArray, "Tq Tk"]
) -> Float[AnyArray, "H Tq Tk"]:
    """The logits, far below all others where the key is not seen.

    A key that is not seen weighs nothing, so the gradient that arrives here is 0 there already: it
    is passed on as it is.
    """
    return jnp.where(seen, logits, HIDDEN_LOGIT)


@_hide.defjvp
def _hide_jvp(primals: tuple, tangents: tuple) -> tuple[AnyArray, AnyArray]:
    return _hide(*primals), tangents[0]


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


class Attention(Layer):
    """Multi-head attention of every stream on all of them, on the memory, or on both at once.

    Source: Vaswani et al. 2017; Ainslie et al. 2023 (grouped queries); Henry et al. 2020 (QK
    norm); T5Gemma 2, 2025 (merged: the memory's keys are not rotated).
    """

    kind: str = "self"
    """"self", "cross" (on the memory) or "merged" (both in one softmax)."""

    @nn.compact
    def __call__(self, streams: Streams, around: Surroundings, reach: Reach) -> Streams:
        weights, stopped = self._weights(), jax.lax.stop_gradient
        own = [weights] + [stopped(weights)] * (len(streams) - 1)
        names = ("query",) if self.kind == "cross" else ("query", "key", "value")
        rotated = self.kind != "cross" or self.config.continued_positions
        parts = [
            self._project(x, kernels, names, sight.positions if rotated else None, reach)
            for x, kernels, sight in zip(streams, own, around.sights, strict=True)
        ]
        keys, values, places = self._asked([part[1:] for part in parts], weights, around, reach)
        keys, values = map(self._for_all_heads, (keys, values))
        outputs, peaks = [], []
        for number, (query, *_) in enumerate(parts):
            if number:  # context: nothing flows back from it
                keys, values = ([stopped(_joined(x, axis=1))] for x in (keys, values))
            asking = around.sights[number]
            bias = None if self.kind == "cross" else around.biases[number]
            seen = _joined([visible(asking, sight, window) for sight, window in places])
            output, largest = attend(query, keys, values, seen, bias)
            real = jnp.where(asking.segment_ids > 0, largest, HIDDEN_LOGIT)
            peaks.append(jnp.max(real, initial=HIDDEN_LOGIT))
            inner = self.config.heads * self.config.head_width
            joined = jnp.moveaxis(output, 0, 1).reshape(output.shape[1], inner)
            outputs.append(_outwards(joined, own[number]))
        self.sow("intermediates", "max_logit", jnp.max(jnp.stack(peaks)))
        return tuple(outputs)

    def _asked(
        self,
        pairs: list[list[Heads]],
        weights: dict[str, jax.Array],
        around: Surroundings,
        reach: Reach,
    ) -> tuple[Parts, Parts, list[tuple[Sight, AnyArray | None]]]:
        """The keys and values that every query asks, and where they stand: sights and windows."""
        pairs = [pair for pair in pairs if pair]
        places: list[Any] = [(s, reach.window) for s in around.sights] if pairs else []
        if pairs and around.live is not None:
            pairs[0] = [_stop_except(around.live, x) for x in pairs[0]]
        if pairs and around.slots is not None:
            pairs = [self._keep(pairs[0], around.slots)]
            places = [(around.slots.sight, reach.window)]
        if self.kind != "self":
            assert around.memory_sight is not None
            pairs.append(self._of_memory(weights, around, around.memory_sight, reach))
            places.append((around.memory_sight, None))
        keys, values = zip(*pairs, strict=True)
        return keys, values, places

    def _for_all_heads(
        self, parts: Sequence[Float[AnyArray, "groups _ D"]]
    ) -> Sequence[Float[AnyArray, "heads _ D"]]:
        """Keys or values once for each query's head."""
        shared = self.config.heads // self.config.query_groups
        return [jnp.repeat(x, shared, axis=0) for x in parts] if shared > 1 else parts

    def _of_memory(
        self, weights: dict[str, jax.Array], around: Surroundings, sight: Sight, reach: Reach
    ) -> list[Heads]:
        """The memory's keys and values; where some are kept, these are, and made only once."""
        names = ("key", "value")
        if around.memory is None:
            return [self.get_variable("cache", f"memory_{name}") for name in names]
        positions = sight.positions if self.config.continued_positions else None
        made = self._project(around.memory, weights, names, positions, reach)
        if around.slots is not None:
            for name, x in zip(names, made, strict=True):
                self.put_variable("cache", f"memory_{name}", x)
        return made

    def _keep(self, pair: list[Heads], slots: Slots) -> list[Heads]:
        """All that is kept, with these keys and values in their slots."""
        whole = []
        for name, x in zip(("key", "value"), pair, strict=True):
            shape = (x.shape[0], slots.sight.size, x.shape[2])
            kept = self.variable("cache", name, jnp.zeros, shape, x.dtype)
            kept.value = jax.lax.dynamic_update_slice(kept.value, x, (0, slots.first, 0))
            whole.append(kept.value)
        return whole

    def _weights(self) -> dict[str, jax.Array]:
        """Kernels by name; biases and norms where the model has them."""
        config = self.config
        inner, grouped = (n * config.head_width for n in (config.heads, config.query_groups))
        columns = {"query": inner, "key": grouped, "value": grouped, "out": config.width}
        weights = {}
        for name, size in columns.items():
            rows = inner if name == "out" else config.width
            init = query_init(config) if name == "query" else matrix_init(config)
            axes = OUTWARDS if name == "out" else INWARDS
            weights[name] = self.weight(name, init, (rows, size), axes)
            if config.biases:
                zeros = nn.initializers.zeros
                weights[f"{name}_bias"] = self.weight(f"{name}_bias", zeros, (size,), axes[1:])
        for name in ("query_norm", "key_norm") if config.qk_norm else ():
            ones, shape = nn.initializers.ones, (config.head_width,)
            weights[name] = self.weight(name, ones, shape, ("rest",))
        return weights

    def _project(
        self,
        x: Hidden,
        weights: dict[str, jax.Array],
        names: tuple[str, ...],
        positions: Int[AnyArray, "T"] | None,
        reach: Reach,
    ) -> list[Heads]:
        """Queries, keys or values by head; one product for all is faster than one for each."""
        kernels = [weights[name] for name in names]
        if len(names) > 1 and not is_cut("heads"):  # joined, the parts would change devices
            ends = np.cumsum([kernel.shape[1] for kernel in kernels])[:-1]
            products = jnp.split(dense(x, jnp.concatenate(kernels, axis=1), INWARDS), ends, axis=1)
        else:
            products = [dense(x, kernel, INWARDS) for kernel in kernels]
        parts = zip(names, products, strict=True)
        return [self._by_head(name, part, weights, positions, reach) for name, part in parts]

    def _by_head(
        self,
        name: str,
        part: Float[AnyArray, "T columns"],
        weights: dict[str, jax.Array],
        positions: Int[AnyArray, "T"] | None,
        reach: Reach,
    ) -> Heads:
        """Bias, heads, norm, rotation, scale."""
        config = self.config
        part = plus(part, weights[f"{name}_bias"], INWARDS[1:]) if config.biases else part
        heads = part.shape[1] // config.head_width
        part = jnp.moveaxis(part.reshape(part.shape[0], heads, config.head_width), 1, 0)
        if config.qk_norm and name != "value":
            part = rms_norm(part, weights[f"{name}_norm"], config.norm_epsilon)
        if config.positions == "rotary" and positions is not None and name != "value":
            part = rotate(part, positions, reach.base)
        scaled = name == "query" and config.scaled_attention
        return part * config.head_width**-0.5 if scaled else part


def query_init(config: ModelConfig) -> Initializer:
    """T5's small query, which makes up for attention without 1/√d.

    Source: t5x/examples/t5/layers.py; without it a small model hardly leaves the unigram.
    """
    if config.scaled_attention or config.qk_norm or config.initial_scale is not None:
        return matrix_init(config)
    return nn.initializers.variance_scaling(1.0 / config.head_width, "fan_in", "truncated_normal")


def _outwards(x: Float[AnyArray, "T rows"], weights: dict[str, jax.Array]) -> Hidden:
    product = dense(x, weights["out"], OUTWARDS)
    return plus(product, weights["out_bias"], OUTWARDS[1:]) if "out_bias" in weights else product


def _joined(parts: Sequence[AnyArray], axis: int = -1) -> AnyArray:
    return jnp.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]


def _stop_except(live: Bool[AnyArray, "T"], x: Heads) -> Heads:
    return jnp.where(live[:, None], x, jax.lax.stop_gradient(x))
