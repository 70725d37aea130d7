"""What a compiled program does on each device: FLOPs, bytes moved, bytes sent.

Loop bodies count as often as they run; of branches, the dearest. Elementwise work has no FLOPs
here, as in every MFU.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from jaxdenoise.costs.collectives import KINDS, Collective, exchanged
from jaxdenoise.costs.hlo import Computation, Instruction, Module, parse
from jaxdenoise.costs.loops import trips
from jaxdenoise.costs.products import convolution_flops, dot_flops
from jaxdenoise.costs.traffic import is_name, moved


@dataclass(frozen=True)
class Costs:
    """What one device does.

    Attributes:
      flops: of matrix products and convolutions, 2 for a multiplication and an addition.
      moved: bytes read from main memory and written to it.
      collectives: bytes of the whole arrays that are exchanged; see `collectives.exchanged`.
      custom: calls of code that cannot be looked into, by name.
      endless: loops of which nothing says how often they run; they count once.
    """

    flops: float = 0.0
    moved: float = 0.0
    collectives: Counter[Collective] = field(default_factory=Counter)
    custom: Counter[str] = field(default_factory=Counter)
    endless: float = 0.0

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            self.flops + other.flops,
            self.moved + other.moved,
            self.collectives + other.collectives,
            self.custom + other.custom,
            self.endless + other.endless,
        )

    def times(self, number: int) -> Costs:
        """All of it so many times."""
        return Costs(
            self.flops * number,
            self.moved * number,
            Counter({key: size * number for key, size in self.collectives.items()}),
            Counter({key: calls * number for key, calls in self.custom.items()}),
            self.endless * number,
        )

    def by_kind(self, *, sent: bool = False) -> dict[str, float]:
        """Bytes of the collectives by kind: of the whole arrays, or what each device sends."""
        found: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        for collective, size in self.collectives.items():
            found[collective.kind] += size * collective.share if sent else size
        return {kind: size for kind, size in found.items() if size}

    @property
    def sent(self) -> float:
        """Bytes that each device sends in all."""
        return sum(self.by_kind(sent=True).values())


def program_costs(text: str) -> Costs:
    """Costs of one run of a compiled program, on one device.

    Args:
      text: `compiled.as_text()`.

    Raises:
      UserError: it is no text of XLA's.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def power(x):
      ...     return jax.lax.scan(lambda product, _: (product @ x, None), x, length=5)[0]
      >>> compiled = jax.jit(power).lower(jnp.ones((8, 8))).compile()
      >>> program_costs(compiled.as_text()).flops == 5 * 2 * 8**3
      True
    """
    module = parse(text)
    return _Counting(module).of(module.entry)


class _Counting:
    """Walks a module; each computation is counted once and multiplied by its runs."""

    def __init__(self, module: Module):
        self.module, self.known = module, {}

    def of(self, name: str, fused: bool = False) -> Costs:
        """Costs of a computation; what a fusion does inside moves nothing."""
        if (name, fused) not in self.known:
            computation = self.module.computations[name]
            found = (self._one(i, computation, fused) for i in computation.values())
            self.known[name, fused] = sum(found, Costs())
        return self.known[name, fused]

    def _one(self, instruction: Instruction, computation: Computation, fused: bool) -> Costs:
        opcode = instruction.opcode
        called = self._called(instruction, computation, fused)
        own = Costs(moved=0.0 if fused else moved(instruction, computation, self.module))
        if opcode == "dot":
            own += Costs(flops=dot_flops(instruction, computation))
        elif opcode == "convolution":
            own += Costs(flops=convolution_flops(instruction, computation))
        elif opcode.removesuffix("-start") in KINDS:
            found = exchanged(instruction, computation, self.module.devices)
            own += Costs(collectives=found)
        elif opcode == "custom-call" and not is_name(instruction):
            target = (instruction.attribute("custom_call_target") or "").strip('"')
            own += Costs(custom=Counter({target: 1}))
        return own if called is None else own + called

    def _called(
        self, instruction: Instruction, computation: Computation, fused: bool
    ) -> Costs | None:
        """Costs of the computations that an instruction runs; None if it runs none."""
        opcode = instruction.opcode
        if opcode == "while":
            body, condition = (instruction.called(name)[0] for name in ("body", "condition"))
            number = trips(instruction, computation, self.module)
            once = self.of(body, fused) + self.of(condition, fused)
            return once.times(number) if number is not None else once + Costs(endless=1)
        if opcode == "conditional":
            names = ("branch_computations", "true_computation", "false_computation")
            branches = [self.of(n, fused) for name in names for n in instruction.called(name)]
            return max(branches, key=lambda costs: costs.flops)
        if opcode in ("fusion", "async-start"):
            fused = fused or opcode == "fusion"
            return sum((self.of(name, fused) for name in instruction.called("calls")), Costs())
        if opcode == "call":
            return sum((self.of(name, fused) for name in instruction.called("to_apply")), Costs())
        return None
