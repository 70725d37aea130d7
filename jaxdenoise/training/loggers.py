"""The rows of metrics.jsonl where people look: in TensorBoard, in Weights & Biases.

metrics.jsonl is always written, and nothing is read from anywhere else. A logger is handed the rows
that a run keeps when it begins or goes on, and then each that comes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rich.console import Console

from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import flatten
from jaxdenoise.paths import is_local, write_whole
from jaxdenoise.registry import Registry

COMPARED = ("loss", "held_out/text_loss", "held_out/bits_per_byte")
"""What TensorBoard's table of hyperparameters shows beside them."""


class Logger(Protocol):
    """Shows numbers by step. It may fail at any time: the run goes on without it.

    Attributes:
      package: that it needs.
      look: how to see them.
    """

    package: ClassVar[str]
    look: str

    def __init__(self, run: Path, config: Mapping[str, Any], start: int):
        """Begins, or goes on.

        Args:
          run: the run's directory.
          config: the experiment as plain data.
          start: updates made so far; what was logged of later steps is of work that was lost.
        """

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Takes the numbers of a step, in the order of steps; those that it has are left out."""

    def flush(self) -> None:
        """Called before a checkpoint is saved."""

    def close(self) -> None:
        """Called when the run ends or is stopped."""


class TensorBoard:
    """Event files in tensorboard/: here one that grows, at an address one more at each flush."""

    package: ClassVar[str] = "tensorboardX"

    def __init__(self, run: Path, config: Mapping[str, Any], start: int):
        self._event = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summary = importlib.import_module("tensorboardX.proto.summary_pb2").Summary
        self._crc = importlib.import_module("tensorboardX.record_writer").masked_crc32c
        self._folder = run / "tensorboard"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.look = f"tensorboard --logdir {self._folder}"
        self._has = start if any(self._folder.glob("*tfevents*")) else 0
        self._begin()
        purge = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(step=start + 1, session_log=purge)
        plain = {name: _plain(value) for name, value in flatten(config).items()}
        hparams = importlib.import_module("tensorboardX.summary").hparams
        for summary in hparams(plain, dict.fromkeys(COMPARED)):
            self._write(summary=summary)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One event."""
        if step > self._has:
            value = self._summary.Value
            values = [value(tag=name, simple_value=number) for name, number in numbers.items()]
            self._write(step=step, summary=self._summary(value=values))

    def flush(self) -> None:
        """At an address, ends the file and begins another one."""
        if not is_local(self._folder):
            self._file.write_bytes(self._held)
            self._begin()

    def close(self) -> None:
        """The last flush."""
        self.flush()

    def _begin(self) -> None:
        """Begins a file; readers take files in the order of their names."""
        self._file = self._folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._held = b""
        self._write(file_version="brain.Event:2")

    def _write(self, **fields: Any) -> None:
        """Adds a record of TensorFlow's: length and data, a checksum after each."""
        data = self._event.Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", self._crc(part)) for part in (length, data)]
        record = length + sums[0] + data + sums[1]
        if not is_local(self._folder):
            self._held += record
            return
        with self._file.open("ab") as file:
            file.write(record)


class WandB:
    """A run of Weights & Biases in wandb/, offline unless WANDB_MODE says otherwise.

    It cannot take a row back. Offline, a run that goes on is therefore written anew, from the rows
    that it keeps; online it goes on by its id, and steps that the server has stay as they were.
    """

    package: ClassVar[str] = "wandb"

    def __init__(self, run: Path, config: Mapping[str, Any], start: int):
        del start
        wandb, offline = importlib.import_module("wandb"), _is_offline(os.environ)
        name = _wandb_id(run / "wandb")
        for superseded in (run / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(superseded)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxdenoise"),
            id=name,
            name=run.name,
            dir=str(run) if is_local(run) else None,  # None: ./wandb, of what is online a copy
            mode=_wandb_mode(os.environ),
            resume=None if offline else "allow",
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        copy = Path(self._run.dir).parent
        self.look = f"wandb sync {copy}" if offline else str(self._run.url)
        self._from = self._run.step

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One row of its history; held-out figures join the others of their step."""
        if step >= self._from:
            self._run.log(dict(numbers), step=step)

    def flush(self) -> None:
        """It writes by itself."""

    def close(self) -> None:
        """Ends the run, until it is gone on with."""
        self._run.finish()


LOGGERS = Registry[type[Logger]]("logger")
"""By the names that --log takes; a module of your own (--module) may add others."""
LOGGERS.add("tensorboard", TensorBoard)
LOGGERS.add("wandb", WandB)


class Loggers:
    """All that were asked for. One that fails is said once and left out from then on."""

    def __init__(self, console: Console | None = None):
        self._console, self._open = console or Console(), dict[str, Logger]()

    def open(self, name: str, run: Path, config: Mapping[str, Any], start: int) -> None:
        """Opens one, as `Logger` has it, and says how to look at it."""
        with self._surviving(name):
            logger = self._open[name] = LOGGERS[name](run, config, start)
            self._console.print(f"{name}: {logger.look}", highlight=False, soft_wrap=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Hands on the numbers of a row of metrics.jsonl."""
        numbers = named_numbers(row)
        step = int(numbers.pop("step"))
        self._each(lambda logger: logger.log(step, numbers))

    def flush(self) -> None:
        """Before a checkpoint is saved."""
        self._each(lambda logger: logger.flush())

    def close(self) -> None:
        """At the end."""
        self._each(lambda logger: logger.close())

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            with self._surviving(name):
                act(logger)

    @contextlib.contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any library, of the disk, of the network
            self._open.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._console.print(
                f"--log {name} failed ({reason}); the run goes on without it, and metrics.jsonl "
                "has everything",
                style="yellow",
            )


@contextlib.contextmanager
def opened(
    names: Sequence[str], run: Path, config: Mapping[str, Any], start: int, console: Console
) -> Iterator[Loggers]:
    """Loggers by name, closed at the end; the other arguments are those of `Logger`."""
    loggers = Loggers(console)
    try:
        for name in names:
            loggers.open(name, run, config, start)
        yield loggers
    finally:
        loggers.close()


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
      UserError: one that is not known.
    """
    for name in names:
        LOGGERS[name]  # raises where there is none
    return tuple(dict.fromkeys(names))


def check_loggers(names: Sequence[str], run: str) -> None:
    """Raises `UserError` if a logger lacks its package, or cannot write where the run is."""
    check_place(names, run)
    for name in names:
        package = LOGGERS[name].package
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"--log {name} needs {package} ({error}); pip install 'jaxdenoise[log]'"
            ) from error


def check_place(
    names: Sequence[str], run: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Raises `UserError` if a logger cannot write where the run is.

    Args:
      names: of loggers.
      run: a path or an address.
      environment: of the process that will write.
    """
    require(
        "wandb" not in names or "://" not in run or not _is_offline(environment),
        f"--log wandb keeps its files here while it is offline, and '{run}' is an address; "
        "set WANDB_MODE=online, or another --run-dir",
    )


def named_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by their names, of what is nested joined by "/"; the rest is left out.

    Example:
      >>> named_numbers({"step": 2, "held_out": {"loss": 0.5}, "norm": [1.0, 2.0], "of": "a"})
      {'step': 2, 'held_out/loss': 0.5, 'norm/0': 1.0, 'norm/1': 2.0}
    """
    return {
        name: value
        for name, value in _leaves(row)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping | list):
        yield name, value
        return
    for part, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(inner, f"{name}/{part}" if name else str(part))


def _plain(value: Any) -> bool | int | float | str:
    """As TensorBoard can have a hyperparameter."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _wandb_mode(environment: Mapping[str, str]) -> str:
    return environment.get("WANDB_MODE", "offline")


def _is_offline(environment: Mapping[str, str]) -> bool:
    return _wandb_mode(environment) in ("offline", "dryrun")


def _wandb_id(folder: Path) -> str:
    """The id under which wandb knows the run, drawn once and kept with it."""
    path = folder / "id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, secrets.token_hex(4).encode())
    return path.read_text("utf-8")
