"""FLOPs of the matrix products in a program's text: dots, and convolutions that stand for them."""

from __future__ import annotations

import functools
import math
import re

import numpy as np

from jaxdenoise.costs.hlo import Computation, Instruction


def dot_flops(dot: Instruction, computation: Computation) -> float:
    """2 · size of the result · contracted sizes."""
    contracted = dot.attribute("lhs_contracting_dims") or "{}"
    left = computation[dot.operands[0]].arrays[0]
    sizes = [left.dims[int(n)] for n in re.findall(r"\d+", contracted)]
    return 2.0 * dot.arrays[0].size * math.prod(sizes)


def convolution_flops(convolution: Instruction, computation: Computation) -> float:
    """2 · batch · output features · input features · pairs of places that meet, in each dimension.

    TPU programs have their matrix products in this form, with batch axes as spatial ones that are
    dilated until each place meets its own alone.
    """
    read = [computation[name].arrays[0].dims for name in convolution.operands[:2]]
    labels = re.split(r"_|->", convolution.attribute("dim_labels") or "")
    inputs, kernel, outputs = (
        dict(zip(label, dims, strict=True))
        for label, dims in zip(labels, (*read, convolution.arrays[0].dims), strict=True)
    )
    spatial = sorted(label for label in inputs if label.isdigit())
    windows = _windows(convolution.attribute("window") or "{}", len(spatial))
    met = math.prod(
        _meeting(inputs[label], kernel[label], outputs[label], *window)
        for label, window in zip(spatial, windows, strict=True)
    )
    groups = int(convolution.attribute("batch_group_count") or 1)
    return 2.0 * inputs["b"] / groups * outputs["f"] * kernel["i"] * met


def _windows(text: str, rank: int) -> list[tuple[int, ...]]:
    """Stride, low padding, dilation of the input and of the kernel, for each spatial dimension."""
    fields = dict(part.split("=") for part in text.strip("{}").split())

    def column(name: str, default: int) -> list[int]:
        values = fields.get(name, "x".join([str(default)] * rank)).split("x")
        return [int(value.split("_")[0]) for value in values if value]

    names = {"stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}
    return list(zip(*(column(name, default) for name, default in names.items()), strict=True))


@functools.lru_cache
def _meeting(
    size: int, kernel: int, output: int, stride: int, padding: int, dilation: int, spread: int
) -> int:
    """Pairs of an output's place and a kernel's that meet a number of the input."""
    taps, last = np.arange(kernel) * spread - padding, (size - 1) * dilation
    met = 0
    for place in range(output):
        at = taps + place * stride
        met += int(np.count_nonzero((at >= 0) & (at <= last) & (at % dilation == 0)))
    return met
