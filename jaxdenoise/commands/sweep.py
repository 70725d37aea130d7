"""jaxdenoise sweep CONFIG [--scale NAME] [--engine NAME]: an ablation and its table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxdenoise.ablation import Ablation, config_files, load_ablation
from jaxdenoise.commands.console import make_console
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.errors import unknown
from jaxdenoise.experiment import Experiment, load_experiments
from jaxdenoise.flags import split_flags, take_single
from jaxdenoise.paths import as_path, local_cache
from jaxdenoise.training.run_directory import RUNS

USAGE = """usage: jaxdenoise sweep CONFIG [--scale NAME] [--field value …]

Trains every run of a config, asks all of them the same, and compares them: a table here, a page
in the sweep's folder. The same command continues what was stopped; a run that fails is recorded
and the others go on. `jaxdenoise list` shows the configs, `jaxdenoise list CONFIG` its runs.

  --scale NAME     smoke (it works), mini (two cores), full (one GPU): the config's own overrides
  --engine NAME    here (default), one run after another
  --dir DIR        the sweep's folder (default: runs/CONFIG-SCALE)
  --module NAME    a Python module that registers objectives or experiments of your own

Fields are overridden in every run: --training.steps 100 --seed 0 1 2 3 4
"""
FAILED = 1


def run(args: Sequence[str]) -> int:
    """Runs the sweep; returns the exit status: 1 where a run failed."""
    if not args or args[0].startswith("-") or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if "--help" in args or "-h" in args else 2
    target, *rest = args
    changes = split_flags(rest)
    load_experiments(tuple(changes.pop("module", ())))
    scale, engine = take_single(changes, "scale"), take_single(changes, "engine") or "here"
    directory = take_single(changes, "dir")
    ablation = load_ablation(find_config(target), changes, scale)
    root = as_path(directory) if directory else RUNS / ablation.folder
    return sweep(ablation, root, engine, make_console())


def find_config(target: str) -> Path:
    """A config by name or path.

    Raises:
      UserError: a name that no config has.
    """
    known = config_files()
    if target.endswith(".toml"):
        return Path(target)
    if target not in known:
        raise unknown("config", target, known)
    return known[target]


def sweep(ablation: Ablation, root: Path, engine: str, console: Console) -> int:
    """Does what is left of the sweep in a folder, and compares."""
    keep_compiled_programs()
    from jaxdenoise.comparison.page import write_comparison
    from jaxdenoise.comparison.results import collect
    from jaxdenoise.comparison.table import render
    from jaxdenoise.sweep.engines import find_engine
    from jaxdenoise.sweep.plan import plan_jobs, write_sweep
    from jaxdenoise.sweep.progress import ProgressTable
    from jaxdenoise.training.loop import Interrupted

    do_all = find_engine(engine)  # before anything is prepared
    stores: dict[object, TokenStore] = {}

    def prepared(experiment: Experiment) -> TokenStore:
        if experiment.data not in stores:
            stores[experiment.data] = prepare(experiment.data, console=console)
        return stores[experiment.data]

    jobs = plan_jobs(ablation, root, prepared)
    write_sweep(ablation, jobs, root)
    table = ProgressTable(jobs, console)
    try:
        with table.live():
            for job in do_all([job for job in jobs if job.state() != "done"]):
                table.report(job)
    except (Interrupted, KeyboardInterrupt):
        console.print(table.render())
        console.print(f"page so far: {write_comparison(collect(root), root)}", soft_wrap=True)
        console.print("stopped; the same command goes on from there")
        return 130
    comparison = collect(root)
    console.print(render(comparison, console.width))
    console.print(f"report: {write_comparison(comparison, root)}", soft_wrap=True)
    return FAILED if any(job.state() == "failed" for job in jobs) else 0


def keep_compiled_programs() -> None:
    """Lets runs of one shape share what is compiled, unless the user has said where."""
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        jax.config.update("jax_compilation_cache_dir", str(local_cache() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
