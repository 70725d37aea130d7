"""Jobs in processes of this machine, several at a time, each with GPUs of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from jaxdenoise.errors import require
from jaxdenoise.launch.places import at_least
from jaxdenoise.launch.together import SAVING, end_all
from jaxdenoise.sweep.jobs import Job
from jaxdenoise.sweep.worker import STOPPED, Task, settle, thread_limits

POLL = 0.1  # seconds
WORKER = (sys.executable, "-c", "from jaxdenoise.sweep.worker import main; main()")
SHOWN = 2000  # characters of what a worker has said on stderr that are kept when it was killed


@dataclass(frozen=True, kw_only=True)
class Local:
    """Processes of this machine.

    Attributes:
      parallel: jobs at a time; by default one a GPU (or more, by `gpus_per_job`), one without.
      cpus_per_job: threads of each; by default an equal share of the cores.
      gpus_per_job: of each; by default 1, where there are GPUs.
    """

    parallel: int | None = None
    cpus_per_job: int | None = None
    gpus_per_job: int | None = None

    def __post_init__(self):
        at_least(self, 1, "parallel", "cpus_per_job")
        at_least(self, 0, "gpus_per_job")

    @property
    def devices(self) -> int:
        """Of a job."""
        return self.gpus_per_job or 1

    def begin(self) -> None:
        """Raises `UserError` if the machine has too few GPUs."""
        self.environments(visible_gpus(), 1)

    def environments(self, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
        """What each of the processes that run at a time has in its environment.

        Args:
          gpus: of this machine, by index or name.
          cores: of this machine.

        Raises:
          UserError: fewer GPUs than asked for.
        """
        each = min(len(gpus), 1) if self.gpus_per_job is None else self.gpus_per_job
        parallel = self.parallel or (max(len(gpus) // each, 1) if each else 1)
        require(
            parallel * each <= len(gpus),
            f"{parallel} jobs at a time of {each} GPUs are {parallel * each}, this machine has "
            f"{len(gpus)}; give a smaller --parallel or --gpus-per-job",
        )
        limits = thread_limits(self.cpus_per_job or max(cores // parallel, 1))
        if not each:
            on_cpu = {"JAX_PLATFORMS": "cpu"} if self.gpus_per_job == 0 else {}
            return [{**limits, **on_cpu}] * parallel
        shares = [gpus[start * each :][:each] for start in range(parallel)]
        return [{**limits, "CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]

    def __call__(self, tasks: Sequence[Task]) -> Generator[Job, None, None]:
        """Does all; yields the job of each when it has ended."""
        free = self.environments(visible_gpus(), len(os.sched_getaffinity(0)))
        waiting, running = deque(tasks), list[_Worker]()
        try:
            while waiting or running:
                while waiting and free:
                    running.append(_Worker(waiting.popleft(), free.pop(0)))
                for worker in [worker for worker in running if worker.ended()]:
                    running.remove(worker)
                    free.append(worker.environment)
                    yield worker.settled()
                time.sleep(POLL)
        finally:
            end_all([worker.process for worker in running], SAVING)
            for worker in running:
                worker.close()


class _Worker:
    """A process that does one task; it ends with its driver, but Ctrl-C does not reach it."""

    def __init__(self, task: Task, environment: dict[str, str]):
        self.environment, self._job = environment, task.job
        self._said: IO[Any] = tempfile.TemporaryFile()  # noqa: SIM115  # see close
        self.process = subprocess.Popen(
            WORKER,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and says how
            pickle.dump(task, self.process.stdin)
            self.process.stdin.flush()

    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def settled(self) -> Job:
        """Its job, with a word on how the process ended, where it has left none itself."""
        status = self.process.returncode
        how = f"signal {-status}" if status < 0 else f"status {status}"
        self._said.seek(max(self._said.seek(0, os.SEEK_END) - SHOWN, 0))
        said = self._said.read().decode("utf-8", "replace").strip()
        self.close()
        reason = f"its process ended with {how}; {said.splitlines()[-1] if said else ''}"
        if status in (0, STOPPED):
            reason = "" if status == 0 else "its process was told to stop"
        return settle(self._job, reason.rstrip("; "))

    def close(self) -> None:
        """Closes what it was told through and what it has said."""
        for file in (self.process.stdin, self._said):
            with contextlib.suppress(BrokenPipeError):
                if file is not None:
                    file.close()


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, without touching them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))]
