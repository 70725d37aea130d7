"""jaxdenoise train EXPERIMENT [--field value …] [--run-dir DIR] [--module NAME]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from jaxdenoise.ablation import config_files
from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_results import print_results
from jaxdenoise.data.stand_in import vocabulary_of
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.experiment import (
    Experiment,
    experiments,
    flatten,
    load_experiments,
    override,
    to_dict,
)
from jaxdenoise.flags import parse_flags, split_flags, take_single
from jaxdenoise.paths import as_path
from jaxdenoise.training import loggers, processes
from jaxdenoise.training.run_directory import RunDirectory, default_directory, started_from

USAGE = """usage: jaxdenoise train EXPERIMENT [--field value …]

Trains an experiment; the same command continues what was stopped.
`jaxdenoise list` shows the names, `jaxdenoise train EXPERIMENT --help` the fields.

  --run-dir DIR    where the run goes (default: runs/NAME-HASH8)
  --init-from RUN  start from the parameters of a run, trained or imported, with its model and its
                   tokenizer
  --module NAME    a Python module that registers experiments of your own; may be repeated names
  --log NAME       show the metrics in tensorboard or wandb too (pip install 'jaxdenoise[log]');
                   may be repeated
  --profile A:B    write a trace of steps A to B - 1 for XProf into the run directory

Several processes, each started with the same command (`jaxdenoise launch` does it for you):

  --processes auto            ask the cluster: SLURM, a TPU pod, GKE, Open MPI
  --processes N --process I --coordinator HOST:PORT
                              this is number I, process 0 listens at HOST:PORT
  --patience SECONDS          how long to wait for the others (default: 300)
"""
MEMBERSHIP = ("processes", "process", "coordinator", "patience")


def run(args: Sequence[str]) -> int:
    """Trains; returns the exit status."""
    if not args or args[0].startswith("-"):
        print(USAGE)
        return 0 if "--help" in args or "-h" in args else 2
    target, *rest = args
    asks_help = "--help" in rest or "-h" in rest
    changes = split_flags([arg for arg in rest if arg not in ("--help", "-h")])
    load_experiments(tuple(changes.pop("module", ())))
    log = loggers.check_names(changes.pop("log", ()))
    directory, source = take_single(changes, "run_dir"), take_single(changes, "init_from")
    member = _membership(changes)
    traced = take_single(changes, "profile")
    console = make_console()
    _check_target(target)
    experiment = experiments[target]()
    if asks_help:
        print(experiments[target].__doc__)
        parse_flags(experiment, ["--help"], program=f"jaxdenoise train {target}")
    if source is not None:
        experiment = started_from(experiment, source)
    experiment = override(experiment, changes)
    profile = None if traced is None else traced_steps(traced, experiment.training.steps)
    place = RunDirectory(as_path(directory)) if directory else default_directory(target, experiment)
    if member is not None:
        processes.join(member, as_path(f"{place.path}.arrived"))
        processes.agree({**flatten(to_dict(experiment)), "run_dir": str(place.path)})
        console.quiet = not processes.first()
    results = train_one(target, experiment, place, console, profile, log)
    return 130 if results is None else 0


def train_one(
    name: str,
    experiment: Experiment,
    place: RunDirectory,
    console: Console,
    profile: range | None = None,
    log: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Trains one experiment and writes its report; None if it was interrupted.

    What needs no arrays comes first, so that a mistake shows before JAX is loaded; then what needs
    no text, before minutes of tokenising.
    """
    processes.first_alone(lambda: place.check(experiment))
    processes.first_alone(lambda: loggers.check_loggers(log, str(place.path)))

    from jaxdenoise.report.page import write_report
    from jaxdenoise.training.loop import Interrupted
    from jaxdenoise.training.run import train
    from jaxdenoise.training.setup import build, plan

    processes.alike(lambda: plan(experiment, vocabulary_of(experiment.data)))
    store = processes.first_before_others(lambda: prepare(experiment.data, console=console))
    if skipped := store.manifest["bad_records"]:
        console.print(f"skipped {len(skipped)} bad records, first: {skipped[0]}", style="yellow")
    processes.agree({"the token store": store.identity})
    processes.first_alone(lambda: place.check(experiment, store.manifest))
    setup = processes.alike(lambda: build(experiment, store))
    try:
        results = train(setup, name, place, console, profile=profile, log=log)
    except Interrupted as stop:
        console.print(
            f"stopped at step {stop.step} of {experiment.training.steps}; the checkpoint is saved, "
            "and the same command goes on from there"
        )
        return None
    processes.first_alone(lambda: write_report([place.path], place.report))
    if not processes.first():
        return results
    print_results(results, console)
    console.print(f"report: {place.report}", soft_wrap=True)
    return results


def traced_steps(text: str, last: int) -> range:
    """The steps of `A:B`: A to B − 1, counted from 1.

    Raises:
      UserError: something else, or steps that the run does not have.

    Example:
      >>> traced_steps("10:15", last=100)
      range(10, 15)
    """
    begin, _, end = text.partition(":")
    if not (begin.isdecimal() and end.isdecimal()):
        raise UserError(f"--profile is '{text}'; give two steps, such as 10:15 for 10 to 14")
    steps = range(int(begin), int(end))
    require(
        len(steps) > 0 and steps[0] >= 1 and steps[-1] <= last,
        f"--profile is '{text}'; the run has steps 1 to {last} (training.steps): give A:B with "
        f"1 ≤ A < B ≤ {last + 1}",
    )
    return steps


def _membership(changes: dict[str, Any]) -> processes.Membership | None:
    """Of this process among several; None if it is alone."""
    number, *others = (take_single(changes, name) for name in MEMBERSHIP)
    if number is None:
        given = [name for name, value in zip(MEMBERSHIP[1:], others, strict=True) if value]
        require(not given, f"--{' and --'.join(given)} need --processes; give it too")
        return None
    return processes.Membership.of(number, *others)


def _check_target(target: str) -> None:
    """Raises `UserError` unless the target is an experiment; a config is for `sweep`."""
    configs = config_files()
    require(
        not target.endswith(".toml") and target not in configs,
        f"{target} is a config of several runs; say `jaxdenoise sweep {target}`",
    )
    if target not in experiments:
        raise unknown("experiment", target, experiments.names())
