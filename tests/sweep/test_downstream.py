"""Fine-tuning as a measure: each arm starts from its own run, with its seed, and is compared."""

import dataclasses

import pytest

from jaxdenoise.ablation import resolve
from jaxdenoise.comparison.results import collect
from jaxdenoise.errors import UserError
from jaxdenoise.experiment import experiment, experiments, override
from jaxdenoise.sweep import downstream
from jaxdenoise.sweep.jobs import do
from jaxdenoise.sweep.plan import plan_jobs, write_sweep
from jaxdenoise.training.run_directory import RunDirectory, open_run, read_json
from jaxdenoise.training.scoring import MODEL


@pytest.fixture
def config(tiny, on_pairs):
    """A function that resolves a config over the tiny experiment, with a task on pairs."""

    def tiny_run():
        """Learns next to nothing, in a second."""
        return tiny

    def task():
        """Names of functions."""
        return override(on_pairs, {"training.steps": 2})

    def make(**plain):
        base = {"experiment": "tiny_run", "seeds": [3], "downstream": {"task": {}}}
        return resolve("x", {**base, **plain})

    with experiments.scope():
        experiment(tiny_run)
        experiment(task)
        yield make


@pytest.mark.slow
def test_every_arm_is_fine_tuned_from_its_own_run(config, tmp_path, monkeypatch):
    ablation = config(
        arms={
            "wide": {"model.width": 48},
            "decoder": {"model.architecture": "decoder", "objective": "causal_lm"},
            "encoder": {"model.architecture": "encoder", "objective": "masked_lm"},
        },
        overrides={"training.steps": 2, "training.evaluation_rows": 4},
        downstream={"task": {"training": {"evaluation_rows": 4}}},
        measure="task token F1",
    )
    jobs = plan_jobs(ablation, tmp_path)
    write_sweep(ablation, jobs, tmp_path)
    assert [do(job) for job in jobs] == ["done"] * 3, [job.reason() for job in jobs]
    asked_more = dataclasses.replace(jobs[0], downstream={**jobs[0].downstream, "more": {}})
    assert asked_more.state() != "done"
    found = collect(tmp_path)
    assert found.ranked_by.name == "task token F1"
    assert set(found.ranked_by.values) == {"wide", "decoder"}  # an encoder writes nothing
    for job in jobs[:2]:
        _, name, tuned = open_run(str(job.run.path / "task"))
        assert name == "task"
        assert tuned.training.init_from == job.path
        assert tuned.seed == 3
        assert tuned.model.width == (48 if job.arm == "wide" else 16)
        scores = read_json(RunDirectory(job.run.path / "task").results)["scores"][MODEL]
        assert found.results[job.name]["downstream"]["task"] == scores
        assert scores.keys() == {"exact_match", "token_f1", "rouge_l"}
    assert tuned.objective.name == "subsequence"
    monkeypatch.setattr(downstream, "fine_tune", lambda *_: {"token_f1": 0.0})
    more = {**jobs[0].downstream, "more": jobs[0].downstream["task"]}
    assert do(dataclasses.replace(jobs[0], downstream=more)) == "done"
    assert collect(tmp_path).results[jobs[0].name]["downstream"]["more"] == {"token_f1": 0.0}


def test_an_objective_that_a_decoder_can_have_stays(on_pairs):
    fields = {"model.architecture": "decoder", "objective": "subsequence"}
    chosen = override(on_pairs, {**fields, "objective.bidirectional_context": True})
    assert downstream.fitting(chosen) == chosen


@pytest.mark.slow
def test_runs_on_pairs_are_compared_by_their_answers(config, tmp_path):
    ablation = config(
        experiment="task",
        arms={"one": {}, "two": {"training.steps": 3}},
        overrides={"training.evaluation_rows": 4},
        downstream={},
        measure="exact match",
    )
    jobs = plan_jobs(ablation, tmp_path)
    write_sweep(ablation, jobs, tmp_path)
    assert [do(job) for job in jobs] == ["done"] * 2, [job.reason() for job in jobs]
    found = collect(tmp_path)
    assert found.ranked_by.values == {"one": {3: 0.0}, "two": {3: 0.0}}
    assert list(found.matrix) == ["text_to_text"]


def test_what_is_not_on_pairs_is_no_downstream_task(config, tmp_path):
    with pytest.raises(UserError, match=r"config x: downstream.tiny_run is not on pairs"):
        config(downstream={"tiny_run": {}})
    with pytest.raises(UserError, match=r"downstream.task of arm tiny_run cannot be built, "):
        plan_jobs(config(downstream={"task": {"training": {"micro_batches": 3}}}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="did you mean 'task'"):
        config(downstream={"taks": {}})
