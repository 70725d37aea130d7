"""Gradient routing: what `output_only`, `encoder` and `decoder` let through, and what it saves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.corruption.examples import select
from jaxdenoise.errors import UserError
from jaxdenoise.losses import projected_terms
from jaxdenoise.model.model import Model
from jaxdenoise.model.transformer import Transformer
from jaxdenoise.training.step import corrupt
from tests.model.test_transformer import assert_gradients_agree, spread

SIZE, HEADS, HEAD_WIDTH, LAYERS = 128, 4, 6, 3


def decoder(**fields) -> Model:
    shape = {"width": 16, "mlp_width": 24, "heads": HEADS, "head_width": HEAD_WIDTH}
    config = jd.ModelConfig(
        architecture="decoder",
        decoder_layers=LAYERS,
        compute_dtype="float64",
        **{"positions": "rotary", **shape, **fields},
    )
    return Model(config, SIZE)


def parameters(model):
    moved = spread(model.init(jax.random.key(0)))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), moved)


def turns(capacity=None, length=20, batch=4):
    """Packed rows: two documents of several turns each, some of which are outputs."""
    rng = np.random.default_rng(0)
    place = np.arange(length)
    segments = np.where(place < 9, 1, np.where(place < 17, 2, 0))
    output = rng.random((batch, length)) < 0.4
    weights = output * (segments > 0) * rng.choice([0.5, 1.0, 2.0], (batch, length))
    tokens = rng.integers(0, SIZE // 2, (batch, length))
    example = jd.Example(
        decoder_input_tokens=tokens,
        decoder_target_tokens=rng.integers(0, SIZE, (batch, length)),
        decoder_loss_weights=weights,
        decoder_segment_ids=np.tile(segments, (batch, 1)),
        decoder_positions=np.tile(np.where(place < 9, place, place - 9), (batch, 1)),
    )
    if capacity is None:
        return jax.tree.map(jnp.asarray, example)
    places = jax.vmap(lambda w: select(w != 0, capacity))(jnp.asarray(weights))
    return jax.tree.map(jnp.asarray, example.replace(decoder_selected=places))


def loss(model, batch, gradients="full"):
    def total(params):
        hidden, projection, _ = model.forward(params, batch, gradients=gradients)
        return projected_terms(hidden, projection, *batch.selected_targets(model.stack)).loss

    return total


def gradient(model, params, batch, gradients="full"):
    return jax.jit(jax.grad(loss(model, batch, gradients)))(params)


# A decoder written out for one row (rotary, RMSNorm before, gated GELU), to run its context with
# parameters of its own.


def keys_and_values(layer, x, positions):
    y = rms(x, layer["self_attention_norm"]["scale"])
    kernels = layer["self_attention"]
    heads = [by_head(y @ kernels[name]) for name in ("query", "key", "value")]
    return turn(heads[0], positions), turn(heads[1], positions), heads[2]


def rest_of_layer(layer, x, query, key, value, seen):
    logits = jnp.where(seen, jnp.einsum("qhd,khd->hqk", query, key), -jnp.inf)
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(logits), value)
    x = x + mixed.reshape(len(x), -1) @ layer["self_attention"]["out"]
    y, mlp = rms(x, layer["mlp_norm"]["scale"]), layer["mlp"]
    return x + (jax.nn.gelu(y @ mlp["wi_0"]) * (y @ mlp["wi_1"])) @ mlp["wo"]


def rms(x, scale):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def by_head(x):
    return x.reshape(len(x), HEADS, HEAD_WIDTH)


def turn(x, positions):
    half = HEAD_WIDTH // 2
    angle = positions[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def with_frozen_context(params, frozen, example):
    """The loss of one row whose context runs with `frozen`: outputs see its keys and values."""
    tokens, segments, positions = example.inputs("decoder")
    targets, weights = example.targets("decoder")
    place, output = jnp.arange(len(tokens)), weights != 0
    seen = (place <= place[:, None]) & (segments == segments[:, None])
    seen |= jnp.eye(len(tokens), dtype=bool)  # padding sees itself, so that nothing is 0 / 0
    whole, x = frozen["embedding"][tokens], params["embedding"][tokens]
    for number in range(LAYERS):
        own, copy = (
            jax.tree.map(lambda w, n=number: w[n], p["decoder"]["layers"]) for p in (params, frozen)
        )
        query, key, value = keys_and_values(own, x, positions)
        asked, *context = keys_and_values(copy, whole, positions)
        known = [
            jnp.where(output[:, None, None], mine, jax.lax.stop_gradient(theirs))
            for mine, theirs in zip((key, value), context, strict=True)
        ]
        x = rest_of_layer(own, x, query, *known, seen)
        whole = rest_of_layer(copy, whole, asked, *context, seen)
    logits = rms(x, params["decoder"]["norm"]["scale"]) @ params["projection"]
    at_target = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]
    return -jnp.sum(at_target * weights)


@pytest.fixture(scope="module")
def with_copy():
    """Loss and gradient of the decoder written out, and the full gradient."""
    with jax.enable_x64(True):
        model, batch = decoder(), turns()
        params = parameters(model)

        def total(params, frozen):
            return jnp.sum(jax.vmap(with_frozen_context, (None, None, 0))(params, frozen, batch))

        value, expected = jax.jit(jax.value_and_grad(total))(params, params)
        return value, expected, gradient(model, params, batch)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [None, 12, 20])
def test_output_only_is_the_gradient_beside_a_context_that_ran_with_a_frozen_copy(
    capacity, with_copy
):
    value, expected, full = with_copy
    with jax.enable_x64(True):
        model, batch = decoder(), turns(capacity)
        params = parameters(model)
        found, ours = jax.jit(jax.value_and_grad(loss(model, batch, "output_only")))(params)
        np.testing.assert_allclose(found, value, rtol=1e-10)
        assert_gradients_agree(ours, expected, 1e-10)
        with pytest.raises(AssertionError):
            assert_gradients_agree(ours, full, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"positions": "relative", "norm_place": "post", "biases": True, "norm": "layer"},
        pytest.param(
            {"positions": "learned", "qk_norm": True, "key_value_heads": 2, "local_window": 6},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"tied_embeddings": True, "prediction_head": True, "prediction_bias": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda fields: fields.get("positions", "tied"),
)
def test_two_streams_give_the_gradient_of_the_masked_keys(fields):
    """Values and gradients: with the context apart, and in one stream with stopped keys."""
    with jax.enable_x64(True):
        model = decoder(**fields)
        params = parameters(model)
        of = [
            jax.jit(jax.value_and_grad(loss(model, b, "output_only"))) for b in (turns(12), turns())
        ]
        (one, apart), (other, together) = (function(params) for function in of)
        np.testing.assert_allclose(one, other, rtol=1e-10)
        assert_gradients_agree(apart, together, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["full", "output_only"])
def test_a_selection_may_be_filled_up_as_nonzero_does_it(gradients):
    """Repeated places, places past the end, and any order: the same loss, nothing lost or twice."""
    with jax.enable_x64(True):
        model, batch = decoder(), turns(12)
        params = parameters(model)
        weights = batch.decoder_loss_weights.at[:, 0].set(1.0)
        batch = batch.replace(decoder_loss_weights=weights)
        places = {
            fill: jax.vmap(lambda w, f=fill: jnp.nonzero(w, size=12, fill_value=f)[0])(weights)
            for fill in (0, 20)
        }
        places["turned"] = places[20][:, ::-1]
        of = jax.jit(lambda params, batch: loss(model, batch, gradients)(params))
        expected = of(params, batch.replace(decoder_selected=None))
        for selected in places.values():
            other = batch.replace(decoder_selected=selected)
            np.testing.assert_allclose(of(params, other), expected, rtol=1e-12)
            assert float(other.unselected("decoder").sum()) == 0
            assert all(len(set(row)) == 12 for row in np.asarray(other.places("decoder")).tolist())


@pytest.mark.slow
def test_nothing_selected_is_no_loss_and_no_error():
    with jax.enable_x64(True):
        model, batch = decoder(), turns()
        params = parameters(model)
        none = batch.replace(decoder_selected=jnp.zeros((4, 0), int))
        value, found = jax.jit(jax.value_and_grad(loss(model, none, "output_only")))(params)
        assert float(value) == 0
        assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(found))
        targets = np.asarray(batch.decoder_loss_weights != 0).sum(axis=1)
        np.testing.assert_array_equal(none.unselected("decoder"), targets)


@pytest.mark.slow
def test_how_two_streams_are_computed_changes_nothing():
    """Layers computed again, and unrolled, with dropout."""
    fields = {"remat": "full", "scan_unroll": LAYERS}
    with jax.enable_x64(True):
        batch = turns(12)
        params = parameters(decoder())
        keys = jax.random.split(jax.random.key(1), 4)

        def total(fields):
            model = decoder(dropout_rate=0.2, **fields)

            def function(params):
                made = model.forward(params, batch, keys, gradients="output_only")
                targets = batch.selected_targets("decoder")
                return projected_terms(made.hidden, made.projection, *targets).loss

            return jax.jit(jax.value_and_grad(function))(params)

        (value, found), (plain, expected) = total(fields), total({})
        np.testing.assert_allclose(value, plain, rtol=1e-10)
        assert_gradients_agree(found, expected, 1e-10)


@pytest.mark.slow
def test_prefix_models_are_routed_too(vocab, make_rows):
    """Bidirectional on the prefix, whose positions also see the first live one."""
    with jax.enable_x64(True):
        model = Model(decoder().config, 1024)
        params = parameters(model)
        objective = jd.causal_prefix_lm(vocab=vocab, longest_output=0.4)
        batch = jax.jit(corrupt, static_argnums=0)(
            objective, make_rows(4, 20, lengths=[20, 11, 3, 1])
        )
        assert batch.decoder_selected.shape == (4, 8)
        together = batch.replace(decoder_selected=None)
        one = gradient(model, params, batch, "output_only")
        assert_gradients_agree(one, gradient(model, params, together, "output_only"), 1e-10)


def test_embedding_rows_seen_only_in_the_context_do_not_move():
    with jax.enable_x64(True):
        model, batch = decoder(), turns(12)
        params = parameters(model)
        tokens, segments, _ = map(np.asarray, batch.inputs("decoder"))
        output = np.asarray(batch.decoder_loss_weights) != 0
        real = segments > 0
        # Of the context, what some later output of the same document sees.
        later = np.flip(np.maximum.accumulate(np.flip(output * segments, 1), axis=1), 1)
        context_only = set(tokens[real & ~output & (later == segments)]) - set(tokens[output])
        assert len(context_only) >= 3
        rows = sorted(context_only)
        for gradients, moves in (("output_only", False), ("full", True)):
            found = np.asarray(gradient(model, params, batch, gradients)["embedding"])
            assert (np.abs(found[rows]).max(axis=1) > 0).all() == moves
            assert (found[rows] == 0).all() == (not moves)
            assert (np.abs(found[sorted(set(tokens[output]))]).max(axis=1) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_one_stack_of_an_encoder_decoder_is_trained_as_if_the_other_ran_with_a_copy(
    shared, vocab, make_rows
):
    with jax.enable_x64(True):
        config = jd.ModelConfig(
            width=16,
            mlp_width=24,
            heads=2,
            head_width=8,
            encoder_layers=2,
            decoder_layers=2,
            shared_embedding=shared,
            tied_embeddings=shared,
            compute_dtype="float64",
        )
        model = Model(config, 1024)
        params = parameters(model)
        batch = jax.jit(corrupt, static_argnums=0)(
            jd.span_corruption(vocab=vocab), make_rows(3, 30)
        )
        targets, weights = batch.targets("decoder")
        transformer = Transformer(config, vocab_size=1024)

        def decode(params, example, encoded):
            return transformer.apply({"params": params}, example, encoded, method="decode")

        def total(in_encoder, in_decoder):
            encoded = model.encode(in_encoder, batch)
            hidden = jax.vmap(functools.partial(decode, in_decoder))(batch, encoded)
            return jd.loss_terms(model.projection(in_decoder)(hidden), targets, weights).loss

        both = jax.jit(jax.grad(total, argnums=(0, 1)))(params, params)
        for gradients, expected in zip(("encoder", "decoder"), both, strict=True):
            ours = gradient(model, params, batch, gradients)
            assert_gradients_agree(ours, expected, 1e-10)
            frozen = "decoder" if gradients == "encoder" else "encoder"
            assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(ours[frozen]))
            assert all(np.abs(np.asarray(x)).max() > 0 for x in jax.tree.leaves(ours[gradients]))
        full = gradient(model, params, batch)
        assert_gradients_agree(jax.tree.map(jnp.add, *both), full, 1e-10)


@pytest.mark.slow
def test_nothing_of_the_contexts_backward_pass_is_computed_or_stored():
    """Of 64 positions 13 are outputs: (1 + 2 · 0.2) / 3 of the work, counted by the compiler."""
    length, outputs = 64, 13
    config = jd.ModelConfig(
        architecture="decoder", positions="rotary", width=64, mlp_width=256, heads=2, head_width=32,
        decoder_layers=3, scan_unroll=3,
    )  # fmt: skip
    model = Model(config, SIZE)
    params = model.init(jax.random.key(0))
    ids = jnp.ones((2, length), jnp.int32)
    weights = jnp.tile(jnp.arange(length) >= length - outputs, (2, 1)).astype(jnp.float32)
    batch = jd.Example(
        decoder_input_tokens=ids,
        decoder_target_tokens=ids,
        decoder_loss_weights=weights,
        decoder_segment_ids=ids,
        decoder_selected=jnp.tile(jnp.arange(length - outputs, length), (2, 1)),
    )

    @functools.cache
    def compiled(gradients, selected=True):
        example = batch if selected else batch.replace(decoder_selected=None)
        return jax.jit(jax.grad(loss(model, example, gradients))).lower(params).compile()

    flops = {g: compiled(g).cost_analysis()["flops"] for g in ("full", "output_only")}
    assert flops["output_only"] < 0.52 * flops["full"]
    memory = {g: compiled(g).memory_analysis().temp_size_in_bytes for g in flops}
    assert memory["output_only"] < 0.5 * memory["full"]
    masked = compiled("output_only", selected=False).cost_analysis()["flops"]
    assert masked > 0.9 * flops["full"]  # the same gradient at the full price


@pytest.mark.parametrize(
    ("architecture", "gradients", "allowed"),
    [
        ("encoder", "output_only", "full"),
        ("decoder", "encoder", "full, output_only"),
        ("encoder_decoder", "output_only", "full, encoder, decoder"),
    ],
)
def test_gradients_that_an_architecture_does_not_have_are_refused(architecture, gradients, allowed):
    model = Model(jd.ModelConfig(architecture=architecture), SIZE)
    with pytest.raises(UserError, match=f"'{gradients}'.*{architecture} they can be {allowed}$"):
        model.check(jd.Example(), gradients)
