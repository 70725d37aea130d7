"""A step of a run made again: the very same state, rows and numbers, to be looked at."""

from __future__ import annotations

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
from jaxdenoise.losses import smoothed_cross_entropy
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.fingerprint import check_fingerprint
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.run_directory import RunDirectory, read_json
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import Metrics, Step, corrupt, token_losses
from jaxdenoise.training.weights import initial_state


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A step, as it was.

    Attributes:
      number: of the step, from 1.
      start: of the checkpoint that it was reached from; 0 for the beginning.
      state: before the step, where the backend has it.
      rows: of the whole batch, on the host.
      step: the pure training step.
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
        before = jax.tree.map(jnp.copy, backend.unplace(state))  # the step is given the other one
        _, values = step(state, backend.split(batches[number - 1]))
        metrics = backend.fetch(values)
    return Replay(
        number=number,
        start=start,
        state=before,
        rows=setup.batches[number - 1],
        step=setup.step(),
        metrics=metrics,
        recorded=_recorded(run, number),
    )


def row_losses(setup: Setup, made: Replay) -> Float[np.ndarray, "B"]:
    """The mean loss of each row of a replayed step, without dropout; NaN where it is not finite."""
    training, backend = setup.experiment.training, setup.backend
    loss = smoothed_cross_entropy(training.label_smoothing)
    progress = (made.number - 1) / training.steps

    def by_row(params: Params, rows: Rows) -> jax.Array:
        batch = corrupt(setup.objective, rows, progress)
        weights = batch.targets(setup.model.stack)[1]
        losses = token_losses(setup.model, params, batch, loss)
        return jnp.sum(losses * weights, axis=-1) / jnp.maximum(jnp.sum(weights, axis=-1), 1e-9)

    evaluate: Callable[..., Any] = backend.evaluation(by_row)
    mine = backend.rows(training.batch_size)
    return np.asarray(evaluate(made.state.params, jax.tree.map(lambda x: x[mine], made.rows)))


def _state_before(
    setup: Setup, run: RunDirectory, number: int, console: Console
) -> tuple[int, TrainState]:
    """The newest state that is kept of a step before this one, and its step."""
    if not run.checkpoints.is_dir():
        return 0, initial_state(setup)
    checkpoints = Checkpoints(run.checkpoints, setup.experiment.training.keep_checkpoints)
    try:
        start = max((step for step in checkpoints.steps() if step < number), default=0)
        if not start:
            return 0, initial_state(setup)
        corrupted = setup.evaluator().corrupted
        check_fingerprint(checkpoints, setup.batches, corrupted, run.path, start, console)
        return start, checkpoints.restore(setup.layout(), start)
    finally:
        checkpoints.close()


def _recorded(run: RunDirectory, number: int) -> dict[str, float]:
    """Loss and gradient norm as the run has written them, of this step."""
    file = run.bad / f"{number}.json"
    rows = [row for row in read_metrics(run.metrics) if row["step"] == number and "loss" in row]
    found = read_json(file) if file.is_file() else rows[0] if rows else {}
    return {name: float(found[name]) for name in ("loss", "gradient_norm") if name in found}
