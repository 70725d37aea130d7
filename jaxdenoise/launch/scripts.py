"""From an experiment and a place to the script that trains it there; nothing is run here.

Every script runs the one command of all processes, `jaxdenoise train … --processes auto`, and runs
it again when it was stopped, until it has ended by itself: a run goes on from its last checkpoint.
A status of 128 or more says that it was stopped, by a signal or with another process.

SLURM   sbatch(1), srun(1), scontrol(1): `--signal` reaches the tasks alone unless it has a B:, and
        SLURM_RESTART_COUNT counts. JAX's own detection wants one task a GPU, each with all GPUs of
        the node in sight (jax.distributed.initialize; jax-ml/jax issues 16788, 23452, 28194), so
        no `--gpus-per-task`, which hides the others.
TPU     gcloud compute tpus queued-resources create|describe|delete, tpu-vm ssh|scp, and
        cloud.google.com/tpu/docs: queued-resources (states), spot, runtimes (software versions),
        jax-pods. gcloud repeats a command whose connection was lost, hence the lock around it. The
        machines' Python is 3.10, older than this package's, hence uv.
GKE     xpk 1.16 (AI-Hypercomputer/xpk): cluster create, workload create|list|delete. It starts
        again what ends with 42 or 127 to 255, and forwards SIGTERM to the command alone, hence
        `exec`. TPU7x has only this way.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2

from jaxdenoise.errors import require
from jaxdenoise.launch.places import Elsewhere, Gke, Slurm, Tpu, accelerator

PYTHON = "3.12"  # of machines that have none new enough
EXTRAS = ("gcs", "hf", "tpu")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained.

    Attributes:
      experiment: its name.
      flags: of `jaxdenoise train`, as on the command line.
      run_dir: where the run goes, a path or an address that all processes can reach.
      name: of the run, from which those of jobs and machines are made.
    """

    experiment: str
    flags: tuple[str, ...] = ()
    run_dir: str
    name: str

    @property
    def extras(self) -> list[str]:
        """Of jaxdenoise, what machines need that have nothing."""
        return [*EXTRAS, *(["log"] if "--log" in self.flags else [])]

    def train(self, *flags: str) -> list[str]:
        """The command of every process.

        Example:
          >>> Job(experiment="t5_base", run_dir="gs://b/r", name="r").train("--processes", "auto")
          ['jaxdenoise', 'train', 't5_base', '--processes', 'auto', '--run-dir', 'gs://b/r']
        """
        command = ["jaxdenoise", "train", self.experiment, *self.flags]
        return [*command, *flags, "--run-dir", self.run_dir]


def slurm_script(job: Job, place: Slurm) -> str:
    """The script for sbatch.

    Args:
      job: what is trained.
      place: where.
    """
    name = place.name or job.name
    train = job.train("--processes", "auto")
    return _render("slurm.sh", name=name, place=place, train=train, env=place.variables)


def tpu_script(job: Job, place: Tpu) -> str:
    """A script that creates the slice, installs, trains and deletes it.

    Args:
      job: what is trained.
      place: where.

    Raises:
      UserError: an option that it needs is not given, or the run is not kept in a bucket.
    """
    _are_given(place, "topology", "zone")
    _is_in_bucket(job)
    kind, runtime = accelerator(place.topology or "")
    python = ".jaxdenoise/bin/python"
    install = (
        "python3 -m pip install --quiet --user uv && "
        f"python3 -m uv venv --quiet --allow-existing --python {PYTHON} .jaxdenoise && "
        f"python3 -m uv pip install --quiet --python {python} {_requirements(place.package, job)}"
    )
    variables = [f"{name}={shlex.quote(value)}" for name, value in place.variables]
    train = f".jaxdenoise/bin/{shlex.join(job.train('--processes', 'auto'))}"
    return _render(
        "tpu.sh",
        job=job,
        place=place,
        name=_machine_name(place.name or job.name),
        accelerator=kind,
        runtime=place.runtime_version or runtime,
        install=install,
        command=" ".join([*variables, "flock .jaxdenoise.lock", train]),
    )


def gke_script(job: Job, place: Gke) -> str:
    """A script that submits the workload and waits for it.

    Args:
      job: what is trained.
      place: where.

    Raises:
      UserError: an option that it needs is not given, or the run is not kept in a bucket.
    """
    _are_given(place, "cluster", "topology", "zone")
    _is_in_bucket(job)
    command = f"exec {shlex.join(job.train('--processes', 'auto'))}"
    if place.image is None:
        command = f"pip install --quiet {_requirements(place.package, job)} && {command}"
    return _render(
        "gke.sh",
        job=job,
        place=place,
        name=_machine_name(place.name or job.name),
        accelerator=accelerator(place.topology or "")[0],
        env=place.variables,
        python=PYTHON,
        folder=str(PurePosixPath(place.package[0]).parent),
        command=command,
    )


def _render(template: str, **values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(quote=_quote, words=shlex.join, lines=_lines)
    return environment.get_template(template).render(**values)


def _lines(command: Sequence[str]) -> str:
    """A command with each flag on a line of its own."""
    parts = ((" \\\n  " if word.startswith("--") else " ") + shlex.quote(word) for word in command)
    return "".join(parts).strip()


def _requirements(wheels: Sequence[str], job: Job) -> str:
    """The wheels as pip names them where they were copied to, jaxdenoise with its extras."""
    names, extras = [PurePosixPath(path).name for path in wheels], ",".join(job.extras)
    return shlex.join(
        f"./{n}[{extras}]" if n.startswith("jaxdenoise-") else f"./{n}" for n in names
    )


def _quote(text: str) -> str:
    """As `shlex.quote`, but what has single quotes inside stays readable."""
    plain = "'" not in text or set(text) & set('"$`\\!')
    return shlex.quote(text) if plain else f'"{text}"'


def _machine_name(name: str) -> str:
    """A run's name as Google's machines can have it."""
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    require(
        re.fullmatch(r"[a-z][a-z0-9-]*", name) is not None and len(name) <= 40,
        f"name is '{name}'; it must begin with a letter and have at most 40 of a-z, 0-9 and -",
    )
    return name


def _is_in_bucket(job: Job) -> None:
    require(
        job.run_dir.startswith("gs://"),
        f"run_dir is '{job.run_dir}'; machines come and go, so the run is kept in a bucket: give "
        f"--run-dir gs://BUCKET/{job.name}",
    )


def _are_given(place: Elsewhere, *names: str) -> None:
    for name in names:
        flag = name.replace("_", "-")
        require(getattr(place, name) is not None, f"--{flag} is missing; it has no default")
