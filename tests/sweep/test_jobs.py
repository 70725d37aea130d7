"""One run of a sweep: trained, asked, and its failure written down; arms built before all."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdenoise.ablation import resolve
from jaxdenoise.comparison.results import check_measure, collect
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import experiment, experiments, from_dict, override
from jaxdenoise.objectives import configure
from jaxdenoise.sweep import jobs as jobs_module
from jaxdenoise.sweep.jobs import do
from jaxdenoise.sweep.measures import by_name, costs_of, given, objective_of
from jaxdenoise.sweep.order import permute, prefer_order
from jaxdenoise.sweep.plan import match_budgets, plan_jobs, read_sweep, write_sweep
from jaxdenoise.training import run as run_module
from jaxdenoise.training.run_directory import Busy
from jaxdenoise.training.setup import build, plan
from jaxdenoise.training.step import corrupt
from tests.conftest import full_vocabulary


@pytest.fixture
def config(tiny):
    """A function that resolves a config over the tiny experiment."""

    def tiny_run():
        """Learns next to nothing, in a second."""
        return tiny

    def make(**plain):
        return resolve("x", {"experiment": "tiny_run", "title": "X", "seeds": [0], **plain})

    with experiments.scope():
        experiment(tiny_run)
        yield make


@pytest.mark.slow
def test_a_job_trains_asks_and_is_done_and_a_failure_is_written_down(config, tmp_path, monkeypatch):
    ablation = config(
        arms={"spans": {}, "deletion": {"objective": "token_deletion"}},
        held_out={"copy": {"name": "identity"}},
        overrides={"training.steps": 2, "training.evaluation_rows": 4},
    )
    jobs = plan_jobs(ablation, tmp_path)
    write_sweep(ablation, jobs, tmp_path)
    assert [job.state() for job in jobs] == ["waiting"] * 2
    assert list(jobs[0].objectives) == ["spans", "deletion", "copy"]
    with monkeypatch.context() as broken:
        broken.setattr(jobs_module, "_train_and_measure", lambda *_: 1 / 0)
        assert do(jobs[1]) == "failed"
    assert do(jobs[0]) == "done"
    assert jobs[1].reason() == "ZeroDivisionError: division by zero"
    found = collect(tmp_path)
    assert found.arms == ("spans", "deletion")
    assert [job.name for job in found.unfinished] == ["deletion,seed=0"]
    result = found.results["spans,seed=0"]
    assert set(result["matrix"]) == {"spans", "deletion", "copy"}
    # What the matrix says of its own objective is what the run itself has found.
    assert result["matrix"]["spans"] == result["held_out"]
    # No token is given that a sentinel has taken: all are counted.
    assert result["infill"]["targets"] == result["held_out"]["text_targets"]
    assert result["infill"]["loss"] == pytest.approx(result["held_out"]["text_loss"], rel=1e-5)
    assert result["infill"]["accuracy"] == pytest.approx(result["held_out"]["text_accuracy"])
    assert result["costs"]["source_tokens"] == 8 * 40
    _, again = read_sweep(tmp_path)
    assert again == jobs


def test_every_run_of_a_sweep_has_its_loggers(config, tmp_path, monkeypatch):
    ablation, asked = config(arms={"spans": {}}), []
    [job] = plan_jobs(ablation, tmp_path, log=["tensorboard"])
    write_sweep(ablation, [job], tmp_path)
    assert read_sweep(tmp_path)[1][0].log == []  # of this sweep's doing, not of the sweep
    monkeypatch.setattr(run_module, "train", lambda *_, log: asked.append(log) or 1 / 0)
    assert do(job) == "failed"
    assert asked == [["tensorboard"]]


def test_a_run_that_another_program_is_at_has_not_failed(config, tmp_path):
    [job] = plan_jobs(config(arms={"spans": {}}), tmp_path)
    one = from_dict(job.experiment)
    job.run.claim(job.name, one, prepare(one.data).manifest)
    with job.run.locked(), pytest.raises(Busy):
        do(job)
    assert not job.failure.exists()


def test_an_arm_that_cannot_be_built_is_named_before_anything_starts(config, tmp_path):
    ablation = config(arms={"spans": {}, "masks": {"objective": "masked_lm"}, "rest": {"seed": 5}})
    with pytest.raises(UserError, match=r"1 of 3 arms cannot be built, nothing was started. masks"):
        plan_jobs(ablation, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": {"a": {}, "b": {"data.raw_length": 32}}},
            "a cannot be compared: they have other held-out sets, data.raw_length is 32 and 40",
        ),
        (
            {"arms": {"a": {}, "b": {"training.evaluation_rows": 3}}},
            "training.evaluation_rows is 3 and",
        ),
        ({"infill": {"name": "masked_ml"}}, "did you mean 'masked_lm'"),
        ({"infill": {"noise_density": 0.1}}, "names no objective"),
    ],
)
def test_what_would_fail_when_all_is_trained_is_refused_before(changes, message, config, tmp_path):
    with pytest.raises(UserError, match=message):
        plan_jobs(config(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_measure_that_no_run_will_have_is_refused_before(config, tmp_path):
    jobs = plan_jobs(config(arms={"spans": {}}), tmp_path)
    for name in (None, "infill loss"):
        check_measure(name, jobs)
    with pytest.raises(UserError, match="unknown measure 'infill los': did you mean 'infill loss'"):
        check_measure("infill los", jobs)


@pytest.mark.parametrize("budget", ["source_tokens", "target_tokens", "flops"])
def test_budgets_are_met_by_the_steps(config, budget):
    ablation = config(
        budget=budget,
        arms={
            "short": {"training.steps": 120},
            "wide": {"training.batch_size": 24},
            "whole": {"objective": "bert_style"},
        },
    )
    vocab = full_vocabulary()
    plans = {run.arm: plan(run.experiment, vocab) for run in ablation.runs}
    matched = match_budgets(ablation, plans)
    spent = {
        run.arm: run.experiment.training.steps * costs_of(plans[run.arm])[budget] for run in matched
    }
    assert matched[0] == ablation.runs[0]
    for run in matched[1:]:
        assert spent[run.arm] == pytest.approx(spent["short"], rel=0.5 / 20)
    assert matched[1].experiment.training.steps == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        # of the whole text, what the encoder is not given
        ("text_infilling", lambda batch, rows: 40 - np.isin(rows.tokens[0], read(batch)).sum()),
        ("span_corruption", lambda batch, rows: 6),
        ("identity", lambda batch, rows: 0),
    ],
)
def test_tokens_that_are_given_are_not_asked_for(name, hidden, make_rows):
    rows = make_rows(1, 40)
    rows = dataclasses.replace(rows, tokens=np.arange(200, 240, dtype=np.int32)[None])
    objective = configure(name).build(full_vocabulary())
    batch = jax.device_get(corrupt(objective, rows))
    asked = text_of(batch, objective) & ~given(batch, rows, "decoder", objective)
    assert asked.sum() == hidden(batch, rows)
    assert not np.isin(np.asarray(batch.decoder_target_tokens)[asked], read(batch)).any()


def text_of(batch, objective):
    targets, weights = map(np.asarray, batch.targets("decoder"))
    return (weights > 0) & ~np.asarray(objective.vocab.is_special)[targets]


def read(batch):
    return np.asarray(batch.encoder_input_tokens)[0]


@pytest.mark.slow
def test_of_a_moved_middle_only_the_middle_is_asked_for(make_rows):
    rows, vocab = make_rows(4, 40), full_vocabulary()
    objective = configure("fill_in_the_middle", fim_rate=1.0, spm_rate=0.0).build(vocab)
    batch = jax.device_get(corrupt(objective, rows))
    asked = text_of(batch, objective) & ~given(batch, rows, "decoder", objective)
    for row, line in enumerate(np.asarray(batch.decoder_target_tokens)):
        start = list(line).index(dict(vocab.named_ids)["fim_middle"]) + 1
        end = list(line).index(vocab.eos_id)
        assert np.flatnonzero(asked[row]).tolist() == list(range(start, end))


def test_objectives_that_arms_share_are_asked_once():
    spans, masks = configure("span_corruption"), configure("masked_lm")
    assert by_name({"a": spans, "b": masks}) == {"a": spans, "b": masks}
    other = configure("span_corruption", noise_density=0.5)
    found = by_name({"a": spans, "b": spans, "c": other})
    assert found == {"span_corruption": spans, "c": other}
    with pytest.raises(UserError, match="names no objective"):
        objective_of({"noise_density": 0.5})


@pytest.mark.slow
def test_the_true_order_is_held_against_another_one(tiny):
    setup = build(tiny)
    vocab, rows = setup.objective.vocab, setup.held_out_alone(16)
    permuted = permute(configure("sentence_permutation").build(vocab), rows)
    assert (np.sort(permuted.tokens, axis=1) == np.sort(rows.tokens, axis=1)).all()
    changed = (permuted.tokens != rows.tokens).any(axis=1)
    assert 0 < changed.sum() < 16  # a line of the corpus is a sentence or two
    found = prefer_order(setup, setup.initial_state().params, rows)
    assert found["texts"] == changed.sum()
    # Whoever knows nothing of the text finds both orders alike.
    assert abs(found["margin"]) < 0.1
    single = jax.tree.map(lambda x: x[~changed], rows)
    assert prefer_order(setup, setup.initial_state().params, single) is None
    decoder = override(tiny, {"objective": "causal_lm", "model.architecture": "decoder"})
    setup = build(decoder)
    params = setup.initial_state().params
    assert prefer_order(setup, params, rows)["texts"] == changed.sum()
    encoder = build(override(tiny, {"objective": "masked_lm", "model.architecture": "encoder"}))
    assert prefer_order(encoder, encoder.initial_state().params, rows) is None
