"""jaxdenoise sweep CONFIG [--scale NAME] [--engine NAME]: an ablation and its table."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from jaxdenoise.ablation import Ablation, find_config, load_ablation
from jaxdenoise.commands.console import make_console
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.experiment import Experiment, load_experiments
from jaxdenoise.flags import spell_out, split_flags, take_single
from jaxdenoise.paths import as_path
from jaxdenoise.sweep.engines import SWITCHES, Engine, take_engine
from jaxdenoise.sweep.jobs import ENDED
from jaxdenoise.sweep.worker import keep_compiled_programs, make_tasks
from jaxdenoise.training import loggers
from jaxdenoise.training.run_directory import RUNS

USAGE = """usage: jaxdenoise sweep CONFIG [--scale NAME] [--field value …]

Trains every run of a config, asks all of them the same, and compares them: a table here, a page
in the sweep's folder. The same command continues what was stopped; a run that fails is recorded
and the others go on. `jaxdenoise list` shows the configs, `jaxdenoise list CONFIG` its runs.

  --scale NAME     smoke (it works), mini (two cores), full (one GPU): the config's own overrides
  --dir DIR        the sweep's folder (default: runs/CONFIG-SCALE)
  --log NAME       tensorboard or wandb, where the rows of each run's metrics.jsonl go too
                   (not those of its fine-tuning)
  --module NAME    a Python module that registers objectives or experiments of your own
  --engine NAME    where the runs are done:
    here           one after another in this process (default)
    local          in processes of this machine, one a GPU
                   [--parallel N] [--cpus-per-job N] [--gpus-per-job N]
    ray            on the cluster of RAY_ADDRESS, or on this machine (jaxdenoise[ray])
                   [--cpus-per-job N] [--gpus-per-job N]
    slurm          in a job array, queued again when its time is up (jaxdenoise[slurm])
                   [--partition P] [--account A] [--time 24:00:00] [--cpus-per-job N]
                   [--gpus-per-job 1] [--parallel N] [--sbatch OPTION …] [--setup LINE]
                   [--submit-only]

Fields are overridden in every run: --training.steps 100 --seed 0 1 2 3 4
"""
FAILED, STOPPED = 1, 130


def run(args: Sequence[str]) -> int:
    """Runs the sweep; returns the exit status: 1 where a run failed."""
    if not args or args[0].startswith("-") or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if "--help" in args or "-h" in args else 2
    target, *rest = args
    changes = split_flags(spell_out(rest, SWITCHES))
    modules = tuple(changes.pop("module", ()))
    log = loggers.check_names(changes.pop("log", ()))
    load_experiments(modules)
    scale, name = take_single(changes, "scale"), take_single(changes, "engine") or "here"
    directory = take_single(changes, "dir")
    path, engine = find_config(target), take_engine(name, changes)
    ablation = load_ablation(path, changes, scale)
    engine.begin()
    root = as_path(directory) if directory else RUNS / ablation.folder
    loggers.check_loggers(log, str(root))
    return sweep(ablation, root, engine, make_console(), modules, log)


def sweep(
    ablation: Ablation,
    root: Path,
    engine: Engine,
    console: Console,
    modules: Sequence[str] = (),
    log: Sequence[str] = (),
) -> int:
    """Does what is left of the sweep in a folder, and compares."""
    if engine.devices:
        stay_off_accelerators(engine.devices)
    keep_compiled_programs()
    from jaxdenoise.comparison.page import write_comparison
    from jaxdenoise.comparison.results import check_measure, collect
    from jaxdenoise.comparison.table import render
    from jaxdenoise.sweep.jobs import SWEEP
    from jaxdenoise.sweep.plan import plan_jobs, write_sweep
    from jaxdenoise.sweep.progress import ProgressTable
    from jaxdenoise.training.loop import Interrupted

    stores: dict[object, TokenStore] = {}

    def prepared(experiment: Experiment) -> TokenStore:
        if experiment.data not in stores:
            stores[experiment.data] = prepare(experiment.data, console=console)
        return stores[experiment.data]

    jobs = plan_jobs(ablation, root, prepared, log)
    check_measure(ablation.measure, jobs)
    write_sweep(ablation, jobs, root)
    left = [job for job in jobs if job.state() != "done"]
    table = ProgressTable(jobs, console)
    try:
        ended = engine(make_tasks(left, root / SWEEP, modules))
        with sigterm_as_sigint(), table.live(), contextlib.closing(ended):
            for job in ended:
                table.report(job)
    except (Interrupted, KeyboardInterrupt):
        console.print(table.render())
        console.print(f"page so far: {write_comparison(collect(root), root)}", soft_wrap=True)
        console.print("stopped; the same command goes on from there")
        return STOPPED
    if any(job.state() not in ENDED for job in jobs):
        console.print(table.render())
        console.print("left to the cluster; the same command without --submit-only waits for it")
        return 0
    comparison = collect(root)
    console.print(render(comparison, console.width))
    console.print(f"report: {write_comparison(comparison, root)}", soft_wrap=True)
    return FAILED if any(job.state() == "failed" for job in jobs) else 0


def stay_off_accelerators(devices: int) -> None:
    """Keeps them for the workers; here runs are only planned, for as many devices as they have."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Ends what is inside by `KeyboardInterrupt` on SIGTERM, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
