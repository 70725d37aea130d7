"""A job in another process, on this machine or another: what is sent, and what is done with it."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxdenoise.errors import UserError
from jaxdenoise.experiment import load_experiments
from jaxdenoise.paths import as_path, local_cache
from jaxdenoise.sweep.jobs import ENDED, Job, do, fail

STOPPED = 130  # the status of a worker that was told to stop, and has saved a checkpoint
LAG = 10.0  # seconds until what a worker has written is seen over a network
THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""How many threads XLA, OpenMP, NumPy's products and the tokenizer take; read when they load."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job with what a worker needs to do it as the driver would.

    Attributes:
      job: the job.
      sweep: the file that says what the sweep is; a worker must see the same.
      digest: of that file.
      folder: where the command was given; relative paths start there.
      modules: that register objectives and experiments of the user's own.
    """

    job: Job
    sweep: str
    digest: str
    folder: str
    modules: tuple[str, ...] = ()


def make_tasks(jobs: Sequence[Job], sweep: Path, modules: Sequence[str] = ()) -> list[Task]:
    """The tasks of jobs of a sweep, given in the current directory.

    Args:
      jobs: to be done.
      sweep: the file that says what the sweep is, written already.
      modules: of the user's own.
    """
    digest, folder = _digest(sweep), str(Path.cwd())
    return [
        Task(job=job, sweep=str(sweep), digest=digest, folder=folder, modules=tuple(modules))
        for job in jobs
    ]


def do_task(task: Task) -> str:
    """Does a job, or what is left of it; a failure is written down, not raised.

    Returns:
      Why this machine can do no job of the sweep; nothing where it can.

    Raises:
      Interrupted: a signal stopped it; a checkpoint is saved.
      KeyboardInterrupt: likewise, before or after the steps.
    """
    if Path(task.folder).is_dir():
        os.chdir(task.folder)
    sweep = as_path(task.sweep)
    if not sweep.is_file() or _digest(sweep) != task.digest:
        return (
            f"{socket.gethostname()} does not see '{sweep.parent}' as it is here; give a --dir "
            "that all machines share, or an address, such as gs://…"
        )
    try:
        load_experiments(task.modules)
    except Exception as error:  # the user's code may raise anything
        fail(task.job, error)
        return ""
    keep_compiled_programs()
    do(task.job)
    return ""


def settle(job: Job, reason: str) -> Job:
    """The job, whose worker has ended: failed for a reason if the worker has left no word."""
    end = time.monotonic() + (LAG if not reason else 0)
    while job.state() not in ENDED and time.monotonic() < end:
        time.sleep(0.1)
    if job.state() not in ENDED:
        fail(job, UserError(reason or "its worker ended without a word"))
    return job


def thread_limits(cpus: int | None) -> dict[str, str]:
    """The environment of a worker that shares its machine.

    Example:
      >>> thread_limits(None), thread_limits(4)["NPROC"]
      ({}, '4')
    """
    return {} if cpus is None else dict.fromkeys(THREADS, str(cpus))


def keep_compiled_programs() -> None:
    """Lets runs of one shape share what is compiled, unless the user has said where."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(local_cache() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def main() -> None:
    """Does the pickled task on stdin; stops as if told to when stdin is closed, with its driver."""
    from jaxdenoise.training.loop import Interrupted

    task: Task = pickle.load(sys.stdin.buffer)

    def stop_with_driver() -> None:
        os.read(sys.stdin.fileno(), 1)  # unbuffered: no lock is held when Python ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_driver, daemon=True).start()
    try:
        if reason := do_task(task):
            fail(task.job, UserError(reason))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(STOPPED)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
