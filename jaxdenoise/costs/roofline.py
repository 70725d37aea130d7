"""How long a step takes at least, by what it computes, moves and sends; and whether it fits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from jaxdenoise.config import ModelConfig, TrainingConfig
from jaxdenoise.costs.chips import GIB, Chip
from jaxdenoise.costs.program import Costs

ASSUMPTIONS = (
    "products at the chip's bfloat16 peak, float32 ones too",
    "memory and links at their published bandwidth, all links of a chip at once",
    "collectives in rings, waiting for nobody",
    "shortest if all three overlap, longest if none does",
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device, as the compiler planned them.

    Attributes:
      arguments: the state and the rows.
      outputs: the new state and metrics.
      shared: of the outputs, what takes the place of arguments.
      temporaries: activations, gradients, gathered parameters.
      code: of the program.
    """

    arguments: int
    outputs: int
    shared: int
    temporaries: int
    code: int = 0

    @classmethod
    def of(cls, compiled: Any) -> Memory:
        """Of a program that JAX compiled."""
        found = compiled.memory_analysis()
        return cls(
            arguments=found.argument_size_in_bytes,
            outputs=found.output_size_in_bytes,
            shared=found.alias_size_in_bytes,
            temporaries=found.temp_size_in_bytes,
            code=found.generated_code_size_in_bytes,
        )

    @property
    def peak(self) -> int:
        """All that is there at once."""
        own = self.outputs - self.shared
        return self.arguments + own + self.temporaries + self.code


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of a step on a chip's bounds.

    Attributes:
      compute: of the matrix products.
      memory: of what is moved to and from main memory.
      collectives: of what is sent.
    """

    compute: float
    memory: float
    collectives: float

    @classmethod
    def of(cls, costs: Costs, chip: Chip) -> Roofline:
        """Of a program on every chip of a slice."""
        return cls(
            compute=costs.flops / chip.flops,
            memory=costs.moved / chip.bandwidth,
            collectives=costs.sent / chip.links,
        )

    @property
    def shortest(self) -> float:
        """Where all three happen at once."""
        return max(self.compute, self.memory, self.collectives)

    @property
    def longest(self) -> float:
        """Where one waits for the other."""
        return self.compute + self.memory + self.collectives

    @property
    def bound(self) -> str:
        """Which of the three takes longest."""
        times = asdict(self)
        return max(times, key=times.__getitem__)

    def mfu(self, flops: float, chip: Chip) -> tuple[float, float]:
        """Share of the peak that so many useful FLOPs a chip are, at most and at least."""
        return flops / chip.flops / self.shortest, flops / chip.flops / self.longest


def verdict(memory: int, chip: Chip) -> tuple[bool, str]:
    """Whether so many bytes fit into a chip's memory, and by how much.

    Example:
      >>> from jaxdenoise.costs.chips import TPUS
      >>> verdict(20 * GIB, TPUS["v5e"])
      (False, 'does not fit: 4.0 GiB too much for the 16.0 GiB of a v5e')
    """
    spare = (chip.memory - memory) / GIB
    of_chip = f"the {chip.memory / GIB:.1f} GiB of a {chip.name}"
    if spare < 0:
        return False, f"does not fit: {-spare:.1f} GiB too much for {of_chip}"
    return True, f"fits: {spare:.1f} of {of_chip} are left"


def advice(
    state: int, rest: int, model: ModelConfig, training: TrainingConfig, devices: int
) -> list[str]:
    """Which settings to change where a step does not fit, the cheapest in time first.

    Args:
      state: bytes of parameters and optimizer state on a device.
      rest: of everything else.
      model: of the experiment.
      training: of the experiment; its batch goes evenly into the devices.
      devices: in all.
    """
    on_mesh = training.backend == "mesh"
    data, fsdp, _ = training.mesh.sizes(devices) if on_mesh else (devices, 1, 1)
    groups = data * fsdp if training.backend != "single" else 1
    rows, parts = training.batch_size // groups, training.micro_batches
    most, found = math.gcd(groups, model.width), []
    if most > fsdp and state > rest / 4:
        flags = f"--training.mesh.fsdp {most}"
        flags = flags if on_mesh else f"--training.backend mesh {flags}"
        found.append(f"{flags}: parameters and optimizer over {most} devices")
    if model.compute_dtype == "float32":
        found.append("--model.compute-dtype bfloat16: activations of half the size")
    if rows % (2 * parts) == 0:
        found.append(f"--training.micro-batches {2 * parts}: half the rows at a time")
    if model.remat != "full":
        more = "dots" if model.remat == "none" else "full"
        found.append(f"--model.remat {more}: keep less for the backward pass")
    if rows % (2 * parts) == 0:
        half = training.batch_size // 2
        found.append(f"--training.batch-size {half}: fewer rows a device")
    return found or ["a larger slice, or chips with more memory"]
