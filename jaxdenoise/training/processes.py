"""Several processes of one run, through JAX's own distributed runtime.

Each runs the same program; the first one alone writes and speaks. Without `join`, a process is
first and alone, and nothing here loads JAX.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jaxdenoise.errors import UserError, require
from jaxdenoise.paths import is_local

Number = TypeVar("Number", bool, int)

PATIENCE = 300  # seconds
_ALIVE = 5  # seconds since the first process' mark was touched last
HEARTBEAT = 30  # seconds; when one process dies, the others end after about this long


@dataclass(frozen=True, kw_only=True)
class Membership:
    """This process among those of a run.

    Attributes:
      number: of processes; None where the cluster tells (SLURM, TPU pods, GKE, Open MPI).
      index: of this one.
      coordinator: HOST:PORT of process 0.
      patience: seconds to wait for the others.
    """

    number: int | None = None
    index: int | None = None
    coordinator: str | None = None
    patience: int = PATIENCE

    @classmethod
    def of(
        cls, processes: str, process: str | None, coordinator: str | None, patience: str | None
    ) -> Membership:
        """From flags: `auto` alone, or a number with the other two.

        Raises:
          UserError: a flag that is missing, not a whole number, or out of range.
        """
        seconds = _whole("patience", patience or str(PATIENCE), least=1)
        if processes == "auto":
            require(
                process is None and coordinator is None,
                "--processes auto asks the cluster; leave --process and --coordinator out",
            )
            return cls(patience=seconds)
        number = _whole("processes", processes, least=1)
        require(
            process is not None and coordinator is not None,
            f"--processes {number} needs --process I, 0 to {number - 1}, and --coordinator "
            "HOST:PORT of process 0; on a cluster, --processes auto",
        )
        index = _whole("process", process or "", least=0)
        require(
            index < number, f"--process is {index}; with {number} processes it ends at {number - 1}"
        )
        port = (coordinator or "").rpartition(":")[2]
        require(
            port.isdecimal() and 0 < int(port) < 2**16,
            f"--coordinator is '{coordinator}'; give HOST:PORT, such as localhost:8476",
        )
        return cls(number=number, index=index, coordinator=coordinator, patience=seconds)


def join(member: Membership, marks: Path | None = None) -> None:
    """Waits for all processes of the run.

    Args:
      member: who this process is.
      marks: a folder that all see, where each leaves a mark, so that a missing one can be named.

    Raises:
      UserError: the coordinator's port is in use, or there is no cluster that tells.
    """
    import jax

    if member.index == 0:
        _check_port(member)
    try:
        with _marked(member, marks), _patiently(member, marks):
            jax.distributed.initialize(
                member.coordinator,
                member.number,
                member.index,
                initialization_timeout=member.patience + 60,  # ours comes first: JAX's own aborts
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=HEARTBEAT,  # for the others, where this one fails alone
            )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        if member.number is None:
            raise UserError(
                f"--processes auto: {reason}; start it with srun, on a TPU pod or on GKE, or give "
                "--processes N --process I --coordinator HOST:PORT"
            ) from error
        raise UserError(
            f"process {member.index} of {member.number} cannot join the others at "
            f"{member.coordinator}: {reason}; give each another --process, and an address of "
            "process 0 that all reach"
        ) from error


def joined() -> bool:
    """Whether this process has joined others."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return not joined() or sys.modules["jax"].process_index() == 0


def name_among_others() -> str:
    """For an error that another process than the first one has: which."""
    return "" if first() else f" process {sys.modules['jax'].process_index()}:"


def first_alone(function: Callable[[], Any]) -> Any:
    """The function's result in the first process, None in the others, which wait for it.

    Raises:
      SystemExit: in the others, if it failed in the first, which has the error.
    """
    if not joined():
        return function()
    if first():
        succeeded = False
        try:
            result = function()
            succeeded = True
            return result
        finally:
            as_first_says(succeeded)
    if not as_first_says(False):
        raise SystemExit(2)
    return None


def first_before_others(function: Callable[[], Any]) -> Any:
    """The function's result; the others call it when the first one has finished."""
    result = first_alone(function)
    return result if first() else function()


def alike(function: Callable[[], Any]) -> Any:
    """The function's result, where all processes fail alike: the first one alone says why."""
    try:
        return function()
    except UserError as error:
        if first():
            raise
        raise SystemExit(2) from error


def as_first_says(value: Number) -> Number:
    """The first process' truth or number."""
    if not joined():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return type(value)(multihost_utils.broadcast_one_to_all(np.array(value)))


def agree(fields: Mapping[str, Any]) -> None:
    """Ends this program, if the processes do not have the same fields; the first says which.

    Of several that differ it is the first one: what follows from others stands behind them.

    Raises:
      UserError: in the first process, naming the field and both values.
      SystemExit: in the others.
    """
    if not joined():
        return
    texts = _of_all(json.dumps(dict(fields)))
    here, *others = [json.loads(text) for text in texts]
    for index, there in enumerate(others, 1):
        for name in {**here, **there}:
            if here.get(name) == there.get(name):
                continue
            if not first():
                raise SystemExit(2)
            raise UserError(
                f"the processes disagree: {name} is {here.get(name)} in process 0 and "
                f"{there.get(name)} in process {index}; start all with the same command, where "
                "they see the same files"
            )


def stop_agreed(step: int) -> bool:
    """Whether all processes stop behind this step, one of them having been told to (SIGTERM)."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def _marked(member: Membership, marks: Path | None) -> Iterator[None]:
    """Leaves this process' mark while it waits."""
    if marks is None or member.index is None:
        yield
        return
    marks.mkdir(parents=True, exist_ok=True)
    (marks / str(member.index)).touch()
    try:
        yield
    finally:
        _unmark(member, marks)


def _unmark(member: Membership, marks: Path | None, everybody: bool = False) -> None:
    if marks is not None:
        with contextlib.suppress(OSError):  # others are marked there still, or it is gone
            for mark in marks.iterdir() if everybody else [marks / str(member.index)]:
                mark.unlink(missing_ok=True)
            if is_local(marks):  # elsewhere a folder goes with all that is in it
                marks.rmdir()


@contextlib.contextmanager
def _patiently(member: Membership, marks: Path | None) -> Iterator[None]:
    """Ends the program if the others do not come in time.

    The first process says who is missing, in one line, and touches its mark while it waits; another
    speaks only if that mark is not touched, and leaves its own, which the first one counts.
    """
    came = threading.Event()
    mark = None if marks is None or member.index is None else marks / "0"  # of the first one

    def wait() -> None:
        end, touched, alive = time.monotonic() + member.patience, None, -math.inf
        while time.monotonic() < end:
            if came.wait(min(1, max(end - time.monotonic(), 0))):
                return
            with contextlib.suppress(Exception):  # of any file system: this thread has to go on
                if mark is not None and member.index == 0:
                    mark.touch()
                elif mark is not None:
                    before, touched = touched, mark.stat().st_mtime
                    alive = time.monotonic() if before not in (None, touched) else alive
        try:
            if time.monotonic() - alive > _ALIVE:
                print(f"jaxdenoise: {_missing(member, marks)}", file=sys.stderr, flush=True)
                _unmark(member, marks, everybody=member.index == 0)
        finally:
            os._exit(2)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        came.set()
        waiting.join(PATIENCE)  # or it would leave a mark behind


def _missing(member: Membership, marks: Path | None) -> str:
    after = f"within {member.patience} seconds (--patience)"
    if member.number is None:
        return f"not all processes of the cluster came {after}; see what became of the others"
    where = f"did not come to {member.coordinator} {after}"
    if member.index != 0:
        return f"process {member.index} of {member.number}: the others {where}"
    there = {int(mark.name) for mark in marks.iterdir()} if marks is not None else set()
    missing = sorted(set(range(member.number)) - there) or ["one"]
    names = ", ".join(map(str, missing))
    return f"process {names} of {member.number} {where}; start it, or give other --processes"


def _check_port(member: Membership) -> None:
    """Raises `UserError` if the coordinator's port is taken; JAX would die of it at its end."""
    port = int((member.coordinator or "").rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"the port of --coordinator {member.coordinator} is in use; give another one"
            ) from error


def _whole(name: str, value: str, *, least: int) -> int:
    require(
        value.isdecimal() and int(value) >= least,
        f"--{name} is '{value}'; it must be a whole number, at least {least}"
        + (", or auto" if name == "processes" else ""),
    )
    return int(value)


def _of_all(text: str) -> list[str]:
    """The texts of all processes, in order."""
    import numpy as np
    from jax.experimental import multihost_utils

    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(mine)])).ravel()
    filled = np.pad(mine, (0, int(sizes.max()) - len(mine)))
    found = multihost_utils.process_allgather(filled).reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(found, sizes, strict=True)]
