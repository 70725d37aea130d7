"""Jobs as tasks of a Ray cluster.

Ray (docs.ray.io: ray.init, ray.cancel, fault tolerance of tasks): a task runs in the main thread of
its worker, where a cancelled one gets SIGINT; one whose worker dies is tried again `max_retries`
times; GPUs that a task asks for are set apart by CUDA_VISIBLE_DEVICES, CPUs are only counted.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdenoise.errors import UserError, require
from jaxdenoise.launch.places import at_least
from jaxdenoise.launch.together import SAVING
from jaxdenoise.sweep.jobs import Job
from jaxdenoise.sweep.worker import Task, do_task, settle, thread_limits

RETRIES = 1  # of a job whose worker died: it goes on from its last checkpoint
POLL = 1.0  # seconds
REACHED = 10.0  # seconds in which a cluster must answer
PASSED_ON = ("JAX", "XLA_", "LIBTPU_", "HF_")  # beginnings of variables that workers are given


@dataclass(frozen=True, kw_only=True)
class Ray:
    """The Ray cluster that RAY_ADDRESS names, or one that runs here, or else this machine.

    Attributes:
      cpus_per_job: by default all of a machine; where there are GPUs, an equal share of them.
      gpus_per_job: by default 1, where there are GPUs.
    """

    cpus_per_job: int | None = None
    gpus_per_job: int | None = None

    def __post_init__(self):
        at_least(self, 1, "cpus_per_job")
        at_least(self, 0, "gpus_per_job")

    @property
    def devices(self) -> int:
        """Of a job."""
        return self.gpus_per_job or 1

    def begin(self) -> None:
        """Joins the cluster, or starts one; its own processes begin as forks of this one.

        Raises:
          UserError: Ray is not installed, no such cluster, or no machine of it is large enough.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise UserError(
                f"--engine ray needs ray ({error}); pip install 'jaxdenoise[ray]'"
            ) from error
        address = os.environ.get("RAY_ADDRESS", "")
        _check_reach(address)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, error) from error
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
        self.share(_machines(ray))

    def share(self, machines: Sequence[Mapping[str, float]]) -> tuple[int, int]:
        """CPUs and GPUs of a job.

        Args:
          machines: what each of the cluster has, by "CPU" and "GPU".

        Raises:
          UserError: no machine has as many.
        """
        have = [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in machines]
        least, gpus = self.cpus_per_job or 1, self.gpus_per_job
        if gpus is None:
            gpus = min(max((there for _, there in have), default=0), 1)
        fitting = [(cpus, there) for cpus, there in have if cpus >= least and there >= gpus]
        largest = ", ".join(f"{cpus} CPUs and {there} GPUs" for cpus, there in sorted(set(have)))
        require(
            bool(fitting),
            f"no machine of the Ray cluster has {least} CPUs and {gpus} GPUs for a job, they have "
            f"{largest or 'nothing'}; give other --cpus-per-job and --gpus-per-job",
        )
        if self.cpus_per_job is not None:
            return self.cpus_per_job, gpus
        shares = [cpus // (there // gpus if gpus else 1) for cpus, there in fitting]
        return max(min(shares), 1), gpus

    def environment(self, cpus: int) -> dict[str, str]:
        """Variables of a worker: threads, and what this process was told about JAX and data."""
        told = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        on_cpu = {"JAX_PLATFORMS": "cpu"} if self.gpus_per_job == 0 else {}
        return {**told, **thread_limits(cpus), **on_cpu}

    def __call__(self, tasks: Sequence[Task]) -> Generator[Job, None, None]:
        """Does all; yields the job of each when it has ended.

        Raises:
          UserError: a machine does not see the sweep's folder.
        """
        ray = importlib.import_module("ray")
        cpus, gpus = self.share(_machines(ray))
        remote = ray.remote(do_task).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=RETRIES,
            runtime_env={"env_vars": self.environment(cpus)},
        )
        waiting = {remote.remote(task): task.job for task in tasks}
        try:
            while waiting:
                ended, _ = ray.wait(list(waiting), timeout=POLL)
                for reference in ended:
                    yield settle(waiting.pop(reference), _word(ray, reference))
        finally:
            _stop(ray, list(waiting))
            ray.shutdown()


def _check_reach(address: str) -> None:
    """Raises `UserError` if nobody listens at an address, for which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=REACHED).close()
        except OSError as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(
        f"no Ray cluster at {address or 'this machine'} ({reason}); set RAY_ADDRESS, or unset it "
        "for one here"
    )


def _machines(ray: Any) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _word(ray: Any, reference: Any) -> str:
    """Why a task has left no word; nothing where it ended by itself.

    Raises:
      UserError: its machine can do no job of the sweep.
    """
    try:
        unfit = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        return f"its worker ended: {type(error).__name__}, {lines[-1] if lines else 'no reason'}"
    require(not unfit, unfit)
    return ""


def _stop(ray: Any, references: list[Any]) -> None:
    """Cancels tasks; those that run have time to save a checkpoint."""
    for reference in references:
        ray.cancel(reference, recursive=False)
    if references:
        ray.wait(references, num_returns=len(references), timeout=SAVING)
