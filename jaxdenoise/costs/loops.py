"""How often the loops of a program's text run."""

from __future__ import annotations

import math
import re

from jaxdenoise.costs.hlo import Computation, Instruction, Module


def trips(loop: Instruction, computation: Computation, module: Module) -> int | None:
    """How often a `while` runs its body; None if the text does not say.

    Some compilers write it down. Otherwise the condition is read: a counter that is compared with
    a constant, from where it starts by what the body adds.
    """
    known = re.search(r'known_trip_count"?:\{"n":"?(\d+)', loop.attributes)
    if known is not None:
        return int(known[1])
    condition = module.computations[loop.called("condition")[0]]
    compare = condition.root
    if compare.opcode != "compare" or compare.attribute("direction") != "LT":
        return None
    counter, limit = (condition[name] for name in compare.operands)
    start, end = (_constant(x, condition, loop, computation) for x in (counter, limit))
    step = _step(module.computations[loop.called("body")[0]], counter)
    if end is None or step is None:
        return None
    return math.ceil((end - (start or 0)) / step)


def _constant(
    value: Instruction, condition: Computation, loop: Instruction, outside: Computation
) -> int | None:
    """A constant of the condition, or what the loop's tuple holds there at the start."""
    if value.opcode == "get-tuple-element" and condition[value.operands[0]].opcode == "parameter":
        start = outside[loop.operands[0]]
        if start.opcode != "tuple":
            return None
        value = outside[start.operands[int(value.attribute("index") or 0)]]
        while value.opcode in ("copy", "bitcast") and value.operands[0] in outside:
            value = outside[value.operands[0]]
    return int(value.inside) if value.opcode == "constant" else None


def _step(body: Computation, counter: Instruction) -> int | None:
    """What the body adds to the counter; 1 where it is hidden in a fusion."""
    if counter.opcode != "get-tuple-element" or body.root.opcode != "tuple":
        return None
    value = body[body.root.operands[int(counter.attribute("index") or 0)]]
    if value.opcode != "add":
        return 1
    steps = [body[name] for name in value.operands if body[name].opcode == "constant"]
    return int(steps[0].inside) if steps else None
