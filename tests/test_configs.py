"""The ablations that come with the package: what they compare, and that every arm learns."""

import dataclasses
import doctest
import functools
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxdenoise import ablation, experiment
from jaxdenoise.comparison.results import check_measure
from jaxdenoise.corruption import rates
from jaxdenoise.data.stand_in import vocabulary_of
from jaxdenoise.experiment import determining, digest, experiments, override
from jaxdenoise.losses import projected_terms
from jaxdenoise.objectives import configure, objectives
from jaxdenoise.sweep.plan import plan_jobs
from jaxdenoise.training.compiled import sample_rows
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory
from jaxdenoise.training.setup import build, plan
from jaxdenoise.training.step import corrupt

experiment.load_experiments()
CONFIGS = ablation.config_files()
README = experiment.bundled("configs") / "README.md"
SCALES = {"smoke": 2, "mini": 3, "full": 3}
SLOW = pytest.mark.slow
EVERY = pytest.mark.parametrize("name", sorted(CONFIGS))


@functools.cache
def load(name: str, scale: str) -> ablation.Ablation:
    return ablation.load_ablation(CONFIGS[name], scale=scale)


def arms(name: str, scale: str = "smoke") -> dict[str, experiment.Experiment]:
    """The experiment of each arm, with the first seed."""
    runs = load(name, scale).runs
    return {run.arm: run.experiment for run in runs if run.experiment.seed == 0}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@EVERY
@pytest.mark.parametrize(
    "scale", ["smoke", *(pytest.param(s, marks=SLOW) for s in ("mini", "full"))]
)
def test_a_config_resolves_at_every_scale(name, scale):
    assert list(ablation.read_config(CONFIGS[name])["scales"]) == list(SCALES)
    assert load(name, scale).source
    runs = load(name, scale).runs
    assert len({run.name for run in runs}) == len(runs) == len(arms(name, scale)) * SCALES[scale]
    assert len({digest(run.experiment) for run in runs}) == len(runs)
    assert len({run.experiment.data.raw_length for run in runs}) == 1  # all read the same rows


@SLOW
@EVERY
@pytest.mark.parametrize("scale", ["smoke", "full"])
def test_all_that_a_sweep_checks_before_it_starts_holds(name, scale, tmp_path):
    """Budgets, blanks, fine-tuning at the end; vocabularies as large as those that are trained."""
    config = load(name, scale)

    def prepared(one: experiment.Experiment) -> SimpleNamespace:
        assert one.data.tokenizer is None
        return SimpleNamespace(
            tokenizer=SimpleNamespace(vocab=vocabulary_of(one.data)), identity="the same"
        )

    jobs = plan_jobs(config, tmp_path, prepared)
    check_measure(config.measure, jobs)
    assert [job.name for job in jobs] == [run.name for run in config.runs]
    assert all(job.experiment["training"]["steps"] >= 1 for job in jobs)


@EVERY
def test_arms_differ_in_what_the_config_says_alone(name):
    plain = ablation.read_config(CONFIGS[name])
    points = ablation.points(plain.get("axes", {}), plain.get("arms"))
    named = {field for point in points.values() for field in point} | {"seed"}
    if "objective.name" in named:  # the other options are its own
        named |= {field for one in arms(name).values() for field in determining(one)} & {
            f"objective.{option}" for recipe in _recipes(name) for option in recipe
        }
    same = [
        {field: value for field, value in determining(one).items() if field not in named}
        for one in arms(name).values()
    ]
    assert all(fields == same[0] for fields in same)
    assert "optimizer.learning_rate" in same[0]


def _recipes(name: str) -> list[list[str]]:
    return [list(one.objective.options()) for one in arms(name).values()]


@EVERY
def test_what_is_published_is_given_for_every_arm(name):
    published = load(name, "mini").published
    if published is not None:
        assert set(published.values) == set(load(name, "mini").arms)
    if name.startswith("t5"):
        assert published is not None
        assert max(published.values.values()) < 85
    if name in ("t5_table5_bert_variants", "t5_table6_corruption_rate", "t5_table7_span_length"):
        assert 83.28 in published.values.values()  # T5's baseline


@EVERY
def test_the_top_of_a_config_says_what_it_is(name):
    text = CONFIGS[name].read_text("utf-8")
    head = text[: text.index("\n\n")]
    for word in ("Paper", "Expected", "Here", "Cost      mini: "):
        assert f"\n# {word}" in head, word
    assert f"jaxdenoise sweep {name} --scale mini" in head
    assert f"mini: {len(load(name, 'mini').runs)} runs" in head
    assert all(len(line) <= 100 for line in text.splitlines())


@EVERY
def test_every_arm_is_evaluated_under_the_further_objectives(name):
    asked = load(name, "smoke")
    for further in [*asked.held_out.values(), *([asked.infill] if asked.infill else [])]:
        options = {**further}
        built = configure(options.pop("name"), **options)
        for one in arms(name).values():
            shapes = built.build(vocabulary_of(one.data)).shapes(one.data.raw_length)
            assert shapes.architecture == one.model.architecture


def test_the_page_lists_every_config_with_its_runs():
    rows = [
        line.split(" | ") for line in README.read_text("utf-8").splitlines() if line[:3] == "| `"
    ]
    listed = {row[0].strip("| `"): (int(row[3]), int(row[4])) for row in rows}
    resolved = {name: load(name, "mini") for name in CONFIGS}
    assert listed == {name: (len(one.arms), len(one.runs)) for name, one in resolved.items()}


@pytest.mark.parametrize("page", [README, Path(__file__).parent.parent / "README.md"])
def test_figures_are_of_experiments_as_they_are_registered(page):
    """A run's name has its experiment's digest: figures of another experiment go with it."""
    named = re.findall(r"\b([a-z]\w*)-([0-9a-f]{8})\b", page.read_text("utf-8"))
    known = {(name, found) for name, found in named if name in experiments}
    assert known
    assert known == {(name, digest(experiments[name]())) for name, _ in known}


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_data_are_repeated_as_often_as_the_config_says(scale):
    epochs = {}
    for name, one in arms("repeated_data", scale).items():
        seen = one.training.steps * one.training.batch_size * one.data.raw_length
        epochs.setdefault(name.partition(",")[0], []).append(seen / one.data.train_tokens)
    assert list(epochs.values()) == [[1, 4, 16, 64]] * 3


def test_the_second_phase_begins_where_the_arm_says():
    for name, one in arms("causal_then_masked").items():
        share = one.objective.options()["masked_share"]
        stages = rates.stages(share) if rates.is_schedule(share) else (share,) * rates.STAGES
        causal = int(name.partition("%")[0])
        assert stages == (0,) * causal + (1,) * (100 - causal)


@pytest.mark.parametrize("module", ["full_targets", "two_phases"])
def test_examples_in_docstrings_are_true(module):
    found = sys.modules[f"{experiment.BUILT_IN}.{module}"]
    results = doctest.testmod(found, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 3
    assert results.failed == 0


def _corrupted(name, rows, vocab, **options):
    objective = objectives[name](vocab=vocab, **options)
    return jax.vmap(objective)(rows.keys, rows.tokens, rows.lengths)


@pytest.mark.slow
@pytest.mark.parametrize("unbiased", [False, True])
def test_both_targets_have_the_same_inputs(make_rows, vocab, unbiased):
    rows = make_rows(6, 40, lengths=[40, 40, 33, 7, 2, 0])
    spans = _corrupted("span_corruption", rows, vocab, unbiased=unbiased)
    whole = _corrupted("spans_full_target", rows, vocab, unbiased=unbiased)
    for field in ("encoder_input_tokens", "encoder_segment_ids"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(spans, field))
    for row, length in enumerate(rows.lengths):
        target = np.append(rows.tokens[row, :length], vocab.eos_id)
        np.testing.assert_array_equal(whole.decoder_target_tokens[row, : length + 1], target)
        assert float(whole.count[row]) == (length + 1 if length else 0)


def test_without_masked_rows_it_is_a_causal_language_model(make_rows, vocab):
    rows = make_rows(3, 12, lengths=[12, 7, 0])
    causal = _corrupted("causal_lm", rows, vocab)
    phased = _corrupted("causal_or_masked", rows, vocab, masked_share=0.0)
    place = jnp.broadcast_to(jnp.arange(12), (3, 12))
    seen = phased.decoder_visibility
    np.testing.assert_array_equal(seen.visible_at, place)
    np.testing.assert_array_equal(seen.sees_until, place)
    jax.tree.map(
        np.testing.assert_array_equal, dataclasses.replace(phased, decoder_visibility=None), causal
    )


def test_masked_rows_see_all_but_what_they_predict(make_rows, vocab):
    rows = make_rows(200, 30, lengths=[30] * 100 + [21] * 100)
    example = _corrupted("causal_or_masked", rows, vocab, masked_share=1.0)
    noise = np.asarray(example.decoder_loss_weights) > 0
    inputs = np.pad(np.where(noise, vocab.mask_id, rows.tokens)[:, :-1], ((0, 0), (1, 0)))
    np.testing.assert_array_equal(example.decoder_input_tokens, inputs)
    np.testing.assert_array_equal(example.decoder_target_tokens, rows.tokens)
    assert not noise[100:, 21:].any()
    assert abs(noise.sum() / rows.lengths.sum() - 0.4) < 0.03
    assert (np.asarray(example.decoder_visibility.sees_until) == 29).all()
    half = _corrupted("causal_or_masked", rows, vocab, masked_share=0.5)
    masked = (np.asarray(half.decoder_input_tokens) == vocab.mask_id).any(axis=1)
    assert 70 < masked.sum() < 130
    np.testing.assert_array_equal(half.count, np.where(masked, noise.sum(axis=1), rows.lengths))


@functools.partial(jax.jit, static_argnums=(0, 1))
def take_step(model, gradients, params, batch):
    """The mean loss, the gradient's norm, and the parameters a little further down."""

    def mean(params):
        made = model.forward(params, batch, gradients=gradients)
        targets = batch.selected_targets(model.stack)
        return projected_terms(made.hidden, made.projection, *targets).loss / targets[1].sum()

    loss, gradient = jax.value_and_grad(mean)(params)
    moved = jax.tree.map(lambda x, g: x - 0.01 * g, params, gradient)
    return loss, optax.tree.norm(gradient), moved


@functools.cache
def initial(model):
    return jax.jit(model.init)(jax.random.key(0))


@pytest.mark.slow
@EVERY
def test_every_arm_takes_a_step_that_lowers_its_loss(name):
    """At scale smoke; arms whose examples have the same shapes share a compilation."""
    for one in arms(name).values():
        made = plan(one, vocabulary_of(one.data))
        rows = jax.tree.map(lambda x: x[:8], sample_rows(made))
        batch = jax.jit(corrupt, static_argnums=0)(made.objective, rows)
        step = functools.partial(take_step, made.model, one.training.gradients)
        loss, norm, params = step(initial(made.model), batch)
        assert np.isfinite(loss)
        assert 1e-3 < norm < 1e3
        assert step(params, batch)[0] < loss
        assert not np.asarray(batch.unselected(made.model.stack)).any()


def test_an_arm_is_added_in_one_line():
    line = tomllib.loads(blocks("toml")[0])
    [arm] = line
    plain = ablation.read_config(CONFIGS["t5_table6_corruption_rate"])
    plain.pop("published")
    plain["arms"] |= line
    assert ablation.resolve("x", plain, scale="smoke").arms == ("10%", "15%", "25%", "50%", arm)


@pytest.mark.slow
def test_an_objective_is_added_with_its_ablation_as_the_page_says(tmp_path, corpus):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "__init__.py").touch()
    [code], [_, config] = blocks("python"), blocks("toml")
    (folder / "even_masks.py").write_text(code)
    (tmp_path / "even_masks.toml").write_text(config)
    with objectives.scope(), experiments.scope():
        experiment.import_package("experiments_of_the_page", folder)
        found = ablation.load_ablation(tmp_path / "even_masks.toml", {"seed": 0}, "smoke")
        assert found.arms == ("random", "even")
        for run in found.runs:
            here = {"data.files": [str(corpus)], "data.held_out": 0.2}
            setup = build(override(run.experiment, here))
            place = RunDirectory(tmp_path / run.name)
            results = train(setup, run.name, place, Console(quiet=True))
            assert results["steps"] == 30
            assert np.isfinite(results["held_out"]["text_loss"])
