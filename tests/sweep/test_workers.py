"""Sweeps in other processes, as a user types them: two at a time, one fails, one is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxdenoise
from jaxdenoise.sweep.plan import read_sweep

MINE = '''
import os
import signal
import time
from pathlib import Path

import jaxdenoise as jd
from jaxdenoise.config import DataConfig, ModelConfig, TrainingConfig
from jaxdenoise.experiment import experiment
from jaxdenoise.training import run

train = run.train

def meet():
    Path(f"here-{os.getpid()}").touch()
    end = time.monotonic() + 120
    while len(list(Path().glob("here-*"))) < 2:
        assert time.monotonic() < end, "it runs alone"
        time.sleep(0.1)

def misbehave(setup, name, *args, **more):
    deed, once = name.partition(",")[0], Path(f"once-{name}")
    if deed in ("meets", "fails", "dies") and not once.exists():
        once.touch()
        if deed == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        meet()
        if deed == "fails":
            raise RuntimeError("as it was told to")
    return train(setup, name, *args, **more)

if os.environ.get("NPROC") == "1":  # in a worker, which has one thread
    run.train = misbehave

@jd.objective(needs=("mask",))
def odd_words(key, tokens, length, *, vocab):
    """Masks words."""
    return jd.rewrite.mask_tokens(tokens, jd.masks.words(key, tokens, length, 0.3, vocab), vocab)

@experiment
def mine_tiny():
    """Two steps."""
    return jd.Experiment(
        data=DataConfig(
            files=("corpus.txt",), vocabulary_size=400, sentinels=20, raw_length=40, held_out=0.2
        ),
        objective=jd.configure("odd_words"),
        model=ModelConfig(
            architecture="encoder", width=16, mlp_width=32, heads=2, head_width=8, encoder_layers=1
        ),
        training=TrainingConfig(steps=2, batch_size=8, evaluation_rows=8),
    )
'''
CONFIG = """
title = "What workers do"
experiment = "mine_tiny"
seeds = [0]
[arms]
{arms}
"""
ENGINES = {
    "local": ["--parallel", "2"],
    "ray": ["--cpus-per-job", "1"],
    "slurm": ["--cpus-per-job", "1", "--gpus-per-job", "0"],
}
LONG = 1_000_000  # steps
started: list[subprocess.Popen] = []  # ended with the test, however that ends
PACKAGES = {"ray": "ray", "slurm": "submitit"}


@pytest.fixture
def place(tmp_path, corpus, monkeypatch):
    """A folder with a module, a corpus and a stand-in for SLURM's programs."""
    (tmp_path / "mine.py").write_text(MINE, "utf-8")
    (tmp_path / "corpus.txt").write_text(corpus.read_text("utf-8"), "utf-8")
    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    jobs.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel"):
        program = programs / name
        source = Path(__file__).with_name("stand_in_slurm.py").read_text("utf-8")
        program.write_text(f"#!{sys.executable}\n{source}", "utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(jobs))
    monkeypatch.setenv("PYTHONPATH", str(Path(jaxdenoise.__file__).parents[1]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # What a shell starts in the background ignores Ctrl-C, and so would all that we start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, before)
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    started.clear()


def start(place: Path, engine: str, *args: str) -> subprocess.Popen:
    """The command, in a group of processes as a terminal has it."""
    command = [sys.executable, "-m", "jaxdenoise", "sweep", "c.toml", "--module", "mine"]
    command += ["--engine", engine, *ENGINES[engine], *args]
    process = subprocess.Popen(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    return process


def run(place: Path, engine: str, *args: str) -> tuple[int, str]:
    process = start(place, engine, *args)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def write_config(place: Path, *deeds: str) -> None:
    arms = [f"{deed} = {{training.log_every = {n}}}" for n, deed in enumerate(deeds, 1)]
    (place / "c.toml").write_text(CONFIG.format(arms="\n".join(arms)), "utf-8")


def states(place: Path) -> dict[str, str]:
    _, jobs = read_sweep(place / "runs/c")
    return {job.arm: job.reason() or job.state() for job in jobs}


def needs(engine: str) -> None:
    package = PACKAGES.get(engine)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_at_a_time_and_what_fails_or_is_killed_is_done_again_later(engine, place):
    needs(engine)
    write_config(place, "meets", "fails", "dies")
    status, said = run(place, engine)
    assert status == 1, said
    found = states(place)
    assert found["meets"] == "done", said
    assert found["fails"] == "RuntimeError: as it was told to"
    killed = {
        "local": "its process ended with signal 9",
        "ray": "done",  # tried again
        "slurm": "SLURM has ended its job 1_2",
    }
    assert found["dies"].startswith(killed[engine]), said
    if engine != "local":
        return
    status, said = run(place, engine)
    assert status == 0, said
    assert set(states(place).values()) == {"done"}
    assert "infill accuracy" in said


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "number"), [("local", "SIGINT"), ("ray", "SIGTERM")])
def test_a_signal_stops_all_with_a_checkpoint_and_the_driver_says_so(engine, number, place):
    needs(engine)
    process = start_long(place, engine)
    if number == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    else:
        process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopped; the same command goes on from there" in said
    [saved] = place.glob("runs/c/*/checkpoints/*")
    assert 0 < int(saved.name) < LONG


@pytest.mark.slow
def test_a_worker_ends_with_its_driver_and_saves_a_checkpoint(place):
    process = start_long(place, "local")
    process.kill()
    process.communicate()
    wait_for(lambda: list(place.glob("runs/c/*/checkpoints/*/state")))


def start_long(place: Path, engine: str) -> subprocess.Popen:
    """A sweep of one run that is under way."""
    write_config(place, "goes")
    process = start(place, engine, "--training.steps", str(LONG))

    def under_way() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return any(path.stat().st_size for path in place.glob("runs/c/*/metrics.jsonl"))

    wait_for(under_way)
    return process


def wait_for(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
