"""Projection and loss in one: hidden states in, `LossTerms` out, never the [tokens, V] logits.

The positions are walked in chunks. The sums are scalars, so what the backward pass needs, their
gradients by the hidden states and the projection, is computed in the same walk: three products, as
many as with the logits kept, and nothing of the vocabulary's size is stored but the kernel's own
gradient. Source: the same idea as Cut Cross-Entropy (Wijmans et al. 2024) and Liger's fused linear
cross-entropy (Hsu et al. 2024), for any loss of (logits[V], target).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdenoise.arrays import AnyArray, LossTerms, Projection, wide
from jaxdenoise.errors import require
from jaxdenoise.losses.per_token import Loss, TokenValues, cross_entropy, token_values
from jaxdenoise.losses.terms import Weights, count_weights, sum_up, valid_weights

CHUNK_LOGITS = 2**25
"""Logits in a chunk, by default: 128 MiB of float32."""

Hidden = Float[AnyArray, "B T width"]
PerToken = Callable[[AnyArray, AnyArray], TokenValues]


def projected_terms(
    hidden: Hidden,
    projection: Projection,
    targets: AnyArray,
    weights: Weights,
    *,
    loss: Loss = cross_entropy,
    z_loss: float = 0.0,
    count: Float[AnyArray, "B"] | None = None,
    chunk: int | None = None,
    devices: int = 1,
) -> LossTerms:
    """As `loss_terms(projection(hidden), …)`, by chunks of positions.

    Only `loss` has a gradient, by hidden states, projection and weights, in reverse mode. Where the
    weight is 0, hidden states may hold anything, NaN too.

    Args:
      hidden: Float[B, T, width]; B is never cut, so that it may be spread over devices.
      projection: on the vocabulary.
      targets: Int[B, T], or Float[B, T, V] for a loss between distributions.
      weights: Float[B, T].
      loss: per-token loss of (logits, targets).
      z_loss: coefficient of log(Z)².
      count: Float[B], what each example divides by; the number of its targets if None.
      chunk: positions at a time, of all B rows; by default as many as make `CHUNK_LOGITS` on each
        device.
      devices: that the logits are spread over.

    Raises:
      UserError: a chunk below 1, weights of another shape, or a loss that does not give one number
        for each target.
      UnexpectedTracerError: a loss function that closes over values that are differentiated.

    Example:
      >>> hidden, kernel = jnp.ones((1, 3, 2)), jnp.zeros((2, 5))
      >>> targets, weights = jnp.array([[1, 2, 3]]), jnp.ones((1, 3))
      >>> terms = projected_terms(hidden, Projection(kernel), targets, weights, chunk=2)
      >>> round(float(terms.loss), 4)  # 3 ln 5
      4.8283
    """
    weights = valid_weights(targets, jnp.asarray(weights), projection.kernel.shape[-1])
    hidden = jnp.where(weights[..., None] != 0, hidden, 0)
    projection = jax.tree.map(lambda x: x.astype(wide(x.dtype)), projection)
    chunks = _Chunks.of(hidden, projection, chunk, devices)

    def per_token(logits: AnyArray, targets: AnyArray) -> TokenValues:
        return token_values(logits, targets, loss=loss, z_loss=z_loss)

    total, (squares, correct) = _summed(per_token, chunks)(hidden, projection, targets, weights)
    counts = count_weights(weights, count)
    return LossTerms(loss=total, z_loss=squares, correct=correct, **counts)


def projected_values(
    hidden: Hidden,
    projection: Projection,
    targets: AnyArray,
    *,
    loss: Loss = cross_entropy,
    chunk: int | None = None,
) -> TokenValues:
    """The values of every position, [B, T], by chunks; for evaluation, it saves nothing backward.

    Arguments as in `projected_terms`.
    """
    chunks = _Chunks.of(hidden, projection, chunk)
    hidden, targets = chunks.fill(hidden), chunks.fill(targets)

    def one(start: AnyArray) -> TokenValues:
        return token_values(
            projection(chunks.cut(hidden, start)), chunks.cut(targets, start), loss=loss
        )

    return TokenValues(*(chunks.join(x) for x in chunks.walk(one)))


class _Chunks(NamedTuple):
    """Positions [0, T) in `number` pieces of `size`; the last one is filled up."""

    total: int
    size: int

    @classmethod
    def of(
        cls, hidden: AnyArray, projection: Projection, size: int | None, devices: int = 1
    ) -> _Chunks:
        rows, total, _ = hidden.shape
        fitting = CHUNK_LOGITS * devices // max(rows * projection.kernel.shape[-1], 1)
        wanted = max(fitting, 1) if size is None else size
        require(wanted >= 1, f"chunk is {size}; it must be at least 1")
        number = max(-(-total // wanted), 1)
        return cls(total, max(-(-total // number), 1))  # even pieces

    @property
    def number(self) -> int:
        return max(-(-self.total // self.size), 1)

    def fill(self, x: AnyArray) -> jax.Array:
        """[B, T, …] with zeros up to the end of the last chunk."""
        missing = self.number * self.size - self.total
        return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))

    def cut(self, x: AnyArray, start: AnyArray) -> jax.Array:
        """Positions [start, start + size) of what `fill` gave."""
        return jax.lax.dynamic_slice_in_dim(x, start, self.size, axis=1)

    def join(self, parts: jax.Array) -> jax.Array:
        """[number, B, size, …] back to [B, T, …]."""
        whole = jnp.moveaxis(parts, 0, 1)
        filled = self.number * self.size
        return whole.reshape(whole.shape[0], filled, *whole.shape[3:])[:, : self.total]

    def walk(self, function: Callable[[AnyArray], Any]) -> Any:
        """The function of every chunk's start, stacked."""
        return self.fold(lambda carry, start: (carry, function(start)), ())[1]

    def fold(self, function: Callable[[Any, AnyArray], Any], carry: Any) -> tuple[Any, Any]:
        """A scan over the chunks' starts; no loop where there is one chunk."""
        if self.number == 1:
            carry, parts = function(carry, jnp.zeros((), jnp.int32))
            return carry, jax.tree.map(lambda x: x[None], parts)
        return jax.lax.scan(function, carry, jnp.arange(self.number) * self.size)


def _summed(per_token: PerToken, chunks: _Chunks) -> Callable[..., Any]:
    """(hidden, projection, targets, weights) -> loss, (z-loss, correct); a gradient of the loss."""

    def sums(logits: AnyArray, targets: AnyArray, weights: AnyArray) -> tuple[AnyArray, Any]:
        values = per_token(logits, targets)
        terms = sum_up(values, weights)
        return terms.loss, (terms.z_loss, terms.correct, values.loss)

    @jax.custom_vjp
    def summed(hidden: AnyArray, projection: Projection, targets: AnyArray, weights: AnyArray):
        hidden, targets, weights = map(chunks.fill, (hidden, targets, weights))

        def one(start: AnyArray) -> Any:
            logits = projection(chunks.cut(hidden, start))
            loss, aux = sums(logits, chunks.cut(targets, start), chunks.cut(weights, start))
            return loss, aux[:2]

        return jax.tree.map(lambda x: jnp.sum(x, axis=0), chunks.walk(one))

    def forward(hidden: Any, projection: Any, targets: Any, weights: Any):
        trained = any(leaf.perturbed for leaf in jax.tree.leaves(projection, is_leaf=_is_primal))
        hidden, projection, targets, weights = jax.tree.map(
            lambda leaf: leaf.value, (hidden, projection, targets, weights), is_leaf=_is_primal
        )
        at_zero = weights == 0
        hidden, targets, weights = map(chunks.fill, (hidden, targets, weights))

        def one(carry: Any, start: AnyArray) -> Any:
            rows, ids = chunks.cut(hidden, start), chunks.cut(targets, start)
            inputs = (rows, projection) if trained else (rows,)
            logits, into_model = jax.vjp(lambda h, p=projection: p(h), *inputs)
            loss, into_logits, aux = jax.vjp(
                lambda logits: sums(logits, ids, chunks.cut(weights, start)), logits, has_aux=True
            )
            [at_logits] = into_logits(jnp.ones_like(loss))
            at_hidden, *at_projection = into_model(at_logits)
            if chunks.number > 1:
                at_projection = jax.tree.map(jnp.add, carry, at_projection)
            return at_projection, (loss, *aux, at_hidden)

        zeros = [jax.tree.map(jnp.zeros_like, projection)] if trained else []
        at_projection, (loss, z_loss, correct, losses, at_hidden) = chunks.fold(one, zeros)
        results = jax.tree.map(lambda x: jnp.sum(x, axis=0), (loss, (z_loss, correct)))
        at_weights = jnp.where(at_zero, 0, chunks.join(losses)).astype(weights.dtype)
        gradients = chunks.join(at_hidden), at_projection[0] if trained else None, None, at_weights
        return results, gradients

    def backward(gradients: Any, cotangents: Any):
        factor = cotangents[0]
        if isinstance(factor, jax.custom_derivatives.SymbolicZero):
            factor = 0.0
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradients)

    summed.defvjp(forward, backward, symbolic_zeros=True)
    return summed


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)
