"""Jobs as an array of a SLURM cluster, through submitit.

submitit writes the script and queues a job again when its time is up (its docs/checkpointing.md):
SLURM sends a signal before, the job calls `checkpoint` and `scontrol requeue`. Whether jobs are
still queued is asked of squeue(1), which every cluster has; sacct(1) needs a database.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdenoise.errors import UserError, require
from jaxdenoise.launch.places import at_least, check_slurm
from jaxdenoise.paths import as_path, is_local
from jaxdenoise.sweep.jobs import ENDED, Job
from jaxdenoise.sweep.worker import STOPPED, Task, do_task, settle, thread_limits
from jaxdenoise.training.run_directory import RUNS, read_json, write_json

POLL = 10.0  # seconds
LEAST = 5  # minutes of a job's limit; submitit has SLURM signal it 90 to 150 seconds before
TIMES = 50  # that a job is queued again when its time is up
SUBMITTED = "submitted.json"
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A SLURM cluster, with a file system that all nodes share and this environment on it.

    Attributes:
      partition: of the cluster.
      account: that is charged.
      time: limit of a job, [days-]hours:minutes:seconds; it is queued again after it.
      cpus_per_job: by default what the cluster gives, often one.
      gpus_per_job: none with 0.
      parallel: jobs at a time; by default as many as the cluster runs.
      sbatch: further options of sbatch without their dashes, such as qos=high.
      setup: a line of shell before each job, such as ". venv/bin/activate".
      submit_only: leave the jobs to the cluster; the same command without it waits for them.
    """

    partition: str | None = None
    account: str | None = None
    time: str = "24:00:00"
    cpus_per_job: int | None = None
    gpus_per_job: int = 1
    parallel: int | None = None
    sbatch: tuple[str, ...] = ()
    setup: str | None = None
    submit_only: bool = False

    def __post_init__(self):
        at_least(self, 1, "cpus_per_job", "parallel")
        at_least(self, 0, "gpus_per_job")
        check_slurm(self)
        require(
            minutes(self.time) >= LEAST,
            f"time is '{self.time}'; it must be at least {LEAST} minutes, for a job is asked to "
            "stop up to three before its end",
        )

    @property
    def devices(self) -> int:
        """Of a job."""
        return self.gpus_per_job or 1

    def begin(self) -> None:
        """Raises `UserError` without submitit, or where SLURM is not."""
        try:
            importlib.import_module("submitit")
        except ImportError as error:
            raise UserError(
                f"--engine slurm needs submitit ({error}); pip install 'jaxdenoise[slurm]'"
            ) from error
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        require(
            not missing,
            f"{' and '.join(missing)} are not on this machine; give the command where SLURM is, or "
            "--engine local",
        )

    def parameters(self, name: str) -> dict[str, Any]:
        """What submitit's executor is told.

        Args:
          name: of the array.
        """
        further = [option.partition("=") for option in self.sbatch]
        setup = [] if self.setup is None else [self.setup]
        limits = {**thread_limits(self.cpus_per_job)}
        if not self.gpus_per_job:
            limits["JAX_PLATFORMS"] = "cpu"
        setup += [f"export {variable}={value}" for variable, value in limits.items()]
        given = {
            "partition": self.partition,
            "account": self.account,
            "cpus_per_task": self.cpus_per_job,
            "gres": f"gpu:{self.gpus_per_job}" if self.gpus_per_job else None,
            "array_parallelism": self.parallel,
            # srun does not take it from sbatch
            "srun_args": self.cpus_per_job and [f"--cpus-per-task={self.cpus_per_job}"],
        }
        return {
            "job_name": name,
            "time": minutes(self.time),
            "setup": setup,
            "additional_parameters": {
                "requeue": True,
                **{option: value or True for option, _, value in further},
            },
            **{option: value for option, value in given.items() if value is not None},
        }

    def __call__(self, tasks: Sequence[Task]) -> Generator[Job, None, None]:
        """Submits what is not queued already, and yields the job of each when it has ended.

        Raises:
          UserError: sbatch refuses.
        """
        folder = folder_of(tasks)
        known = read_json(folder / SUBMITTED) if (folder / SUBMITTED).exists() else {}
        queued = queued_jobs() or set() if known else set()
        known = {name: number for name, number in known.items() if number in queued}
        if fresh := [task for task in tasks if task.job.name not in known]:
            known |= self._submit(fresh, folder)
            write_json(folder / SUBMITTED, known)
        if self.submit_only:
            return
        waiting = {known[task.job.name]: task.job for task in tasks}
        try:
            yield from until_ended(waiting, folder)
        finally:
            if waiting:
                subprocess.run(["scancel", *waiting], check=False)

    def _submit(self, tasks: Sequence[Task], folder: Path) -> dict[str, str]:
        """Submits an array; returns SLURM's numbers by the names of runs."""
        submitit = importlib.import_module("submitit")
        for task in tasks:
            task.job.failure.unlink(missing_ok=True)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMES)
        executor.update_parameters(**self.parameters(folder.parent.name))
        try:
            jobs = executor.map_array(Resumed(), tasks)
        except submitit.core.utils.FailedJobError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"sbatch refuses ({reason}); give other --partition, --time or --sbatch"
            ) from error
        return {task.job.name: job.job_id for task, job in zip(tasks, jobs, strict=True)}


class Resumed:
    """`do_task` for submitit: a job whose time is up saves a checkpoint, and is queued again."""

    def __call__(self, task: Task) -> str:
        """Does it."""
        with saved_before_queued_again():
            return do_task(task)

    def checkpoint(self, task: Task) -> Any:
        """What is queued again: the same, for a job goes on by itself."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self, task)


@contextlib.contextmanager
def saved_before_queued_again() -> Iterator[None]:
    """Puts submitit's handler, which queues a job again, behind the checkpoint of its training."""
    from jaxdenoise.training.loop import Interrupted, request_stop

    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    number = signal.Signals[f"SIG{name}"]
    queue_again: Any = signal.getsignal(number)
    asked = []

    def save_first(number: int, frame: Any) -> None:
        asked.append(number)
        if not request_stop():  # nothing to save
            queue_again(number, frame)

    signal.signal(number, save_first)
    try:
        yield
    except Interrupted:
        if asked:
            queue_again(number, None)  # does not return
        raise SystemExit(STOPPED) from None


def until_ended(waiting: dict[str, Job], folder: Path) -> Iterator[Job]:
    """Takes jobs out of `waiting` and yields each that has ended, by its own word or SLURM's.

    Args:
      waiting: by SLURM's number.
      folder: of their logs.
    """
    gone: set[str] = set()
    while waiting:
        queued = queued_jobs()
        before, gone = gone, set() if queued is None else waiting.keys() - queued
        for number, job in list(waiting.items()):
            if job.state() in ENDED or number in before & gone:
                del waiting[number]
                yield settle(job, f"SLURM has ended its job {number}; its logs: {folder}/{number}*")
        if waiting:
            time.sleep(POLL)


def queued_jobs() -> set[str] | None:
    """SLURM's numbers of this user's jobs that wait or run; None if it cannot be asked."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if asked.returncode else set(asked.stdout.split())


def folder_of(tasks: Sequence[Task]) -> Path:
    """Where submitit keeps what it sends, and logs: a local one, in the sweep's if that is."""
    root = as_path(tasks[0].sweep).parent
    return (root if is_local(root) else RUNS / root.name).absolute() / "slurm"


def minutes(time: str) -> int:
    """A limit of time as SLURM has it, in minutes.

    Example:
      >>> [minutes(time) for time in ("90", "12:00:00", "2-00", "1-06:30", "0:30")]
      [90, 720, 2880, 1830, 1]
    """
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, mins, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, mins, seconds = parts
    else:  # minutes[:seconds]
        hours, mins, seconds = 0, *(*parts, 0)[:2]
    return (int(days or 0) * 24 + hours) * 60 + mins + -(-seconds // 60)
