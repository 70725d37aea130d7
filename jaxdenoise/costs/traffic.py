"""Bytes that a program's instructions read from main memory and write to it.

What a fusion computes on the way stays near the cores, and so does what its compiler has put into
a small memory there (`Array.memory`): prefetching is counted where it copies. Slices and updates in
place touch what they cut out, not the whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from jaxdenoise.costs.hlo import Array, Computation, Instruction, Module

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "after-all"),
    *("while", "conditional", "call", "partition-id", "replica-id", "opt-barrier"),
}
"""Opcodes that move nothing themselves."""
NAMES = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "AsyncCollective")
"""Custom calls of TPU programs that only give memory a name, or join others."""
PASSES = ("tuple", "custom-call", "all-gather", "all-reduce")
SLICES = ("dynamic-slice", "slice", "gather")


def moved(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Bytes of one instruction that is not inside a fusion."""
    opcode, arrays = instruction.opcode, instruction.arrays
    if opcode in FREE or opcode.endswith("-done") or is_name(instruction):
        return 0.0
    if opcode in ("copy-start", "slice-start"):
        ends = arrays[:2]  # from and to, whatever comes first
        return min(a.bytes for a in ends) * sum(a.memory == 0 for a in ends)
    if opcode == "fusion":
        return _fusion(instruction, computation, module)
    read = computation.read(instruction)
    if opcode in SLICES:
        return _main(arrays) + _main([_as_large(read[0], arrays[0])])
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2 * _main([_as_large(arrays[0], read[-1 if opcode == "scatter" else 1])])
    return _main(arrays) + _main(read)


def is_name(instruction: Instruction) -> bool:
    """Whether it is a custom call that does nothing."""
    return instruction.opcode == "custom-call" and any(n in instruction.attributes for n in NAMES)


def _fusion(fusion: Instruction, computation: Computation, module: Module) -> float:
    inner = module.computations[fusion.called("calls")[0]]
    total = _written(fusion, inner)
    for place, name in enumerate(fusion.operands):
        source = computation.get(name)
        if source is None or source.type.startswith("(") or source.arrays[0].memory:
            continue
        total += _touched(inner, inner.parameters[place], module)
    return total


def _touched(fused: Computation, name: str, module: Module) -> float:
    """Bytes that a fused computation reads of something it is given."""
    found, whole = 0.0, float(fused[name].arrays[0].bytes)
    for user in fused.users[name]:
        first = user.operands[0] == name
        if user.opcode in SLICES and first:
            found += user.arrays[0].bytes
        elif user.opcode in PASSES or (user.opcode == "dynamic-update-slice" and first):
            continue  # a result as it is, on its way to other devices, or written in place
        elif user.opcode == "bitcast":
            found += _touched(fused, user.name, module)
        elif user.opcode == "fusion":
            inner = module.computations[user.called("calls")[0]]
            places = [n for n, operand in enumerate(user.operands) if operand == name]
            found += sum(_touched(inner, inner.parameters[n], module) for n in places)
        else:
            return whole
    return min(found, whole)


def _written(fusion: Instruction, inner: Computation) -> float:
    """Bytes of a fusion's results; an update in place writes what is new."""
    root = inner.root
    roots = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(roots) != len(fusion.arrays):
        return _main(fusion.arrays)
    total = 0.0
    for result, array in zip(roots, fusion.arrays, strict=True):
        while result.opcode == "bitcast" and result.operands[0] in inner:
            result = inner[result.operands[0]]
        if result.opcode == "parameter":
            continue
        if result.opcode == "dynamic-update-slice":
            array = _as_large(array, inner[result.operands[1]].arrays[0])
        total += _main([array])
    return total


def _main(arrays: Iterable[Array]) -> float:
    """Bytes of those in main memory."""
    return float(sum(array.bytes for array in arrays if array.memory == 0))


def _as_large(place: Array, like: Array) -> Array:
    """So much of an array as another has numbers."""
    return Array(place.dtype, like.dims, place.memory)
