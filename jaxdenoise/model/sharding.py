"""How a model lies on a mesh of devices: its axes have names, and rules map names to mesh axes.

A parameter is cut over `fsdp` along the width and over `tensor` along heads, hidden units of the
MLP or the vocabulary; a batch is cut over `data` and `fsdp`. A layer gathers its kernels over
`fsdp` where it uses them and scatters their gradient back (ZeRO stage 3). Without a mesh, or inside
`pmap`, none of this does anything.

Source: Xu et al. 2021, "GSPMD"; Rajbhandari et al. 2020, "ZeRO"; t5x, partitioning.py.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
from flax.linen import spmd
from jax.sharding import PartitionSpec

from jaxdenoise.arrays import AnyArray, Params
from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import require

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
RULES = (
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
    ("rest", None),
)
"""Names of parameters' axes, and the mesh axis that each is cut over."""

Axes = tuple[str, ...]


def partition(names: Any) -> Any:
    """PyTree of `PartitionSpec`s of axis names as `PartitionSpec`s of mesh axes.

    Example:
      >>> tuple(partition({"kernel": PartitionSpec("embed", "mlp")})["kernel"])
      ('fsdp', 'tensor')
    """
    return spmd.logical_to_mesh(names, RULES)


def check(config: ModelConfig, vocab_size: int, fsdp: int, tensor: int) -> None:
    """Raises `UserError` unless the mesh axes divide what they cut."""
    cut = {
        "model.width": (config.width, "fsdp", fsdp),
        "model.heads": (config.heads, "tensor", tensor),
        "model.key_value_heads": (config.query_groups, "tensor", tensor),
        "model.mlp_width": (config.mlp_width, "tensor", tensor),
        "the padded vocabulary": (vocab_size, "tensor", tensor),
    }
    for name, (size, axis, parts) in cut.items():
        require(
            size % parts == 0,
            f"{name} is {size}, which training.mesh.{axis} {parts} does not divide; change either",
        )


def named(init: nn.initializers.Initializer, axes: Axes) -> Any:
    """An initializer whose parameter remembers the names of its axes, for `names_of`."""
    return nn.with_logical_partitioning(init, axes)


def names_of(boxed: Any) -> Any:
    """The axis names of fresh parameters, as a PyTree of `PartitionSpec`s."""
    return nn.get_partition_spec(boxed)


def unboxed(boxed: Any) -> Params:
    """Fresh parameters as plain arrays."""
    return nn.meta.unbox(boxed)


def batch_axes() -> tuple[str, ...] | None:
    """The mesh axes that a batch is cut over, for `jax.vmap(spmd_axis_name=…)`; None without."""
    return BATCH_AXES if _on_mesh() else None


def is_cut(name: str) -> bool:
    """Whether an axis of that name lies on more than one device."""
    axis = dict(RULES)[name]
    return _on_mesh() and axis is not None and jax.sharding.get_abstract_mesh().shape[axis] > 1


def gathered(value: AnyArray, axes: Axes) -> Any:
    """A parameter as a layer uses it, whole along `fsdp`; its gradient is scattered back."""
    if not _on_mesh():
        return value
    spec = partition(PartitionSpec(*axes))
    whole = PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))
    return _gather(value, spec, whole)


def scattered(gradient: jax.Array, axes: Axes) -> jax.Array:
    """The gradient of a parameter, cut as the parameter is."""
    if not _on_mesh():
        return gradient
    return jax.lax.with_sharding_constraint(gradient, partition(PartitionSpec(*axes)))


def by_example(x: AnyArray) -> AnyArray:
    """Inside a vmapped model: the batch is cut over its axes here, and nothing else is."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if _on_mesh() else x


def _on_mesh() -> bool:
    return "fsdp" in jax.sharding.get_abstract_mesh().axis_names


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(value: AnyArray, cut: PartitionSpec, whole: PartitionSpec) -> jax.Array:
    del cut
    return jax.lax.with_sharding_constraint(value, whole)


def _gather_forward(
    value: jax.Array, cut: PartitionSpec, whole: PartitionSpec
) -> tuple[jax.Array, None]:
    return _gather(value, cut, whole), None


def _gather_backward(
    cut: PartitionSpec, whole: PartitionSpec, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    del whole
    return (jax.lax.with_sharding_constraint(gradient, cut),)


_gather.defvjp(_gather_forward, _gather_backward)
