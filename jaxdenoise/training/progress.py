"""The live line of a run: step, loss, tokens a second, time to go, share of time waiting."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY = 15.0  # seconds between lines where the output is no terminal


class ProgressLine:
    """One line that is redrawn in a terminal; a line now and then in a file.

    Args:
      console: where to print.
      last: the step to end at.
    """

    def __init__(self, console: Console, last: int):
        self._console, self._last = console, last
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._printed = time.monotonic()

    def __enter__(self) -> ProgressLine:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(
        self, step: int, loss: float, tokens_per_second: float, seconds_left: float, wait: float
    ) -> None:
        """Redraws the line.

        Args:
          step: updates made.
          loss: of the last one, in nats.
          tokens_per_second: source tokens.
          seconds_left: to the last step, at the present speed.
          wait: share of the time spent waiting for data.
        """
        minutes, seconds = divmod(int(seconds_left), 60)
        line = Text(
            f"step {step:>{len(str(self._last))}}/{self._last}  loss {loss:.3f}  "
            f"{tokens_per_second:,.0f} tokens/s  ETA {minutes}:{seconds:02}  wait {wait:.1%}",
            overflow="ellipsis",
            no_wrap=True,
        )
        if self._console.is_terminal:
            self._live.update(line, refresh=True)
        elif time.monotonic() - self._printed > PLAIN_EVERY:
            self._printed = time.monotonic()
            self._console.print(line)
