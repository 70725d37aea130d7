"""The only file that names devices: one step function, on one device or on all of them.

Whatever the backend, gradients and loss terms are summed over the devices once and divided once.
The step is compiled ahead of time, so that a run cannot compile it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Rows, TrainState
from jaxdenoise.errors import require
from jaxdenoise.training.step import Across, Metrics, Step

_AXIS = "devices"


class Backend(Protocol):
    """Where a step runs. State and rows are placed, the step compiled, metrics fetched."""

    devices: int
    across: Across

    def place(self, state: TrainState) -> TrainState:
        """Puts a host state where the step wants it."""
        ...

    def split(self, rows: Rows) -> Rows:
        """Gives each device its part of the batch."""
        ...

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Step:
        """Compiles for placed states and split rows of these shapes; the state is donated."""
        ...

    def unplace(self, state: TrainState) -> TrainState:
        """One copy of the state, for a checkpoint or an evaluation."""
        ...

    def fetch(self, metrics: Metrics) -> Metrics:
        """Metrics as NumPy arrays, once."""
        ...


class SingleDevice:
    """One device."""

    devices = 1
    across = Across()

    def place(self, state: TrainState) -> TrainState:
        return jax.device_put(state, jax.local_devices()[0])

    def split(self, rows: Rows) -> Rows:
        return rows

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Step:
        return jax.jit(step, donate_argnums=0).lower(state, rows).compile()

    def unplace(self, state: TrainState) -> TrainState:
        return state

    def fetch(self, metrics: Metrics) -> Metrics:
        return jax.device_get(metrics)


class Pmap:
    """Replicated data parallel over all local devices."""

    across = Across(
        sum=lambda tree: jax.lax.psum(tree, _AXIS),
        max=lambda tree: jax.lax.pmax(tree, _AXIS),
    )

    def __init__(self):
        self.devices = jax.local_device_count()

    def place(self, state: TrainState) -> TrainState:
        return _replicate(state, jax.local_devices())

    def split(self, rows: Rows) -> Rows:
        return jax.tree.map(lambda x: x.reshape(self.devices, -1, *x.shape[1:]), rows)

    def compile(self, step: Step, state: TrainState, rows: Rows) -> Step:
        mapped = jax.pmap(step, axis_name=_AXIS, donate_argnums=0)
        return mapped.lower(state, rows).compile()

    def unplace(self, state: TrainState) -> TrainState:
        return jax.tree.map(_first_copy, state)

    def fetch(self, metrics: Metrics) -> Metrics:
        # The copies are cut on the host: an operation on the device would wait for the next step.
        first = jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data, metrics))
        return jax.tree.map(lambda x: x[0], first)


BACKENDS: dict[str, Callable[[], Backend]] = {"single": SingleDevice, "pmap": Pmap}


def make_backend(name: str, batch_size: int, micro_batches: int = 1) -> Backend:
    """The backend of that name.

    Raises:
      UserError: the devices, or they and the micro-batches, do not divide the batch.
    """
    backend = BACKENDS[name]()
    parts = backend.devices * micro_batches
    rest = batch_size % parts
    among = f"{backend.devices} devices" + f" × {micro_batches} micro-batches" * (micro_batches > 1)
    require(
        rest == 0,
        f"training.batch_size is {batch_size}, which {among} do not divide; "
        f"give {batch_size - rest or parts} or {batch_size - rest + parts}",
    )
    return backend


def first_device() -> jax.sharding.Sharding:
    """Where a state is before it is placed: this process' first device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _replicate(tree: Any, devices: Sequence[Any]) -> Any:
    """A copy on each device, stacked in front, as pmap wants it."""
    mesh = jax.sharding.Mesh(np.array(devices), (_AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(_AXIS))

    def copies(x: jax.Array) -> jax.Array:
        return jax.device_put(jnp.broadcast_to(x, (len(devices), *x.shape)), sharding)

    return jax.tree.map(copies, tree)


def _first_copy(x: jax.Array) -> jax.Array:
    """The first device's copy, without the axis of devices."""
    return jnp.squeeze(x.addressable_shards[0].data, axis=0)
