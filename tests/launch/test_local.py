"""Two processes of two devices each, for real, over loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxdenoise

pytestmark = pytest.mark.slow

PLACE = ["--on", "local", "--processes", "2", "--devices-per-process", "2"]
TINY = {
    "data.vocabulary-size": 400,
    "data.sentinels": 20,
    "data.raw-length": 40,
    "model.width": 16,
    "model.mlp-width": 32,
    "model.heads": 2,
    "model.head-width": 8,
    "model.encoder-layers": 1,
    "model.decoder-layers": 1,
    "training.backend": "mesh",
    "training.batch-size": 8,
    "training.log-every": 2,
    "training.evaluation-rows": 8,
}

LOGGER = """
import os
from jaxdenoise.training.loggers import LOGGERS

class Pids:
    package = "json"
    look = "cat pids"

    def __init__(self, run, config, start):
        self.file = run / "pids"

    def log(self, step, numbers):
        with self.file.open("a") as file:
            file.write(f"{os.getpid()} {step} {'loss' in numbers}\\n")

    def flush(self): ...
    def close(self): ...

LOGGERS.add("pids", Pids)
"""

ENVIRONMENT = {
    "PYTHONPATH": str(Path(jaxdenoise.__file__).parents[1]),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the time
}


@pytest.fixture
def launch(corpus, tmp_path):
    """A function that starts `jaxdenoise launch` in an empty folder."""

    def start(*more: str, **fields) -> subprocess.Popen[str]:
        given = TINY | {f"training.{name}": value for name, value in fields.items()}
        flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        flags += ["--data.files", str(corpus), "--run-dir", "run", *more]
        return subprocess.Popen(
            [sys.executable, "-m", "jaxdenoise", "launch", "quickstart", *PLACE, *flags],
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_run_of_two_processes_is_stopped_with_a_checkpoint_and_goes_on(launch, tmp_path):
    run = tmp_path / "run"
    begun = launch(steps=200)
    while not (run / "metrics.jsonl").exists():  # the step is still to be compiled
        assert begun.poll() is None, begun.communicate()
        time.sleep(0.1)
    begun.send_signal(signal.SIGINT)
    out, _ = begun.communicate(timeout=120)
    assert begun.returncode == 130
    assert out.count("the checkpoint is saved") == 1
    [kept] = (run / "checkpoints").iterdir()
    assert (kept / "manifest.json").is_file()
    assert not (run / "results.json").exists()
    out, err = launch(steps=200).communicate(timeout=300)
    assert f"continuing run from step {kept.name}" in out, err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(2, 201, 2))
    assert (run / "results.json").exists()


def test_a_run_of_two_processes_ends_with_results_of_all_devices(launch, tmp_path):
    (tmp_path / "mine.py").write_text(LOGGER)
    own = ("--module", "mine", "--log", "pids")
    out, err = launch(*own, steps=4).communicate(timeout=240)
    assert "4 × cpu" in out, err
    assert out.count("report: run/report.html") == 1
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]
    logged = [line.split() for line in (tmp_path / "run/pids").read_text().splitlines()]
    assert [line[1:] for line in logged] == [["2", "True"], ["4", "True"]]
    assert len({pid for pid, *_ in logged}) == 1  # the first process alone


def test_what_all_processes_refuse_is_said_once(launch):
    refused = launch(steps=4, **{"mesh.tensor": 4})
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 2
    assert err.startswith("jaxdenoise: ") and err.count("\n") == 1
    assert "model.heads" in err
