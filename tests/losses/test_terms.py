"""The algebra of losses, and the numbers one can do by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

import jaxdenoise as jd
from jaxdenoise import losses
from jaxdenoise.errors import UserError


def random_case(seed, batch=4, length=6, size=11):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(batch, length, size)) * 4, jnp.float32)
    targets = jnp.asarray(rng.integers(0, size, (batch, length)), jnp.int32)
    weights = jnp.asarray(rng.choice([0, 0.5, 1, 2], (batch, length)), jnp.float32)
    return logits, targets, weights


def by_hand(logits, targets):
    wide = np.asarray(logits, np.float64)
    total = np.log(np.exp(wide).sum(axis=-1))
    return total - np.take_along_axis(wide, np.asarray(targets)[..., None], -1)[..., 0]


@given(st.integers(0, 2**32 - 1))
def test_cross_entropy_is_the_formula(seed):
    logits, targets, _ = random_case(seed)
    np.testing.assert_allclose(
        jd.cross_entropy(logits, targets), by_hand(logits, targets), rtol=2e-5, atol=1e-5
    )


def test_uniform_logits_give_ln_v():
    nll = jd.cross_entropy(jnp.full((3, 50), 7.0), jnp.array([0, 20, 49]))
    np.testing.assert_allclose(nll, math.log(50), rtol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits = jnp.zeros((1, 30_000), jnp.bfloat16)
    nll = jd.cross_entropy(logits, jnp.array([5]))
    assert nll.dtype == jnp.float32
    np.testing.assert_allclose(nll, math.log(30_000), rtol=1e-6)


@pytest.mark.parametrize("target", [-1, 11, 2**31 - 1])
def test_a_target_outside_the_vocabulary_gives_no_nan(target):
    logits, targets, weights = random_case(0)
    targets = targets.at[0, 0].set(target)
    weights = weights.at[0, 0].set(0)
    terms, gradient = jax.value_and_grad(lambda x: losses.loss_terms(x, targets, weights).loss)(
        logits
    )
    assert np.isfinite(terms)
    assert np.isfinite(gradient).all()


@given(st.integers(0, 2**32 - 1))
def test_terms_of_parts_add_up_to_the_whole(seed):
    logits, targets, weights = random_case(seed)
    whole = losses.loss_terms(logits, targets, weights, z_loss=1e-3)
    parts = losses.loss_terms(logits[:1], targets[:1], weights[:1], z_loss=1e-3)
    parts += losses.loss_terms(logits[1:], targets[1:], weights[1:], z_loss=1e-3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_the_gradient_is_zero_where_the_weight_is(seed):
    logits, targets, weights = random_case(seed)
    gradient = jax.grad(lambda x: losses.loss_terms(x, targets, weights).loss)(logits)
    assert (np.asarray(gradient)[np.asarray(weights) == 0] == 0).all()
    assert (np.abs(np.asarray(gradient)[np.asarray(weights) > 0]).sum(axis=-1) > 0).all()


def test_weights_of_zero_everywhere_give_loss_zero_and_finite_gradients():
    logits, targets, weights = random_case(1)

    def mean(x):
        return losses.mean_loss(losses.loss_terms(x, targets, 0 * weights))

    value, gradient = jax.value_and_grad(mean)(logits)
    assert value == 0
    assert (gradient == 0).all()


def test_a_position_of_weight_zero_may_hold_anything():
    logits, targets, weights = random_case(2)
    weights = weights.at[1, 2].set(0)
    poisoned = logits.at[1, 2].set(jnp.nan)
    before, after = (losses.loss_terms(x, targets, weights) for x in (logits, poisoned))
    assert before.loss == after.loss


def test_normalisations_divide_by_what_they_say():
    logits, targets, weights = random_case(3)
    count = jnp.array([3.0, 1.0, 2.0, 4.0])
    terms = losses.loss_terms(logits, targets, weights, count=count)
    total = (by_hand(logits, targets) * np.asarray(weights)).sum()
    np.testing.assert_allclose(losses.mean_loss(terms, "sum"), total, rtol=1e-5)
    np.testing.assert_allclose(losses.mean_loss(terms, "count"), total / 10, rtol=1e-5)
    np.testing.assert_allclose(
        losses.mean_loss(terms, "tokens"), total / float(weights.sum()), rtol=1e-5
    )
    np.testing.assert_allclose(losses.mean_loss(terms, "constant", 7.0), total / 7, rtol=1e-5)
    with pytest.raises(UserError, match="unknown normalisation 'token'"):
        losses.denominator(terms, "token")


def test_accuracy_counts_targets_unweighted():
    logits = jnp.eye(4)[None] * 9
    targets = jnp.array([[0, 1, 2, 0]])
    terms = losses.loss_terms(logits, targets, jnp.array([[0.1, 5.0, 0.0, 1.0]]))
    assert float(terms.correct) == 2
    assert float(terms.targets) == 3


def test_z_loss_is_the_square_of_the_log_normaliser():
    logits, targets, weights = random_case(4)
    terms = losses.loss_terms(logits, targets, weights, z_loss=0.01)
    normaliser = np.log(np.exp(np.asarray(logits, np.float64)).sum(axis=-1))
    np.testing.assert_allclose(
        terms.z_loss, 0.01 * (normaliser**2 * np.asarray(weights)).sum(), rtol=1e-5
    )
    plain = losses.loss_terms(logits, targets, weights)
    np.testing.assert_allclose(terms.loss - plain.loss, terms.z_loss, rtol=1e-4)
    assert float(plain.z_loss) == 0


def test_any_function_of_logits_and_target_can_be_the_loss():
    logits, targets, weights = random_case(5)

    def focal(x, target):
        nll = jd.cross_entropy(x, target)
        return nll * (1 - jnp.exp(-nll))

    terms = losses.loss_terms(logits, targets, weights, loss=focal)
    nll = by_hand(logits, targets)
    expected = (nll * (1 - np.exp(-nll)) * np.asarray(weights)).sum()
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-5)


def test_gradients_agree_with_finite_differences():
    logits, targets, _ = random_case(6, batch=1, length=2, size=5)

    def mean(x):
        terms = losses.loss_terms(x, targets[:, :2], jnp.ones((1, 2)), z_loss=0.1)
        return losses.mean_loss(terms)

    check_grads(mean, (logits,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_soft_targets_are_a_distribution_and_one_hot_ones_are_ids():
    logits, targets, weights = random_case(7)
    hot = jax.nn.one_hot(targets, logits.shape[-1])
    np.testing.assert_allclose(
        losses.soft_cross_entropy(logits, hot), jd.cross_entropy(logits, targets), rtol=1e-5
    )
    probs = jax.nn.softmax(random_case(8)[0])
    expected = -(np.asarray(probs, np.float64) * np.log(jax.nn.softmax(logits))).sum(axis=-1)
    np.testing.assert_allclose(losses.soft_cross_entropy(logits, probs), expected, rtol=1e-4)
    terms = losses.loss_terms(logits, probs, weights, loss=losses.soft_cross_entropy)
    np.testing.assert_allclose(terms.loss, (expected * np.asarray(weights)).sum(), rtol=1e-4)
    likeliest = np.asarray(probs).argmax(-1) == np.asarray(logits).argmax(-1)
    assert float(terms.correct) == (likeliest & (np.asarray(weights) > 0)).sum()


def test_an_impossible_id_of_probability_zero_costs_nothing():
    logits = jnp.array([0.0, 0.0, -jnp.inf])
    np.testing.assert_allclose(
        losses.soft_cross_entropy(logits, jnp.array([1.0, 0.0, 0.0])), math.log(2), rtol=1e-6
    )


def test_smoothing_is_the_cross_entropy_with_a_softened_target():
    logits, targets, _ = random_case(9)
    soft = 0.9 * jax.nn.one_hot(targets, 11) + 0.1 / 11
    np.testing.assert_allclose(
        losses.smoothed_cross_entropy(0.1)(logits, targets),
        losses.soft_cross_entropy(logits, soft),
        rtol=1e-5,
    )
    assert losses.smoothed_cross_entropy(0.0) is losses.cross_entropy
    with pytest.raises(UserError, match="label smoothing is 1"):
        losses.smoothed_cross_entropy(1.0)


@pytest.mark.parametrize("target", [-1, 11, 2**31 - 1])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.smoothed_cross_entropy(0.2)])
def test_a_target_outside_the_vocabulary_weighs_nothing_and_is_an_error_when_checked(target, loss):
    logits, targets, weights = random_case(10)
    weights = weights.at[0, 0].set(2.0)
    wrong = targets.at[0, 0].set(target)
    found = losses.loss_terms(logits, wrong, weights, loss=loss, z_loss=0.1)
    without = losses.loss_terms(logits, targets, weights.at[0, 0].set(0), loss=loss, z_loss=0.1)
    jax.tree.map(np.testing.assert_array_equal, found, without)
    strict = losses.checked(jax.jit(losses.loss_terms))
    with pytest.raises(UserError, match=f"target {max(target, -1)} is outside"):
        strict(logits, wrong, weights)
    assert float(strict(logits, targets, weights).targets) == float((weights > 0).sum())
    strict(logits, wrong, weights.at[0, 0].set(0))  # what weighs nothing may hold anything


@given(st.integers(0, 2**32 - 1))
def test_by_sequences_every_sequence_counts_alike(seed):
    """The mean of the means of a packed row's documents, empty ones left out."""
    rng = np.random.default_rng(seed)
    segments = np.sort(rng.integers(0, 5, (3, 12)), axis=1)[:, ::-1].copy()
    _, _, weights = random_case(seed, batch=3, length=12)
    weights = weights * (segments > 0)
    logits, targets, _ = random_case(seed, batch=3, length=12)
    balanced = losses.sequence_weights(weights, segments)
    terms = losses.loss_terms(logits, targets, balanced)
    nll, means = by_hand(logits, targets), []
    for row in range(3):
        for segment in range(1, 5):
            mine = np.asarray(weights[row]) * (segments[row] == segment)
            if mine.sum() > 0:
                means.append((nll[row] * mine).sum() / mine.sum())
    np.testing.assert_allclose(float(terms.weight), len(means), rtol=1e-5)
    expected = np.mean(means) if means else 0.0
    np.testing.assert_allclose(losses.mean_loss(terms), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("segment", [-1, 5])
def test_a_segment_id_that_the_row_is_too_short_for_is_an_error_when_checked(segment):
    strict = losses.checked(losses.sequence_weights)
    with pytest.raises(UserError, match=r"must be in \[0, 4\]"):
        strict(jnp.ones(4), jnp.array([1, 1, 2, segment]))


def test_named_losses_choose_their_positions():
    logits, tokens, _ = random_case(11, batch=1, length=6)
    nll = by_hand(logits[:, :-1], tokens[:, 1:])[0]
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    terms = losses.causal_lm_terms(logits, tokens, segments)
    np.testing.assert_allclose(terms.loss, nll[[0, 1, 3]].sum(), rtol=1e-5)
    output = jnp.array([[1, 0, 1, 1, 1, 1]], bool)  # a segment's first token has no predecessor
    terms = losses.subsequence_terms(logits, tokens, output, segments)
    np.testing.assert_allclose(terms.loss, nll[[1, 3]].sum(), rtol=1e-5)
    terms = losses.masked_lm_terms(logits, tokens, output)
    expected = by_hand(logits, tokens)[np.asarray(output)].sum()
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-5)
    terms = losses.target_sequence_terms(logits, tokens, segments, z_loss=0.1)
    assert float(terms.targets) == 5
    assert float(terms.z_loss) > 0


def test_gradients_agree_with_finite_differences_in_double_precision():
    with jax.enable_x64(True):
        logits, targets, weights = random_case(12, batch=2, length=3, size=5)
        logits, weights = logits.astype(float), weights.astype(float) + 0.5  # kink at 0
        probs = jax.nn.softmax(random_case(13, batch=2, length=3, size=5)[0].astype(float))
        for loss, target in (
            (losses.cross_entropy, targets),
            (losses.smoothed_cross_entropy(0.1), targets),
            (losses.soft_cross_entropy, probs),
        ):

            def total(x, w, loss=loss, target=target):
                return losses.loss_terms(x, target, w, loss=loss, z_loss=0.1).loss

            check_grads(total, (logits, weights), order=1, modes=["rev"], atol=1e-7, rtol=1e-7)
