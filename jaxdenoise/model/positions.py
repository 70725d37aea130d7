"""How a model knows where a token stands: T5's relative bias, rotary, learned absolute."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, wide
from jaxdenoise.model.layers import Layer, embedding_init


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


def rotate(
    x: Float[AnyArray, "H T D"], positions: Int[AnyArray, "T"], base: float | AnyArray
) -> Float[AnyArray, "H T D"]:
    """Turns unit i and unit i + D/2 of each head by position · base^(−2i/D).

    The product of a turned query and a turned key depends on their distance alone.

    Source: Su et al. 2021, "RoFormer", section 3.2; the pairing of halves is GPT-NeoX's.

    Example:
      >>> rotate(jnp.ones((1, 2, 2)), jnp.array([0, 1]), 10_000.0)
      Array([[[ 1.        ,  1.        ],
              [-0.30116868,  1.3817732 ]]], dtype=float32)
    """
    half = x.shape[-1] // 2
    turns = jnp.asarray(base, wide(x.dtype)) ** (-jnp.arange(half) / half)
    angle = positions[:, None].astype(turns.dtype) * turns
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(turns.dtype), 2, axis=-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class RelativeBias(Layer):
    """T5's learned bias on attention logits, one table shared by all layers of a stack."""

    bidirectional: bool = True

    @nn.compact
    def __call__(
        self,
        queries: Int[AnyArray, "Tq"] | int,
        keys: Int[AnyArray, "Tk"] | int,
        *,
        frozen: bool = False,
    ) -> Float[AnyArray, "H Tq Tk"]:
        """The bias between positions, or between T that count up, where T is given alone."""
        config = self.config
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        shape = (config.relative_buckets, config.heads)
        table = self.weight("table", init, shape, ("rest", "heads"), frozen=frozen)

        def bucket(distance: Int[AnyArray, "*N"]) -> Int[AnyArray, "*N"]:
            return relative_bucket(
                distance,
                bidirectional=self.bidirectional,
                buckets=config.relative_buckets,
                max_distance=config.relative_max_distance,
            )

        if not isinstance(queries, int):
            return jnp.moveaxis(table[bucket(keys - queries[:, None])], -1, 0)
        # Distances 0 … length − 1, then −length … −1: index d mod 2·length.
        distance = jnp.concatenate([jnp.arange(queries), jnp.arange(-queries, 0)])
        return _unroll_distances(table[bucket(distance)].T, queries)


def _unroll_distances(by_distance: Float[AnyArray, "H P"], length: int) -> Float[AnyArray, "H T T"]:
    """out[h, q, k] = by_distance[h, (k − q) mod P] with P = 2·length, without a gather.

    A row repeated and cut one element short each time shifts by one; so the gradient is a padded
    sum, where that of a gather would scatter length² numbers and cost as much as attention.
    """
    heads, period = by_distance.shape
    repeated = jnp.broadcast_to(by_distance[:, None], (heads, length, period))
    shifted = repeated.reshape(heads, -1)[:, : length * (period - 1)]
    return shifted.reshape(heads, length, period - 1)[:, :, :length]


class LearnedPositions(Layer):
    """An embedding of the absolute position, as in BERT and BART."""

    @nn.compact
    def __call__(
        self, positions: Int[AnyArray, "T"], frozen: bool = False
    ) -> Float[AnyArray, "T width"]:
        offset = self.config.position_offset
        shape = (offset + self.config.max_positions, self.config.width)
        axes = ("rest", "embed")
        table = self.weight("embedding", embedding_init(self.config), shape, axes, frozen=frozen)
        # Rows that count up too far are refused when the model is applied; given positions clip.
        return jnp.take(table, positions + offset, axis=0, mode="clip").astype(
            self.config.compute_dtype
        )


class TokenTypes(Layer):
    """BERT's embedding of token types. A text of one part is all of the first type.

    Source: Devlin et al. 2019, section 3 ("segment embeddings").
    """

    @nn.compact
    def __call__(self, frozen: bool = False) -> Float[AnyArray, "width"]:
        shape = (self.config.token_types, self.config.width)
        axes = ("rest", "embed")
        table = self.weight("embedding", embedding_init(self.config), shape, axes, frozen=frozen)
        return table[0].astype(self.config.compute_dtype)
