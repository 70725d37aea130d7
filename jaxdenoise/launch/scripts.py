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

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2

import jaxdenoise
from jaxdenoise.errors import require

PYTHON = "3.12"  # of machines that have none new enough
WHEEL = f"dist/jaxdenoise-{jaxdenoise.__version__}-py3-none-any.whl"

# Prefix of the accelerator type, what is counted after it for each chip, dimensions, software.
_GENERATIONS = {
    "v4": ("v4", 2, 3, "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", 1, 2, "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", 2, 3, "v2-alpha-tpuv5"),
    "v6e": ("v6e", 1, 2, "v2-alpha-tpuv6e"),
}


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

    def train(self, *flags: str) -> list[str]:
        """The command of every process.

        Example:
          >>> Job(experiment="t5_base", run_dir="gs://b/r", name="r").train("--processes", "auto")
          ['jaxdenoise', 'train', 't5_base', '--processes', 'auto', '--run-dir', 'gs://b/r']
        """
        command = ["jaxdenoise", "train", self.experiment, *self.flags]
        return [*command, *flags, "--run-dir", self.run_dir]


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What places have in common that are not this machine.

    Attributes:
      write: a file for the script, which is printed otherwise.
      run: run it.
      name: of the job; by default the run's.
      env: environment variables, NAME=VALUE, such as JAXDENOISE_CACHE=gs://….
      max_restarts: how often the run is started again after it was stopped.
    """

    write: str | None = None
    run: bool = False
    name: str | None = None
    env: tuple[str, ...] = ()
    max_restarts: int = 50

    def __post_init__(self):
        _at_least(self, 0, "max_restarts")
        for pair in self.env:
            require(
                re.fullmatch(r"[A-Za-z_]\w*=.*", pair) is not None,
                f"env is '{pair}'; it must be NAME=VALUE",
            )

    @property
    def variables(self) -> list[tuple[str, str]]:
        """`env`, parted."""
        return [(name, value) for name, _, value in (pair.partition("=") for pair in self.env)]


@dataclass(frozen=True, kw_only=True)
class Slurm(Elsewhere):
    """A cluster under SLURM, with a file system that all nodes share and this environment on it.

    Attributes:
      nodes: how many.
      gpus_per_node: on each; one process for each.
      cpus_per_task: for each process; by default what the cluster gives, often one.
      time: limit as SLURM has it, [days-]hours:minutes:seconds; the job is queued again after it.
      partition: of the cluster.
      account: that is charged.
      grace_seconds: from the signal to the time limit; a checkpoint is saved in them.
      sbatch: further options of sbatch without their dashes, such as qos=high.
      setup: a line of shell before the run, such as ". venv/bin/activate".
    """

    nodes: int = 1
    gpus_per_node: int = 8
    cpus_per_task: int | None = None
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    grace_seconds: int = 90
    sbatch: tuple[str, ...] = ()
    setup: str | None = None

    def __post_init__(self):
        super().__post_init__()
        _at_least(self, 1, "nodes", "gpus_per_node", "cpus_per_task", "grace_seconds")
        _are_words(self, "name", "partition", "account")
        require(
            re.fullmatch(r"\d+(-\d+)?(:\d+){0,2}", self.time) is not None,
            f"time is '{self.time}'; it must be as SLURM has it, such as 90 (minutes), 12:00:00 or "
            "2-00:00:00",
        )
        for option in self.sbatch:
            require(
                re.fullmatch(r"[a-z][a-z-]*(=\S+)?", option) is not None,
                f"sbatch is '{option}'; it must be an option without its dashes, such as qos=high",
            )


@dataclass(frozen=True, kw_only=True)
class Tpu(Elsewhere):
    """A slice of Cloud TPU machines, by gcloud.

    Attributes:
      topology: of the slice, such as v5e:16x16, as `jaxdenoise compile` has it.
      zone: where it is, such as us-west4-a.
      project: by default gcloud's.
      spot: cheaper machines that may be preempted.
      package: wheels to install there: jaxdenoise, and those of experiments of your own. The first
        comes from `python -m build --wheel`.
      runtime_version: the machines' software; by default that of the generation.
    """

    topology: str | None = None
    zone: str | None = None
    project: str | None = None
    spot: bool = False
    package: tuple[str, ...] = (WHEEL,)
    runtime_version: str | None = None

    def __post_init__(self):
        super().__post_init__()
        _are_words(self, "zone", "project", "runtime_version")
        _are_wheels(self.package)
        if self.topology is not None:
            accelerator(self.topology)


@dataclass(frozen=True, kw_only=True)
class Gke(Elsewhere):
    """Slices of TPU machines in a Kubernetes cluster, by XPK.

    Attributes:
      cluster: its name.
      topology: of a slice, such as v5e:16x16, as `jaxdenoise compile` has it.
      slices: how many.
      zone: where the cluster is, such as us-west4-a.
      project: by default gcloud's.
      create_cluster: create it, too. Of an existing one that changes the machines.
      spot: of a cluster that is created: cheaper machines that may be preempted.
      grace_seconds: from the signal to the end; a checkpoint is saved in them.
      image: a container in which jaxdenoise is installed; by default the package in Python's own.
      package: wheels to install, in one folder, which is copied: jaxdenoise, and those of
        experiments of your own. The first comes from `python -m build --wheel`.
    """

    cluster: str | None = None
    topology: str | None = None
    slices: int = 1
    zone: str | None = None
    project: str | None = None
    create_cluster: bool = False
    spot: bool = False
    grace_seconds: int = 90
    image: str | None = None
    package: tuple[str, ...] = (WHEEL,)

    def __post_init__(self):
        super().__post_init__()
        _at_least(self, 1, "slices", "grace_seconds")
        _are_words(self, "cluster", "zone", "project", "image")
        _are_wheels(self.package)
        folders = {str(PurePosixPath(path).parent) for path in self.package}
        require(
            len(folders) == 1,
            f"the wheels of package are in {len(folders)} folders ({', '.join(sorted(folders))}); "
            "put them into one, which is copied as a whole",
        )
        if self.topology is not None:
            accelerator(self.topology)


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
        f"python3 -m uv pip install --quiet --python {python} {_requirements(place.package)}"
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
        command = f"pip install --quiet {_requirements(place.package)} && {command}"
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


def accelerator(topology: str) -> tuple[str, str]:
    """Google's name for a slice, and its software version.

    Some generations are counted by their chips, others by the two cores of each.

    Example:
      >>> accelerator("v5e:16x16"), accelerator("v5p:8x8x8")
      (('v5litepod-256', 'v2-alpha-tpuv5-lite'), ('v5p-1024', 'v2-alpha-tpuv5'))

    Raises:
      UserError: no generation, or no shape of it.
    """
    generation, _, shape = topology.partition(":")
    known = ", ".join(_GENERATIONS)
    require(
        generation in _GENERATIONS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) is not None,
        f"topology is '{topology}'; it must be one of {known}, and a shape, such as v5e:16x16",
    )
    prefix, each, dimensions, runtime = _GENERATIONS[generation]
    sizes = [int(size) for size in shape.split("x")]
    require(
        len(sizes) == dimensions,
        f"topology is '{topology}'; slices of {generation} have {dimensions} dimensions, such as "
        f"{generation}:{'x'.join(['4'] * dimensions)}",
    )
    return f"{prefix}-{math.prod(sizes) * each}", runtime


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


def _requirements(wheels: Sequence[str]) -> str:
    """The wheels as pip names them where they were copied to, jaxdenoise with JAX for TPUs."""
    names = [PurePosixPath(path).name for path in wheels]
    return shlex.join(f"./{n}[tpu]" if n.startswith("jaxdenoise-") else f"./{n}" for n in names)


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


def _at_least(place: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(place, name)
        require(value is None or value >= least, f"{name} is {value}; it must be at least {least}")


def _are_words(place: object, *names: str) -> None:
    for name in names:
        value = getattr(place, name)
        require(
            value is None or re.fullmatch(r"[\w.,:/@+-]+", value) is not None,
            f"{name} is '{value}'; it must be one word, without spaces and quotes",
        )


def _are_wheels(paths: Sequence[str]) -> None:
    for path in paths:
        require(
            re.fullmatch(r"[\w.+-]+\.whl", PurePosixPath(path).name) is not None,
            f"package is '{path}'; it must be a wheel, such as {WHEEL}",
        )
