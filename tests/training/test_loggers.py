"""TensorBoard and wandb show the rows of metrics.jsonl, each once; one that fails does no harm."""

import importlib.util
import io
import json
import os
import signal
import struct
import subprocess
import sys
import types
import uuid
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import jaxdenoise
from jaxdenoise.cli import main
from jaxdenoise.flags import to_flags
from jaxdenoise.paths import as_path
from jaxdenoise.training.loggers import LOGGERS, Loggers, WandB, named_numbers, opened
from jaxdenoise.training.metrics_file import MetricsFile, read_metrics

PACKAGES = ("tensorboardX", "tensorboard", "wandb")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")
ROWS = [{"step": step, "loss": 1 / step, "norm": {"mlp": [0.5, 2.0]}} for step in (2, 4, 6)]


class Kept:
    """A logger that keeps what it is handed."""

    look = "look here"

    def __init__(self, run, config, start):
        self.begun, self.rows, self.closed = (run.name, config, start), [], False

    def log(self, step, numbers):
        self.rows.append((step, dict(numbers)))

    def flush(self):
        self.rows.append("flushed")

    def close(self):
        self.closed = True


class Frail(Kept):
    """Fails where it is told to, with an error of two lines."""

    at = "open"

    def __init__(self, *args):
        super().__init__(*args)
        setattr(self, self.at, self.fail)
        if self.at == "open":
            self.fail()

    def fail(self, *args):
        raise OSError("no space left\non the device")


@pytest.fixture(autouse=True)
def pretended():
    with LOGGERS.scope():
        LOGGERS.add("kept", Kept)
        LOGGERS.add("frail", Frail)
        yield


@pytest.fixture
def console():
    return Console(record=True, file=io.StringIO(), width=200)


def test_rows_that_are_kept_and_those_that_come_are_handed_on(tmp_path, console):
    path = tmp_path / "metrics.jsonl"
    before = MetricsFile(path, 0)
    for row in ROWS:
        before.append(row)
    with opened(["kept"], tmp_path, {"seed": 1}, 5, console) as opened_loggers:
        logger = opened_loggers._open["kept"]
        file = MetricsFile(path, 5, loggers=opened_loggers)
        file.append({"step": 6, "loss": np.float32(1 / 3), "held_out": {"text_loss": 3}})
        file.flush()
    assert logger.begun == (tmp_path.name, {"seed": 1}, 5)
    assert logger.closed
    *rows, flushed = logger.rows
    assert flushed == "flushed"
    kept = [(step, {"loss": 1 / step, "norm/mlp/0": 0.5, "norm/mlp/1": 2.0}) for step in (2, 4)]
    assert [step for step, _ in rows] == [2, 4, 6]
    for (_, numbers), (_, expected) in zip(rows, kept, strict=False):
        assert numbers == pytest.approx(expected, rel=1e-8)
    assert rows[-1] == (6, {"loss": 0.333333343, "held_out/text_loss": 3})  # as it is in the file
    assert console.export_text() == "kept: look here\n"


def test_only_numbers_are_logged():
    row = {"step": 1, "flag": True, "of": "text", "nothing": None, "deep": {"a": [[1], [2.5]]}}
    assert named_numbers(row) == {"step": 1, "deep/a/0/0": 1, "deep/a/1/0": 2.5}


@pytest.mark.parametrize("at", ["open", "log", "flush", "close"])
def test_a_logger_that_fails_is_said_once_and_everything_else_goes_on(
    at, tmp_path, console, monkeypatch
):
    monkeypatch.setattr(Frail, "at", at)
    path = tmp_path / "metrics.jsonl"
    with opened(["frail", "kept"], tmp_path, {}, 0, console) as both:
        kept, file = both._open["kept"], MetricsFile(path, 0, loggers=both)
        for row in ROWS:
            file.append(row)
            file.flush()
    assert len(read_metrics(path)) == 3
    assert kept.rows[1::2] == ["flushed"] * 3 and len(kept.rows) == 6 and kept.closed
    said = [line for line in console.export_text().splitlines() if "look here" not in line]
    assert said == [
        "--log frail failed (no space left); the run goes on without it, and metrics.jsonl has "
        "everything"
    ]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_before_anything_is_done(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    package = LOGGERS[name].package
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["train", "quickstart", "--log", name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"jaxdenoise: --log {name} needs {package} (")
    assert err.endswith("pip install 'jaxdenoise[log]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package: what it was told, and a run of which the server has some steps."""
    pretended = types.SimpleNamespace(given=None, step=0, rows=[], finished=False)

    def init(**given):
        pretended.given = given
        return types.SimpleNamespace(
            url="https://run" if given["mode"] == "online" else None,
            dir="there/files",
            step=pretended.step,
            log=lambda numbers, step: pretended.rows.append((step, numbers)),
            finish=lambda: setattr(pretended, "finished", True),
        )

    module = types.SimpleNamespace(init=init, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return pretended


def test_wandb_is_offline_and_a_run_that_goes_on_is_written_anew(wandb, tmp_path):
    first = WandB(tmp_path, {"seed": 1}, 0)
    assert first.look == "wandb sync there"
    assert wandb.given["dir"] == str(tmp_path) and wandb.given["config"] == {"seed": 1}
    assert (wandb.given["mode"], wandb.given["resume"]) == ("offline", None)
    assert (wandb.given["project"], wandb.given["name"]) == ("jaxdenoise", tmp_path.name)
    number = wandb.given["id"]
    copy = tmp_path / f"wandb/offline-run-20260101_000000-{number}"
    copy.mkdir()
    again = WandB(tmp_path, {}, 4)
    assert wandb.given["id"] == number
    assert not copy.exists()
    for step in (2, 4, 6):
        again.log(step, {"loss": step})
    again.flush()
    again.close()
    assert wandb.rows == [(step, {"loss": step}) for step in (2, 4, 6)] and wandb.finished
    assert WandB(tmp_path / "other", {}, 0) and wandb.given["id"] != number


def test_wandb_online_goes_on_where_the_server_is(wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb.step = 5
    run = as_path(f"memory://{uuid.uuid4()}")
    logger = WandB(run, {}, 4)
    for step in (2, 4, 6):
        logger.log(step, {"loss": step})
    assert wandb.rows == [(6, {"loss": 6})]
    assert logger.look == "https://run"
    given = [wandb.given[name] for name in ("mode", "resume", "project", "dir")]
    assert given == ["online", "allow", "mine", None]
    assert wandb.given["id"] == (run / "wandb/id").read_text()


def events(folder: Path) -> list:
    """All events of a folder, files in the order of their names, checksums apart."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        content, at = path.read_bytes(), 0
        while at < len(content):
            [length] = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += length + 16
        assert at == len(content)
    return found


def scalars(folder: Path) -> dict[int, dict[str, float]]:
    """Numbers by step as TensorBoard itself reads them, all files of a folder together."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    rows: dict[int, dict[str, float]] = {}
    for tag in found.Tags()["scalars"]:
        for event in found.Scalars(tag):
            assert tag not in rows.setdefault(event.step, {}), f"{tag} twice at {event.step}"
            rows[event.step][tag] = event.value
    return rows


def histories(run: Path) -> list[tuple[dict, dict[int, dict[str, float]]]]:
    """Config and rows by step of each offline run: its records are in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in run.glob("wandb/offline-run-*/*.wandb"):
        content, at, held, records = path.read_bytes(), 7, b"", []
        while at + 7 <= len(content):
            if (left := 2**15 - at % 2**15) < 7:  # a block's end, too short for a record's head
                at += left
                continue
            length, kind = struct.unpack_from("<HB", content, at + 4)
            held, at = held + content[at + 7 : at + 7 + length], at + 7 + length
            if kind in (1, 4):  # whole, or the last part of one
                records.append(Record.FromString(held))
                held = b""
        config = {
            item.key: json.loads(item.value_json)
            for record in records
            for item in record.run.config.update
        }
        rows: dict[int, dict[str, float]] = {}
        for record in records:
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
                step = record.history.step.num
                assert step not in rows, step
                rows[step] = {
                    name: json.loads(value)
                    for name, value in items.items()
                    if not name.startswith("_")
                }
        found.append((config, rows))
    return found


def by_step(rows: list[dict]) -> dict[int, dict[str, float]]:
    """What rows of metrics.jsonl say together of each step."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        numbers = named_numbers(row)
        found.setdefault(int(numbers.pop("step")), {}).update(numbers)
    return found


@pytest.mark.slow
@needs_packages
def test_event_files_at_an_address_come_with_each_flush(console, tmp_path):
    run = as_path(f"memory://{uuid.uuid4()}")
    run.mkdir()
    for start, rows in ((0, ROWS), (4, [*ROWS[:2], {"step": 6, "loss": 9.0}])):
        both = Loggers(console)
        both.open("tensorboard", run, {"a": {"b": [1], "c": None, "d": True}}, start)
        for row in rows:
            both.log(row)
            both.flush()
        both.close()
    assert "failed" not in console.export_text()
    here = tmp_path / "tensorboard"
    here.mkdir()
    for path in (run / "tensorboard").iterdir():
        (here / path.name).write_bytes(path.read_bytes())
    assert len(list(here.iterdir())) == 8
    found = scalars(here)
    assert {step: row["loss"] for step, row in found.items()} == {2: 0.5, 4: 0.25, 6: 9.0}
    names = [value.tag for event in events(here) for value in event.summary.value]
    assert "norm/mlp/1" in names and "_hparams_/session_start_info" in names


KILLED = """
import os, pathlib, signal, sys, time
from jaxdenoise.cli import main
from jaxdenoise.data.rows import Batches

plain, run = Batches.__getitem__, pathlib.Path("run")

def killed(self, step):
    if step < 10:
        return plain(self, step)
    while not (run / "checkpoints/5").exists():
        time.sleep(0.01)
    while '"step": 8' not in (run / "metrics.jsonl").read_text():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

Batches.__getitem__ = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@needs_packages
def test_a_run_that_was_killed_and_goes_on_has_each_step_once(corpus, tmp_path):
    """Steps 6 and 8 are lost and done again; TensorBoard and wandb show what metrics.jsonl says."""
    fields = {
        "data.files": str(corpus),
        "data.vocabulary_size": 400,
        "data.sentinels": 20,
        "data.raw_length": 40,
        "data.held_out": 0.2,
        "training.steps": 12,
        "training.batch_size": 8,
        "training.log_every": 2,
        "training.evaluate_every": 4,
        "training.evaluation_rows": 10,
        "training.checkpoint_every": 5,
        "training.reading_threads": 1,
        "log": ["tensorboard", "wandb"],
        "run_dir": "run",
    }
    small = {"width": 16, "mlp_width": 32, "heads": 2, "head_width": 8}
    small |= {"encoder_layers": 2, "decoder_layers": 1}
    fields |= {f"model.{name}": value for name, value in small.items()}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
        "PYTHONPATH": str(Path(jaxdenoise.__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    said = []
    for program in (["-c", KILLED], ["-m", "jaxdenoise"]):
        command = [sys.executable, *program, "train", "quickstart", *to_flags(fields)]
        ran = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        said.append(ran)
    assert [ran.returncode for ran in said] == [-signal.SIGKILL, 0], said
    run = tmp_path / "run"
    expected = by_step(read_metrics(run / "metrics.jsonl"))
    assert list(expected) == [2, 4, 6, 8, 10, 12]
    assert "held_out/text_loss" in expected[8]
    assert "modules/gradient_norm/encoder.mlp/1" in expected[2]
    shown = scalars(run / "tensorboard")
    assert list(shown) == list(expected)
    for step, numbers in expected.items():
        assert shown[step] == {name: np.float32(value) for name, value in numbers.items()}
    starts = [event.step for event in events(run / "tensorboard") if event.HasField("session_log")]
    assert starts == [1, 6]
    [(config, rows)] = histories(run)
    assert rows == expected
    assert config["model"]["width"] == 16
    assert "continuing" in said[1].stdout and "failed" not in said[1].stdout
    assert "wandb sync" in said[1].stdout and "tensorboard --logdir" in said[1].stdout
