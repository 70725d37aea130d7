"""Where many processes can train: options of each place, checked when given; no JAX.

Google's names for slices and their software: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e,
runtimes), and xpk's table of systems.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import jaxdenoise
from jaxdenoise.costs.chips import check_topology
from jaxdenoise.errors import require

WHEEL = f"dist/jaxdenoise-{jaxdenoise.__version__}-py3-none-any.whl"

# Prefix of the accelerator type, whether it counts cores instead of chips, software version.
_NAMES = {
    "v4": ("v4", True, "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", False, "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", True, "v2-alpha-tpuv5"),
    "v6e": ("v6e", False, "v2-alpha-tpuv6e"),
}


@dataclass(frozen=True, kw_only=True)
class Local:
    """This machine, whose CPU stands for many devices.

    Attributes:
      processes: how many.
      devices_per_process: CPU devices of each.
      port: for their coordinator; by default one that is free.
    """

    processes: int = 2
    devices_per_process: int = 1
    port: int | None = None

    def __post_init__(self):
        at_least(self, 1, "processes", "devices_per_process")
        require(
            self.port is None or 0 < self.port < 2**16,
            f"port is {self.port}; it must be in [1, 65535], or left out for one that is free",
        )

    @property
    def devices(self) -> int:
        """Of all processes."""
        return self.processes * self.devices_per_process


@dataclass(frozen=True, kw_only=True)
class Elsewhere(abc.ABC):
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
        at_least(self, 0, "max_restarts")
        for pair in self.env:
            require(
                re.fullmatch(r"[A-Za-z_]\w*=.*", pair) is not None,
                f"env is '{pair}'; it must be NAME=VALUE",
            )

    @property
    @abc.abstractmethod
    def devices(self) -> int:
        """Of all processes, which are as many, or fewer."""

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
        at_least(self, 1, "nodes", "gpus_per_node", "cpus_per_task", "grace_seconds")
        _are_words(self, "name")
        check_slurm(self)

    @property
    def devices(self) -> int:
        """One for each process."""
        return self.nodes * self.gpus_per_node


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
            chips(self.topology)

    @property
    def devices(self) -> int:
        """Chips of the slice."""
        return chips(self.topology or "")


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
        at_least(self, 1, "slices", "grace_seconds")
        _are_words(self, "cluster", "zone", "project", "image")
        _are_wheels(self.package)
        folders = {str(PurePosixPath(path).parent) for path in self.package}
        require(
            len(folders) == 1,
            f"the wheels of package are in {len(folders)} folders ({', '.join(sorted(folders))}); "
            "put them into one, which is copied as a whole",
        )
        if self.topology is not None:
            chips(self.topology)

    @property
    def devices(self) -> int:
        """Chips of all slices."""
        return chips(self.topology or "") * self.slices


def accelerator(topology: str) -> tuple[str, str]:
    """Google's name for a slice, and its software version.

    Some generations are counted by their chips, others by the cores of each.

    Example:
      >>> accelerator("v5e:16x16"), accelerator("v5p:8x8x8")
      (('v5litepod-256', 'v2-alpha-tpuv5-lite'), ('v5p-1024', 'v2-alpha-tpuv5'))

    Raises:
      UserError: no such chip, or no such slice of it.
    """
    chip, sides = check_topology(topology)
    prefix, counts_cores, runtime = _NAMES[chip.name]
    return f"{prefix}-{math.prod(sides) * (chip.cores if counts_cores else 1)}", runtime


def chips(topology: str) -> int:
    """How many chips a slice has; `UserError` as `accelerator`.

    Example:
      >>> chips("v5e:16x16")
      256
    """
    return math.prod(check_topology(topology)[1])


def check_slurm(options: Any) -> None:
    """Raises `UserError` if options are not as SLURM has them."""
    _are_words(options, "partition", "account")
    require(
        re.fullmatch(r"\d+(-\d+)?(:\d+){0,2}", options.time) is not None,
        f"time is '{options.time}'; it must be as SLURM has it, such as 90 (minutes), 12:00:00 or "
        "2-00:00:00",
    )
    for option in options.sbatch:
        require(
            re.fullmatch(r"[a-z][a-z-]*(=\S+)?", option) is not None,
            f"sbatch is '{option}'; it must be an option without its dashes, such as qos=high",
        )


def at_least(place: object, least: int, *names: str) -> None:
    """Raises `UserError` if a number that is given is smaller."""
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
