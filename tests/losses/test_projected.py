"""Projection and loss in one against the logits in full: same values, same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise import losses
from jaxdenoise.errors import UserError
from jaxdenoise.losses import loss_terms, projected_terms, projected_values
from jaxdenoise.losses.per_token import token_values
from tests.model.test_transformer import assert_gradients_agree

ROWS, LENGTH, WIDTH, SIZE = 3, 7, 5, 11


def focal(logits, target):
    nll = jd.cross_entropy(logits, target)
    return nll * (1 - jnp.exp(-nll))


LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "smoothed": losses.smoothed_cross_entropy(0.1),
    "focal": focal,
    "soft": losses.soft_cross_entropy,
}


def random_case(dtype, *, soft=False, bias=True):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(ROWS, LENGTH, WIDTH)), dtype)
    kernel = jnp.asarray(rng.normal(size=(WIDTH, SIZE)), dtype)
    offset = jnp.asarray(rng.normal(size=SIZE), dtype) if bias else None
    targets = jnp.asarray(rng.integers(0, SIZE, (ROWS, LENGTH)))
    if soft:
        targets = jax.nn.softmax(jnp.asarray(rng.normal(size=(ROWS, LENGTH, SIZE)), dtype))
    weights = jnp.asarray(rng.choice([0, 0.5, 1, 2], (ROWS, LENGTH)), dtype)
    return hidden, jd.Projection(kernel, offset, 0.3), targets, weights


def plain(targets, **options):
    def total(hidden, projection, weights):
        terms = loss_terms(projection(hidden), targets, weights, **options)
        return terms.loss, terms

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))


def chunked(targets, chunk, **options):
    def total(hidden, projection, weights):
        terms = projected_terms(hidden, projection, targets, weights, chunk=chunk, **options)
        return terms.loss, terms

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_values_and_gradients_are_those_of_the_logits(name, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        hidden, projection, targets, weights = random_case(dtype, soft=name == "soft")
        options = {"loss": LOSSES[name], "z_loss": 0.1}
        (_, expected), slow = plain(targets, **options)(hidden, projection, weights)
        for chunk in (None, 1, 3):
            (_, found), fast = chunked(targets, chunk, **options)(hidden, projection, weights)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance), found, expected
            )
            assert_gradients_agree(fast, slow, tolerance)


def test_the_gradient_is_multiplied_by_what_comes_from_outside():
    hidden, projection, targets, weights = random_case("float32", bias=False)

    def scaled(factor):
        def total(hidden):
            terms = projected_terms(hidden, projection, targets, weights, chunk=2)
            return factor * terms.loss

        return jax.grad(total)(hidden)

    np.testing.assert_allclose(scaled(-3.0), -3.0 * scaled(1.0), rtol=1e-6)


def test_one_side_alone_can_be_differentiated():
    hidden, projection, targets, weights = random_case("float32")
    (_, _), (at_hidden, at_projection, _) = plain(targets)(hidden, projection, weights)

    def total(hidden, projection):
        return projected_terms(hidden, projection, targets, weights, chunk=2).loss

    np.testing.assert_allclose(jax.grad(total)(hidden, projection), at_hidden, rtol=1e-4, atol=1e-6)
    alone = jax.grad(total, argnums=1)(hidden, projection)
    assert_gradients_agree(alone, at_projection)
    # A stopped projection's gradient is not even computed: two products instead of three.
    products = str(jax.make_jaxpr(jax.grad(total))(hidden, projection)).count("dot_general")
    both = str(jax.make_jaxpr(jax.grad(total, (0, 1)))(hidden, projection)).count("dot_general")
    assert products < both


def test_nothing_has_a_gradient_where_the_weight_is_zero_whatever_stands_there():
    hidden, projection, targets, weights = random_case("float32")
    weights = weights.at[1].set(0)
    poisoned = targets.at[1].set(99)
    (total, _), gradients = chunked(targets, 2)(hidden, projection, weights)
    (again, _), others = chunked(poisoned, 2)(hidden, projection, weights)
    assert total == again
    assert_gradients_agree(others, gradients, 0.0)
    assert (np.asarray(gradients[0])[np.asarray(weights) == 0] == 0).all()
    (nothing, _), zeros = chunked(targets, 2)(hidden, projection, 0 * weights)
    assert nothing == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(zeros[:2]))


def test_bfloat16_states_are_projected_and_summed_in_float32():
    hidden, projection, targets, weights = random_case("float32")
    rounded = hidden.astype(jnp.bfloat16)
    (_, found), gradients = chunked(targets, 2)(rounded, projection, weights)
    (_, expected), _ = plain(targets)(rounded.astype(jnp.float32), projection, weights)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert gradients[0].dtype == jnp.bfloat16
    assert gradients[1].kernel.dtype == jnp.float32


def test_values_of_positions_are_those_of_the_logits():
    hidden, projection, targets, _ = random_case("float32")
    logits = projection(hidden)
    for chunk in (None, 2):
        values = projected_values(hidden, projection, targets, chunk=chunk)
        np.testing.assert_allclose(values.loss, jd.cross_entropy(logits, targets), rtol=1e-5)
        np.testing.assert_array_equal(values.correct, logits.argmax(-1) == targets)


def largest_array(jaxpr) -> int:
    """Elements of the largest array that the program names, loops and calls included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [v.aval.size for v in equation.outvars if hasattr(v.aval, "size")]
        for value in equation.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    sizes.append(largest_array(inner))
    return max(sizes)


def test_no_array_of_tokens_by_vocabulary_is_ever_formed():
    tokens, size, width = 8192, 131_072, 16
    hidden = jax.ShapeDtypeStruct((8, tokens // 8, width), jnp.float32)
    projection = jd.Projection(jax.ShapeDtypeStruct((width, size), jnp.float32))
    ids = jax.ShapeDtypeStruct((8, tokens // 8), jnp.int32)
    weights = jax.ShapeDtypeStruct((8, tokens // 8), jnp.float32)

    def total(function):
        return jax.grad(lambda h, p, t, w: function(h, p, t, w).loss, argnums=(0, 1))

    def logits_first(hidden, projection, targets, weights):
        return loss_terms(projection(hidden), targets, weights)

    sizes, peaks = [], []
    for function in (projected_terms, logits_first):
        program = jax.jit(total(function)).trace(hidden, projection, ids, weights)
        sizes.append(largest_array(program.jaxpr.jaxpr))
        peaks.append(program.lower().compile().memory_analysis().temp_size_in_bytes)
    assert sizes[1] == tokens * size
    assert sizes[0] <= losses.projected.CHUNK_LOGITS
    assert peaks[0] < 0.1 * peaks[1]


def test_hidden_states_of_weight_zero_may_hold_anything():
    hidden, projection, targets, weights = random_case("float32")
    (_, expected), gradients = chunked(targets, 2)(hidden, projection, weights)
    poisoned = jnp.where(weights[..., None] == 0, jnp.nan, hidden)
    (_, found), others = chunked(targets, 2)(poisoned, projection, weights)
    assert found.loss == expected.loss
    assert_gradients_agree(others, gradients, 0.0)


def test_the_projections_gradient_is_summed_in_float32():
    hidden, projection, targets, weights = random_case("float32", bias=False)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), projection)
    by_one, by_all = (
        chunked(targets, chunk)(hidden, rounded, weights)[1][1].kernel for chunk in (1, None)
    )
    assert by_one.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        by_one.astype(jnp.float32), by_all.astype(jnp.float32), rtol=2**-7, atol=1e-4
    )


def test_no_positions_cost_nothing():
    hidden, projection, targets, weights = random_case("float32")
    terms = projected_terms(hidden[:, :0], projection, targets[:, :0], weights[:, :0])
    assert float(terms.loss) == 0
    assert projected_values(hidden[:0], projection, targets[:0]).loss.shape == (0, LENGTH)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, target: jd.cross_entropy(logits, target).mean(),
        lambda logits, target: jd.cross_entropy(logits, target)[..., None],
        lambda logits, target: -jax.nn.log_softmax(logits)[target],
    ],
    ids=["reduced", "one axis more", "for one target"],
)
def test_a_loss_that_is_not_one_number_for_each_target_is_refused(loss):
    hidden, projection, targets, weights = random_case("float32")
    for function in (
        lambda: loss_terms(projection(hidden), targets, weights, loss=loss),
        lambda: projected_terms(hidden, projection, targets, weights, loss=loss, chunk=1),
    ):
        with pytest.raises(UserError, match="it must give one number for each target"):
            function()
    with pytest.raises(UserError, match="give a weight for each target"):
        projected_terms(hidden, projection, targets, weights[0])


def test_a_chunk_of_nothing_is_refused():
    hidden, projection, targets, weights = random_case("float32")
    with pytest.raises(UserError, match="chunk is 0; it must be at least 1"):
        projected_terms(hidden, projection, targets, weights, chunk=0)


@pytest.mark.parametrize("target", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize(
    "logits", [[0.0, 0.0, 0.0], [1.0, 2.0, 2.0], [2.0, 1.0, 2.0], [np.nan, 1.0, 0.0]]
)
def test_the_likeliest_id_is_the_first_of_the_largest(logits, target):
    """As argmax has it, ties and ids outside the vocabulary too; NaN predicts nothing."""
    found = token_values(jnp.array([logits]), jnp.array([target])).correct
    expected = np.argmax(logits) == target and not np.isnan(logits).any()
    assert bool(found[0]) == expected
