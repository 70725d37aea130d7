"""A run's directory at an address: fsspec's memory stands for a store of objects."""

import json
import uuid

import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.paths import as_path
from jaxdenoise.training.metrics_file import MetricsFile, read_metrics
from jaxdenoise.training.run_directory import RunDirectory, open_run


@pytest.fixture
def run() -> RunDirectory:
    return RunDirectory(as_path(f"memory://runs/{uuid.uuid4()}"))


def test_a_run_is_claimed_and_opened_at_an_address(run, tiny):
    run.claim("tiny", tiny, {"identity_digest": "a"})
    found, name, experiment = open_run(str(run.path))
    assert (found.path, name, experiment) == (run.path, "tiny", tiny)
    with pytest.raises(UserError, match="trained on the token store a, now it would be b"):
        run.check(tiny, {"identity_digest": "b"})


def test_rows_of_metrics_are_there_after_a_flush_and_later_ones_go(run):
    run.path.mkdir(parents=True)
    metrics = MetricsFile(run.metrics, 0)
    for step in (1, 2):
        metrics.append({"step": step, "loss": 1.0})
    assert read_metrics(run.metrics) == []
    metrics.flush()
    metrics.append({"step": 3, "loss": 1.0})
    assert [row["step"] for row in read_metrics(run.metrics)] == [1, 2]
    again = MetricsFile(run.metrics, 1)
    assert [row["step"] for row in read_metrics(run.metrics)] == [1]
    again.append({"step": 2, "loss": 0.5})
    again.flush()
    assert json.loads(run.metrics.read_text().splitlines()[-1]) == {"step": 2, "loss": 0.5}


def test_a_process_that_does_not_write_leaves_the_file_alone(run):
    run.path.mkdir(parents=True)
    MetricsFile(run.metrics, 0, writes=False).append({"step": 1})
    assert not run.metrics.exists()
