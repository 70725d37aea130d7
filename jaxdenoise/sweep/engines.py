"""Where the jobs of a sweep are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jaxdenoise.errors import unknown
from jaxdenoise.sweep.jobs import Job, do

Engine = Callable[[Sequence[Job]], Iterator[Job]]
"""Does all jobs and yields each when it has ended, well or badly."""


def here(jobs: Sequence[Job]) -> Iterator[Job]:
    """One after another in this process."""
    for job in jobs:
        do(job)
        yield job


ENGINES: dict[str, Engine] = {"here": here}


def find_engine(name: str) -> Engine:
    """An engine by name.

    Raises:
      UserError: there is none of that name.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name]
