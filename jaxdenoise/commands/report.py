"""jaxdenoise report RUN…: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxdenoise.errors import require
from jaxdenoise.flags import split_flags
from jaxdenoise.training.run_directory import open_run

USAGE = """usage: jaxdenoise report RUN [RUN …] [--output FILE]

Writes one HTML page that opens offline: report.html in the run's directory, or for several runs
in the working directory.
"""


def run(args: Sequence[str]) -> int:
    """Writes the page and prints where it is."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    paths = [arg for arg in args if not arg.startswith("--")]
    output = None
    if "--output" in args:
        place = args.index("--output")
        paths = list(args[:place])
        values = split_flags(args[place:])["output"]
        require(len(values) == 1, "--output takes one file")
        output = Path(values[0])
    require(bool(paths), "give at least one run's directory")
    runs = [open_run(path)[0] for path in paths]

    from jaxdenoise.report.page import write_report

    page = output or (runs[0].report if len(runs) == 1 else Path("report.html"))
    write_report([run.path for run in runs], page)
    Console(highlight=False).print(f"report: {page}", soft_wrap=True)
    return 0
