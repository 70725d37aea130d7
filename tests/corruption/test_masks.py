"""Masks and spans: counts, distribution, determinism."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.corruption import lengths, masks, spans
from jaxdenoise.errors import UserError
from tests.reference import span_corruption as reference


def draw_masks(draws: int, size: int, length: int, density: float, mean: float) -> np.ndarray:
    """Bool[draws, size]."""

    def one(key):
        return spans.to_mask(spans.random_spans(key, size, length, density, mean), size)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(7), draws)))


def chi_square(observed: np.ndarray) -> float:
    """The probability of counts so uneven, if all cells were equally likely."""
    return scipy.stats.chisquare(observed).pvalue


def test_all_span_masks_are_equally_likely():
    # 4 noise tokens of 10 in 2 spans: C(3, 1) · C(5, 1) = 15 masks.
    drawn = draw_masks(30_000, 10, 10, 0.4, 2)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(found) == 15
    assert chi_square(counts) > 1e-3


def test_the_reference_draws_the_same_masks():
    rng = np.random.default_rng(0)
    reference_masks = np.array([reference.mask(rng, 10, 0.4, 2) for _ in range(30_000)])
    found, counts = np.unique(reference_masks, axis=0, return_counts=True)
    ours = np.unique(draw_masks(3_000, 10, 10, 0.4, 2), axis=0)
    np.testing.assert_array_equal(found, ours)
    assert chi_square(counts) > 1e-3


SETTINGS = [(0.01, 3), (0.15, 3), (0.15, 1), (0.5, 1.5), (0.5, 64), (0.85, 10), (0.99, 1)]
random_spans = jax.jit(spans.random_spans, static_argnums=(1, 3, 4))
to_mask = jax.jit(spans.to_mask, static_argnums=1)
to_spans = jax.jit(spans.to_spans, static_argnums=1)


@given(st.data(), st.integers(0, 2**32 - 1), st.sampled_from(SETTINGS))
def test_counts_and_shape_of_the_spans(data, seed, setting):
    size = data.draw(st.sampled_from([2, 9, 80]))
    length = data.draw(st.integers(0, size))
    density, mean = setting
    spans = random_spans(jax.random.key(seed), size, length, density, mean)
    noise = np.asarray(to_mask(spans, size))
    expected_noise, expected_spans = lengths.noise_counts(length, density, mean)
    assert noise.sum() == expected_noise == spans.noise
    starts = noise & ~np.concatenate([[False], noise[:-1]])
    assert starts.sum() == expected_spans == spans.used
    assert not noise[length:].any()
    if length >= 2:
        assert not noise[0]
        assert noise[length - 1]


def test_first_token_is_never_noise_and_the_last_always_is():
    drawn = draw_masks(200, 20, 20, 0.15, 3)
    expected = np.zeros(20, bool)
    expected[-3:] = True
    assert (drawn == expected).all()  # T5 issue 905, kept as the default


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 17, 40]))
def test_mask_and_spans_are_two_views_of_one_thing(seed, size):
    noise = np.random.default_rng(seed).random(size) < 0.4
    spans = to_spans(jnp.asarray(noise), size // 2 + 1)
    np.testing.assert_array_equal(to_mask(spans, size), noise)


@given(st.integers(0, 12), st.integers(0, 12))
def test_random_subsets_are_sorted_distinct_and_inside(population, size):
    size = min(size, population)
    draw = jax.jit(spans._random_subset, static_argnums=3)
    chosen = np.asarray(draw(jax.random.key(3), population, size, 12))[:size]
    assert len(set(chosen)) == size
    assert (np.diff(chosen) > 0).all()
    assert ((chosen >= 0) & (chosen < population)).all()


def test_all_subsets_are_equally_likely():
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda key: spans._random_subset(key, 6, 3, 3))(keys)
    found, counts = np.unique(np.asarray(drawn), axis=0, return_counts=True)
    assert [tuple(row) for row in found] == list(itertools.combinations(range(6), 3))
    assert len(found) == math.comb(6, 3)
    assert chi_square(counts) > 1e-3


def test_iid_marks_ordinary_tokens_alone_at_the_given_rate(vocab):
    tokens = jnp.tile(jnp.array([50, 0, 1, 2, 3, 999, 60]), 100)
    drawn = jax.vmap(lambda key: masks.iid(key, tokens, 600, 0.3, vocab))(
        jax.random.split(jax.random.key(0), 200)
    )
    drawn = np.asarray(drawn)
    special = np.asarray(vocab.is_special)[np.asarray(tokens)]
    assert not drawn[:, special].any()
    assert not drawn[:, 600:].any()
    maskable = (~special[:600]).sum() * 200
    assert abs(drawn.sum() / maskable - 0.3) < 4 * math.sqrt(0.21 / maskable)


@pytest.mark.parametrize(("density", "marked"), [(0.0, 0), (1.0, 6)])
def test_iid_takes_the_closed_interval(vocab, density, marked):
    noise = masks.iid(jax.random.key(0), jnp.arange(10, 16), 6, density, vocab)
    assert int(noise.sum()) == marked


def test_iid_refuses_a_density_above_one(vocab):
    with pytest.raises(UserError, match="noise_density is 1.2"):
        masks.iid(jax.random.key(0), jnp.arange(10, 16), 6, 1.2, vocab)
