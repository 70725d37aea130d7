"""One run of a sweep: train it, ask it what all are asked, and leave both in its directory.

Where a sweep stands is read from these directories alone, so that any engine, any machine and any
later moment sees the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from jaxdenoise.errors import UserError
from jaxdenoise.experiment import from_dict
from jaxdenoise.paths import as_path
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.run_directory import Busy, RunDirectory, read_json, write_json

State = Literal["waiting", "running", "done", "failed"]
ENDED: tuple[State, ...] = ("done", "failed")
SWEEP = "sweep.json"
"""What a sweep is, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of a sweep, as plain data: it may travel to another machine.

    Attributes:
      name: of the run, such as "15%,seed=0".
      arm: what is compared.
      experiment: fully spelled out.
      path: of its directory.
      objectives: by name, under which it is evaluated at the end.
      infill: the objective whose blanks it fills; None for its architecture's own.
      downstream: experiments on pairs by name, as which it is fine-tuned at the end.
      log: loggers that show its metrics too.
    """

    name: str
    arm: str
    experiment: Mapping[str, Any]
    path: str
    objectives: Mapping[str, Mapping[str, Any]]
    infill: Mapping[str, Any] | None = None
    downstream: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunDirectory:
        """Its files."""
        return RunDirectory(as_path(self.path))

    @property
    def measures(self) -> Path:
        """What it was asked at the end."""
        return self.run.path / "measures.json"

    @property
    def failure(self) -> Path:
        """Why it failed."""
        return self.run.failure

    def state(self) -> State:
        """Where it stands."""
        if self.is_measured():
            return "done"
        if self.failure.exists():
            return "failed"
        return "running" if self.run.metrics.exists() else "waiting"

    def is_measured(self) -> bool:
        """Whether it was asked all, and fine-tuned as all that it should be."""
        if not self.measures.exists():
            return False
        return self.downstream.keys() <= read_json(self.measures).get("downstream", {}).keys()

    def progress(self) -> dict[str, Any]:
        """The newest row of its metrics that has a loss; empty before the first."""
        rows = [row for row in read_metrics(self.run.metrics) if "loss" in row]
        return rows[-1] if rows else {}

    def reason(self) -> str:
        """Why it failed, on a line."""
        return read_json(self.failure)["reason"] if self.failure.exists() else ""


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's, and not a run's."""
    return (folder / SWEEP).is_file()


def do(job: Job, console: Console | None = None) -> State:
    """Does a job, or what is left of it; a failure is written down, not raised.

    Raises:
      Interrupted: a signal stopped it; a checkpoint is saved.
      KeyboardInterrupt: likewise, before or after the steps.
      Busy: another program is at it.
    """
    from jaxdenoise.training.loop import Interrupted

    job.failure.unlink(missing_ok=True)
    try:
        _train_and_measure(job, console or Console(quiet=True))
    except (Interrupted, Busy):  # the run goes on, later or elsewhere
        raise
    except Exception as error:  # of any kind: the other runs go on
        fail(job, error)
    return job.state()


def fail(job: Job, error: Exception) -> None:
    """Writes down why a job has failed."""
    named = not isinstance(error, UserError)
    reason = f"{type(error).__name__}: {error}" if named else str(error)
    trace = "".join(traceback.format_exception(error))
    job.run.path.mkdir(parents=True, exist_ok=True)
    write_json(job.failure, {"reason": " ".join(reason.split())[:500], "traceback": trace})


def _train_and_measure(job: Job, console: Console) -> None:
    from jaxdenoise.report.page import write_report
    from jaxdenoise.sweep.downstream import fine_tune
    from jaxdenoise.sweep.measures import costs_of, measure, objective_of
    from jaxdenoise.training.run import final_params, train
    from jaxdenoise.training.setup import build

    if job.is_measured():
        return
    setup = build(from_dict(job.experiment))
    train(setup, job.name, job.run, console, log=job.log)
    objectives = {name: objective_of(plain) for name, plain in job.objectives.items()}
    infill = None if job.infill is None else objective_of(job.infill)
    found = measure(setup, final_params(setup, job.run), objectives, infill)
    write_report([job.run.path], job.run.report)
    downstream = {
        name: fine_tune(job, name, from_dict(plain), console)
        for name, plain in job.downstream.items()
    }
    write_json(job.measures, {**found, "downstream": downstream, "costs": costs_of(setup)})
