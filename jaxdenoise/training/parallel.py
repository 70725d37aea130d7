"""The only file that names devices: one step function, on one device or on all of them.

Whatever the backend, gradients and loss terms are summed over the devices once and divided once.
The step is compiled ahead of time, so that a run cannot compile it twice. Of several processes,
each reads the rows of its own devices alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Int

from jaxdenoise.arrays import Rows, TrainState
from jaxdenoise.config import TrainingConfig
from jaxdenoise.model import sharding
from jaxdenoise.model.model import Model
from jaxdenoise.training.step import Across, Metrics, Step

_AXIS = "devices"


class Backend(Protocol):
    """Where a step runs. State and rows are placed, the step compiled, metrics fetched.

    A state is *whole* where it is initialised, saved, restored and evaluated, and *placed* where
    the step has it.

    Attributes:
      parts: of a batch, one for each group of devices that share rows.
      across: how the step's sums go over devices.
    """

    parts: int
    across: Across

    def layout(self, state: TrainState) -> TrainState:
        """Where a whole state lies: `ShapeDtypeStruct`s with shardings, from its shapes."""
        ...

    def place(self, state: TrainState) -> TrainState:
        """Puts a whole state where the step wants it."""
        ...

    def unplace(self, state: TrainState) -> TrainState:
        """The whole state of a placed one."""
        ...

    def rows(self, batch_size: int) -> Int[np.ndarray, "local"]:
        """Which rows of a batch this process reads, in order."""
        ...

    def split(self, rows: Rows) -> Rows:
        """Gives each device its part of the batch, from the rows that this process has read."""
        ...

    def shapes(self, state: TrainState, rows: Rows) -> tuple[TrainState, Rows]:
        """What `compile` is given, without arrays, from the shapes of a state and of all rows."""
        ...

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Any:
        """Compiles for placed states and split rows of these shapes; the state is donated."""
        ...

    def evaluation(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A pure function of (whole params, rows), jitted; takes and gives host arrays."""
        ...

    def fetch(self, metrics: Metrics) -> Metrics:
        """Metrics as NumPy arrays, once."""
        ...


class SingleDevice:
    """One device, the first one by default."""

    parts = 1
    across = Across()

    def __init__(self, device: Any = None):
        self._device = first_device() if device is None else SingleDeviceSharding(device)

    def layout(self, state: TrainState) -> TrainState:
        return _laid_out(state, self._device)

    def shapes(self, state: TrainState, rows: Rows) -> tuple[TrainState, Rows]:
        return self.layout(state), _laid_out(rows, self._device)

    def place(self, state: TrainState) -> TrainState:
        return state

    def unplace(self, state: TrainState) -> TrainState:
        return state

    def rows(self, batch_size: int) -> Int[np.ndarray, "local"]:
        return np.arange(batch_size)

    def split(self, rows: Rows) -> Rows:
        return rows

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Any:
        return jax.jit(step, donate_argnums=0).lower(state, rows).compile()

    def evaluation(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(function)
        return lambda params, rows: jax.device_get(compiled(params, rows))

    def fetch(self, metrics: Metrics) -> Metrics:
        return jax.device_get(metrics)


class _Spread:
    """Rows cut into equal parts over the devices of a mesh."""

    def __init__(self, mesh: Mesh, axes: tuple[str, ...]):
        self.mesh = mesh
        self.parts = math.prod(mesh.shape[axis] for axis in axes)
        self._by_row = NamedSharding(mesh, PartitionSpec(axes))
        self._everywhere = NamedSharding(mesh, PartitionSpec())

    def rows(self, batch_size: int) -> Int[np.ndarray, "local"]:
        places = self._by_row.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[where] for where in places]))

    def spread(self, rows: Rows) -> Rows:
        """The rows of all processes as global arrays, from those of this one."""
        mine = self.rows(self.parts)  # in units of a part
        each = len(rows.lengths) // len(mine)

        def part(x: Any, where: Any) -> Any:
            first = np.searchsorted(mine, (where[0].start or 0) // each) * each
            return x[first : first + each]

        def spread(x: Any) -> jax.Array:
            shape = (self.parts * each, *x.shape[1:])
            return jax.make_array_from_callback(shape, self._by_row, lambda at: part(x, at))

        return jax.tree.map(spread, rows)

    def evaluation(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(function, out_shardings=self._everywhere)

        def evaluate(params: Any, rows: Rows) -> Any:
            with jax.set_mesh(self.mesh):
                return jax.device_get(compiled(params, self.spread(rows)))

        return evaluate


class Pmap(_Spread):
    """Replicated data parallel over all devices, or those that are given."""

    across = Across(
        sum=lambda tree: jax.lax.psum(tree, _AXIS),
        max=lambda tree: jax.lax.pmax(tree, _AXIS),
    )

    def __init__(self, devices: Sequence[Any] | None = None):
        # In one order for pmap and for what is laid out on its mesh: that of JAX's mesh is another.
        self._devices = sorted(jax.devices() if devices is None else devices, key=_by_process)
        super().__init__(Mesh(np.array(self._devices), (_AXIS,)), (_AXIS,))

    def layout(self, state: TrainState) -> TrainState:
        return _laid_out(state, self._everywhere)

    def shapes(self, state: TrainState, rows: Rows) -> tuple[TrainState, Rows]:
        def by_device(x: Any, cut: bool) -> jax.ShapeDtypeStruct:
            shape = (x.shape[0] // self.parts, *x.shape[1:]) if cut else x.shape
            return jax.ShapeDtypeStruct((self.parts, *shape), x.dtype)

        return (
            jax.tree.map(lambda x: by_device(x, False), state),
            jax.tree.map(lambda x: by_device(x, True), rows),
        )

    def place(self, state: TrainState) -> TrainState:
        def copies(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(x, (self.parts, *x.shape))

        return jax.jit(lambda s: jax.tree.map(copies, s), out_shardings=self._by_row)(state)

    def unplace(self, state: TrainState) -> TrainState:
        # Each device takes its own copy: they are the same, and nothing is sent.
        cut, whole = PartitionSpec(_AXIS), PartitionSpec()
        own = jax.shard_map(
            lambda tree: jax.tree.map(lambda x: x[0], tree),
            mesh=self.mesh,
            in_specs=cut,
            out_specs=whole,
            check_vma=False,
        )
        return jax.jit(own)(state)

    def split(self, rows: Rows) -> Rows:
        # Global arrays: a pmap that was compiled ahead of time takes what it was compiled for, and
        # does not join the rows of several processes.
        devices = len(self.mesh.local_devices)

        def spread(x: Any) -> jax.Array:
            mine = x.reshape(devices, -1, *x.shape[1:])
            return jax.make_array_from_process_local_data(self._by_row, mine)

        return jax.tree.map(spread, rows)

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Any:
        mapped = jax.pmap(step, axis_name=_AXIS, donate_argnums=0, devices=self._devices)
        return mapped.lower(state, rows).compile()

    def fetch(self, metrics: Metrics) -> Metrics:
        # The copies are cut on the host: an operation on the device would wait for the next step.
        first = jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data, metrics))
        return jax.tree.map(lambda x: x[0], first)


class OnMesh(_Spread):
    """jit over a mesh: the batch is cut, parameters and optimizer state as the model's rules say.

    Args:
      model: names the axes of its parameters.
      sizes: of the mesh axes data, fsdp and tensor.
      devices: their product in number; all there are by default.
    """

    def __init__(self, model: Model, sizes: Sequence[int], devices: Sequence[Any] | None = None):
        sharding.check(model.config, model.vocab_size, *sizes[1:])
        super().__init__(_mesh(sizes, sharding.MESH_AXES, devices), sharding.BATCH_AXES)
        self._params = sharding.partition(model.axes())
        scattered = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self._params)
        self.across = Across(
            scatter=lambda gradient: jax.lax.with_sharding_constraint(gradient, scattered),
            devices=math.prod(sizes),
        )

    def layout(self, state: TrainState) -> TrainState:
        cut = _cut_like_parameters(state, self._params, self.mesh.shape["fsdp"])
        return jax.tree.map(
            lambda x, spec: _laid_out(x, NamedSharding(self.mesh, spec)), state, cut
        )

    def shapes(self, state: TrainState, rows: Rows) -> tuple[TrainState, Rows]:
        return self.layout(state), _laid_out(rows, self._by_row)

    def place(self, state: TrainState) -> TrainState:
        return state

    def unplace(self, state: TrainState) -> TrainState:
        return state

    def split(self, rows: Rows) -> Rows:
        return self.spread(rows)

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Any:
        shardings = jax.tree.map(lambda x: x.sharding, state)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, self._everywhere))
        with jax.set_mesh(self.mesh):
            return jitted.lower(state, rows).compile()

    def fetch(self, metrics: Metrics) -> Metrics:
        return jax.device_get(metrics)


def make_backend(
    training: TrainingConfig, model: Model, devices: Sequence[Any] | None = None
) -> Backend:
    """The backend of a run, on all devices or on those that are given.

    Raises:
      UserError: as `check_devices`; or mesh axes that do not divide what they cut in the model.
    """
    if training.backend == "mesh":
        return OnMesh(model, training.mesh.sizes(_number(devices)), devices)
    if training.backend == "pmap":
        return Pmap(devices)
    return SingleDevice(devices[0] if devices else None)


def check_devices(training: TrainingConfig, among: Sequence[Any] | None = None) -> None:
    """Raises `UserError` unless devices, mesh, micro-batches and batch divide each other."""
    training.check_devices(_number(among), jax.process_count() if among is None else 1)


def _number(devices: Sequence[Any] | None) -> int:
    return jax.device_count() if devices is None else len(devices)


def first_device() -> SingleDeviceSharding:
    """This process' first device."""
    return SingleDeviceSharding(jax.local_devices()[0])


def fetch(tree: Any) -> Any:
    """Arrays as NumPy arrays, whole in every process, wherever their parts are."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


def _mesh(
    sizes: Sequence[int], axes: tuple[str, ...], devices: Sequence[Any] | None = None
) -> Mesh:
    grid = _grid(tuple(sizes), list(jax.devices() if devices is None else devices))
    return Mesh(grid, axes, axis_types=(AxisType.Auto,) * len(axes))


def _grid(sizes: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """The devices as an array of these sizes, neighbours near each other.

    Several slices of TPUs, or nodes of GPUs, are joined by a slower network: the first axes go over
    them, if they divide so.
    """
    slices = len({_slice(device) for device in devices})
    over, left = [], slices
    for size in sizes:
        over.append(math.gcd(size, left))
        left //= over[-1]
    if left > 1:
        return np.array(sorted(devices, key=_by_process)).reshape(sizes)
    if slices > 1:
        inside = [size // part for size, part in zip(sizes, over, strict=True)]
        return mesh_utils.create_hybrid_device_mesh(
            inside, over, devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", None) or 0


def _by_process(device: Any) -> tuple[int, int, int]:
    return _slice(device), device.process_index, device.id


def _laid_out(tree: Any, place: jax.sharding.Sharding) -> Any:
    def one(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    return jax.tree.map(one, tree)


def _cut_like_parameters(state: TrainState, params: Any, fsdp: int) -> TrainState:
    """`PartitionSpec`s of a state: what the optimizer keeps for a parameter is cut like it.

    What has lost an axis of the parameter, as in Adafactor, and with it the one that fsdp cuts, is
    cut along another.
    """
    flat = jax.tree_util.tree_flatten_with_path
    sizes = {tuple(path): leaf.shape for path, leaf in flat(state.params)[0]}
    specs = {tuple(path): spec for path, spec in flat(params)[0]}

    def cut(path: tuple, leaf: Any) -> PartitionSpec:
        tails = (tuple(path[start:]) for start in range(len(path)))
        owner = next((tail for tail in tails if tail in specs), None)
        if owner is None:
            return PartitionSpec()
        axes: list[str | None] = []
        left = zip(sizes[owner], (*specs[owner], *[None] * len(sizes[owner])), strict=False)
        for size in leaf.shape:
            axes.append(next((axis for other, axis in left if other == size), None))
        if "fsdp" in specs[owner] and "fsdp" not in axes:
            free = [n for n, size in enumerate(leaf.shape) if not axes[n] and size % fsdp == 0]
            if free:
                axes[max(free, key=lambda n: leaf.shape[n])] = "fsdp"
        return PartitionSpec(*axes)

    opt_state = jax.tree_util.tree_map_with_path(cut, state.opt_state)
    whole: Any = PartitionSpec()
    recent = None if state.recent is None else whole
    return TrainState(step=whole, params=params, opt_state=opt_state, recent=recent)
