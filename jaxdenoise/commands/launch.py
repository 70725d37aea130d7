"""jaxdenoise launch EXPERIMENT --on PLACE [--option value …] [--field value …]."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxdenoise.data.corpora import corpora
from jaxdenoise.data.huggingface import SCHEME as HF
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.experiment import Experiment, experiments, load_experiments, override
from jaxdenoise.flags import parse_flags, spell_out, split_flags, take_single, to_flags
from jaxdenoise.launch import scripts
from jaxdenoise.launch.places import Elsewhere, Gke, Local, Slurm, Tpu
from jaxdenoise.launch.scripts import Job
from jaxdenoise.launch.together import on_this_machine
from jaxdenoise.training import loggers
from jaxdenoise.training.run_directory import RunDirectory, default_directory

USAGE = """usage: jaxdenoise launch EXPERIMENT --on PLACE [--option value …] [--field value …]

Trains an experiment in many processes. The places:

  local   this machine: CPU devices of several processes, over loopback
          --processes 2 --devices-per-process 2 [--port N] [--patience SECONDS]
  slurm   a script for sbatch, which queues itself again until the run has ended
          --nodes 2 --gpus-per-node 8 --time 24:00:00 [--partition P] [--account A]
  tpu     gcloud: a slice of Cloud TPU machines, created again when it was preempted
          --topology v5e:16x16 --zone Z --run-dir gs://… [--spot]
  gke     XPK: slices in a Kubernetes cluster
          --cluster C --topology v5e:16x16 --slices 2 --zone Z --run-dir gs://…

The script is printed; --write FILE writes it, --run runs it. `jaxdenoise launch --on PLACE --help`
shows all options, `jaxdenoise train EXPERIMENT --help` the fields.
"""
PLACES: dict[str, type] = {"local": Local, "slurm": Slurm, "tpu": Tpu, "gke": Gke}
# What makes the script, and the program that it is for.
MAKERS: dict[str, tuple[Callable[[Job, Any], str], str]] = {
    "slurm": (scripts.slurm_script, "sbatch"),
    "tpu": (scripts.tpu_script, "gcloud"),
    "gke": (scripts.gke_script, "xpk"),
}
SWITCHES = ("--run", "--spot", "--create-cluster")  # may stand alone
TRAIN = (
    "run_dir",
    "module",
    "log",
    "profile",
    "patience",
)  # options of jaxdenoise train that are no fields


def run(args: Sequence[str]) -> int:
    """Trains here, or makes a script; returns the exit status."""
    asks_help = "--help" in args or "-h" in args
    given = spell_out([arg for arg in args if arg not in ("--help", "-h")], SWITCHES)
    name = given.pop(0) if given and not given[0].startswith("-") else None
    flags = split_flags(given)
    on = take_single(flags, "on")
    if on is not None and on not in PLACES:
        raise unknown("place", on, PLACES)
    if asks_help and on is not None:
        parse_flags(PLACES[on](), ["--help"], program=f"jaxdenoise launch EXPERIMENT --on {on}")
    if asks_help or name is None:
        print(USAGE)
        return 0 if asks_help else 2
    if on is None:
        raise UserError(f"--on is missing; give one of {', '.join(PLACES)}")
    modules = flags.get("module", [])
    load_experiments(tuple(modules))
    place = _take_place(on, flags)
    job, experiment = _check_job(name, flags)
    if isinstance(place, Local | Slurm) and "://" not in job.run_dir:
        RunDirectory(Path(job.run_dir)).check(experiment)
    if isinstance(place, Local):
        experiment.training.check_devices(place.devices, place.processes)
        return on_this_machine(job.train()[1:], place)
    maker, program = MAKERS[on]
    script = maker(job, place)
    experiment.training.check_devices(place.devices, place.devices)
    if isinstance(place, Tpu | Gke):
        loggers.check_place(flags.get("log", ()), job.run_dir, dict(place.variables))
        _check_reach(experiment, [experiments[name].__module__, *modules], place)
    return _deliver(script, place, program)


def _check_job(name: str, flags: dict[str, list[str]]) -> tuple[Job, Experiment]:
    """What is trained, checked as `jaxdenoise train` does, so that a mistake shows here."""
    loggers.check_names(flags.get("log", ()))
    fields = {field: values for field, values in flags.items() if field not in TRAIN}
    experiment = override(experiments[name](), fields)
    default = default_directory(name, experiment).path
    run_dir = take_single(flags, "run_dir") or str(default)
    job = Job(experiment=name, flags=tuple(to_flags(flags)), run_dir=run_dir, name=default.name)
    return job, experiment


def _take_place(on: str, flags: dict[str, list[str]]) -> Local | Elsewhere:
    """Takes the options of a place out of `flags`; what is left are fields of the experiment."""
    options = [field.name for field in dataclasses.fields(PLACES[on])]
    chosen = {name: flags.pop(name) for name in options if name in flags}
    sections = [field.name for field in dataclasses.fields(Experiment)]
    known = [*options, *TRAIN]
    for name in flags:
        if name.partition(".")[0] not in sections and name not in known:
            raise unknown(f"option of launch --on {on}", name, known)
    return parse_flags(PLACES[on](), to_flags(chosen))


def _check_reach(experiment: Experiment, modules: Sequence[str], place: Tpu | Gke) -> None:
    """Raises `UserError` if the machines would miss what this one has."""
    data = experiment.data
    members = [name for name, _ in data.mixture if name not in corpora and not name.startswith(HF)]
    for path in [*data.files, *members, *filter(None, [data.tokenizer])]:
        require(
            "://" in path or Path(path).is_absolute(),
            f"'{path}' is a file of this machine, which the others do not have; give an address, "
            "such as gs://…",
        )
    complete = len(place.package) > 1 or (isinstance(place, Gke) and place.image is not None)
    for module in modules:
        if not module.startswith("jaxdenoise.") and not complete:
            raise UserError(
                f"module {module} is of this machine, and the others do not have it; make a wheel "
                f"of it, and give it with --package {' '.join(place.package)} YOURS.whl"
            )


def _deliver(script: str, place: Elsewhere, program: str) -> int:
    """Prints a script, or writes and runs it; returns the exit status."""
    if place.run and shutil.which(program) is None:
        raise UserError(
            f"{program} is not on this machine; leave out --run, and run the script where it is"
        )
    if place.write is not None:
        path = Path(place.write)
        path.write_text(script, "utf-8")
        path.chmod(0o755)
        print(f"written: {path}")
    elif not place.run:
        print(script, end="")
    if not place.run:
        return 0
    if program == "sbatch":
        return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode
    return subprocess.run(["bash", "-c", script], check=False).returncode
