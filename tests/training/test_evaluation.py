"""Held-out figures: the same targets for model and baselines, text apart from special ids."""

import itertools
import math

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxdenoise.data.baselines import fit_baselines
from jaxdenoise.data.rows import sample_rows
from jaxdenoise.experiment import override
from jaxdenoise.training import evaluation
from jaxdenoise.training import step as steps
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory
from jaxdenoise.training.setup import build

corrupt = jax.jit(steps.corrupt, static_argnums=0)


@pytest.fixture
def setup(tiny):
    return build(tiny)


@pytest.fixture
def rows(setup):
    return sample_rows(setup.store.tokens("held_out"), 40, 50)


def test_the_token_before_each_target_is_that_of_the_source(setup, rows):
    batch = jax.device_get(corrupt(setup.objective, rows))
    vocab = setup.objective.vocab
    previous, targets = evaluation._text_targets(batch, "decoder", vocab)
    expected = []
    for tokens, length in zip(rows.tokens, rows.lengths, strict=True):
        pairs = list(itertools.pairwise(tokens[:length]))
        expected += pairs
    # Every (previous, target) pair stands somewhere in the source, row after row in order.
    assert len(targets) > 50
    remaining = iter(expected)
    for pair in zip(previous, targets, strict=True):
        assert any(pair == candidate for candidate in remaining)


@pytest.mark.slow
def test_the_evaluation_does_not_depend_on_how_rows_are_packed(tiny):
    """The same examples, one to a row or several: the same figures, the baselines' too."""
    sizes = {"data.encoder_length": 80, "data.decoder_length": 40}
    setup = build(override(tiny, {"data.packing": True, **sizes}))
    packed = setup.held_out(6)
    used = packed.pieces.lengths.reshape(-1) > 0
    alone = jax.tree.map(lambda x: np.asarray(x)[used], packed.unpacked())
    assert len(alone.lengths) > 12
    params, bytes_of = setup.initial_state().params, setup.store.tokenizer.token_bytes
    models = fit_baselines(setup.store.tokens("train"), setup.objective.vocab.size)
    found = []
    for rows in (packed, alone):
        evaluator = evaluation.Evaluator(
            setup.evaluation, setup.model, rows, bytes_of, setup.backend
        )
        found.append({**evaluator.baselines(models), "model": evaluator(params)})
    for name, figures in found[0].items():
        for figure, value in figures.items():
            assert math.isclose(value, found[1][name][figure], rel_tol=1e-5), (name, figure)


@pytest.mark.slow
def test_the_evaluation_does_not_depend_on_how_rows_are_chunked(setup, rows, monkeypatch):
    tokenizer = setup.store.tokenizer
    params = setup.initial_state().params
    figures = []
    for chunk in (64, 7):
        monkeypatch.setattr(evaluation, "CHUNK", chunk)
        figures.append(
            evaluation.Evaluator(
                setup.objective, setup.model, rows, tokenizer.token_bytes, setup.backend
            )(params)
        )
    for name in figures[0]:
        assert math.isclose(figures[0][name], figures[1][name], rel_tol=1e-5)


def test_bits_per_byte_count_the_bytes_of_the_targets(setup, rows):
    tokenizer = setup.store.tokenizer
    evaluator = evaluation.Evaluator(
        setup.objective, setup.model, rows, tokenizer.token_bytes, setup.backend
    )
    models = fit_baselines(setup.store.tokens("train"), tokenizer.vocab.size)
    figures = evaluator.baselines(models)["unigram"]
    batch = jax.device_get(corrupt(setup.objective, rows))
    _, targets = evaluation._text_targets(batch, "decoder", tokenizer.vocab)
    size = len(tokenizer.decode(targets).encode())
    expected = figures["text_loss"] * len(targets) / math.log(2) / size
    assert math.isclose(figures["bits_per_byte"], expected, rel_tol=1e-6)


@pytest.mark.slow
def test_the_corruption_is_frozen(tiny, tmp_path):
    """The experiment's seed does not enter it: as `train` builds them, all runs have one."""
    corrupted = []
    for seed in (0, 1):
        experiment = override(tiny, {"seed": seed, "training.steps": 1})
        run = RunDirectory(tmp_path / str(seed))
        train(build(experiment), "tiny", run, Console(quiet=True))
        checkpoints = Checkpoints(run.checkpoints)
        corrupted.append(checkpoints.fingerprint(1)["corruption"])
        checkpoints.close()
    assert corrupted[0] == corrupted[1]


def test_held_out_rows_do_not_share_the_training_rows_noise(setup, rows):
    reseeded = rows.seeded(setup.experiment.seed)
    held_out, training = (corrupt(setup.objective, r) for r in (rows, reseeded))
    changed = (held_out.encoder_input_tokens != training.encoder_input_tokens).any(axis=1)
    assert np.asarray(changed).mean() > 0.9


def test_gap_closed_is_zero_at_the_unigram_and_one_at_the_bigram():
    baselines = {"unigram": {"text_loss": 6.0}, "bigram": {"text_loss": 4.0}}
    assert evaluation.gap_closed({"text_loss": 6.0}, baselines) == 0
    assert evaluation.gap_closed({"text_loss": 5.1}, baselines) == pytest.approx(0.45)
    assert evaluation.gap_closed({"text_loss": 4.0}, baselines) == 1
