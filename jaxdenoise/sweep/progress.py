"""The table of a sweep while it runs, read from the directories of its runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jaxdenoise.sweep.jobs import Job, State

STYLES: dict[State, str] = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "red"}
REFRESH = 1.0  # seconds
PLAIN_EVERY = 60.0  # seconds between lines where the output is no terminal


class ProgressTable:
    """One line a run: its state, step, loss; redrawn in a terminal, else a line at each change.

    Args:
      jobs: in order.
      console: where to print.
    """

    def __init__(self, jobs: Sequence[Job], console: Console):
        self._jobs, self._console = jobs, console
        self._begun = time.monotonic()
        self._already = sum(job.state() == "done" for job in jobs)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Redraws the table until the block ends; in a file nothing is drawn."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=1 / REFRESH,
            transient=True,
        ):
            yield

    def report(self, job: Job) -> None:
        """A line for a run that has ended, where the table is not redrawn."""
        if not self._console.is_terminal or job.state() == "failed":
            done = sum(other.state() in ("done", "failed") for other in self._jobs)
            self._console.print(f"{done}/{len(self._jobs)} {_line(job)}")

    def render(self) -> RenderableType:
        """The table as it is now; of many runs those around the one that is running."""
        states: list[State] = [job.state() for job in self._jobs]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("run", overflow="fold")
        table.add_column("", no_wrap=True)
        for name in ("step", "loss", "tokens/s"):
            table.add_column(name, justify="right", no_wrap=True)
        room = max(self._console.height - 4, 3)
        first = next((n for n, state in enumerate(states) if state in ("running", "waiting")), 0)
        begin = max(min(first - room // 3, len(states) - room), 0)
        shown = list(zip(self._jobs, states, strict=True))[begin : begin + room]
        for job, state in shown:
            row = job.progress() if state != "waiting" else {}
            steps = job.experiment["training"]["steps"]
            table.add_row(
                job.name,
                Text(state, STYLES[state]),
                f"{row['step']}/{steps}" if row else "",
                f"{row['loss']:.3f}" if row else "",
                f"{row['tokens_per_second']:,.0f}" if row else "",
            )
        return Group(table, self._summary(states))

    def _summary(self, states: Sequence[State]) -> Text:
        done = states.count("done")
        line = f"{done} of {len(states)} done"
        if states.count("failed"):
            line += f", {states.count('failed')} failed"
        seconds = time.monotonic() - self._begun
        now = done - self._already
        if now and done < len(states):
            left = seconds / now * (len(states) - done - states.count("failed"))
            line += f", about {_minutes(left)} to go"
        return Text(line, "bold")


def _line(job: Job) -> str:
    if job.state() == "failed":
        return f"{job.name} failed: {job.reason()}"
    row = job.progress()
    return f"{job.name} {job.state()}" + (f", loss {row['loss']:.3f}" if row else "")


def _minutes(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02} hours" if hours else f"{minutes} minutes"
