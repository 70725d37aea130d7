"""Accelerators: published figures of one chip, and which slices of TPUs there are.

Sources: TPUs, docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e (system architecture,
configurations); GPUs, NVIDIA's datasheets of the A100 80GB, H100 and H200, each as SXM and without
sparsity. Where both directions of a link are counted there, half is taken here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxdenoise.errors import UserError, require, unknown

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What a chip can do at most.

    Attributes:
      name: as in a topology, or as GPUs are called.
      kind: how JAX's `device_kind` begins.
      flops: a second, products in bfloat16.
      memory: bytes of its main memory (HBM).
      bandwidth: bytes a second, of that memory.
      links: bytes a second that it can send to other chips over all its links.
      cores: of a chip, which one device of JAX joins.
      slices: the shapes that can be rented, for TPUs.
      most: chips of a slice of another shape whose sides are multiples of four; 0 for none.
    """

    name: str
    kind: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    cores: int = 1
    slices: tuple[str, ...] = ()
    most: int = 0


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_CUBES += ("8x16x16", "16x16x16")

TPUS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            kind="TPU v4",
            flops=275e12,
            memory=32 * GIB,
            bandwidth=1200e9,
            links=300e9,
            cores=2,
            slices=_CUBES[:-1],
            most=4096,
        ),
        Chip(
            name="v5e",
            kind="TPU v5 lite",
            flops=197e12,
            memory=16 * GIB,
            bandwidth=819e9,
            links=200e9,
            slices=_FLAT,
        ),
        Chip(
            name="v5p",
            kind="TPU v5",
            flops=459e12,
            memory=95 * GIB,
            bandwidth=2765e9,
            links=600e9,
            cores=2,
            slices=_CUBES,
            most=6144,
        ),
        Chip(
            name="v6e",
            kind="TPU v6 lite",
            flops=918e12,
            memory=32 * GIB,
            bandwidth=1638e9,
            links=400e9,
            slices=_FLAT,
        ),
    )
}
GPUS = {
    chip.name: chip
    for chip in (
        Chip(
            name="A100",
            kind="NVIDIA A100",
            flops=312e12,
            memory=80e9,
            bandwidth=2039e9,
            links=300e9,
        ),
        Chip(
            name="H100",
            kind="NVIDIA H100",
            flops=989e12,
            memory=80e9,
            bandwidth=3350e9,
            links=450e9,
        ),
        Chip(
            name="H200",
            kind="NVIDIA H200",
            flops=989e12,
            memory=141e9,
            bandwidth=4800e9,
            links=450e9,
        ),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None if its figures are not here.

    Example:
      >>> chip_of("TPU v5 lite").name, chip_of("NVIDIA H200").name, chip_of("cpu")
      ('v5e', 'H200', None)
    """
    known = [*TPUS.values(), *GPUS.values()]
    fitting = [chip for chip in known if device_kind.startswith(chip.kind)]
    return max(fitting, key=lambda chip: len(chip.kind), default=None)


def check_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip of a topology such as "v5e:16x16", and the sides of the slice.

    Raises:
      UserError: no such chip, or no such slice of it; the message lists those that there are.

    Example:
      >>> chip, sides = check_topology("v5p:8x8x8")
      >>> chip.memory / GIB, sides
      (95.0, (8, 8, 8))
    """
    name, _, shape = topology.partition(":")
    if name not in TPUS:
        known = ", ".join(f"{chip.name}:{chip.slices[-1]}" for chip in TPUS.values())
        raise UserError(f"{unknown('TPU', name, TPUS)}; a topology is written such as {known}")
    chip = TPUS[name]
    if shape in chip.slices:
        return chip, _sides(shape)
    parts = shape.split("x")
    others = f", and multiples of 4 in ascending order, at most {chip.most} chips"
    require(
        len(parts) == 3 and all(part.isdigit() for part in parts) and _is_large(chip, shape),
        f"the topology {topology!r} does not exist; slices of {name} are "
        f"{', '.join(f'{name}:{s}' for s in chip.slices)}{others if chip.most else ''}",
    )
    return chip, _sides(shape)


def _is_large(chip: Chip, shape: str) -> bool:
    sides = _sides(shape)
    fours = all(side > 0 and side % 4 == 0 for side in sides)
    return fours and list(sides) == sorted(sides) and math.prod(sides) <= chip.most


def _sides(shape: str) -> tuple[int, ...]:
    return tuple(int(side) for side in shape.split("x"))
