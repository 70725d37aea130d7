"""pmap over eight devices against one: same gradients, same losses, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdenoise as jd
from jaxdenoise.errors import UserError
from jaxdenoise.model.model import Model
from jaxdenoise.training import parallel
from jaxdenoise.training.step import init, make_step
from tests.model.test_transformer import assert_gradients_agree

# Each device has another number of targets, some next to none.
UNEVEN = [40, 40, 3, 2, 30, 1, 0, 5, 40, 12, 2, 2, 9, 40, 33, 20]


@pytest.fixture(scope="module")
def model() -> Model:
    config = jd.ModelConfig(
        width=16, mlp_width=32, heads=2, head_width=8, encoder_layers=2, decoder_layers=2
    )
    return Model(config, 1024)


def run(name, model, objective, rows, tx, steps=1):
    """The state after some steps on a backend, and the metrics of each."""
    backend = parallel.make_backend(name, len(UNEVEN))
    state = backend.place(init(jax.random.key(0), model, tx))
    first = backend.split(rows)
    step = backend.compile(make_step(objective, model, tx, across=backend.across), state, first)
    metrics = []
    for number in range(steps):
        batch = rows.replace(epochs=rows.epochs + np.uint32(number))
        state, values = step(state, backend.split(batch))
        metrics.append(backend.fetch(values))
    return backend.unplace(state), metrics


def test_gradients_agree_with_one_device(model, vocab, make_rows):
    objective = jd.configure("span_corruption").build(vocab)
    rows = make_rows(16, 40, lengths=UNEVEN)
    tx = optax.sgd(1.0)  # the update is the gradient
    assert jax.local_device_count() == 8
    before = init(jax.random.key(0), model, tx).params
    single, [one] = run("single", model, objective, rows, tx)
    mapped, [all_devices] = run("pmap", model, objective, rows, tx)
    gradients = [jax.tree.map(jnp.subtract, before, s.params) for s in (mapped, single)]
    assert_gradients_agree(*gradients)
    for name in ("loss", "accuracy", "targets", "clean_rows"):
        np.testing.assert_allclose(all_devices[name], one[name], rtol=1e-5)
    assert float(one["clean_rows"]) == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        all_devices["modules"],
        one["modules"],
    )


def test_summing_over_devices_is_exact_in_float64():
    """What the backend does with sums, on a loss whose devices count unequally."""
    with jax.enable_x64(True):
        weights = jax.random.normal(jax.random.key(0), (8, 5), jnp.float64)
        x = jax.random.normal(jax.random.key(1), (8, 3, 8), jnp.float64)
        counts = jnp.arange(8.0)

        def loss(w, x, count):
            return jnp.sum(jnp.tanh(x @ w) ** 2) * count

        def mean_gradient(w, x, count):
            gradient, total = parallel.Pmap.across.sum((jax.grad(loss)(w, x, count), count))
            return gradient / total

        mapped = jax.pmap(mean_gradient, axis_name="devices", in_axes=(None, 0, 0))
        whole = sum(jax.grad(loss)(weights, x[i], counts[i]) for i in range(8)) / counts.sum()
        error = jnp.linalg.norm(mapped(weights, x, counts)[0] - whole)
        assert float(error) < 1e-10 * float(jnp.linalg.norm(whole))


def test_loss_curves_agree_for_twenty_steps(model, vocab, make_rows):
    objective = jd.configure("span_corruption").build(vocab)
    rows = make_rows(16, 40, lengths=UNEVEN)
    config = jd.OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
    tx = jd.build_optimizer(config, 20)
    curves = [
        [float(m["loss"]) for m in run(name, model, objective, rows, tx, steps=20)[1]]
        for name in ("single", "pmap")
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    assert curves[0][-1] < curves[0][0]


@pytest.mark.parametrize("name", ["single", "pmap"])
def test_a_whole_run_traces_the_step_once(name, model, vocab, make_rows):
    traces = []
    objective = jd.configure("span_corruption").build(vocab)
    tx = optax.adamw(1e-3)
    backend = parallel.make_backend(name, 16)
    plain = make_step(objective, model, tx, across=backend.across)

    def counted(state, rows):
        traces.append(1)
        return plain(state, rows)

    rows = make_rows(16, 40, lengths=UNEVEN)
    state = backend.place(init(jax.random.key(0), model, tx))
    step = backend.compile(counted, state, backend.split(rows))
    for number in range(3):
        batch = make_rows(16, 40, lengths=UNEVEN[::-1], seed=number)
        state, _ = step(state, backend.split(batch))
    assert len(traces) == 1
    assert int(backend.unplace(state).step) == 3


def test_a_batch_that_the_devices_do_not_divide_is_refused_with_the_nearest_sizes():
    with pytest.raises(
        UserError, match="batch_size is 20, which 8 devices do not divide; give 16 or 24"
    ):
        parallel.make_backend("pmap", 20)
    with pytest.raises(UserError, match="give 8 or 8"):
        parallel.make_backend("pmap", 4)
