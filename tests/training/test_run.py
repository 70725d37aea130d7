"""Whole runs: what they leave, and that an interruption changes nothing."""

import dataclasses
import io
import logging
import os
import re
import signal
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdenoise import losses
from jaxdenoise.arrays import TrainState
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import override
from jaxdenoise.training.bad_steps import BadSteps
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.fingerprint import compare_fingerprints
from jaxdenoise.training.loop import Interrupted
from jaxdenoise.training.metrics_file import MetricsFile, read_metrics
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import Busy, RunDirectory, open_run, read_json
from jaxdenoise.training.setup import build
from jaxdenoise.training.weights import restore_params

QUIET = Console(quiet=True)
TIMES = ("tokens_per_second", "data_wait")


class InterruptedBatches:
    """Sends SIGINT when one of the batches is first read; in front of a class of batches."""

    seen: ClassVar[set[int]] = set()

    def __getitem__(self, step):
        if step == 6 and id(self) not in self.seen:
            self.seen.add(id(self))
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(step)


class OtherBatches:
    """The rows of another order."""

    def __getitem__(self, step):
        return super().__getitem__(self.steps - 1 - step)


def with_batches(setup, kind):
    own = type(setup.batches)
    names = [f.name for f in dataclasses.fields(own) if not f.name.startswith("_")]
    batches = type(kind.__name__, (kind, own), {})(**{n: getattr(setup.batches, n) for n in names})
    return dataclasses.replace(setup, batches=batches)


def final_state(setup, run) -> TrainState:
    checkpoints = Checkpoints(run.checkpoints)
    try:
        return checkpoints.restore(setup.initial_state())
    finally:
        checkpoints.close()


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "packing"),
    [("single", False), ("pmap", True), ("mesh", True)],
)
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(
    tiny, backend, packing, tmp_path
):
    experiment = override(tiny, {"training.backend": backend, "data.packing": packing})
    setup = build(experiment)
    whole, broken = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "broken")
    results = train(setup, "tiny", whole, QUIET)
    with pytest.raises(Interrupted) as stop:
        train(with_batches(setup, InterruptedBatches), "tiny", broken, QUIET)
    assert 0 < stop.value.step < experiment.training.steps
    assert not broken.results.exists()
    assert (broken.checkpoints / str(stop.value.step)).is_dir()  # no step is done twice
    again = train(build(experiment), "tiny", broken, QUIET)
    states = [final_state(setup, run) for run in (whole, broken)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert int(states[0].step) == experiment.training.steps
    assert untimed(read_metrics(whole.metrics)) == untimed(read_metrics(broken.metrics))
    assert again["held_out"] == results["held_out"]


@pytest.mark.slow
def test_a_run_whose_data_or_corruption_changed_is_not_continued(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    setup = build(tiny)
    with pytest.raises(Interrupted):
        train(with_batches(setup, InterruptedBatches), "tiny", run, QUIET)
    with pytest.raises(UserError, match=r"batches \d+ and \d+ are not those it would have had"):
        train(with_batches(setup, OtherBatches), "tiny", run, QUIET)
    other = override(tiny, {"objective.noise_density": 0.3}).objective.build(setup.objective.vocab)
    with pytest.raises(UserError, match="corrupts the held-out rows differently now"):
        train(dataclasses.replace(setup, evaluation=other), "tiny", run, QUIET)
    assert not run.results.exists()


def test_other_versions_are_only_told(tmp_path, capsys):
    saved = {"batches": "a", "corruption": "b", "versions": {"jaxdenoise": "0.0.1", "jax": "1"}}
    mine = {"batches": "a", "corruption": "b", "versions": {"jaxdenoise": "0.1.0", "jax": "1"}}
    compare_fingerprints(saved, mine, tmp_path, 5, Console(width=200))
    assert "other versions (jaxdenoise 0.0.1 → 0.1.0)" in capsys.readouterr().out
    compare_fingerprints(mine, mine, tmp_path, 5, Console(width=200))
    assert capsys.readouterr().out == ""


@pytest.fixture
def compiled(caplog):
    """Says what is compiled from now on: a function for the names of the programs."""
    caplog.set_level(logging.WARNING, "jax")
    monitored = logging.getLogger("jax")
    monitored.addHandler(caplog.handler)  # jax's loggers do not propagate everywhere
    jax.clear_caches()
    with jax.log_compiles():
        program = r"Finished XLA compilation of jit\((\w+)\)"
        yield lambda: sorted(re.findall(program, str({*caplog.messages})))  # one may come twice
    monitored.removeHandler(caplog.handler)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "program"), [("single", "step"), ("pmap", "_fun")])
def test_the_step_is_compiled_once_in_a_whole_run(tiny, backend, program, tmp_path, compiled):
    setup = build(override(tiny, {"training.backend": backend}))
    train(setup, "tiny", RunDirectory(tmp_path / "run"), QUIET)
    assert compiled().count(program) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["single", "mesh"])
def test_runs_of_other_seeds_compile_nothing(tiny, backend, tmp_path, compiled):
    for seed in (0, 1):
        setup = build(override(tiny, {"training.backend": backend, "seed": seed}))
        train(setup, "tiny", RunDirectory(tmp_path / str(seed)), QUIET)
        found = compiled() if seed == 0 else found
    assert {"init", "step", "evaluate"} <= {*found}
    assert compiled() == found


def test_a_run_leaves_what_a_report_and_a_user_need(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    results = train(build(tiny), "tiny", run, QUIET)
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if "held_out" in row] == [4, 8]
    assert {"gradient_norm", "update_ratio", "max_attention_logit"} == rows[0]["modules"].keys()
    assert all(row["learning_rate"] > 0 for row in rows[1:] if "loss" in row)
    assert (
        results["baselines"]["bigram"]["text_loss"] < results["baselines"]["unigram"]["text_loss"]
    )
    assert results == read_json(run.results)
    gallery = read_json(run.gallery)
    assert {"source", "inputs", "targets", "prediction"} == gallery[0].keys()
    assert all("loss" in token for token in gallery[0]["targets"])
    opened, name, experiment = open_run(run.path)
    assert (opened, name, experiment) == (run, "tiny", tiny)
    model = build(tiny).model
    params = restore_params(run, experiment, model)
    assert params["embedding"].shape[0] == model.vocab_size


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tiny, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    results = train(build(tiny), "tiny", run, QUIET)
    monkeypatch.setattr("jaxdenoise.training.run.run_steps", None)
    assert train(build(tiny), "tiny", run, QUIET) == results


def test_a_directory_of_another_config_is_refused_by_field(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    setup = build(tiny)
    run.claim("tiny", tiny, setup.store.manifest)
    run.claim("tiny", tiny, setup.store.manifest)
    other = override(tiny, {"optimizer.learning_rate": 0.5})
    before = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0.003 there and 0.5 here"):
        run.claim("tiny", other, setup.store.manifest)
    changed = {**setup.store.manifest, "identity_digest": "other"}
    with pytest.raises(UserError, match="was trained on the token store"):
        run.claim("tiny", tiny, changed)
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_a_folder_of_something_else_is_refused(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and is no run"):
        RunDirectory(tmp_path).check(tiny)
    with pytest.raises(UserError, match="is not a run: it has no config.json"):
        open_run(tmp_path)


def test_a_kill_while_the_directory_is_claimed_leaves_one_that_can_be(tiny, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.claim("tiny", tiny, {"identity_digest": "x"})
    assert [path.name[:13] for path in run.path.iterdir()] == [".config.json-"]
    run.claim("tiny", tiny, {"identity_digest": "x"})
    assert run.saved()["name"] == "tiny"


def test_a_directory_has_one_program_at_a_time(tmp_path):
    run = RunDirectory(tmp_path)
    refused = pytest.raises(UserError, match="another program is training in")
    with run.locked(), refused, RunDirectory(tmp_path).locked():
        pass
    with run.locked():  # it is free again
        pass


def test_a_run_is_not_trained_where_another_program_trains_it(tiny, tmp_path):
    setup, run = build(tiny), RunDirectory(tmp_path / "run")
    run.claim("tiny", tiny, setup.store.manifest)
    before = sorted(path.name for path in run.path.iterdir())
    with run.locked(), pytest.raises(Busy, match="another program is training in"):
        train(setup, "tiny", run, QUIET)
    assert sorted({path.name for path in run.path.iterdir()} - {".lock"}) == before


def test_a_file_that_is_too_deep_is_a_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json' is damaged"):
        read_json(path)


def test_rows_of_lost_work_go_and_a_cut_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in (2, 4, 6):
        file.append({"step": step, "loss": np.float32(1 / 3), "by": {"a": np.arange(2.0)}})
    with path.open("a") as raw:
        raw.write('{"step": 8, "lo')
    assert read_metrics(path)[0] == {"step": 2, "loss": 0.333333343, "by": {"a": [0.0, 1.0]}}
    MetricsFile(path, 4).append({"step": 6, "loss": 2.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [
        (2, 0.333333343),
        (4, 0.333333343),
        (6, 2.0),
    ]


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    state = TrainState(
        step=np.zeros((), np.int32), params={"w": jnp.arange(3.0)}, opt_state=({"m": jnp.ones(3)},)
    )
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(state.replace(step=np.full((), step, np.int32)), step, {"of": step})
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert again.latest() == 3
    assert int(again.restore(state, 2).step) == 2
    assert again.fingerprint(2) == {"of": 2}
    restored = again.restore(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state.replace(step=restored.step))
    with pytest.raises(Exception, match="1"):
        again.restore(state, 1)
    again.close()


def test_a_checkpoint_comes_to_the_first_device_whatever_wrote_it(tmp_path):
    last = jax.local_devices()[-1]
    assert last != jax.local_devices()[0]
    state = TrainState(step=np.zeros((), np.int32), params={"w": jnp.arange(4.0)}, opt_state=())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(jax.device_put(state, last), 1, {})
    restored = checkpoints.restore(state)
    assert restored.params["w"].devices() == {jax.local_devices()[0]}
    checkpoints.close()


@pytest.mark.slow
def test_changing_one_field_leaves_every_other_stream_as_it_was(tiny):
    one = build(tiny)
    other = build(override(tiny, {"objective.noise_density": 0.3, "optimizer.learning_rate": 0.1}))
    jax.tree.map(
        np.testing.assert_array_equal, one.initial_state().params, other.initial_state().params
    )
    jax.tree.map(np.testing.assert_array_equal, one.batches[3], other.batches[3])
    reseeded = build(override(tiny, {"seed": 1}))
    assert not np.array_equal(
        one.initial_state().params["embedding"], reseeded.initial_state().params["embedding"]
    )


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_on_fewer_tokens_has_the_same_store_and_repeats_them(tiny, packing):
    tiny = override(tiny, {"data.packing": packing, "objective": "prefix_lm"})
    every, few = build(tiny), build(override(tiny, {"data.train_tokens": 120}))
    assert few.store.path == every.store.path
    seen = set()
    for step in range(len(few.batches)):
        rows = jax.device_get(few.batches[step].unpacked())
        assert rows.epochs.max() > step
        seen |= {tuple(row[:n]) for row, n in zip(rows.tokens, rows.lengths, strict=True) if n}
    assert 80 < sum(map(len, seen)) <= 120
    there = len(every.store.tokens("train"))
    with pytest.raises(UserError, match=f"train_tokens is 10000000, and the corpus has {there} "):
        build(override(tiny, {"data.train_tokens": 10**7}))


def test_lost_targets_are_said_once(tiny, tmp_path):
    """However often it happens; how many is in every row of the metrics."""
    from jaxdenoise.training.loop import Clock, _Log

    console = Console(record=True, file=io.StringIO(), width=200)
    setup, run = build(tiny), RunDirectory(tmp_path / "run")
    checkpoints = Checkpoints(run.checkpoints)
    written = (MetricsFile(tmp_path / "metrics.jsonl", 0), checkpoints)
    log = _Log(setup, *written, BadSteps(setup, run, 0, console), Clock(), console)
    for step, lost in enumerate((0.0, 3.0, 5.0)):
        log._warn(step, {"lost_targets": np.float32(lost), "targets": np.float32(9.0)})
    [line] = console.export_text().splitlines()
    assert line.startswith("step 1: 3 targets were lost, beside 9: objective span_corruption")
    checkpoints.close()


def test_every_setting_of_the_step_reaches_it(tiny, monkeypatch):
    """None is read from the configuration and then forgotten."""
    chosen = {
        "z_loss": 1e-3,
        "normalisation": "constant",
        "constant": 7.0,
        "gradients": "decoder",
        "micro_batches": 2,
        "spikes": 4.0,
    }
    fields = {f"training.{name}": value for name, value in chosen.items()}
    setup = build(override(tiny, {**fields, "training.label_smoothing": 0.25}))
    given = {}
    monkeypatch.setattr("jaxdenoise.training.setup._make_step", lambda *_, **kw: given.update(kw))
    setup.step()
    loss = given.pop("loss")
    assert given == {**chosen, "across": setup.backend.across, "steps": tiny.training.steps}
    logits, target = jnp.array([2.0, 0.0, -1.0]), jnp.array(1)
    np.testing.assert_allclose(
        loss(logits, target), losses.smoothed_cross_entropy(0.25)(logits, target)
    )


@pytest.mark.slow
def test_chosen_steps_are_traced(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    train(build(tiny), "tiny", run, QUIET, profile=range(3, 5))
    [trace] = run.profile.rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
    assert run.results.exists()
