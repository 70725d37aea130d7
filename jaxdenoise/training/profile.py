"""A trace of some steps, for XProf, TensorBoard or Perfetto."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


@contextlib.contextmanager
def profiled(steps: range | None, folder: Path) -> Iterator[Callable[[int, Any], None]]:
    """Traces steps into a folder.

    Args:
      steps: counted from 1; None for none.
      folder: where JAX writes `plugins/profile/…`.

    Yields:
      A function, to be called with each step's number and its results when it has been dispatched,
      and with the number before the first one. It waits for the results where a trace begins and
      ends, so that those steps and no others are in it.
    """
    running, traced = False, steps is None

    def dispatched(number: int, results: Any) -> None:
        nonlocal running, traced
        if steps is None or traced:
            return
        if not running and number + 1 in steps:  # later than the first, where a run goes on
            jax.block_until_ready(results)
            jax.profiler.start_trace(folder)
            running = True
        if running and number + 1 == steps.stop:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            running, traced = False, True

    try:
        yield dispatched
    finally:
        if running:
            jax.profiler.stop_trace()
