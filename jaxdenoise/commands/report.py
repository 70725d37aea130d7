"""jaxdenoise report RUN… or SWEEP: one self-contained HTML page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from jaxdenoise.commands.console import make_console
from jaxdenoise.errors import require
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.paths import as_path
from jaxdenoise.sweep.jobs import is_sweep
from jaxdenoise.training.run_directory import RunDirectory, check_comparable

USAGE = """usage: jaxdenoise report RUN [RUN …] [--output FILE]
       jaxdenoise report SWEEP [--output FILE]

Writes one HTML page that opens offline: report.html in the run's directory or in the sweep's
folder, for several runs in the working directory.
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
    folders, page = [as_path(path) for path in paths], as_path(output) if output else None
    sweeps = [folder for folder in folders if is_sweep(folder)]
    require(
        len(folders) == 1 or not sweeps,
        f"'{sweeps[0] if sweeps else ''}' is a sweep, which has a page of its own; give it alone, "
        "or the directories of its runs",
    )
    write = _of_sweep if sweeps else _of_runs
    make_console().print(f"report: {write(folders, page)}", soft_wrap=True)
    return 0


def _of_sweep(folders: Sequence[Path], page: Path | None) -> Path:
    from jaxdenoise.comparison.page import write_comparison
    from jaxdenoise.comparison.results import collect

    return write_comparison(collect(folders[0]), folders[0], page)


def _of_runs(folders: Sequence[Path], page: Path | None) -> Path:
    runs = [RunDirectory(folder) for folder in folders]
    check_comparable({run.path.name: run for run in runs})

    from jaxdenoise.report.page import write_report

    page = page or (runs[0].report if len(runs) == 1 else Path("report.html"))
    write_report(folders, page)
    return page
