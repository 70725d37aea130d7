"""From a recipe's function to a complete example: what it is supplied, what it may leave out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxdenoise.corruption import rates
from jaxdenoise.errors import require

if TYPE_CHECKING:
    from jaxdenoise.arrays import AnyArray, Example, Key, Scalar, Tokens
    from jaxdenoise.objectives.registry import Recipe
    from jaxdenoise.vocabulary import Vocabulary

SUPPLIED = ("progress", "uniform", "raw_lengths")
_UNIFORM = 0x756E6966  # "unif": apart from what the recipe makes of its key


def apply(
    recipe: Recipe,
    options: dict[str, Any],
    key: Key,
    tokens: Tokens,
    length: Scalar,
    vocab: Vocabulary,
    progress: Scalar | float = 1.0,
    uniform: AnyArray | float | None = None,
    raw_lengths: tuple[int, ...] | None = None,
) -> Example:
    """The recipe's example, complete: with schedules at their value, supplied with what it asks.

    Arguments as in `Objective.__call__`, which checks them first.
    """
    import jax

    if "uniform" in recipe.supplied and uniform is None:
        uniform = jax.random.uniform(jax.random.fold_in(key, _UNIFORM))
    known = {"progress": progress, "uniform": uniform, "raw_lengths": raw_lengths}
    supply = {name: known[name] for name in recipe.supplied}
    now = {
        name: rates.at_progress(option, progress) if rates.is_schedule(option) else option
        for name, option in options.items()
    }
    example = recipe.corrupt(key, tokens, length, vocab=vocab, **now, **supply)
    return _complete(example, tokens.shape[-1], length)


def _complete(example: Example, size: int, length: Scalar) -> Example:
    """Fills in what a short recipe leaves out: the count, and segments of rows that keep size."""
    import jax.numpy as jnp

    changes: dict[str, Any] = {}
    for stack in ("encoder", "decoder"):
        tokens = getattr(example, f"{stack}_input_tokens")
        if tokens is not None and getattr(example, f"{stack}_segment_ids") is None:
            require(
                tokens.shape[-1] == size,
                f"the objective's {stack} inputs have {tokens.shape[-1]} tokens, its rows {size}: "
                f"then it has to give {stack}_segment_ids itself, 1 for tokens and 0 for padding",
            )
            real = jnp.arange(tokens.shape[-1]) < length
            changes[f"{stack}_segment_ids"] = real.astype(jnp.int32)
    if example.count is None:
        weights = (example.encoder_loss_weights, example.decoder_loss_weights)
        counted = [jnp.sum(w > 0, dtype=jnp.float32) for w in weights if w is not None]
        changes["count"] = sum(counted, jnp.zeros(()))
    return dataclasses.replace(example, **changes)
