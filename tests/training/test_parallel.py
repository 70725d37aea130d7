"""pmap over eight devices against one: same gradients, same losses, one compilation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdenoise as jd
from jaxdenoise.config import MeshConfig
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


MESHES = {
    "mesh": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp_tensor": MeshConfig(fsdp=4, tensor=2),
}


def training(name: str, **fields) -> jd.TrainingConfig:
    """A backend by name, or one of the meshes."""
    mesh = MESHES.get(name)
    return jd.TrainingConfig(backend="mesh" if mesh else name, mesh=mesh or MeshConfig(), **fields)


def shardings(layout):
    return jax.tree.map(lambda x: x.sharding, layout)


def run(name, model, objective, rows, tx, steps=1, params=None, **options):
    """The state after some steps on a backend, and the metrics of each."""
    backend = parallel.make_backend(training(name), model)
    state = init(jax.random.key(0), model, tx)
    if params is not None:
        state = state.replace(params=jax.tree.map(jnp.copy, params), opt_state=tx.init(params))
    state = backend.place(jax.device_put(state, shardings(backend.layout(state))))
    first = backend.split(rows)
    pure = make_step(objective, model, tx, across=backend.across, **options)
    step = backend.compile(pure, state, first)
    metrics = []
    for number in range(steps):
        batch = rows.replace(epochs=rows.epochs + np.uint32(number))
        state, values = step(state, backend.split(batch))
        metrics.append(backend.fetch(values))
    return backend.unplace(state), metrics


def keep_gradient() -> optax.GradientTransformation:
    """Moves nothing and keeps the gradient as it came, as the optimizer's state."""

    def update(gradient, state, params=None):
        return jax.tree.map(jnp.zeros_like, gradient), gradient

    return optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)


def mean_gradient(model, objective, params, rows):
    """`jax.grad` of the mean loss of the whole batch, written out."""
    batch = jax.vmap(objective)(rows.keys, rows.tokens, rows.lengths)
    targets, weights = batch.targets("decoder")

    def mean(params):
        logits = jax.nn.log_softmax(model.apply(params, batch))
        at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(at_target * weights) / jnp.sum(weights)

    return jax.jit(jax.grad(mean))(params)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_gradients_agree_with_one_device(model, vocab, make_rows, dtype, tolerance):
    assert jax.local_device_count() == 8
    objective = jd.configure("span_corruption").build(vocab)
    rows = make_rows(16, 40, lengths=UNEVEN)
    with jax.enable_x64(dtype == "float64"):
        config = dataclasses.replace(model.config, compute_dtype=dtype)
        model = Model(config, model.vocab_size)
        params = jax.tree.map(lambda x: x.astype(dtype), model.init(jax.random.key(0)))
        expected = mean_gradient(model, objective, params, rows)
        found = {}
        # Every mesh in float32, the one with all axes that matter in float64 too.
        meshes = MESHES if dtype == "float32" else ["fsdp_tensor"]
        for name in ("single", "pmap", *meshes):
            state, [found[name]] = run(name, model, objective, rows, keep_gradient(), params=params)
            assert {x.dtype for x in jax.tree.leaves(state.opt_state)} == {jnp.dtype(dtype)}
            assert_gradients_agree(state.opt_state, expected, tolerance)
    one = found.pop("single")
    assert float(one["clean_rows"]) == 2
    for others in found.values():
        for name in ("loss", "accuracy", "targets", "clean_rows"):
            np.testing.assert_allclose(others[name], one[name], rtol=tolerance)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            others["modules"],
            one["modules"],
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "name", "gradients"),
    [("encoder", "masked_lm", "full"), ("decoder", "causal_prefix_lm", "output_only")],
)
def test_other_architectures_agree_too(architecture, name, gradients, vocab, make_rows):
    """In micro-batches on eight devices against all rows at once on one."""
    objective = jd.configure(name).build(vocab)
    rows = make_rows(16, 40, lengths=UNEVEN)
    with jax.enable_x64(True):
        shape = {"width": 16, "mlp_width": 32, "heads": 2, "head_width": 8}
        config = jd.ModelConfig(
            architecture=architecture,
            encoder_layers=2,
            decoder_layers=2,
            positions="rotary",
            compute_dtype="float64",
            **shape,
        )
        model = Model(config, 1024)
        params = jax.tree.map(lambda x: x.astype("float64"), model.init(jax.random.key(0)))
        found = {}
        for backend, parts in (("single", 1), ("pmap", 2)):
            options = {"gradients": gradients, "micro_batches": parts}
            found[backend] = run(
                backend, model, objective, rows, keep_gradient(), params=params, **options
            )
        (one, [metrics]), (eight, [others]) = found["single"], found["pmap"]
        assert_gradients_agree(*jax.device_get((eight.opt_state, one.opt_state)), 1e-10)
    for field in ("loss", "accuracy", "targets", "clean_rows", "lost_targets"):
        np.testing.assert_allclose(others[field], metrics[field], rtol=1e-10)


@pytest.mark.slow
def test_loss_curves_agree_for_twenty_steps(model, vocab, make_rows):
    objective = jd.configure("span_corruption").build(vocab)
    rows = make_rows(16, 40, lengths=UNEVEN)
    config = jd.OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
    tx = jd.build_optimizer(config, 20)
    curves = [
        [float(m["loss"]) for m in run(name, model, objective, rows, tx, steps=20)[1]]
        for name in ("single", "pmap", *MESHES)
    ]
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-5)
    assert curves[0][-1] < curves[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single", "pmap"])
def test_a_whole_run_traces_the_step_once(name, model, vocab, make_rows):
    traces = []
    objective = jd.configure("span_corruption").build(vocab)
    tx = optax.adamw(1e-3)
    backend = parallel.make_backend(training(name), model)
    plain = make_step(objective, model, tx, across=backend.across)

    def counted(state, rows):
        traces.append(1)
        return plain(state, rows)

    rows = make_rows(16, 40, lengths=UNEVEN)
    state = init(jax.random.key(0), model, tx)
    state = backend.place(jax.device_put(state, shardings(backend.layout(state))))
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
        parallel.check_devices(training("pmap", batch_size=20))
    with pytest.raises(UserError, match="give 8 or 8"):
        parallel.check_devices(training("pmap", batch_size=4))
    with pytest.raises(UserError, match="8 devices × 2 micro-batches do not divide; give 16 or 32"):
        parallel.check_devices(training("pmap", batch_size=24, micro_batches=2))


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshConfig(fsdp=3), "fsdp 3 × tensor 1, which does not divide the 8 devices"),
        (
            MeshConfig(data=2, fsdp=2),
            "data 2 × fsdp 2 × tensor 1, which makes 4, not the 8 devices",
        ),
    ],
)
def test_a_mesh_that_is_not_the_devices_is_refused(mesh, message):
    with pytest.raises(UserError, match=message):
        parallel.check_devices(jd.TrainingConfig(backend="mesh", mesh=mesh))


def test_a_mesh_without_its_backend_is_refused():
    with pytest.raises(UserError, match="training.mesh is given, but training.backend is pmap"):
        jd.TrainingConfig(backend="pmap", mesh=MeshConfig(fsdp=2))


@pytest.mark.parametrize(
    ("mesh", "fields", "message"),
    [
        (MeshConfig(fsdp=8), {"width": 20}, "model.width is 20, which training.mesh.fsdp 8 does"),
        (MeshConfig(tensor=4), {}, "model.heads is 2, which training.mesh.tensor 4 does not"),
        (MeshConfig(tensor=2), {"key_value_heads": 1}, "model.key_value_heads is 1, which"),
        (MeshConfig(tensor=2), {"mlp_width": 33}, "model.mlp_width is 33, which"),
        (
            MeshConfig(data=1, tensor=3),
            {"heads": 3, "mlp_width": 33},
            "the padded vocabulary is 1024, which training.mesh.tensor 3 does not divide",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused(model, mesh, fields, message):
    config = dataclasses.replace(model.config, **fields)
    devices = jax.devices()[: 3 if mesh.tensor == 3 else 8]
    with pytest.raises(UserError, match=message):
        parallel.make_backend(
            jd.TrainingConfig(backend="mesh", mesh=mesh), Model(config, model.vocab_size), devices
        )


@dataclasses.dataclass(frozen=True)
class Stub:
    """A device of a node or a slice that is not here."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "stub"


@pytest.mark.parametrize(
    ("sizes", "by_slice"),
    [
        ((2, 4, 1), [[0], [1]]),  # the data axis goes over the two nodes
        ((1, 8, 1), [[0, 1]]),
        ((4, 1, 2), [[0], [0], [1], [1]]),
    ],
)
def test_a_mesh_goes_over_several_nodes_by_its_first_axes(sizes, by_slice):
    devices = [Stub(id=n, process_index=n // 4, slice_index=n // 4) for n in range(8)]
    grid = parallel._grid(sizes, devices)
    assert grid.shape == sizes
    assert [sorted({d.slice_index for d in row.flat}) for row in grid] == by_slice
    assert len(set(grid.flat)) == 8


def test_devices_that_no_axis_divides_by_node_still_make_a_mesh():
    devices = [Stub(id=n, process_index=n // 2, slice_index=n // 2) for n in range(6)][::-1]
    grid = parallel._grid((2, 3, 1), devices)
    assert grid.shape == (2, 3, 1) and len(set(grid.flat)) == 6


def test_pmap_has_one_order_of_devices(model):
    backend = parallel.Pmap(jax.devices()[::-1])
    state = init(jax.random.key(0), model, optax.sgd(1.0))
    placed = backend.place(jax.device_put(state, shardings(backend.layout(state))))
    doubled = jax.pmap(lambda x: x, devices=backend._devices)(placed.step)
    assert [s.device for s in doubled.addressable_shards] == backend._devices
    assert [s.device for s in placed.step.addressable_shards] == backend._devices


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_a_state_takes_an_eighth_of_the_memory_under_fsdp(model, optimizer):
    config = dataclasses.replace(model.config, positions="rotary", width=64, mlp_width=128)
    model = Model(config, model.vocab_size)
    tx = jd.build_optimizer(jd.OptimizerConfig(name=optimizer), 10)
    state = jax.eval_shape(lambda: init(jax.random.key(0), model, tx))
    layout = parallel.make_backend(training("fsdp"), model).layout(state)

    def numbers(shapes, own):
        return sum(int(np.prod(own(x))) for x in jax.tree.leaves(shapes))

    for part in ("params", "opt_state"):
        whole = numbers(getattr(state, part), lambda x: x.shape)
        mine = numbers(getattr(layout, part), lambda x: x.sharding.shard_shape(x.shape))
        assert 1 / 8 <= mine / whole < 1.01 / 8, part
