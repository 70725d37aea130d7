"""The text of a compiled program (XLA's HLO) as computations of instructions.

The text and not `cost_analysis()`, which counts the body of a loop once, however often it runs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

from jaxdenoise.errors import UserError

BITS = {"pred": 8, "token": 0, "opaque": 0}

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_START = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """A result, as it is laid out.

    Attributes:
      dtype: such as "bf16".
      dims: its shape.
      memory: 0 for a device's main memory; others are small and near (S(1) on a TPU).
    """

    dtype: str
    dims: tuple[int, ...]
    memory: int = 0

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Without padding."""
        bits = BITS.get(self.dtype) or int((re.findall(r"\d+", self.dtype) or ["0"])[0])
        return -(-self.size * bits // 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its computation.
      opcode: such as "fusion".
      type: of the result, as it is written.
      inside: what stands between the opcode's parentheses.
      attributes: what stands behind them.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    type: str
    inside: str
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The result; of a tuple its parts, flat."""
        return tuple(map(_array, _ARRAY.finditer(self.type)))

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions that it reads."""
        return tuple(_NAME.findall(self.inside))

    def attribute(self, name: str) -> str | None:
        """What follows `name=`, up to a space or the end of its braces, without a leading %."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if found is None:
            return None
        text = self.attributes[found.end() :]
        if text.startswith("{"):
            return text[: _closing(text, "{}")].removeprefix("%")
        return re.split("[, ]", text, maxsplit=1)[0].removeprefix("%")

    def called(self, name: str) -> tuple[str, ...]:
        """The computations that an attribute names."""
        text = self.attribute(name)
        return () if text is None else tuple(re.findall(r"[\w.\-]+", text))

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


class Computation(dict[str, Instruction]):
    """Instructions by name, in order."""

    @cached_property
    def root(self) -> Instruction:
        """The result."""
        last = list(self.values())
        return next((i for i in last if i.is_root), last[-1])

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self}
        for instruction in self.values():
            for name in dict.fromkeys(instruction.operands):
                users.setdefault(name, []).append(instruction)
        return users

    @cached_property
    def parameters(self) -> dict[int, str]:
        """Names of the parameters by their number."""
        return {int(i.inside): i.name for i in self.values() if i.opcode == "parameter"}

    def read(self, instruction: Instruction) -> list[Array]:
        """The arrays that an instruction reads, tuples left out."""
        sources = [self[name] for name in instruction.operands if name in self]
        return [source.arrays[0] for source in sources if not source.type.startswith("(")]


@dataclass(frozen=True)
class Module:
    """A program: computations by name."""

    computations: dict[str, Computation]
    entry: str
    devices: int


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`.

    Example:
      >>> module = parse('''HloModule twice, num_partitions=2
      ...
      ... ENTRY %main (x: f32[3]) -> f32[3] {
      ...   %x = f32[3]{0} parameter(0)
      ...   ROOT %y = f32[3]{0} add(%x, %x)
      ... }''')
      >>> root = module.computations["main"].root
      >>> root.opcode, root.operands, root.arrays[0].bytes, module.devices
      ('add', ('x', 'x'), 12, 2)
    """
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if line[:1] == " ":
            instruction = _instruction(line)
            if instruction is not None:
                current[instruction.name] = instruction
        elif found := _HEADER.match(line):
            current = computations[found[2]] = Computation()
            entry = found[2] if found[1] else entry
    if not entry:
        raise UserError("the compiled program's text has no ENTRY computation; is it XLA's HLO?")
    head = text[: text.find("\n")]
    counts = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", head)]
    return Module(computations, entry, math.prod(counts))


def _instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    end = _closing(rest, "()") if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.find("(")
    end = opening + _closing(rest[opening:], "()")
    inside, attributes = rest[opening + 1 : end - 1], rest[end:]
    return Instruction(start[2], rest[:opening], kind, inside, attributes, bool(start[1]))


def _closing(text: str, pair: str) -> int:
    """The place behind the bracket that closes the first one."""
    depth = 0
    for found in re.finditer(r"[{}]" if pair == "{}" else r"[()]", text):
        depth += 1 if found[0] == pair[0] else -1
        if depth == 0:
            return found.end()
    return len(text)


def _array(found: re.Match[str]) -> Array:
    dims = tuple(int(n.lstrip("<=")) for n in found[2].split(",") if n)
    memory = re.search(r"S\((\d+)\)", found[3] or "")
    return Array(found[1], dims, int(memory[1]) if memory else 0)
