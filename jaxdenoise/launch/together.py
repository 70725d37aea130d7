"""Several processes of one run on this machine: they start, are stopped and end together."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdenoise.errors import UserError, require
from jaxdenoise.launch.places import Local

PATIENCE = 3.0  # seconds in which the others may end by themselves, then by SIGTERM
SAVING = 60.0  # the same after a signal: they save a checkpoint
POLL = 0.05  # seconds
INTERRUPTED = 130  # the status of a run that has saved a checkpoint
USER_ERROR = 2  # the status of a mistake that one line tells
SHOWN = 30  # lines of the log of a process that failed


def on_this_machine(train: Sequence[str], place: Local) -> int:
    """Trains in `place.processes` processes, which find each other over loopback.

    Args:
      train: the arguments of `python -m jaxdenoise` that all have in common.
      place: how many processes and devices.

    Returns:
      The exit status of the first that failed, or 0.

    Raises:
      UserError: the port is in use, or JAX is told to use another platform.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "cpu")
    require(
        platforms in ("", "cpu"),
        f"JAX_PLATFORMS is {platforms}; here processes share CPU devices, so leave it out: one "
        "process takes all accelerators of a machine, with jaxdenoise train",
    )
    port = free_port() if place.port is None else place.port
    check_port(port)
    common = [sys.executable, "-m", "jaxdenoise", *train, "--processes", str(place.processes)]
    common += ["--coordinator", f"localhost:{port}"]
    commands = [[*common, "--process", str(index)] for index in range(place.processes)]
    devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(place.devices_per_process)}
    return run_together(commands, {**os.environ, **devices})


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    """Raises `UserError` if somebody listens at the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # who listened is no matter
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"port is {port}, which cannot be had ({error.strerror}); give another --port, or "
                "none for one that is free"
            ) from error


def run_together(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], patience: float = PATIENCE
) -> int:
    """Runs all commands at once, until all have ended.

    Only the first one's output is seen. That of the others goes to files, and is shown of the one
    that failed first. SIGINT and SIGTERM are passed on to all as SIGTERM, which JAX's runtime takes
    note of at any time, also while a step is compiled; a second one kills them. When one fails, the
    others have `patience` seconds to end by themselves, for they may have found the same, and are
    then ended. Only then the logs are kept.

    Args:
      commands: program and arguments of each.
      environment: of all.
      patience: in seconds.

    Returns:
      The exit status of the first that failed, 128 and more for signals, or 0.

    Raises:
      KeyboardInterrupt: they were ended by SIGINT, and had nothing to say about it.
    """
    folder = Path(tempfile.mkdtemp(prefix="jaxdenoise-"))
    logs = [folder / f"process-{index}.log" for index in range(len(commands))]
    running: list[subprocess.Popen[bytes]] = []
    with _passed_on(running) as stop:
        try:
            for index, command in enumerate(commands):
                if not stop.requested:
                    running.append(_start(command, environment, logs[index] if index else None))
            first = _first_failure(running, stop)
            if stop.requested:
                _wait(running, SAVING, after_one=True)
            elif first is not None:
                _wait(running, patience)
        finally:
            end_all(running, patience)
    if first is None or stop.requested:
        shutil.rmtree(folder)
        status = next(filter(None, map(_status, running)), 0)
        if stop.interrupted and status > 128 and status != INTERRUPTED:
            raise KeyboardInterrupt
        return status
    _report(first, running, logs)
    if _status(running[first]) == USER_ERROR:  # a line says it all
        shutil.rmtree(folder)
    return _status(running[first])


class _Stop:
    """Whether a signal came, and whether it was SIGINT."""

    requested = False
    interrupted = False


@contextlib.contextmanager
def _passed_on(running: Sequence[subprocess.Popen[bytes]]) -> Iterator[_Stop]:
    """Ends the processes on SIGINT and SIGTERM, while inside: by SIGTERM, then by SIGKILL."""
    stop = _Stop()

    def pass_on(number: int, frame: Any) -> None:
        del frame
        for process in running:
            process.send_signal(signal.SIGKILL if stop.requested else signal.SIGTERM)
        stop.requested, stop.interrupted = True, number == signal.SIGINT

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, which the terminal's Ctrl-C does not reach."""
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("wb"))
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _first_failure(running: Sequence[subprocess.Popen[bytes]], stop: _Stop) -> int | None:
    """Waits until one fails and returns which; None when all end well or a signal comes."""
    while not stop.requested:
        statuses = [process.poll() for process in running]
        failed = [index for index, status in enumerate(statuses) if status]
        if failed:
            return failed[0]
        if None not in statuses:
            return None
        time.sleep(POLL)
    return None


def _wait(
    running: Sequence[subprocess.Popen[bytes]], seconds: float, *, after_one: bool = False
) -> None:
    """Waits until all have ended, at most so long, or so long after the first of them."""
    end = None if after_one else time.monotonic() + seconds
    while any(process.poll() is None for process in running):
        if end is None and any(process.poll() is not None for process in running):
            end = time.monotonic() + seconds
        if end is not None and time.monotonic() > end:
            return
        time.sleep(POLL)


def end_all(running: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    """Ends what still runs, with what it has started: by SIGTERM, then by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        _wait(running, patience)


def _report(first: int, running: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> None:
    """Says on stderr why the first one failed, unless process 0 has said the same."""
    status = _status(running[first])
    if status == USER_ERROR and (first == 0 or _status(running[0]) == USER_ERROR):
        return
    lines = logs[first].read_text("utf-8", "replace").splitlines() if first else []
    if status == USER_ERROR and lines:
        print(lines[-1], file=sys.stderr)
        return
    for line in lines[-SHOWN:]:
        print(f"[{first}] {line}", file=sys.stderr)
    logged = f"; all logs: {logs[0].parent}" if len(logs) > 1 else ""
    print(
        f"jaxdenoise: process {first} of {len(running)} failed first, with status {status}, and "
        f"the others were ended{logged}",
        file=sys.stderr,
    )


def _status(process: subprocess.Popen[bytes]) -> int:
    """The exit status as a shell has it."""
    status = process.poll() or 0
    return 128 - status if status < 0 else status
