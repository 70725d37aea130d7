"""From the losses of positions to `LossTerms`: sums, divided once, last.

No collectives in here: whoever sums over devices does so once, on the terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, LossTerms, wide
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.losses.per_token import (
    Logits,
    Loss,
    TokenValues,
    cross_entropy,
    is_inside,
    token_values,
)

Weights = Float[AnyArray, "*T"]


def loss_terms(
    logits: Logits,
    targets: AnyArray,
    weights: Weights,
    *,
    loss: Loss = cross_entropy,
    z_loss: float = 0.0,
    count: Float[AnyArray, "*B"] | None = None,
) -> LossTerms:
    """Sums a loss over positions, by weight.

    Args:
      logits: Float[B, T, V], or any leading axes.
      targets: Int[B, T], or Float[B, T, V] for a loss between distributions.
      weights: Float[B, T]; positions of weight 0 add nothing to any sum, whatever their target,
        nor do ids outside [0, V). Under `checked` such an id of another weight is an error.
      loss: per-token loss of (logits, targets).
      z_loss: coefficient of log(Z)².
      count: Float[B], what each example divides by; the number of its targets if None.

    Returns:
      `LossTerms`; add those of several batches or devices, then `mean_loss`.

    Example:
      >>> logits, targets = jnp.zeros((1, 2, 4)), jnp.array([[3, 0]])
      >>> terms = loss_terms(logits, targets, jnp.array([[1.0, 0.0]]))
      >>> round(float(mean_loss(terms)), 4)  # ln 4
      1.3863
    """
    weights = valid_weights(targets, weights, logits.shape[-1])
    return sum_up(token_values(logits, targets, loss=loss, z_loss=z_loss), weights, count=count)


def sum_up(
    values: TokenValues, weights: Weights, *, count: Float[AnyArray, "*B"] | None = None
) -> LossTerms:
    """The terms of values that are known; arguments as in `loss_terms`."""
    losses, squares = (
        jnp.where(weights != 0, x * weights, 0) for x in (values.loss, values.z_loss)
    )
    return LossTerms(
        loss=jnp.sum(losses, dtype=wide(losses.dtype)),
        z_loss=jnp.sum(squares, dtype=wide(squares.dtype)),
        correct=jnp.sum((weights > 0) & values.correct, dtype=jnp.float32),
        **count_weights(weights, count),
    )


def count_weights(
    weights: Weights, count: Float[AnyArray, "*B"] | None = None
) -> dict[str, jax.Array]:
    """The terms that follow from the weights alone; arguments as in `loss_terms`."""
    targets = jnp.sum(weights > 0, dtype=jnp.float32)
    return {
        "targets": targets,
        "weight": jnp.sum(weights, dtype=wide(weights.dtype)),
        "count": targets if count is None else jnp.sum(count, dtype=wide(count.dtype)),
    }


def valid_weights(targets: AnyArray, weights: Weights, size: int) -> Weights:
    """The weights, 0 where the target is no id of [0, size).

    Raises:
      UserError: not a weight for each target.
    """
    require(
        weights.shape == targets.shape[: weights.ndim],
        f"weights are {weights.shape}, targets {targets.shape}; give a weight for each target",
    )
    if targets.ndim > weights.ndim or not jnp.issubdtype(targets.dtype, jnp.integer):
        return weights
    inside = is_inside(targets, size)
    wrong = ~inside & (weights != 0)
    _check(
        ~jnp.any(wrong),
        "target {target} is outside the vocabulary, [0, {size}); give padding weight 0",
        target=jnp.max(jnp.where(wrong, targets, -(2**31)), initial=-(2**31)),
        size=jnp.asarray(size),
    )
    return jnp.where(inside, weights, 0)


_checking = jax.make_user_context(False)
"""Whether checks are traced. Elsewhere they would do nothing, but JAX numbers them: no two programs
would be the same, and none be found in a cache of compiled ones."""


def _check(holds: Any, message: str, **values: AnyArray) -> None:
    if _checking.value:
        checkify.debug_check(holds, message, **values)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in checked mode: targets outside the vocabulary raise instead of weighing 0.

    It waits for the result, so it is for debugging; a step from `make_step` can be checked whole.

    Raises:
      UserError: when called, with a target that is outside.

    Example:
      >>> logits, targets, weights = jnp.zeros((1, 2, 4)), jnp.array([[3, 4]]), jnp.ones((1, 2))
      >>> round(float(loss_terms(logits, targets, weights).loss), 4)  # of one target, ln 4
      1.3863
      >>> try:
      ...     checked(loss_terms)(logits, targets, weights)
      ... except UserError as error:
      ...     print(error)
      target 4 is outside the vocabulary, [0, 4); give padding weight 0
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        with _checking(True):
            error, result = checkify.checkify(function)(*args, **kwargs)
        message = error.get()
        if message is not None:
            raise UserError(message.removesuffix(" (`check` failed)"))
        return result

    return call


def sequence_weights(
    weights: Weights, segment_ids: Int[AnyArray, "*B T"]
) -> Float[AnyArray, "*B T"]:
    """Weights that sum to 1 in every sequence that has any: for the mean of sequences' means.

    Args:
      weights: Float[…, T], at least 0.
      segment_ids: Int[…, T], in [0, T], which `checked` checks; a packed row has several sequences.

    Returns:
      Float[…, T]; their sum is the number of sequences that have a target. The loss by these
      weights, divided by "tokens", is the mean of the sequences' means.

    Example:
      >>> weights, segment_ids = jnp.array([1.0, 1.0, 0.0, 2.0]), jnp.array([1, 1, 1, 2])
      >>> sequence_weights(weights, segment_ids).tolist()
      [0.5, 0.5, 0.0, 1.0]
    """
    weights = jnp.asarray(weights, jnp.result_type(float))
    segment_ids = jnp.asarray(segment_ids)
    _check(
        jnp.all((segment_ids >= 0) & (segment_ids <= weights.shape[-1])),
        "segment ids must be in [0, {size}], the length of the row",
        size=jnp.asarray(weights.shape[-1]),
    )

    def one_row(weights: AnyArray, segments: AnyArray) -> AnyArray:
        totals = jax.ops.segment_sum(weights, segments, num_segments=weights.shape[-1] + 1)
        mine = totals[segments]
        return jnp.where(mine > 0, weights / jnp.where(mine > 0, mine, 1), 0)

    return jnp.vectorize(one_row, signature="(t),(t)->(t)")(weights, segment_ids)


def denominator(terms: LossTerms, by: str = "tokens", constant: float = 1.0) -> Float[AnyArray, ""]:
    """What the sums are divided by; 1 where it would be 0, so that no targets give loss 0.

    Args:
      terms: sums over everything, all devices included.
      by: "tokens" (the sum of the weights), "count" (of the examples), "constant" or "sum"
        (nothing). By sequences is by "tokens", with `sequence_weights`.
      constant: for "constant".
    """
    divisors = {
        "tokens": terms.weight,
        "count": terms.count,
        "constant": jnp.asarray(constant, terms.loss.dtype),
        "sum": jnp.ones((), jnp.float32),
    }
    if by not in divisors:
        raise unknown("normalisation", by, divisors)
    return jnp.where(divisors[by] > 0, divisors[by], 1.0)


def mean_loss(terms: LossTerms, by: str = "tokens", constant: float = 1.0) -> Float[AnyArray, ""]:
    """The loss that is minimised, z-loss included, in nats per token (or what `by` says).

    Example:
      A short and a long sequence, every token at ln 2. Summed, the long one counts more; averaged
      over its tokens, each is as good as the other.

      >>> def terms_of(length):
      ...     return loss_terms(jnp.zeros((length, 2)), jnp.zeros(length, int), jnp.ones(length))
      >>> short, long = terms_of(2), terms_of(6)
      >>> [round(float(mean_loss(terms, "sum")), 3) for terms in (short, long)]
      [1.386, 4.159]
      >>> [round(float(mean_loss(terms, "tokens")), 3) for terms in (short, long)]
      [0.693, 0.693]
    """
    return terms.loss / denominator(terms, by, constant)
