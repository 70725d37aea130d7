"""One update and one evaluation, as pure functions; devices and loops are the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from jaxdenoise.arrays import AnyArray, Example, Key, LossTerms, Params, Rows, TrainState
from jaxdenoise.losses import (
    Loss,
    cross_entropy,
    denominator,
    loss_terms,
    mean_loss,
)
from jaxdenoise.model.model import Model
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.training.metrics import norms_by_module, peaks_by_module

Metrics = dict[str, Any]
Step = Callable[[TrainState, Rows], tuple[TrainState, Metrics]]


class Across(NamedTuple):
    """How values of one device become those of all: identities on a single one."""

    sum: Callable[[Any], Any] = lambda tree: tree
    max: Callable[[Any], Any] = lambda tree: tree


def init(
    key: Key, model: Model, tx: optax.GradientTransformation, batch: Example | None = None
) -> TrainState:
    """A fresh state: parameters from the key, optimizer state from the parameters, step 0.

    Args:
      key: randomness of the initialisation.
      model: what to initialise.
      tx: the optimizer.
      batch: an example batch; not needed, parameters do not depend on a batch's shapes.
    """
    del batch
    params = model.init(key)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params))


def corrupt(objective: Objective, rows: Rows) -> Example:
    """The batch of these rows: each corrupted with the key of its identity."""
    return jax.vmap(objective)(rows.keys, rows.tokens, rows.lengths)


def make_step(
    objective: Objective,
    model: Model,
    tx: optax.GradientTransformation,
    *,
    loss: Loss = cross_entropy,
    z_loss: float = 0.0,
    normalisation: str = "tokens",
    across: Across = Across(),
) -> Step:
    """The training step: corrupt, apply the model, sum the loss, divide once, update.

    Args:
      objective: corrupts one row.
      model: maps a batch to logits.
      tx: maps gradients to updates.
      loss: of (logits[…, V], targets[…]), per target.
      z_loss: coefficient of log(Z)².
      normalisation: what the summed loss and gradient are divided by.
      across: sums over devices; used once, on the summed gradient and terms.

    Returns:
      A pure function (state, rows) -> (state, metrics), to be jitted or pmapped.
    """

    def step(state: TrainState, rows: Rows) -> tuple[TrainState, Metrics]:
        batch = corrupt(objective, rows)
        targets, weights = batch.targets(model.stack)
        dropout_keys = rows.stream("dropout") if model.config.dropout_rate else None

        def summed(params: Params) -> tuple[AnyArray, tuple[LossTerms, Any]]:
            logits, peaks = model.apply_with_stats(params, batch, dropout_keys)
            terms = loss_terms(
                logits, targets, weights, loss=loss, z_loss=z_loss, count=batch.count
            )
            return terms.loss + terms.z_loss, (terms, peaks)

        gradient, (terms, peaks) = jax.grad(summed, has_aux=True)(state.params)
        clean = jnp.sum(batch.count == 0, dtype=jnp.float32)
        gradient, terms, clean = across.sum((gradient, terms, clean))
        divisor = denominator(terms, normalisation)
        gradient = jax.tree.map(lambda g: g / divisor, gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **summarise(terms, normalisation),
            "clean_rows": clean,
            "gradient_norm": optax.tree.norm(gradient),
            "modules": {
                "gradient_norm": norms_by_module(gradient),
                "update_ratio": norms_by_module(updates, relative_to=state.params),
                "max_attention_logit": peaks_by_module(across.max(peaks)),
            },
        }
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return step


def make_evaluation(
    objective: Objective, model: Model, *, loss: Loss = cross_entropy
) -> Callable[[Params, Rows], dict[str, LossTerms]]:
    """The sums over held-out rows, text apart from special targets.

    Sentinels and EOS are easy and would flatter the mean.

    Returns:
      A pure function (params, rows) -> {"text": …, "special": …}, to be jitted.
    """
    is_special = jnp.asarray(objective.vocab.is_special)

    def evaluate(params: Params, rows: Rows) -> dict[str, LossTerms]:
        batch = corrupt(objective, rows)
        targets, weights = batch.targets(model.stack)
        logits = model.apply(params, batch)
        special = is_special[targets]
        return {
            name: loss_terms(logits, targets, jnp.where(mask, weights, 0), loss=loss)
            for name, mask in (("text", ~special), ("special", special))
        }

    return evaluate


def token_losses(
    model: Model, params: Params, batch: Example, loss: Loss = cross_entropy
) -> Float[AnyArray, "B T"]:
    """The loss of every target, 0 where the weight is 0; for looking at.

    Args:
      model: maps a batch to logits.
      params: of the model.
      batch: from a vmapped objective.
      loss: of (logits[…, V], targets[…]).
    """
    targets, weights = batch.targets(model.stack)
    return jnp.where(weights > 0, loss(model.apply(params, batch), targets), 0.0)


def summarise(terms: LossTerms, normalisation: str = "tokens") -> Metrics:
    """The scalars that a person reads: mean loss, accuracy, number of targets."""
    return {
        "loss": mean_loss(terms, normalisation),
        "accuracy": terms.correct / jnp.maximum(terms.targets, 1.0),
        "targets": terms.targets,
    }
