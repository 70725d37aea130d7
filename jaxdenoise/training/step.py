"""One update and one evaluation, as pure functions; devices and loops are the caller's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from jaxdenoise.arrays import (
    AnyArray,
    Example,
    Key,
    LossTerms,
    Params,
    Rows,
    Scalar,
    TrainState,
)
from jaxdenoise.config import Normalisation
from jaxdenoise.corruption.pack import pack
from jaxdenoise.errors import require, unknown
from jaxdenoise.losses import (
    Loss,
    cross_entropy,
    denominator,
    mean_loss,
    projected_terms,
    projected_values,
    sequence_weights,
    sum_up,
)
from jaxdenoise.model.model import Model
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.training import guard
from jaxdenoise.training.metrics import norms_by_module, peaks_by_module

Metrics = dict[str, Any]
Step = Callable[[TrainState, Rows], tuple[TrainState, Metrics]]


class Across(NamedTuple):
    """How values of one device become those of all: identities on a single one.

    Attributes:
      sum: over the devices that each trace their own rows.
      max: likewise.
      scatter: lays a gradient out like the parameters, where a mesh cuts them.
      devices: that the traced rows are spread over.
    """

    sum: Callable[[Any], Any] = lambda tree: tree
    max: Callable[[Any], Any] = lambda tree: tree
    scatter: Callable[[Any], Any] = lambda tree: tree
    devices: int = 1


def init(
    key: Key,
    model: Model,
    tx: optax.GradientTransformation,
    batch: Example | None = None,
    *,
    spikes: float | None = None,
) -> TrainState:
    """A fresh state: parameters from the key, optimizer state from the parameters, step 0.

    Args:
      key: randomness of the initialisation.
      model: what to initialise.
      tx: the optimizer.
      batch: an example batch; not needed, parameters do not depend on a batch's shapes.
      spikes: as in `make_step`; with them a state remembers losses.
    """
    del batch
    return begin(model.init(key), tx, spikes)


def begin(
    params: Params, tx: optax.GradientTransformation, spikes: float | None = None
) -> TrainState:
    """The state of step 0 with these parameters; see `init`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        recent=None if spikes is None else guard.no_losses(),
    )


def corrupt(objective: Objective, rows: Rows, progress: Scalar | float = 1.0) -> Example:
    """The batch of these rows: each corrupted with the key of its identity.

    The pieces of packed rows are corrupted one by one and then gathered.

    Args:
      objective: corrupts one row, or one piece.
      rows: as the host sends them.
      progress: share of the training that is done, for options that follow a schedule.
    """
    return _packed(objective, rows, _corrupt_alone(objective, rows.unpacked(), progress))


corrupted = jax.jit(corrupt, static_argnums=0)
"""`corrupt`, compiled once for each objective and shape, whoever asks."""


def _corrupt_alone(objective: Objective, rows: Rows, progress: Scalar | float) -> Example:
    """A batch of one example a row."""

    def one(key: Key, tokens: AnyArray, length: Scalar, uniform: AnyArray) -> Example:
        return objective(key, tokens, length, progress=progress, uniform=uniform)

    return jax.vmap(one)(rows.keys, rows.tokens, rows.lengths, rows.uniforms)


def _packed(objective: Objective, rows: Rows, alone: Example) -> Example:
    """The examples of `rows.unpacked()` in rows; themselves where rows are not packed."""
    if rows.pieces is None:
        return alone
    lengths, sizes = rows.pieces.lengths, rows.pieces.sizes
    by_row = jax.tree.map(lambda x: x.reshape(*lengths.shape, *x.shape[1:]), alone)
    pad = objective.vocab.pad_id
    return jax.vmap(lambda pieces, used: pack(pieces, used, sizes, pad))(by_row, lengths > 0)


def make_step(
    objective: Objective,
    model: Model,
    tx: optax.GradientTransformation,
    *,
    loss: Loss = cross_entropy,
    z_loss: float = 0.0,
    normalisation: str | None = None,
    constant: float = 1.0,
    gradients: str = "full",
    micro_batches: int = 1,
    steps: int | None = None,
    spikes: float | None = None,
    across: Across = Across(),
) -> Step:
    """The training step: corrupt, apply the model, sum the loss, divide once, update.

    The logits are never formed: see `losses.projected`. An update that `guard.is_good` refuses is
    not applied, and the metric "good" is false: the state keeps all but its step.

    Args:
      objective: corrupts one row.
      model: maps a batch to hidden states, and these to logits.
      tx: maps gradients to updates.
      loss: of (logits[…, V], targets[…]), per target.
      z_loss: coefficient of log(Z)².
      normalisation: what the summed loss and gradient are divided by; see `losses.denominator`.
        None for the objective's own.
      constant: for the normalisation "constant".
      gradients: what the backward pass goes through; see `Model.forward`.
      micro_batches: parts that a device's rows are walked in; gradients and terms are summed over
        them and divided once.
      steps: of the whole training, for options that follow a schedule; None for their last value.
      spikes: standard deviations above the mean of the last losses from which a loss is one.
      across: sums over devices; used once, on the summed gradient and terms.

    Returns:
      A pure function (state, rows) -> (state, metrics), to be jitted or pmapped.

    Raises:
      UserError: a normalisation that does not exist, fewer than one micro-batch; when it is traced,
        a number of rows that the micro-batches do not divide, or what `Model.forward` refuses.
    """
    normalisation = normalisation or objective.normalisation
    if normalisation not in get_args(Normalisation):
        raise unknown("normalisation", normalisation, get_args(Normalisation))
    require(micro_batches >= 1, f"micro_batches is {micro_batches}; it must be at least 1")
    by = "tokens" if normalisation == "sequences" else normalisation
    summed = functools.partial(
        _sums,
        objective,
        model,
        loss=loss,
        z_loss=z_loss,
        gradients=gradients,
        by_sequence=normalisation == "sequences",
        devices=across.devices,
    )

    def step(state: TrainState, rows: Rows) -> tuple[TrainState, Metrics]:
        now = functools.partial(summed, 1.0 if steps is None else state.step / steps)
        gradient_of = _scattered(jax.grad(now, has_aux=True), across.scatter)
        gradient, sums, peaks = _accumulate(gradient_of, state.params, rows, micro_batches)
        gradient, (terms, lost) = across.sum((gradient, sums))
        divisor = denominator(terms, by, constant)
        gradient = jax.tree.map(lambda g: g / divisor, gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        summary, norm = summarise(terms, by, constant), optax.tree.norm(gradient)
        good, recent = guard.is_good(summary["loss"], norm, state.recent, spikes), state.recent
        if recent is not None:
            recent = guard.remember(recent, state.step, summary["loss"])
        metrics = {
            **summary,
            **lost,
            "good": good,
            "gradient_norm": norm,
            "modules": {
                "gradient_norm": norms_by_module(gradient),
                "update_ratio": norms_by_module(updates, relative_to=state.params),
                "max_attention_logit": peaks_by_module(across.max(peaks)),
            },
        }
        made = (params, opt_state, recent)
        kept = guard.keep_unless(good, made, (state.params, state.opt_state, state.recent))
        return TrainState(state.step + 1, *kept), metrics

    return step


Sums = tuple[LossTerms, dict[str, jax.Array]]


def _sums(
    objective: Objective,
    model: Model,
    progress: Scalar | float,
    params: Params,
    rows: Rows,
    *,
    loss: Loss,
    z_loss: float,
    gradients: str,
    by_sequence: bool,
    devices: int,
) -> tuple[AnyArray, tuple[Sums, Any]]:
    """The loss summed over rows; also all terms, what was lost of the targets, and peaks."""
    single = rows.unpacked()
    alone = _corrupt_alone(objective, single, progress)
    batch = _packed(objective, rows, alone)
    lost = _number(alone, model.stack, single.lengths > 0) - _number(batch, model.stack)
    if by_sequence:
        batch = _weigh_sequences(batch, model.stack)
    dropout_keys = rows.stream("dropout") if model.config.dropout_rate else None
    made = model.forward(params, batch, dropout_keys, gradients=gradients)
    terms = projected_terms(
        made.hidden,
        made.projection.without(objective.never_predicted),
        *batch.selected_targets(model.stack),
        loss=loss,
        z_loss=z_loss,
        count=batch.count,
        devices=devices,
    )
    counts = {
        "clean_rows": jnp.sum(batch.count == 0, dtype=jnp.float32),
        "lost_targets": jnp.sum(batch.unselected(model.stack)) + lost,
    }
    return terms.loss, ((terms, counts), made.peaks)


def _number(batch: Example, stack: str, used: AnyArray | bool = True) -> Float[AnyArray, ""]:
    """How many targets the examples in use have."""
    number = jnp.sum(batch.targets(stack)[1] != 0, axis=-1, dtype=jnp.float32)
    return jnp.sum(jnp.where(used, number, 0))


def _weigh_sequences(batch: Example, stack: str) -> Example:
    """The batch with the weights of each sequence summing to 1."""
    weights = sequence_weights(batch.targets(stack)[1], batch.inputs(stack)[1])
    return dataclasses.replace(batch, **{f"{stack}_loss_weights": weights})


GradientOf = Callable[[Params, Rows], tuple[Params, tuple[Sums, Any]]]


def _scattered(gradient_of: GradientOf, scatter: Callable[[Any], Any]) -> GradientOf:
    def scattered(params: Params, rows: Rows) -> tuple[Params, tuple[Sums, Any]]:
        gradient, aux = gradient_of(params, rows)
        return scatter(gradient), aux

    return scattered


def _accumulate(
    gradient_of: GradientOf, params: Params, rows: Rows, parts: int
) -> tuple[Params, Sums, Any]:
    """Gradient and sums of all rows, micro-batch after micro-batch; of peaks the largest."""

    def one(rows: Rows) -> tuple[Params, Sums, Any]:
        gradient, (sums, peaks) = gradient_of(params, rows)
        return gradient, sums, peaks

    if parts == 1:
        return one(rows)
    number = len(rows.lengths)
    require(number % parts == 0, f"{number} rows cannot be walked in {parts} equal micro-batches")
    # Every parts-th row: so the rows of each device are in all micro-batches, and none is moved.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), rows)

    def add(carry: Any, rows: Rows) -> tuple[Any, None]:
        gradient, sums, peaks = one(rows)
        total = jax.tree.map(jnp.add, carry[:2], (gradient, sums))
        return (*total, jax.tree.map(jnp.maximum, carry[2], peaks)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[:2])
    lowest = jax.tree.map(lambda x: jnp.full(x.shape, -jnp.inf, x.dtype), shapes[2])
    return jax.lax.scan(add, (*zeros, lowest), split)[0]


def make_evaluation(
    objective: Objective, model: Model, *, loss: Loss = cross_entropy
) -> Callable[[Params, Rows], dict[str, LossTerms]]:
    """The sums over held-out rows, text apart from special targets, whatever is selected.

    Sentinels and EOS are easy and would flatter the mean.

    Returns:
      A pure function (params, rows) -> {"text": …, "special": …}, to be jitted.
    """
    is_special = jnp.asarray(objective.vocab.is_special)

    def evaluate(params: Params, rows: Rows) -> dict[str, LossTerms]:
        batch = corrupt(objective, rows)
        targets, weights = batch.targets(model.stack)
        hidden, projection, _ = model.forward(params, batch, everywhere=True)
        projection = projection.without(objective.never_predicted)
        values = projected_values(hidden, projection, targets, loss=loss)
        special = is_special[targets]
        return {
            name: sum_up(values, jnp.where(mask, weights, 0))
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


def summarise(terms: LossTerms, normalisation: str = "tokens", constant: float = 1.0) -> Metrics:
    """The scalars that a person reads: mean loss, accuracy, number of targets."""
    return {
        "loss": mean_loss(terms, normalisation, constant),
        "accuracy": terms.correct / jnp.maximum(terms.targets, 1.0),
        "targets": terms.targets,
    }
