"""What comes of steps that the graph did not apply: written down; then the next one, or the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxdenoise.arrays import Rows
from jaxdenoise.errors import UserError
from jaxdenoise.training import processes
from jaxdenoise.training.run_directory import RunDirectory, write_json
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import Metrics


class BadStep(UserError):  # noqa: N818  # as a user reads it
    """A run ends at a step that could not be applied."""


class BadSteps:
    """The steps of a run that were not applied, each with a file that `jaxdenoise replay` reads.

    Args:
      setup: of the run.
      run: where the files go, `bad/STEP.json`.
      start: updates made; files of later steps belong to work that was lost, and go.
      console: says what was skipped.
    """

    def __init__(self, setup: Setup, run: RunDirectory, start: int, console: Console):
        self._setup, self._run, self._console = setup, run, console
        found = _files(run.bad)
        self.skipped = processes.as_first_says(sum(step <= start for step in found))
        if processes.first():
            for step, path in found.items():
                if step > start:
                    path.unlink(missing_ok=True)

    def take(self, step: int, values: Metrics, newest: int | None) -> dict[str, Any]:
        """Writes a step down; returns its row of the metrics.

        Args:
          step: that was not applied.
          values: its metrics, fetched.
          newest: the step of the newest checkpoint.

        Raises:
          BadStep: the run halts at such steps, or has skipped as many as it may.
        SystemExit: likewise, in the others.
        """
        training = self._setup.experiment.training
        reason = why(values, training.spikes)
        record = {
            "step": step,
            "reason": reason,
            "loss": _shown(values["loss"]),
            "gradient_norm": _shown(values["gradient_norm"]),
            **_identities(self._setup.batches[step - 1]),
        }
        path = self._run.bad / f"{step}.json"
        if processes.first():
            path.parent.mkdir(exist_ok=True)
            write_json(path, record)
        self.skipped += 1
        if training.bad_steps == "skip" and self.skipped <= training.most_skipped:
            self._console.print(
                f"step {step} was not applied: {reason} ({path})", style="yellow", soft_wrap=True
            )
            return {"step": step, "skipped": reason, "skipped_steps": self.skipped}
        if not processes.first():
            raise SystemExit(2)  # the first one says why
        saved = "there is none yet" if newest is None else f"the newest is of step {newest}"
        raise BadStep(
            f"step {step} was not applied: {reason}. Its rows are in {path}; checkpoints are "
            f"intact, {saved}. `jaxdenoise replay {self._run.path} {step}` makes it again; "
            + self._way_out()
        )

    def _way_out(self) -> str:
        training = self._setup.experiment.training
        if training.bad_steps == "halt":
            return (
                "mend the cause in another run, such as optimizer.learning_rate, or go on without "
                "such steps: the same command with --training.bad-steps skip"
            )
        return (
            f"it is number {self.skipped}, and training.most_skipped is {training.most_skipped}: "
            "mend the cause in another run, or allow more"
        )


def why(values: Metrics, spikes: float | None) -> str:
    """What is bad about a step that was not applied.

    Args:
      values: its metrics, fetched.
      spikes: the experiment's limit.
    """
    names = {"loss": "its loss", "gradient_norm": "the norm of its gradient"}
    for field, name in names.items():
        if not np.isfinite(values[field]):
            return f"{name} is {float(values[field])}"
    return (
        f"its loss of {float(values['loss']):.4g} is more than {spikes:g} standard deviations "
        "above the mean of the last ones"
    )


def _identities(rows: Rows) -> dict[str, Any]:
    """Who the examples of a batch are, and the keys of their corruption."""
    alone = jax.device_get(rows.unpacked())
    real = np.asarray(alone.lengths) > 0
    words = np.asarray(jax.random.key_data(alone.keys))[real]
    return {
        "example_ids": np.asarray(alone.example_ids)[real].tolist(),
        "epochs": np.asarray(alone.epochs)[real].tolist(),
        "keys": [bytes(key).hex() for key in words.astype(">u4")],
    }


def _shown(value: Any) -> float | str:
    """As JSON has it, which knows no NaN."""
    return float(value) if np.isfinite(value) else str(float(value))


def _files(folder: Path) -> dict[int, Path]:
    """The records of a run by their steps."""
    if not folder.is_dir():
        return {}
    return {int(p.stem): p for p in folder.iterdir() if p.suffix == ".json" and p.stem.isdecimal()}
