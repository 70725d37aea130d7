"""Steps whose numbers are bad: never applied, written down, made again."""

import dataclasses
import inspect
import io
import json
import shutil

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from rich.console import Console

from jaxdenoise.cli import main
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import digest, override
from jaxdenoise.losses import cross_entropy
from jaxdenoise.training import guard
from jaxdenoise.training import step as steps
from jaxdenoise.training.bad_steps import BadStep
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.metrics_file import read_metrics
from jaxdenoise.training.replay import replay, row_losses
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory, read_json
from jaxdenoise.training.setup import Setup, build

QUIET = Console(quiet=True)
EVERY_STEP = {"training.log_every": 1, "training.checkpoint_every": 4}
NUMBERS = [1.0, 3.0, float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("norm", NUMBERS)
@pytest.mark.parametrize("loss", NUMBERS)
def test_a_step_is_good_where_loss_and_norm_are_finite(loss, norm):
    good = guard.is_good(jnp.float32(loss), jnp.float32(norm))
    assert bool(good) == (np.isfinite(loss) and np.isfinite(norm))


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 8))
def test_spikes_are_told_as_a_plain_loop_tells_them(seed, spikes):
    rng = np.random.default_rng(seed)
    losses = rng.normal(3, 0.1, 3 * guard.WINDOW) + (rng.random(3 * guard.WINDOW) < 0.02)
    found, recent = [], guard.no_losses()
    window: list[float | None] = [None] * guard.WINDOW
    expected = []
    for number, loss in enumerate(losses.astype(np.float32)):
        full = None not in window
        expected.append(
            not full
            or loss <= np.mean(window, dtype=np.float64) + spikes * np.std(window, dtype=np.float64)
        )
        good = bool(_is_good(loss, recent, spikes))
        found.append(good)
        if good:
            recent, window[number % guard.WINDOW] = _remember(recent, number, loss), float(loss)
        if found[-1] != expected[-1]:  # of float32 and float64, at the very limit
            limit = np.mean(window) + spikes * np.std(window)
            assert loss == pytest.approx(limit, rel=1e-5)
            return
    assert found == expected
    assert all(found[: guard.WINDOW])


_is_good = jax.jit(lambda loss, recent, spikes: guard.is_good(loss, 1.0, recent, spikes))
_remember = jax.jit(guard.remember)


class Poisoned:
    """Cross-entropy, but a value of one's choice where an id is the target."""

    def __init__(self, token: int, value: float):
        self.token, self.value = token, value

    def __call__(self, logits, targets):
        return jnp.where(targets == self.token, self.value, 1.0) * cross_entropy(logits, targets)


def targets_of(setup: Setup, number: int) -> np.ndarray:
    """The targets of step `number`, by row; 0 where there is none."""
    batch = steps.corrupted(setup.objective, setup.batches[number - 1])
    targets, weights = batch.targets("decoder")
    return np.where(weights > 0, targets, 0)


def rare_token(setup: Setup) -> tuple[int, list[int]]:
    """An ordinary id that two steps after the fourth predict and no other, and these steps."""
    seen: dict[int, list[int]] = {}
    for number in range(1, setup.experiment.training.steps + 1):
        for token in np.unique(targets_of(setup, number)):
            seen.setdefault(int(token), []).append(number)
    return next(
        (token, at)
        for token, at in seen.items()
        if len(at) == 2 and min(at) > 5 and not setup.objective.vocab.is_special[token]
    )


@pytest.fixture
def poison(monkeypatch):
    """A function that makes the loss of a rare id a bad one; returns the steps that have it."""

    def poison(setup: Setup, value: float = float("nan")) -> list[int]:
        token, at = rare_token(setup)
        loss = Poisoned(token, value)
        monkeypatch.setattr("jaxdenoise.training.setup._smoothed_cross_entropy", lambda _: loss)
        monkeypatch.setattr("jaxdenoise.training.replay.smoothed_cross_entropy", lambda _: loss)
        return at

    return poison


def skipping(tiny, **more):
    return override(tiny, {**EVERY_STEP, "training.bad_steps": "skip", **more})


@pytest.mark.parametrize(
    "backend",
    ["single", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pmap", "mesh"))],
)
def test_a_bad_step_changes_nothing_but_the_number_of_steps(tiny, backend, poison):
    """One row of a batch is bad, and so the whole step, wherever the others are."""
    fields = {"training.backend": backend}
    if backend == "mesh":
        fields |= {"training.mesh.fsdp": 8}
    setup = build(override(tiny, {"training.batch_size": 16, **fields}))
    bad = poison(setup)[0]
    rows_with_it = [row for row in targets_of(setup, bad) if _has_poison(setup, row)]
    assert 0 < len(rows_with_it) < 8
    place = setup.backend
    state = place.place(setup.initial_state())
    rows = place.split(setup.batches[bad - 1])
    step = place.compile(setup.step(), state, rows)
    good_rows = place.split(setup.batches[0])
    before, first = step(state, good_rows)
    assert bool(place.fetch(first["good"]))
    kept = jax.device_get(place.unplace(before))
    after, values = step(before, rows)
    assert not bool(place.fetch(values["good"]))
    assert np.isnan(place.fetch(values["loss"]))
    found = jax.device_get(place.unplace(after))
    assert int(found.step) == 2
    jax.tree.map(np.testing.assert_array_equal, found.params, kept.params)
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, kept.opt_state)


def _has_poison(setup: Setup, row: np.ndarray) -> bool:
    token, _ = rare_token(setup)
    return bool((row == token).any())


@pytest.mark.slow
def test_a_run_halts_before_a_bad_step_and_goes_on_without_it_if_told(tiny, poison, tmp_path):
    setup, run = build(override(tiny, EVERY_STEP)), RunDirectory(tmp_path / "run")
    bad = poison(setup)
    for _ in range(2):  # where it goes on from the checkpoint, it comes there again
        with pytest.raises(BadStep, match=f"step {bad[0]} was not applied: its loss is nan") as end:
            train(setup, "tiny", run, QUIET)
        assert f"jaxdenoise replay {run.path} {bad[0]}" in str(end.value)
        assert "training.bad-steps skip" in str(end.value)
        checkpoints = Checkpoints(run.checkpoints)
        assert max(checkpoints.steps()) == 4 * ((bad[0] - 1) // 4)  # none that has passed it
        checkpoints.close()
        assert [int(p.stem) for p in run.bad.iterdir()] == [bad[0]]
    record = json.loads((run.bad / f"{bad[0]}.json").read_text(), parse_constant=pytest.fail)
    rows = setup.batches[bad[0] - 1]
    assert record["example_ids"] == rows.example_ids.tolist()
    assert record["epochs"] == rows.epochs.tolist()
    keys = [bytes(key).hex() for key in np.asarray(jax.random.key_data(rows.keys)).astype(">u4")]
    assert record["keys"] == keys
    assert (record["loss"], record["step"]) == ("nan", bad[0])

    out = io.StringIO()
    results = train(build(skipping(tiny)), "tiny", run, Console(file=out, width=200))
    assert np.isfinite(results["held_out"]["text_loss"])
    assert [n for n in bad if f"step {n} was not applied: its loss is nan" in out.getvalue()] == bad
    rows_written = [row for row in read_metrics(run.metrics) if "held_out" not in row]
    assert [row["step"] for row in rows_written] == list(range(1, setup.batches.steps + 1))
    assert [row["step"] for row in rows_written if "skipped" in row] == bad
    assert rows_written[-1]["skipped_steps"] == 2
    assert main(["report", str(run.path)]) == 0

    # A plain loop without those steps comes to the same parameters.
    state, step = setup.initial_state(), None
    for number in range(1, setup.experiment.training.steps + 1):
        if number not in bad:
            if step is None:
                step = setup.backend.compile(setup.step(), state, setup.batches[0])
            state = dataclasses.replace(state, step=jnp.asarray(number - 1, jnp.int32))
            state, _ = step(state, setup.batches[number - 1])
    checkpoints = Checkpoints(run.checkpoints)
    saved = checkpoints.restore(setup.layout())
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, saved.params, state.params)


@pytest.mark.slow
def test_a_run_that_skips_too_often_ends_also_where_it_was_stopped_between(tiny, poison, tmp_path):
    setup = build(skipping(tiny, **{"training.most_skipped": 1}))
    run, bad = RunDirectory(tmp_path / "run"), poison(setup)
    for _ in range(2):
        with pytest.raises(BadStep, match="it is number 2, and training.most_skipped is 1"):
            train(setup, "tiny", run, QUIET)
    assert sorted(int(p.stem) for p in run.bad.iterdir()) == bad
    train(build(skipping(tiny, **{"training.most_skipped": 2})), "tiny", run, QUIET)
    assert run.results.exists()


@pytest.mark.slow
def test_spikes_are_remembered_over_a_stop(tiny, poison, tmp_path, monkeypatch):
    """Whole, or from a checkpoint of the middle of it: the same steps skipped, the same state."""
    monkeypatch.setattr(guard, "WINDOW", 3)
    setup = build(skipping(tiny, **{"training.spikes": 6.0}))
    whole, broken = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "broken")
    bad = poison(setup, value=1e4)
    train(setup, "tiny", whole, QUIET)
    skipped = [row for row in read_metrics(whole.metrics) if "skipped" in row]
    assert [row["step"] for row in skipped][:1] == bad[:1]
    assert "more than 6 standard deviations above the mean" in skipped[0]["skipped"]
    shutil.copytree(whole.path, broken.path)
    broken.results.unlink()
    for kept in broken.checkpoints.iterdir():
        if kept.name.isdecimal() and int(kept.name) > 4:
            shutil.rmtree(kept)
    train(setup, "tiny", broken, QUIET)
    states = []
    for run in (whole, broken):
        checkpoints = Checkpoints(run.checkpoints)
        states.append(checkpoints.restore(setup.layout()))
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert np.isfinite(states[0].recent).all()
    again = [row["step"] for row in read_metrics(broken.metrics) if "skipped" in row]
    assert again == [row["step"] for row in skipped]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["single", "pmap"])
def test_any_step_is_made_again_bit_for_bit(tiny, backend, poison, tmp_path, capsys, monkeypatch):
    experiment = skipping(tiny, **{"training.backend": backend})
    setup, run = build(experiment), RunDirectory(tmp_path / "run")
    bad = poison(setup)
    train(setup, "tiny", run, QUIET)
    for number in (1, 5, bad[0]):
        made = replay(setup, run, number, QUIET)
        assert made.start == max(n for n in (0, 4, 8) if n < number)
        assert made.recorded.keys() == {"loss", "gradient_norm"}
        assert made.same, number
        assert int(made.state.step) == number - 1
        assert bool(made.metrics["good"]) == (number not in bad)
    losses = row_losses(setup, made := replay(setup, run, bad[0], QUIET))
    assert [bool(np.isnan(x)) for x in losses] == [
        _has_poison(setup, row) for row in targets_of(setup, bad[0])
    ]
    assert np.isnan(made.recorded["loss"])

    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(["replay", str(run.path), str(bad[0])]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "loss nan, gradient norm nan: what the run has written" in out
    assert "not applied: its loss is nan" in out
    assert "the gradient is not finite in" in out
    assert "without dropout, median " in out and "median nan" not in out
    stopped = []

    def look():
        seen = inspect.currentframe().f_back.f_locals
        made = seen["made"]
        again = jax.jit(made.step)(made.state, made.rows)[1]["loss"]
        np.testing.assert_allclose(again, made.metrics["loss"], rtol=1e-5)
        stopped.append(seen["batch"])

    monkeypatch.setattr("builtins.breakpoint", look)
    assert main(["replay", str(run.path), "3", "--debug"]) == 0
    assert len(stopped) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "step 3, from the beginning" in out
    assert "largest gradients: " in out
    assert "not applied" not in out
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == files
    row = read_json(run.bad / f"{bad[0]}.json")
    (run.bad / f"{bad[0]}.json").write_text(json.dumps({**row, "loss": 2.5}))
    assert main(["replay", str(run.path), str(bad[0])]) == 0
    assert "but the run has written loss 2.5" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["here"], "takes a run and the number of a step, not 'here'"),
        (["here", "x"], "takes a run and the number of a step, not 'here x'"),
        (["here", "3", "--steps", "4"], "--steps: replay takes RUN STEP"),
        (["nowhere", "3"], "'nowhere' is not a run"),
    ],
)
def test_what_cannot_be_made_again_is_said_in_a_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["replay", *args]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_what_comes_of_bad_steps_makes_no_other_run_and_spikes_do(tiny):
    for field, value in {"bad_steps": "skip", "most_skipped": 3}.items():
        assert digest(override(tiny, {f"training.{field}": value})) == digest(tiny)
    assert digest(override(tiny, {"training.spikes": 6.0})) != digest(tiny)
    with pytest.raises(UserError, match=r"training.spikes is -1.0; it must be above 0"):
        override(tiny, {"training.spikes": -1.0})
    with pytest.raises(UserError, match=r"training.most_skipped is -1"):
        override(tiny, {"training.most_skipped": -1})
