"""A sweep as a user types it: its table, its failures, and what is left after kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdenoise.cli import main
from jaxdenoise.comparison.results import collect
from jaxdenoise.errors import UserError
from jaxdenoise.sweep.engines import ENGINES, Here

CONFIG = """
title = "Rates"
source = "a test"
experiment = "ablation_smoke"
seeds = [0, 1]

[overrides]
data.files = ["{corpus}"]
data.vocabulary_size = 400
data.sentinels = 20
data.raw_length = 40
data.held_out = 0.2
training.steps = 30
training.checkpoint_every = 5
training.log_every = 2
training.evaluation_rows = 8

[arms]
"15%" = {{objective.noise_density = 0.15}}
"30%" = {{objective.noise_density = 0.30}}

[published]
measure = "GLUE"
values = {{"15%" = 2.0, "30%" = 1.0}}
"""
KILLS = 5


def test_a_stopped_sweep_leaves_a_page_of_what_there_is(tmp_path, corpus, monkeypatch, capsys):
    class Stopped(Here):
        def __call__(self, tasks):
            assert len(tasks) == 4
            raise KeyboardInterrupt
            yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ENGINES, "here", Stopped)
    Path("rates.toml").write_text(CONFIG.format(corpus=corpus))
    assert main(["sweep", "rates.toml"]) == 130
    out = capsys.readouterr().out
    assert "page so far: runs/rates/report.html" in out
    assert "the same command goes on" in out
    assert "4 of 4 runs are missing" in Path("runs/rates/report.html").read_text("utf-8")


@pytest.fixture
def start(tmp_path, corpus):
    """A function that starts the sweep in a folder, as a process of its own."""
    (tmp_path / "rates.toml").write_text(CONFIG.format(corpus=corpus))
    kept = {n: v for n, v in os.environ.items() if n != "JAX_COMPILATION_CACHE_DIR"}
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "COLUMNS": "100"}

    def start(folder: str, *args: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxdenoise", "sweep", "rates.toml", "--dir", folder, *args],
            cwd=tmp_path,
            env={**kept, **quick},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.slow
def test_a_sweep_killed_five_times_ends_with_the_same_table(start, tmp_path):
    whole, _ = start("whole").communicate(timeout=600)
    everything = written(tmp_path / "whole")
    rng = random.Random(0)
    for kill in range(1, KILLS + 1):  # each in its part of the work, at a random moment of it
        running = start("killed")
        until = everything * (kill - rng.uniform(0.1, 0.9)) / KILLS
        while written(tmp_path / "killed") < until:
            assert running.poll() is None, f"it ended before kill {kill}"
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    killed, _ = start("killed").communicate(timeout=600)
    assert table_of(killed) == table_of(whole)
    for found in sorted((tmp_path / "whole").glob("*/m*.json*")):
        other = tmp_path / "killed" / found.relative_to(tmp_path / "whole")
        assert without_time(other) == without_time(found), found


def written(folder: Path) -> int:
    """How much of a sweep is done: lines of metrics, and a few for every run with its measures."""
    lines = sum(p.read_text().count("\n") for p in folder.glob("*/metrics.jsonl"))
    return lines + 10 * sum(1 for _ in folder.glob("*/measures.json"))


def table_of(printed: str) -> str:
    assert "Rates (a test)" in printed, printed
    return printed[printed.index("Rates (a test)") : printed.index("report: ")]


def without_time(path: Path) -> list[dict]:
    text = path.read_text("utf-8")
    rows = map(json.loads, text.splitlines() if path.suffix == ".jsonl" else [text])
    times = ("tokens_per_second", "data_wait", "seconds")
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_and_the_others_go_on(start, tmp_path):
    first = start("runs", "--training.steps", "2", "--seed", "0")
    first.communicate(timeout=600)
    assert first.returncode == 0
    [broken] = [p for p in (tmp_path / "runs").glob("15%*") if (p / "measures.json").exists()]
    (broken / "measures.json").unlink()
    (broken / "results.json").unlink()
    (broken / "checkpoints").rename(broken / "moved")
    (broken / "checkpoints").write_text("no folder")
    again = start("runs", "--training.steps", "2", "--seed", "0", "1")
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 1
    assert "15%,seed=0 failed: " in out
    assert "1 of 4 runs are missing; failed: 15%,seed=0" in " ".join(out.split())
    found = collect(tmp_path / "runs")
    assert [job.name for job in found.unfinished] == ["15%,seed=0"]
    assert sorted(found.ranked_by.values) == ["15%", "30%"]
    page = (tmp_path / "runs" / "report.html").read_text("utf-8")
    assert "1 of 4 runs are missing" in page
    config = tmp_path / "runs" / Path(found.jobs[1].path).name / "config.json"
    plain = json.loads(config.read_text())
    plain["store"]["identity_digest"] = "another"
    config.write_text(json.dumps(plain))
    with pytest.raises(UserError, match="other held-out sets, the token store is"):
        collect(tmp_path / "runs")
