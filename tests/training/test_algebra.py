"""What a loss and its gradient must not depend on, for every architecture and routing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdenoise as jd
from jaxdenoise.corruption.examples import select
from jaxdenoise.errors import UserError
from jaxdenoise.model.model import Model
from jaxdenoise.training.step import corrupt, init, make_step
from tests.model.test_gradients import loss
from tests.model.test_transformer import assert_gradients_agree, spread
from tests.training.test_parallel import keep_gradient

CASES = {
    "encoder_decoder": ("span_corruption", {}, "full"),
    "encoder": ("masked_lm", {"noise_density": 0.4}, "full"),
    "decoder": ("causal_prefix_lm", {"longest_output": 0.5}, "full"),
    "output_only": ("causal_prefix_lm", {"longest_output": 0.5}, "output_only"),
}
FIELDS = {
    "encoder_decoder": {"positions": "relative"},
    "encoder": {"positions": "learned", "max_positions": 64, "norm": "layer", "biases": True},
    "decoder": {"positions": "rotary", "qk_norm": True, "key_value_heads": 1},
}
LENGTHS = [20, 11, 2, 0]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


FAST = ("encoder_decoder",)


@pytest.fixture(
    params=[pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CASES]
)
def case(request, vocab, make_rows):
    return made(request.param, vocab, make_rows)


@functools.cache
def compiled(name, vocab):
    """A model, parameters, routing, and loss with gradient of a batch."""
    objective, options, gradients = CASES[name]
    architecture = "decoder" if name == "output_only" else name
    config = jd.ModelConfig(
        architecture=architecture,
        width=16,
        mlp_width=24,
        heads=2,
        head_width=6,
        encoder_layers=2,
        decoder_layers=2,
        compute_dtype="float64",
        **FIELDS[architecture],
    )
    model = Model(config, 1024)
    moved = spread(model.init(jax.random.key(0)))
    return {
        "model": model,
        "objective": jd.configure(objective, **options).build(vocab),
        "gradients": gradients,
        "params": jax.tree.map(lambda x: np.asarray(x, np.float64), moved),
        "of": jax.jit(lambda p, batch: jax.value_and_grad(loss(model, batch, gradients))(p)),
    }


def made(name, vocab, make_rows):
    """What is compiled once for all tests, and a batch of uneven rows."""
    parts, rows = compiled(name, vocab), make_rows(4, 20, lengths=LENGTHS)
    return {**parts, "rows": rows, "batch": corrupted(parts["objective"], rows)}


corrupted = jax.jit(corrupt, static_argnums=0)


def assert_same(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    assert_gradients_agree(found[1], expected[1], tolerance)


def padded(batch, by):
    """Garbage behind every row, of segment 0 and weight 0."""

    def pad(path, x):
        name = path[0].name
        if x.ndim < 2 or name.endswith("selected"):
            return x
        kind = {"tokens": 77, "weights": 0, "ids": 0}.get(name.rsplit("_", 1)[-1], 5)
        return jnp.pad(x, ((0, 0), (0, by)), constant_values=kind)

    return jax.tree_util.tree_map_with_path(pad, batch)


def packed(batch):
    """The first two rows in one, as its segments 1 and 2."""

    def join(path, x):
        if x.ndim < 2:
            return jnp.sum(x[:2], keepdims=True)
        if path[0].name.endswith("segment_ids"):
            return jnp.concatenate([x[0], 2 * x[1]])[None]
        shift = x.shape[1] if path[0].name.endswith("visibility") else 0
        return jnp.concatenate([x[0], x[1] + shift])[None]

    row, changes = jax.tree_util.tree_map_with_path(join, batch), {}
    for stack in ("encoder", "decoder"):
        tokens = getattr(batch, f"{stack}_input_tokens")
        if tokens is not None:
            changes[f"{stack}_positions"] = jnp.tile(jnp.arange(tokens.shape[1]), 2)[None]
        selected = getattr(batch, f"{stack}_selected")
        if selected is not None:
            weights = getattr(row, f"{stack}_loss_weights")[0]
            changes[f"{stack}_selected"] = select(weights != 0, 2 * selected.shape[1])[None]
    return row.replace(**changes)


@pytest.mark.slow
def test_order_padding_and_packing_change_nothing(case):
    params, batch, of = case["params"], case["batch"], case["of"]
    expected = of(params, batch)
    assert float(expected[0]) > 0
    assert_same(of(params, jax.tree.map(lambda x: x[::-1], batch)), expected)
    assert_same(of(params, padded(batch, 3)), expected)
    two = jax.tree.map(lambda x: x[:2], batch)
    assert_same(of(params, packed(batch)), of(params, two))


@pytest.mark.slow
def test_a_label_of_weight_zero_changes_nothing_and_no_weights_give_nothing(case):
    params, batch, of, stack = case["params"], case["batch"], case["of"], case["model"].stack
    targets, weights = batch.targets(stack)
    names = f"{stack}_target_tokens", f"{stack}_loss_weights"
    other = batch.replace(**{names[0]: jnp.where(weights == 0, 99_999, targets)})
    assert_same(of(params, other), of(params, batch), 0.0)
    value, gradients = of(params, batch.replace(**{names[1]: 0 * weights}))
    assert float(value) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "case",
    ["encoder_decoder", *(pytest.param(n, marks=pytest.mark.slow) for n in ("encoder", "decoder"))],
    indirect=True,
)
def test_gradients_agree_with_finite_differences(case):
    """The slope of the loss along one direction; that of `output_only` is the slope of none."""
    params, batch, of = case["params"], case["batch"], case["of"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    direction = jax.tree.unflatten(tree, [rng.normal(size=x.shape) for x in leaves])
    epsilon = 1e-6
    ahead, behind = (
        of(jax.tree.map(lambda p, d, e=e: np.asarray(p) + e * d, params, direction), batch)[0]
        for e in (epsilon, -epsilon)
    )
    slopes = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), of(params, batch)[1], direction)
    slope = sum(jax.tree.leaves(slopes))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * epsilon), rtol=1e-6)


@pytest.mark.slow
def test_micro_batches_give_the_gradient_of_the_whole_batch(case):
    """Rows of 20, 11, 2 and 0 tokens one after the other, summed and divided once."""
    normalisation = "sequences" if case["model"].stack == "encoder" else "tokens"
    tx, found = keep_gradient(), {}
    for parts in (1, 4):
        step = make_step(
            case["objective"],
            case["model"],
            tx,
            z_loss=1e-3,
            normalisation=normalisation,
            gradients=case["gradients"],
            micro_batches=parts,
        )
        state = init(jax.random.key(0), case["model"], optax.identity())
        state = state.replace(params=case["params"], opt_state=tx.init(case["params"]))
        state, metrics = jax.jit(step)(state, case["rows"])
        found[parts] = metrics, state.opt_state
    (whole, expected), (summed, ours) = found[1], found[4]
    assert_gradients_agree(ours, expected, 1e-10)
    for name in ("loss", "accuracy", "targets", "clean_rows", "lost_targets"):
        np.testing.assert_allclose(summed[name], whole[name], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        summed["modules"]["max_attention_logit"],
        whole["modules"]["max_attention_logit"],
    )


@pytest.mark.parametrize("case", ["encoder", "decoder"], indirect=True)
def test_targets_that_the_selection_has_no_room_for_are_counted(case):
    stack, batch = case["model"].stack, case["batch"]
    selected = getattr(batch, f"{stack}_selected")
    assert float(batch.unselected(stack).sum()) == 0
    cut = batch.replace(**{f"{stack}_selected": selected[:, :2]})
    weights = np.asarray(batch.targets(stack)[1])
    lost = np.maximum((weights != 0).sum(axis=1) - 2, 0)
    assert lost.sum() > 0
    np.testing.assert_array_equal(cut.unselected(stack), lost)
    kept, _ = cut.selected_targets(stack)
    assert kept.shape == (4, 2)


@pytest.mark.slow
def test_lost_targets_reach_the_metrics(vocab, make_rows):
    """An objective whose selection is too small says so in every step."""

    def crowded(key, tokens, length, *, vocab):
        noise = jd.masks.iid(key, tokens, length, 0.9, vocab)
        return jd.rewrite.mask_tokens(tokens, noise, vocab, capacity=4)

    from jaxdenoise.objectives import objectives

    with objectives.scope():
        objective = jd.objective(crowded)(vocab=vocab)
    config = dataclasses.replace(jd.ModelConfig(), architecture="encoder", width=8, heads=1)
    model = Model(dataclasses.replace(config, encoder_layers=1, mlp_width=8, head_width=8), 1024)
    rows, tx = make_rows(2, 20), optax.sgd(0.1)
    batch = corrupt(objective, rows)
    total = float((batch.encoder_loss_weights > 0).sum())
    step = jax.jit(make_step(objective, model, tx))
    _, metrics = step(init(jax.random.key(0), model, tx), rows)
    assert float(metrics["targets"]) == 8
    assert float(metrics["lost_targets"]) == total - 8 > 0


def test_a_step_can_be_checked_whole(vocab, make_rows):
    """In checked mode a target outside the vocabulary stops it."""

    def outside(key, tokens, length, *, vocab):
        noise = jd.masks.iid(key, tokens, length, 0.5, vocab)
        example = jd.rewrite.mask_tokens(tokens, noise, vocab)
        return example.replace(encoder_target_tokens=jnp.where(tokens == 77, 5000, tokens))

    from jaxdenoise.objectives import objectives

    with objectives.scope():
        objective = jd.objective(outside)(vocab=vocab)
    model, tx = jd.encoder(vocab=vocab, width=8, layers=1), optax.sgd(0.1)
    rows, state = make_rows(2, 20), init(jax.random.key(0), model, tx)
    step = jd.checked(jax.jit(make_step(objective, model, tx)))
    assert float(step(state, rows)[1]["loss"]) > 0
    with pytest.raises(UserError, match="target 5000 is outside the vocabulary"):
        step(state, rows.replace(tokens=np.full((2, 20), 77, np.int32)))


def test_settings_of_the_step_are_refused_when_it_is_made(vocab):
    objective, tx = jd.causal_lm(vocab=vocab), optax.sgd(0.1)
    model = jd.decoder(vocab=vocab, width=8, layers=1)
    with pytest.raises(UserError, match="unknown normalisation 'token'"):
        make_step(objective, model, tx, normalisation="token")
    with pytest.raises(UserError, match="micro_batches is 0"):
        make_step(objective, model, tx, micro_batches=0)
