"""The step: sums divided once, metrics by module, and the notebook's way of using it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdenoise as jd
from jaxdenoise.model.model import Model
from jaxdenoise.training import step as steps
from jaxdenoise.training.step import make_evaluation, make_step

corrupt = jax.jit(steps.corrupt, static_argnums=0)
token_losses = jax.jit(steps.token_losses, static_argnums=0)

LENGTHS = [40, 23, 11, 2]


@pytest.fixture(scope="module")
def model() -> Model:
    config = jd.ModelConfig(
        width=16, mlp_width=32, heads=2, head_width=8, encoder_layers=2, decoder_layers=2
    )
    return Model(config, 1024)


@pytest.fixture(scope="module")
def initial(model):
    return model.init(jax.random.key(0))


@pytest.fixture
def objective(vocab):
    return jd.configure("span_corruption").build(vocab)


@pytest.fixture
def rows(make_rows):
    return make_rows(4, 40, lengths=LENGTHS)


def fresh(params, tx):
    return jd.TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params))


def test_a_step_of_sgd_is_the_gradient_of_the_mean_over_all_targets(
    model, initial, objective, rows
):
    tx = optax.sgd(1.0)
    state, metrics = jax.jit(make_step(objective, model, tx))(fresh(initial, tx), rows)

    def mean(params):
        batch = corrupt(objective, rows)
        targets, weights = batch.targets("decoder")
        nll = jd.cross_entropy(model.apply(params, batch), targets)
        return jnp.sum(nll * weights) / jnp.sum(weights)

    value, gradient = jax.jit(jax.value_and_grad(mean))(initial)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    moved = jax.tree.map(lambda old, new: old - new, initial, state.params)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, moved, gradient))
    assert difference < 1e-4 * optax.tree.norm(gradient)
    assert int(state.step) == 1


@pytest.mark.slow
def test_normalisation_scales_the_gradient_alone(model, initial, objective, rows):
    tx, norms = optax.sgd(1.0), {}
    for normalisation in ("sum", "count", "constant"):
        step = make_step(objective, model, tx, normalisation=normalisation, constant=50.0)
        _, metrics = jax.jit(step)(fresh(initial, tx), rows)
        divisors = {"sum": 1.0, "count": float(metrics["targets"]), "constant": 50.0}
        norms[normalisation] = metrics["gradient_norm"] * divisors[normalisation]
    np.testing.assert_allclose(norms["count"], norms["sum"], rtol=1e-4)
    np.testing.assert_allclose(norms["constant"], norms["sum"], rtol=1e-4)


@pytest.mark.slow
def test_metrics_by_module_are_the_norms_of_its_leaves(model, initial, objective, rows):
    tx = optax.sgd(0.5)
    state, metrics = jax.jit(make_step(objective, model, tx))(fresh(initial, tx), rows)
    modules = metrics["modules"]
    names = set(modules["gradient_norm"])
    assert {"embedding", "projection", "encoder.mlp", "decoder.cross_attention"} <= names
    updates = jax.tree.map(jnp.subtract, state.params, initial)
    mlp, before = (tree["decoder"]["layers"]["mlp"] for tree in (updates, initial))
    for layer in range(2):
        moved = np.sqrt(sum(float((leaf[layer] ** 2).sum()) for leaf in mlp.values()))
        size = np.sqrt(sum(float((leaf[layer] ** 2).sum()) for leaf in before.values()))
        np.testing.assert_allclose(
            modules["gradient_norm"]["decoder.mlp"][layer], 2 * moved, rtol=1e-3
        )
        np.testing.assert_allclose(
            modules["update_ratio"]["decoder.mlp"][layer], moved / size, rtol=1e-3
        )
    total = np.sqrt(
        sum(float((np.asarray(v) ** 2).sum()) for v in modules["gradient_norm"].values())
    )
    np.testing.assert_allclose(total, metrics["gradient_norm"], rtol=1e-4)
    assert modules["max_attention_logit"]["encoder.self_attention"].shape == (2,)


def test_rows_too_short_are_counted(model, initial, objective, make_rows):
    tx = optax.sgd(1.0)
    rows = make_rows(4, 40, lengths=[40, 1, 0, 7])
    _, metrics = jax.jit(make_step(objective, model, tx))(fresh(initial, tx), rows)
    assert float(metrics["clean_rows"]) == 2


def test_a_batch_without_targets_moves_nothing(model, initial, objective, make_rows):
    tx = optax.sgd(1.0)
    rows = make_rows(2, 40, lengths=[1, 0])
    state, metrics = jax.jit(make_step(objective, model, tx))(fresh(initial, tx), rows)
    assert float(metrics["loss"]) == 0
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.params, initial)
    assert jax.tree.all(same)


def test_evaluation_counts_text_apart_from_sentinels_and_eos(
    model, initial, objective, rows, vocab
):
    sums = jax.jit(make_evaluation(objective, model))(initial, rows)
    batch = corrupt(objective, rows)
    targets, weights = (np.asarray(x) for x in batch.targets("decoder"))
    special = vocab.is_special[targets] & (weights > 0)
    assert float(sums["special"].targets) == special.sum()
    assert float(sums["text"].targets) == (weights > 0).sum() - special.sum()
    nll = np.asarray(token_losses(model, initial, batch))
    np.testing.assert_allclose(sums["special"].loss, nll[special].sum(), rtol=1e-4)


def test_the_loss_falls_on_one_batch(model, initial, objective, rows):
    tx = optax.adamw(3e-3)
    step = jax.jit(make_step(objective, model, tx))
    state, losses = fresh(initial, tx), []
    for _ in range(30):
        state, metrics = step(state, rows)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_a_schedule_follows_the_steps_of_the_training(vocab, rows):
    """Half the training at one density, half at another."""
    schedule = ((0, 0.1), (0.5, 0.1), (0.5, 0.6), (1, 0.6))
    objective = jd.configure("masked_lm", noise_density=schedule).build(vocab)
    config = jd.ModelConfig(
        architecture="encoder", width=8, mlp_width=8, heads=1, head_width=8, encoder_layers=1
    )
    model, tx = Model(config, 1024), optax.sgd(0.0)
    step = jax.jit(make_step(objective, model, tx, steps=4))
    state, targets = fresh(model.init(jax.random.key(0)), tx), []
    for _ in range(4):
        state, metrics = step(state, rows)
        targets.append(int(metrics["targets"]))
    few, many = (sum(max(1, round(n * d)) for n in LENGTHS) for d in (0.1, 0.6))
    assert targets == [few, few, many, many]
    assert int(jax.vmap(objective)(rows.keys, rows.tokens, rows.lengths).count.sum()) == many


def test_a_batch_shares_out_the_numbers_that_recipes_ask_for(make_rows):
    rows = make_rows(64, 4)
    numbers = np.sort(rows.uniforms)
    assert (np.diff(np.append(numbers, numbers[0] + 1)) < 2.7 / 64).all()  # random: about 5 / 64
    later = rows.replace(places=np.arange(2**32 - 64, 2**32, dtype=np.uint32))
    assert (np.diff(np.sort(later.uniforms)) < 2.7 / 64).all()  # and nothing is lost in long runs
    assert not np.array_equal(rows.uniforms, rows.seeded(1).uniforms)


@pytest.mark.slow
def test_what_is_never_predicted_has_no_probability(model, initial, objective, rows):
    batch = corrupt(objective, rows)
    hidden, projection, _ = model.forward(initial, batch)
    logits = projection.without((2, 7))(hidden)
    chances = jax.nn.softmax(logits)
    assert float(chances[..., 2].max()) == float(chances[..., 7].max()) == 0
    np.testing.assert_array_equal(logits[..., 8], projection(hidden)[..., 8])
