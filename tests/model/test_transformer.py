"""The model against plain NumPy, and what it must not depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.errors import UserError
from jaxdenoise.model.model import Model
from jaxdenoise.training.step import corrupt
from tests.reference import transformer as reference


def make_model(architecture="encoder_decoder", **fields) -> Model:
    config = jd.ModelConfig(
        architecture=architecture,
        width=16,
        mlp_width=24,
        heads=2,
        head_width=5,
        encoder_layers=3,
        decoder_layers=2,
        relative_buckets=8,
        relative_max_distance=16,
        **fields,
    )
    return Model(config, 1024)


@pytest.fixture
def batch(vocab, make_rows):
    objective = jd.configure("span_corruption", noise_density=0.3).build(vocab)
    return jax.jit(corrupt, static_argnums=0)(objective, make_rows(3, 40, lengths=[40, 23, 2]))


@functools.cache
def jitted(model):
    return jax.jit(model.apply)


@functools.cache
def initial(model, seed=0):
    return model.init(jax.random.key(seed))


def logits_of(model, params, batch, dropout_keys=None):
    return np.asarray(jitted(model)(params, batch, dropout_keys))


@jax.jit
def spread(params):
    """Parameters far enough from their initialisation that every one of them matters."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def test_relative_buckets_are_those_of_the_reference():
    from jaxdenoise.model.positions import relative_bucket

    distances = np.arange(-300, 301)
    for bidirectional in (True, False):
        for buckets, furthest in ((32, 128), (8, 16), (16, 100)):
            ours = relative_bucket(
                jnp.asarray(distances),
                bidirectional=bidirectional,
                buckets=buckets,
                max_distance=furthest,
            )
            expected = [reference.bucket(d, bidirectional, buckets, furthest) for d in distances]
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.slow
def test_explicit_positions_that_count_up_are_the_default(batch):
    model = make_model()
    params = spread(initial(model))
    inputs, targets = batch.encoder_input_tokens, batch.decoder_input_tokens
    counted = batch.replace(
        encoder_positions=jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape),
        decoder_positions=jnp.broadcast_to(jnp.arange(targets.shape[1]), targets.shape),
    )
    difference = logits_of(model, params, batch) - logits_of(model, params, counted)
    assert np.abs(difference).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"remat": "full"}, {"remat": "dots"}, {"scan_unroll": 2}])
def test_how_it_is_computed_changes_neither_values_nor_gradients(fields, batch):
    plain, other = make_model(), make_model(**fields)
    params = initial(plain)
    targets, weights = batch.targets("decoder")

    def loss(model):
        return lambda p: jd.loss_terms(model.apply(p, batch), targets, weights).loss

    expected, ours = (jax.jit(jax.grad(loss(m)))(params) for m in (plain, other))
    assert_gradients_agree(ours, expected)


@pytest.mark.slow
def test_fewer_residuals_are_stored_with_remat(batch):
    """Remat must do something: the backward pass computes the products of the blocks again."""
    targets, weights = batch.targets("decoder")

    def products(model):
        params = initial(model)

        def loss(p):
            return jd.loss_terms(model.apply(p, batch), targets, weights).loss

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general")

    assert products(make_model(remat="full")) > products(make_model())


def test_initialisation_depends_on_the_key_alone(batch):
    model = make_model()
    one, again = model.init(jax.random.key(0)), model.init(jax.random.key(0))
    other = model.init(jax.random.key(1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, again))
    assert not jnp.array_equal(one["embedding"], other["embedding"])
    of_old_key = model.init(jax.random.PRNGKey(1))  # traced a second time
    assert jnp.array_equal(of_old_key["embedding"], other["embedding"])


def test_queries_start_small():
    config = jd.ModelConfig(width=256, heads=4, head_width=64, encoder_layers=1, decoder_layers=1)
    layers = Model(config, 128).init(jax.random.key(0))["encoder"]["layers"]
    ratio = layers["self_attention"]["query"].std() / layers["self_attention"]["key"].std()
    np.testing.assert_allclose(ratio, 64**-0.5, rtol=0.05)


@pytest.mark.slow
def test_dropout_follows_the_examples_key_not_its_place(batch):
    model = make_model(dropout_rate=0.5)
    params = initial(model)
    keys = jax.random.split(jax.random.key(3), 3)
    dropped = logits_of(model, params, batch, keys)
    turned = logits_of(model, params, jax.tree.map(lambda x: x[::-1], batch), keys[::-1])
    np.testing.assert_allclose(dropped, turned[::-1], atol=1e-5)
    assert not np.allclose(dropped, logits_of(model, params, batch), atol=1e-2)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_and_logits_in_float32(batch):
    model = make_model(compute_dtype="bfloat16")
    params = initial(model)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = logits_of(model, params, batch)
    assert logits.dtype == np.float32
    exact = logits_of(make_model(), params, batch)
    assert 0 < np.abs(logits - exact).max() < 0.3
    rounded = np.asarray(jnp.asarray(logits).astype(jnp.bfloat16).astype(jnp.float32))
    assert (logits != rounded).mean() > 0.9  # the last product is not a bfloat16 one


@pytest.mark.parametrize("padding", [-100, 10**6])
def test_padding_may_be_any_number(padding, batch):
    """Not NaN, which would spread from padding to everything."""
    model = make_model()
    params = initial(model)
    other = jnp.where(batch.encoder_segment_ids == 0, padding, batch.encoder_input_tokens)
    assert (other == padding).any()
    real = np.asarray(batch.decoder_segment_ids) > 0  # padding sees padding
    np.testing.assert_array_equal(
        logits_of(model, params, batch)[real],
        logits_of(model, params, batch.replace(encoder_input_tokens=other))[real],
    )


def test_double_precision_needs_the_mode_of_jax(vocab):
    config = jd.ModelConfig(compute_dtype="float64")
    with pytest.raises(UserError, match="set JAX_ENABLE_X64=1"):
        jd.build_model(config, vocab)
    with jax.enable_x64(True):
        jd.build_model(config, vocab)


def test_tied_embeddings_have_no_projection(batch):
    model = make_model(tied_embeddings=True)
    params = initial(model)
    assert "projection" not in params
    assert logits_of(model, params, batch).shape == (*batch.decoder_input_tokens.shape, 1024)


def test_the_largest_attention_logit_is_reported_by_layer(batch):
    model = make_model()
    params = initial(model)
    larger = jax.tree.map(lambda x: x, params)
    larger["encoder"]["layers"]["self_attention"]["query"] *= 100.0
    forward = jax.jit(model.forward)
    before, after = (forward(p, batch).peaks for p in (params, larger))
    peaks = before["encoder"]["layers"]["self_attention"]["max_logit"][0]
    assert peaks.shape == (3,)
    raised = after["encoder"]["layers"]["self_attention"]["max_logit"][0]
    assert (np.asarray(raised) > 10 * np.abs(peaks)).all()


def assert_gradients_agree(ours, expected, tolerance=1e-5):
    """Per leaf: ‖g − g′‖ ≤ tolerance · max(‖g′‖, 1e-3 · global norm)."""
    ours, expected = (
        [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)] for tree in (ours, expected)
    )
    total = np.sqrt(sum(np.sum(x**2) for x in expected))
    for a, b in zip(ours, expected, strict=True):
        bound = tolerance * max(np.sqrt(np.sum(b**2)), 1e-3 * total)
        assert np.sqrt(np.sum((a - b) ** 2)) <= bound
