"""Means, gaps and agreement: against SciPy, by hand, and on noise that has nothing to claim."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdenoise.comparison.paired import agreement, gaps, ranking, spread


def runs(**means):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=5)  # what a seed does to every arm
    return {
        arm: {seed: mean + shared[seed] + 0.01 * rng.normal() for seed in range(5)}
        for arm, mean in means.items()
    }


def test_what_seeds_share_hides_no_gap():
    values = runs(low=0.0, high=0.2)
    assert spread(values["low"]).deviation > 0.2  # the gap is within the spread of single runs
    [gap] = gaps(values, higher_is_better=True)
    assert (gap.better, gap.worse, gap.claimed) == ("high", "low", True)
    assert gap.difference == pytest.approx(0.2, abs=0.02)
    both = [list(values[arm].values()) for arm in ("low", "high")]
    assert gap.chance == pytest.approx(scipy.stats.ttest_rel(*both).pvalue)
    [other] = gaps(values, higher_is_better=False)
    assert (other.better, other.chance) == ("low", gap.chance)


def test_chances_are_corrected_for_the_number_of_pairs():
    values = runs(a=0.0, b=0.013, c=0.5)
    found = gaps(values, higher_is_better=True)
    alone = {
        pair: gaps({arm: values[arm] for arm in pair}, higher_is_better=True)[0].chance
        for pair in itertools.combinations("abc", 2)
    }
    order = sorted(alone, key=alone.__getitem__)
    by_pair = {tuple(sorted((gap.better, gap.worse))): gap.chance for gap in found}
    largest = 0.0
    for rank, pair in enumerate(order):
        largest = max(largest, min(alone[pair] * (3 - rank), 1.0))
        assert by_pair[pair] == pytest.approx(largest)


@pytest.mark.parametrize(
    ("values", "chance"),
    [
        ({"a": {0: 1.0}, "b": {0: 2.0}}, None),  # one seed says nothing
        ({"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0, 1: 1.0}}, 1.0),
        ({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 3.0}}, 0.5),  # no spread: the signs' chance
    ],
)
def test_too_little_is_not_claimed(values, chance):
    [gap] = gaps(values, higher_is_better=True)
    assert (gap.chance, gap.claimed) == (chance, False)
    assert all(worse == [] for _, worse in ranking(values, higher_is_better=True))


def test_arms_without_a_seed_in_common_are_not_compared():
    assert gaps({"a": {0: 1.0}, "b": {1: 2.0}}, higher_is_better=True) == []


@settings(max_examples=3)
@given(st.integers(0, 2**32 - 1))
def test_noise_is_seldom_claimed(seed):
    """Of 60 tables of six arms that are all the same, few claim anything."""
    rng = np.random.default_rng(seed)
    claiming = 0
    for _ in range(60):
        values = {arm: dict(enumerate(rng.normal(size=3))) for arm in "abcdef"}
        claiming += any(gap.claimed for gap in gaps(values, higher_is_better=True))
    assert claiming <= 8


def test_agreement_counts_orders_and_claimed_gaps():
    values = runs(a=0.0, b=1.0, c=2.0)
    same = agreement(values, {"a": 80.0, "b": 81.0, "c": 82.0}, higher_is_better=True)
    assert (same.tau, same.arms, same.agreeing, same.disagreeing) == (1.0, 3, 3, 0)
    opposite = agreement(values, {"a": 80.0, "b": 81.0, "c": 82.0}, higher_is_better=False)
    assert (opposite.tau, opposite.agreeing, opposite.disagreeing) == (-1.0, 0, 3)
    perplexity = agreement(
        values,
        {"a": 9.0, "b": 8.0, "x": 1.0},
        higher_is_better=True,
        published_higher_is_better=False,
    )
    assert (perplexity.tau, perplexity.arms) == (1.0, 2)
    assert agreement(values, {"a": 1.0}, higher_is_better=True).tau is None
