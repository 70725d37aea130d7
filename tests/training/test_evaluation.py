"""Held-out figures: the same targets for model and baselines, text apart from special ids."""

import itertools
import math

import jax
import numpy as np
import pytest

from jaxdenoise.arrays import Rows
from jaxdenoise.data.baselines import fit_baselines
from jaxdenoise.data.rows import sample_rows
from jaxdenoise.training import evaluation
from jaxdenoise.training import step as steps
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


def test_the_evaluation_does_not_depend_on_how_rows_are_chunked(setup, rows, monkeypatch):
    tokenizer = setup.store.tokenizer
    params = setup.initial_state().params
    figures = []
    for chunk in (64, 7):
        monkeypatch.setattr(evaluation, "CHUNK", chunk)
        figures.append(
            evaluation.Evaluator(setup.objective, setup.model, rows, tokenizer.token_bytes)(params)
        )
    for name in figures[0]:
        assert math.isclose(figures[0][name], figures[1][name], rel_tol=1e-5)


def test_bits_per_byte_count_the_bytes_of_the_targets(setup, rows):
    tokenizer = setup.store.tokenizer
    evaluator = evaluation.Evaluator(setup.objective, setup.model, rows, tokenizer.token_bytes)
    models = fit_baselines(setup.store.tokens("train"), tokenizer.vocab.size)
    figures = evaluator.baselines(models)["unigram"]
    batch = jax.device_get(corrupt(setup.objective, rows))
    _, targets = evaluation._text_targets(batch, "decoder", tokenizer.vocab)
    size = len(tokenizer.decode(targets).encode())
    expected = figures["text_loss"] * len(targets) / math.log(2) / size
    assert math.isclose(figures["bits_per_byte"], expected, rel_tol=1e-6)


def test_the_corruption_is_frozen(setup, rows):
    """Neither the experiment's seed nor the order of evaluation enters it."""
    reseeded = Rows(**{**rows.__dict__, "seed": 0})
    one, other = corrupt(setup.objective, rows), corrupt(setup.objective, reseeded)
    np.testing.assert_array_equal(one.encoder_input_tokens, other.encoder_input_tokens)
    assert rows.seed == 0


def test_gap_closed_is_zero_at_the_unigram_and_one_at_the_bigram():
    baselines = {"unigram": {"text_loss": 6.0}, "bigram": {"text_loss": 4.0}}
    assert evaluation.gap_closed({"text_loss": 6.0}, baselines) == 0
    assert evaluation.gap_closed({"text_loss": 5.1}, baselines) == pytest.approx(0.45)
    assert evaluation.gap_closed({"text_loss": 4.0}, baselines) == 1
