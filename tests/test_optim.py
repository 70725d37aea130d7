"""Schedules by their formulas, optimizers by what they move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdenoise.config import ModelConfig, OptimizerConfig
from jaxdenoise.model.model import Model
from jaxdenoise.optim import build_optimizer, build_schedule, rsqrt_schedule


def rates(steps=100, **fields):
    schedule = build_schedule(OptimizerConfig(learning_rate=1.0, **fields), steps)
    return np.array([float(schedule(step)) for step in range(steps + 1)])


def test_warmup_is_linear_from_zero_to_the_peak():
    found = rates(warmup_steps=10, schedule="constant")
    np.testing.assert_allclose(found[:11], np.arange(11) / 10, atol=1e-6)
    np.testing.assert_allclose(found[10:], 1.0)


def test_cosine_and_linear_end_at_the_final_fraction():
    for schedule in ("cosine", "linear"):
        found = rates(warmup_steps=10, schedule=schedule, final_fraction=0.1)
        assert found.argmax() == 10
        np.testing.assert_allclose(found[-1], 0.1, rtol=1e-5)
        assert (np.diff(found[10:]) < 0).all()
    np.testing.assert_allclose(rates(warmup_steps=0, schedule="linear")[50], 0.5)


def test_rsqrt_is_t5s():
    schedule = rsqrt_schedule(0.01, 10_000)
    for step in (0, 1, 9_999, 10_000, 40_000, 524_288):
        expected = 1 / np.sqrt(max(step, 10_000))
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-6)
    found = rates(steps=400, warmup_steps=100, schedule="rsqrt")
    np.testing.assert_allclose(found[[0, 1, 100, 400]], [1.0, 1.0, 1.0, 0.5], rtol=1e-6)


@pytest.fixture(scope="module")
def params():
    config = ModelConfig(
        width=16, mlp_width=32, heads=2, head_width=8, encoder_layers=2, decoder_layers=1
    )
    return Model(config, 128).init(jax.random.key(0))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_every_optimizer_moves_every_parameter_downhill(name, params):
    config = OptimizerConfig(name=name, learning_rate=1e-2, warmup_steps=0, schedule="constant")
    tx = build_optimizer(config, 10)
    gradient = jax.tree.map(lambda x: np.sin(1 + np.arange(x.size)).reshape(x.shape), params)
    updates, _ = jax.jit(tx.update)(gradient, jax.jit(tx.init)(params), params)
    for update, slope in zip(jax.tree.leaves(updates), jax.tree.leaves(gradient), strict=True):
        assert np.sum(np.asarray(update) * slope) < 0


def test_muon_orthogonalises_each_layers_kernels_and_nothing_else(params):
    config = OptimizerConfig(
        name="muon", learning_rate=1.0, warmup_steps=0, schedule="constant", clip_norm=None
    )
    tx = build_optimizer(config, 10)
    gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    updates, _ = jax.jit(tx.update)(gradient, jax.jit(tx.init)(params), params)
    for layer in range(2):
        kernel = updates["encoder"]["layers"]["self_attention"]["query"][layer]
        singular = jnp.linalg.svd(kernel, compute_uv=False)
        assert float(singular.max() / singular.min()) < 4  # of the gradient: hundreds
    sizes = jnp.abs(updates["embedding"])
    np.testing.assert_allclose(sizes, sizes.max(), rtol=1e-2)  # Adam's first step: signs alone


def test_weight_decay_spares_norms(params):
    config = OptimizerConfig(
        learning_rate=1.0, weight_decay=0.1, warmup_steps=0, schedule="constant", clip_norm=None
    )
    tx = build_optimizer(config, 10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zero, jax.jit(tx.init)(params), params)
    np.testing.assert_allclose(updates["embedding"], -0.1 * params["embedding"], rtol=1e-5)
    assert (updates["encoder"]["layers"]["mlp_norm"]["scale"] == 0).all()
    assert (updates["encoder"]["norm"]["scale"] == 0).all()


def test_the_global_norm_is_clipped(params):
    huge = jax.tree.map(lambda x: np.full_like(x, 1e6), params)
    norm = float(jax.jit(optax.tree.norm)(huge))
    for clip_norm, expected in ((0.5, 0.5), (None, norm), (2 * norm, norm)):
        tx = build_optimizer(OptimizerConfig(clip_norm=clip_norm, b1=0.9), 10)
        _, state = jax.jit(tx.update)(huge, jax.jit(tx.init)(params), params)
        moment = optax.tree.get(state, "mu")  # a tenth of what AdamW was given
        found = float(jax.jit(optax.tree.norm)(moment))
        np.testing.assert_allclose(10 * found, expected, rtol=1e-4)
