"""A step of a run made again: the very same state, rows and numbers, to be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxdenoise.arrays import Params, Rows, TrainState
from jaxdenoise.errors import require
from jaxdenoise.losses import projected_values, smoothed_cross_entropy
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.evaluation import chunks_of
from jaxdenoise.training.fingerprint import compare_fingerprints, take_fingerprint
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.parallel import SingleDevice
from jaxdenoise.training.run_directory import RunDirectory, read_json
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import Metrics, Step, corrupt
from jaxdenoise.training.weights import initial_state


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A step, as it was.

    Attributes:
      number: of the step, from 1.
      start: of the checkpoint that it was reached from; 0 for the beginning.
      state: before the step, whole, on the host.
      rows: of the whole batch, on the host.
      step: the pure training step, for one device.
      metrics: what it gave, fetched.
      recorded: the numbers that the run has written of it, by name; those that it has.
    """

    number: int
    start: int
    state: TrainState
    rows: Rows
    step: Step
    metrics: Metrics
    recorded: dict[str, float]

    @property
    def params(self) -> Params:
        """Before the step."""
        return self.state.params

    @property
    def same(self) -> bool:
        """Whether all numbers that were recorded came out again, to the last bit."""
        return all(
            np.array_equal(np.float32(value), np.float32(self.metrics[name]), equal_nan=True)
            for name, value in self.recorded.items()
        )


def replay(setup: Setup, run: RunDirectory, number: int, console: Console) -> Replay:
    """Makes a step again, from the newest checkpoint before it.

    Args:
      setup: of the run, by `build`.
      run: its directory; nothing is written there.
      number: of the step, from 1.
      console: for progress.

    Raises:
      UserError: a step that the run does not have, or data and code that are not the run's.
    """
    steps, backend = setup.experiment.training.steps, setup.backend
    require(1 <= number <= steps, f"STEP is {number}; the run's steps are 1 to {steps}")
    start, state = _state_before(setup, run, number, console)
    batches = setup.batches.only(backend.rows(setup.experiment.training.batch_size))
    with console.status("compiling"):
        state = backend.place(state)
        step = backend.compile(setup.step(), state, backend.split(batches[0]))
    with console.status(f"making steps {start + 1} to {number - 1} again"):
        for done in range(start, number - 1):
            state, _ = step(state, backend.split(batches[done]))
        before = jax.device_get(backend.unplace(state))  # the step is given the other one
        _, values = step(state, backend.split(batches[number - 1]))
        metrics = backend.fetch(values)
    return Replay(
        number=number,
        start=start,
        state=before,
        rows=setup.batches[number - 1],
        step=dataclasses.replace(setup, backend=SingleDevice()).step(),
        metrics=metrics,
        recorded=_recorded(run, number),
    )


def row_losses(setup: Setup, made: Replay) -> Float[np.ndarray, "B"]:
    """The mean loss of each row of a replayed step, without dropout; not finite where it was not.

    As in training the logits are never formed, and the rows are walked in parts.
    """
    training, backend, model = setup.experiment.training, setup.backend, setup.model
    loss = smoothed_cross_entropy(training.label_smoothing)
    progress = (made.number - 1) / training.steps

    def by_row(params: Params, rows: Rows) -> jax.Array:
        batch = corrupt(setup.objective, rows, progress)
        targets, weights = batch.targets(model.stack)
        hidden, projection, _ = model.forward(params, batch, everywhere=True)
        projection = projection.without(setup.objective.never_predicted)
        losses = projected_values(hidden, projection, targets, loss=loss).loss
        losses = jnp.where(weights > 0, losses * weights, 0)
        return jnp.sum(losses, axis=-1) / jnp.maximum(jnp.sum(weights, axis=-1), 1e-9)

    evaluate: Callable[..., Any] = backend.evaluation(by_row)
    like = setup.layout().params
    params = jax.tree.map(lambda x, there: jax.device_put(x, there.sharding), made.params, like)
    mine = backend.rows(training.batch_size)
    chunks = chunks_of(jax.tree.map(lambda x: x[mine], made.rows), backend.parts)
    return np.concatenate([evaluate(params, chunk) for chunk in chunks])[: len(mine)]


def _state_before(
    setup: Setup, run: RunDirectory, number: int, console: Console
) -> tuple[int, TrainState]:
    """The newest intact state that is kept of a step before this one, and its step."""
    if not run.checkpoints.is_dir():
        return 0, initial_state(setup)
    checkpoints = Checkpoints(run.checkpoints, setup.experiment.training.keep_checkpoints)
    try:
        kept = [step for step in checkpoints.steps() if step < number]
        start = next((step for step in reversed(kept) if checkpoints.fault(step) is None), 0)
        if not start:
            return 0, initial_state(setup)
        mine = take_fingerprint(setup.batches, setup.evaluator().corrupted, start)
        compare_fingerprints(checkpoints.fingerprint(start), mine, run.path, start, console)
        return start, checkpoints.restore(setup.layout(), start)
    finally:
        checkpoints.close()


def _recorded(run: RunDirectory, number: int) -> dict[str, float]:
    """Loss and gradient norm as the run has written them, of this step."""
    file = run.bad / f"{number}.json"
    rows = [row for row in read_metrics(run.metrics) if row["step"] == number and "loss" in row]
    found = read_json(file) if file.is_file() else rows[0] if rows else {}
    return {name: float(found[name]) for name in ("loss", "gradient_norm") if name in found}
