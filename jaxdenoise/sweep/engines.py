"""Where the jobs of a sweep are done: engines by name, with their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxdenoise.errors import unknown
from jaxdenoise.experiment import Experiment
from jaxdenoise.flags import parse_flags, to_flags
from jaxdenoise.sweep.jobs import Job, do
from jaxdenoise.sweep.on_processes import Local
from jaxdenoise.sweep.on_ray import Ray
from jaxdenoise.sweep.on_slurm import Slurm
from jaxdenoise.sweep.worker import Task


class Engine(Protocol):
    """Does jobs; a frozen dataclass of its options, which are checked when it is built."""

    @property
    def devices(self) -> int:
        """Accelerators of a job."""
        ...

    def begin(self) -> None:
        """Called before anything is prepared and any thread of JAX's is there.

        Raises:
          UserError: it cannot be had here.
        """

    def __call__(self, tasks: Sequence[Task]) -> Generator[Job, None, None]:
        """Does all and yields the job of each when it has ended, well or badly.

        When it is closed or interrupted, the jobs that run are stopped, and save a checkpoint.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Here:
    """One after another in this process."""

    @property
    def devices(self) -> int:
        """All that there are."""
        return 0

    def begin(self) -> None:
        """Needs nothing."""

    def __call__(self, tasks: Sequence[Task]) -> Generator[Job, None, None]:
        """Does all."""
        for task in tasks:
            do(task.job)
            yield task.job


ENGINES: dict[str, type] = {"here": Here, "local": Local, "ray": Ray, "slurm": Slurm}
SWITCHES = ("--submit-only",)  # may stand alone


def take_engine(name: str, flags: dict[str, list[str]]) -> Engine:
    """Takes the options of an engine out of `flags`; what is left are fields of experiments.

    Raises:
      UserError: no engine of that name, an option that it does not have, or one out of range.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    options = [field.name for field in dataclasses.fields(ENGINES[name])]
    chosen = {option: flags.pop(option) for option in options if option in flags}
    sections = [field.name for field in dataclasses.fields(Experiment)]
    for flag in flags:
        if flag.partition(".")[0] not in sections:
            raise unknown(f"option of sweep --engine {name}", flag, options)
    engine: Any = parse_flags(ENGINES[name](), to_flags(chosen))
    return engine
