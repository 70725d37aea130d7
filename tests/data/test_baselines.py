"""Unigram and bigram models against plain counting."""

import collections
import itertools
import math

import numpy as np

from jaxdenoise.data.baselines import fit_baselines

TOKENS = np.random.default_rng(0).choice(6, 5000, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
TOKENS[1::3] = (TOKENS[0:-1:3] + 1) % 6  # every third token follows from the one before


def test_losses_are_those_of_counting():
    models = fit_baselines(TOKENS, 8)
    pairs, singles = map(collections.Counter, (itertools.pairwise(TOKENS), TOKENS))
    before = collections.Counter(TOKENS[:-1])
    losses = models.losses(np.array([0, 3, 7]), np.array([1, 4, 7]))
    for place, (x, y) in enumerate([(0, 1), (3, 4), (7, 7)]):
        unigram = (singles[y] + 1) / (len(TOKENS) + 8)
        pair = pairs[x, y] / max(before[x], 1)
        mixed = models.weight * pair + (1 - models.weight) * unigram
        assert math.isclose(losses["unigram"][place], -math.log(unigram))
        assert math.isclose(losses["bigram"][place], -math.log(mixed))


def test_both_models_are_distributions():
    models = fit_baselines(TOKENS, 8)
    for x in range(8):
        losses = models.losses(np.full(8, x), np.arange(8))
        assert math.isclose(np.exp(-losses["unigram"]).sum(), 1)
        if x < 6:
            assert math.isclose(np.exp(-losses["bigram"]).sum(), 1)


def test_the_bigram_is_better_where_tokens_follow_from_each_other_and_not_where_not():
    models = fit_baselines(TOKENS, 8)
    losses = models.losses(TOKENS[:-1], TOKENS[1:])
    assert losses["bigram"].mean() < losses["unigram"].mean() - 0.1
    independent = np.random.default_rng(1).choice(50, 2000)
    assert fit_baselines(independent, 50).weight < 0.2


def test_predictions_are_the_likeliest_tokens():
    models = fit_baselines(TOKENS, 8)
    guesses = models.predictions(np.arange(8))
    assert (guesses["unigram"] == np.argmax(models.unigram)).all()
    for x in range(8):
        losses = models.losses(np.full(8, x), np.arange(8))["bigram"]
        assert losses[guesses["bigram"][x]] == losses.min()


def test_no_pair_is_impossible_where_every_token_was_certain():
    models = fit_baselines(np.arange(4000) % 5, 8)
    losses = models.losses(np.array([0, 0]), np.array([1, 3]))["bigram"]
    assert losses[0] < 0.01
    assert 5 < losses[1] < 20
