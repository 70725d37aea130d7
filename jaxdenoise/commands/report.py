"""jaxdenoise report RUN…: one self-contained HTML page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from jaxdenoise.commands.console import make_console
from jaxdenoise.errors import require
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.paths import as_path
from jaxdenoise.training.run_directory import RunDirectory

USAGE = """usage: jaxdenoise report RUN [RUN …] [--output FILE]

Writes one HTML page that opens offline: report.html in the run's directory, or for several runs
in the working directory.
"""


def run(args: Sequence[str]) -> int:
    """Writes the page and prints where it is."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    paths = list(itertools.takewhile(lambda arg: not arg.startswith("--"), args))
    flags = split_flags(args[len(paths) :])
    output = take_single(flags, "output")
    refuse_others(flags, "report", ["output"])
    require(bool(paths), "give at least one run's directory, before any flag")
    runs = [RunDirectory(as_path(path)) for path in paths]
    for run in runs:
        run.saved()

    from jaxdenoise.report.page import write_report

    usual = runs[0].report if len(runs) == 1 else Path("report.html")
    page = as_path(output) if output else usual
    write_report([run.path for run in runs], page)
    make_console().print(f"report: {page}", soft_wrap=True)
    return 0
