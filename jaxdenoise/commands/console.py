"""The console of every command."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class QuietlyClosed(Console):
    """When the reader of a pipe has gone, nothing more is said, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Called by Rich, whose own way is to exit with status 1."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_console() -> Console:
    """Text is printed as it is: a user's brackets are no markup.

    A notebook's shell cells get colours but no live line, whose every redrawing would stay there.
    """
    if "JPY_PARENT_PID" not in os.environ:
        return QuietlyClosed(highlight=False, markup=False)
    return QuietlyClosed(
        highlight=False, markup=False, force_terminal=False, color_system="standard"
    )
