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
    np.testing.assert_allclose(
        losses.mean_loss(terms) - terms.loss / terms.weight, terms.z_loss / terms.weight, rtol=1e-4
    )


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
