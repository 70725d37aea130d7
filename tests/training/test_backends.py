"""The same run on one device, on eight in every arrangement, and in two processes."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxdenoise.experiment import override, to_dict
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory
from jaxdenoise.training.setup import build
from tests.training.member import check_rows

BACKENDS = {
    "one device": {"training.backend": "single"},
    "pmap": {"training.backend": "pmap"},
    "data 8": {"training.backend": "mesh", "training.mesh.data": 8},
    "fsdp 8": {"training.backend": "mesh", "training.mesh.fsdp": 8},
    "fsdp 4, tensor 2": {
        "training.backend": "mesh",
        "training.mesh.fsdp": 4,
        "training.mesh.tensor": 2,
    },
}
TWENTY_STEPS = {
    "training.steps": 20,
    "training.batch_size": 16,
    "training.log_every": 1,
    "training.evaluate_every": 20,
    "training.checkpoint_every": 20,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 10,
}


def losses(run: RunDirectory) -> np.ndarray:
    rows = [row for row in read_metrics(run.metrics) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 21))
    return np.array([row["loss"] for row in rows])


def train_in_processes(experiment, run: RunDirectory, number: int) -> None:
    config = run.path.parent / "config.json"
    config.write_text(json.dumps(to_dict(experiment)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.member", str(config), str(run.path)]
    members = [
        subprocess.Popen(
            [*command, str(number), str(index), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(number)
    ]
    outputs = [member.communicate(timeout=600)[0].decode() for member in members]
    assert [member.returncode for member in members] == [0] * number, "\n".join(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_every_backend_has_the_same_losses_for_twenty_steps(tiny, packing, tmp_path, monkeypatch):
    assert jax.device_count() == 8
    monkeypatch.setattr("jaxdenoise.training.run._finish", lambda *args, **more: None)  # no report
    experiment = override(tiny, {**TWENTY_STEPS, "data.packing": packing})
    curves = {}
    for name, fields in BACKENDS.items():
        setup = build(override(experiment, fields))
        if name not in ("one device", "pmap"):
            check_rows(setup)
        run = RunDirectory(tmp_path / name)
        train(setup, "test", run, Console(quiet=True))
        curves[name] = losses(run)
    run = RunDirectory(tmp_path / "two processes")
    train_in_processes(override(experiment, BACKENDS["fsdp 8"]), run, 2)
    curves["two processes"] = losses(run)
    first = curves.pop("one device")
    assert first[-1] < first[0]
    for name, curve in curves.items():
        np.testing.assert_allclose(curve, first, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_pmap_runs_in_two_processes(tiny, tmp_path):
    experiment = override(tiny, {**TWENTY_STEPS, "training.backend": "pmap"})
    alone, together = RunDirectory(tmp_path / "alone"), RunDirectory(tmp_path / "together")
    train(build(experiment), "test", alone, Console(quiet=True))
    train_in_processes(experiment, together, 2)
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-5)
