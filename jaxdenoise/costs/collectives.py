"""What devices send to each other, in a program's text."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from jaxdenoise.costs.hlo import Computation, Instruction

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """Devices that exchange something.

    Attributes:
      kind: one of `KINDS`.
      devices: of each group.
      op_name: where in the traced program it comes from.
    """

    kind: str
    devices: int
    op_name: str = ""

    @property
    def share(self) -> float:
        """Bytes that each device sends in a ring, for each byte of the whole array."""
        if self.kind == "collective-permute":
            return 1.0
        return (2 if self.kind == "all-reduce" else 1) * (1 - 1 / self.devices)


def exchanged(
    instruction: Instruction, computation: Computation, devices: int
) -> Counter[Collective]:
    """The collective that an instruction is, with the bytes of the whole array.

    Of an all-gather that is what it makes, of the others what each device gives. None where single
    devices are joined. Of an asynchronous pair the start is asked, not the end; a TPU program
    repeats a collective in every fusion that runs beside it, as one chain, whose start counts.

    Args:
      instruction: its opcode is one of `KINDS`, "-start" behind it or not.
      computation: where it stands.
      devices: of the whole program.
    """
    kind = instruction.opcode.removesuffix("-start")
    size = _group(instruction.attributes, devices)
    users = computation.users[instruction.name]
    if "chain_id=" in instruction.attributes:
        starts = any("AsyncCollectiveStart" in user.attributes for user in users)
        size = size if starts else 1
    if size == 1:
        return Counter()
    given = sum(array.bytes for array in computation.read(instruction))
    whole = given * size if kind == "all-gather" else given
    if kind == "all-reduce" and users and all(user.opcode == "dynamic-slice" for user in users):
        kind = "reduce-scatter"  # so TPU programs have it, in one fusion
    return Counter({Collective(kind, size, instruction.op_name): whole})


def _group(attributes: str, devices: int) -> int:
    """How many devices exchange with each other, from one of the ways in which that is written."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return found[1].count(",") + 1
    return devices
