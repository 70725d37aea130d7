"""The only loop: batches in; updates, metrics, evaluations and checkpoints out. Interruptible."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxdenoise.arrays import Rows, TrainState
from jaxdenoise.data.rows import iterate
from jaxdenoise.optim import build_schedule
from jaxdenoise.training import processes
from jaxdenoise.training.bad_steps import BadSteps
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.evaluation import Evaluator
from jaxdenoise.training.fingerprint import take_fingerprint
from jaxdenoise.training.metrics_file import MetricsFile
from jaxdenoise.training.profile import profiled
from jaxdenoise.training.progress import ProgressLine
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import Metrics


class Interrupted(Exception):  # noqa: N818  # nothing went wrong
    """A signal stopped the run; a checkpoint of `step` is saved."""

    def __init__(self, step: int):
        super().__init__(f"interrupted at step {step}")
        self.step = step


@dataclass
class Clock:
    """Where the time of a run goes, in seconds.

    Attributes:
      total: the loop with its compilation, evaluations and saving.
      compiling: the step.
      stepping: everything between the first step and the last but evaluations and saving.
      waiting: of that, blocked on the next batch; an upper bound of what it costs, since the
        device may be busy meanwhile.
      source_tokens: tokens of the rows, before corruption and without padding; of several
        processes an estimate from this one's.
      share: rows of a batch by those of them that this process reads.
    """

    total: float = 0.0
    compiling: float = 0.0
    stepping: float = 0.0
    waiting: float = 0.0
    source_tokens: float = 0
    steps: int = 0
    share: float = 1.0
    _mark: float = field(default_factory=time.perf_counter, repr=False)

    def start(self) -> None:
        """Begins an interval."""
        self._mark = time.perf_counter()

    def stop(self) -> float:
        """Ends it; returns its seconds."""
        now = time.perf_counter()
        elapsed, self._mark = now - self._mark, now
        return elapsed

    @property
    def wait_share(self) -> float:
        """Waiting as a share of stepping."""
        return self.waiting / max(self.stepping, 1e-9)


def run_steps(
    setup: Setup,
    checkpoints: Checkpoints,
    metrics: MetricsFile,
    evaluator: Evaluator,
    bad: BadSteps,
    console: Console,
    *,
    start: int,
    state: TrainState,
    profile: tuple[range | None, Path] = (None, Path()),
) -> tuple[TrainState, Clock]:
    """Trains from `start` to the last step.

    Step n is dispatched before the metrics of step n − 1 are fetched, so the device never waits
    for the host's bookkeeping.

    Args:
      setup: from `build`.
      checkpoints: where states are saved.
      metrics: where rows are written.
      evaluator: of held-out rows.
      bad: takes steps that were not applied.
      console: for the progress line.
      start: updates made so far.
      state: of that step, whole.
      profile: steps to trace, and the folder of the trace.

    Returns:
      The final state, whole, and where the time went.

    Raises:
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      BadStep: a step could not be applied, and the run halts at those; no later state is saved.
    """
    training, backend = setup.experiment.training, setup.backend
    batches = setup.batches.only(backend.rows(training.batch_size))
    share = training.batch_size / len(backend.rows(training.batch_size))
    clock, begin = Clock(share=share), time.perf_counter()
    with console.status("compiling"):
        state = backend.place(state)
        step = backend.compile(setup.step(), state, backend.split(batches[0]))
    clock.compiling = clock.stop()
    log = _Log(setup, metrics, checkpoints, bad, clock, console)
    size = setup.store.tokenizer.vocab.size
    reading = {"threads": training.reading_threads, "vocabulary_size": size}
    feed = iterate(batches, start=start, **reading)
    with (
        ProgressLine(console, training.steps) as line,
        _signals() as stop,
        profiled(*profile) as dispatched,
    ):
        dispatched(start, state)
        clock.start()
        for number, rows in enumerate(_timed(feed, clock), start + 1):
            state, values = step(state, backend.split(rows))
            dispatched(number, values)
            log.flush(line)
            log.hold(number, values)
            evaluates = number % training.evaluate_every == 0 and number < training.steps
            saves = number % training.checkpoint_every == 0 or number == training.steps
            stops = stop.agreed(number) and number < training.steps  # once: it may change below
            if evaluates or saves or stops:
                log.flush(line)
                clock.stepping += clock.stop()
                whole = backend.unplace(state)
                if evaluates:
                    held_out = evaluator(whole.params)
                    metrics.append({"step": number, "held_out": held_out})
                    console.print(_evaluation_line(number, held_out), highlight=False)
                if saves or stops:
                    metrics.flush()
                    batches_too = (setup.batches, evaluator.corrupted, number)
                    found = take_fingerprint(*batches_too) if processes.first() else {}
                    checkpoints.save(whole, number, found)
                if stops:
                    raise Interrupted(number)
                clock.start()
    clock.total = time.perf_counter() - begin
    return backend.unplace(state), clock


class _Log:
    """Holds the metrics of a step until the next one is on its way, then writes them.

    Every step is looked at, whether it was applied; most need no more than that.
    """

    def __init__(
        self,
        setup: Setup,
        metrics: MetricsFile,
        checkpoints: Checkpoints,
        bad: BadSteps,
        clock: Clock,
        console: Console,
    ):
        self._setup, self._metrics, self._clock = setup, metrics, clock
        self._checkpoints, self._bad = checkpoints, bad
        self._console, self._warned = console, False
        optimizer, training = setup.experiment.optimizer, setup.experiment.training
        schedule = build_schedule(optimizer, training.steps)
        # All at once and beforehand: on the device each would wait for the step under way.
        self._rates = np.asarray(jax.vmap(schedule)(np.arange(training.steps)))
        self._held: tuple[int, Metrics] | None = None
        self._before = (0.0, 0.0, 0.0)

    def hold(self, number: int, values: Metrics) -> None:
        self._held = number, values

    def flush(self, line: ProgressLine) -> None:
        """Writes the held row, if there is one to be written, and redraws the line.

        Raises:
          BadStep: the step was not applied, and the run halts at those.
        """
        if self._held is None:
            return
        number, values = self._held
        self._held = None
        training, backend = self._setup.experiment.training, self._setup.backend
        good = bool(backend.fetch(values.pop("good")))  # waits for the step
        if not good:
            self._metrics.flush()  # it may end here
            newest = self._checkpoints.latest()
            self._metrics.append(self._bad.take(number, backend.fetch(values), newest))
            return
        if number % training.log_every and number != training.steps:
            return
        values = backend.fetch(values)
        self._warn(number, values)
        clock = self._clock
        clock.stepping += clock.stop()
        now = (clock.stepping, clock.waiting, clock.source_tokens)
        seconds, waited, tokens = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        speed = {
            "tokens_per_second": round(tokens / max(seconds, 1e-9)),
            "data_wait": round(waited / max(seconds, 1e-9), 5),
        }
        skipped = self._bad.skipped  # for the optimizer they have not been
        rate = {"learning_rate": float(self._rates[number - 1 - skipped])}
        self._metrics.append({"step": number, **values, **rate, **speed, "skipped_steps": skipped})
        left = training.steps - number
        seconds_left = left * clock.stepping / max(clock.steps, 1)
        line.update(
            number,
            float(values["loss"]),
            speed["tokens_per_second"],
            seconds_left,
            clock.wait_share,
        )

    def _warn(self, number: int, values: Metrics) -> None:
        """Says once that targets are lost; how many is in every row of the metrics."""
        if self._warned or not values["lost_targets"]:
            return
        self._warned = True
        name = self._setup.objective.name
        self._console.print(
            f"step {number}: {values['lost_targets']:.0f} targets were lost, beside "
            f"{values['targets']:.0f}: objective {name} selects fewer positions than it predicts "
            "(lost_targets in metrics.jsonl)",
            style="yellow",
        )


class _Stop:
    """Set by the first signal; a second one stops at once."""

    requested = False

    def agreed(self, step: int) -> bool:
        """Whether the run stops behind this step; of several processes all, if one was told to."""
        return processes.stop_agreed(step) if processes.joined() else self.requested


_running: list[_Stop] = []


def request_stop() -> bool:
    """Asks the loop of this process to stop behind its step, as a signal does; False if none is."""
    for stop in _running:
        stop.requested = True
    return bool(_running)


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
    """Turns SIGINT and SIGTERM into a request, while inside.

    Of several processes JAX itself listens to SIGTERM, and tells the others.
    """
    stop, together = _Stop(), processes.joined()

    def request(number: int, frame: Any) -> None:
        del frame
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.requested = True
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    caught = (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, request) for number in caught}
    _running.append(stop)
    try:
        yield stop
    finally:
        _running.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)


def _timed(feed: Iterator[Rows], clock: Clock) -> Iterator[Rows]:
    """Passes batches on and adds up how long each was waited for."""
    while True:
        begin = time.perf_counter()
        rows = next(feed, None)
        clock.waiting += time.perf_counter() - begin
        if rows is None:
            return
        clock.steps += 1
        clock.source_tokens += clock.share * int(rows.lengths.sum())
        yield rows


def _evaluation_line(step: int, held_out: dict[str, float]) -> str:
    return (
        f"step {step}: held-out text loss {held_out['text_loss']:.3f} nats, "
        f"{held_out['bits_per_byte']:.3f} bits per byte"
    )
