"""A compiled step's figures: as plain data, and as lines that fit a narrow terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jaxdenoise.costs.chips import GIB, Chip
from jaxdenoise.costs.roofline import ASSUMPTIONS, Roofline, advice, verdict
from jaxdenoise.experiment import Experiment

if TYPE_CHECKING:
    from jaxdenoise.training.compiled import CompiledStep

WORST = 5  # collectives that are named


def summary(step: CompiledStep, experiment: Experiment, chip: Chip | None) -> dict[str, Any]:
    """The figures as plain data; those of the program are missing where it does not fit."""
    training = experiment.training
    state = step.parameters + step.optimizer
    figures: dict[str, Any] = {
        "devices": step.devices,
        "chip": None if chip is None else asdict(chip),
        "backend": training.backend,
        "mesh": None if training.backend != "mesh" else _mesh(experiment, step.devices),
        "batch_size": training.batch_size,
        "micro_batches": training.micro_batches,
        "remat": experiment.model.remat,
        "compute_dtype": experiment.model.compute_dtype,
        "positions": {"computed": asdict(step.computed), "text": asdict(step.text)},
        "bytes": {"parameters": step.parameters, "optimizer": step.optimizer},
        "flops": {"model": step.model, "text": step.useful},
        "seconds_to_compile": step.seconds,
        "fits": None,
        "verdict": "how much there is depends on the machine; --topology compares with a chip",
        "advice": [],
    }
    peak = state + step.excess if step.memory is None else step.memory.peak
    if step.memory is not None and step.costs is not None:
        costs = step.costs
        figures["bytes"] |= {**asdict(step.memory), "peak": peak}
        figures["flops"] |= {"compiled": costs.flops * step.devices, "ratio": step.ratio}
        figures["moved"] = costs.moved
        figures["collectives"] = {"whole": costs.by_kind(), "sent": costs.by_kind(sent=True)}
        figures["largest_collectives"] = [
            {"kind": c.kind, "devices": c.devices, "whole": size, "op_name": c.op_name}
            for c, size in costs.collectives.most_common(WORST)
        ]
        figures["not_looked_into"] = dict(costs.custom)
        figures["loops_of_unknown_length"] = costs.endless
        if chip is not None:
            figures |= _times(step, costs, chip)
    if chip is not None:
        fits, text = verdict(int(peak), chip)
        if step.memory is None:
            fits, text = False, f"does not fit: {step.excess / GIB:.1f} GiB too much"
            text += f" for a {chip.name}, says its compiler"
        figures |= {"fits": fits, "verdict": text}
        if not fits:
            rest = int(peak) - state
            figures["advice"] = advice(state, rest, experiment.model, training, step.devices)
    return figures


def _mesh(experiment: Experiment, devices: int) -> dict[str, int]:
    sizes = experiment.training.mesh.sizes(devices)
    return dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))


def _times(step: CompiledStep, costs: Any, chip: Chip) -> dict[str, Any]:
    roof = Roofline.of(costs, chip)
    useful = step.useful / step.devices
    best, worst = roof.mfu(useful, chip)
    times = {**asdict(roof), "shortest": roof.shortest, "longest": roof.longest}
    return {
        "roofline": {**times, "bound": roof.bound},
        "mfu": {"at_most": best, "at_least": worst},
        "assumptions": list(ASSUMPTIONS),
    }


def print_costs(figures: Mapping[str, Any], console: Console) -> None:
    """Prints what `summary` gives."""
    place = figures["topology"] or f"{figures['devices']} virtual CPU devices"
    if figures["topology"]:
        place += f", {figures['devices']} chips"
    mesh = figures["mesh"]
    cut = figures["backend"] if mesh is None else ", ".join(f"{k} {n}" for k, n in mesh.items())
    computed = figures["positions"]["computed"]
    console.print(f"{figures['experiment']} on {place}: {cut}")
    parts = figures["micro_batches"]
    in_parts = f" in {parts} micro-batches" if parts > 1 else ""
    console.print(
        f"batch {figures['batch_size']}{in_parts}, positions {computed['encoder']} + "
        f"{computed['decoder']}, {figures['compute_dtype']}, remat {figures['remat']}"
    )
    console.print(f"compiled in {figures['seconds_to_compile']:.0f} s", style="dim")
    sizes = figures["bytes"]
    _table(
        console,
        "memory a device",
        {name: _size(size) for name, size in sizes.items()},
    )
    flops = figures["flops"]
    rows = {"model": f"{flops['model']:.3e}", "text alone": f"{flops['text']:.3e}"}
    if "compiled" in flops:
        rows["compiled"] = f"{flops['compiled']:.3e}"
        rows["compiled / model"] = f"{flops['ratio']:.3f}"
    _table(console, "FLOPs a step", rows)
    _print_program(figures, console)
    console.print(figures["verdict"])
    for line in figures["advice"]:
        console.print(f"  {line}", soft_wrap=True)


def _print_program(figures: Mapping[str, Any], console: Console) -> None:
    """What the program sends, and how long it takes at least."""
    if "collectives" in figures:
        sent = figures["collectives"]["sent"]
        kinds = {kind: _size(size) for kind, size in sent.items()}
        _table(console, "sent by a device in a step", kinds or {"nothing": ""})
    for name, calls in figures.get("not_looked_into", {}).items():
        console.print(f"{calls} calls of {name} are not looked into", style="dim")
    if figures.get("loops_of_unknown_length"):
        console.print("some loops are of unknown length and count once", style="yellow")
    if "roofline" in figures:
        roof, mfu = figures["roofline"], figures["mfu"]
        rows = {k: f"{roof[k] * 1e3:,.1f}" for k in ("compute", "memory", "collectives")}
        _table(console, "least time of a step, ms", rows)
        console.print(
            f"step {roof['shortest'] * 1e3:,.1f} to {roof['longest'] * 1e3:,.1f} ms, bound by "
            f"{roof['bound']}; MFU {mfu['at_least']:.0%} to {mfu['at_most']:.0%}"
        )
        console.print("assumed: " + "; ".join(figures["assumptions"]), style="dim")


def _size(size: float) -> str:
    """Bytes, with three digits."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(max(size, 1), 1024)), len(units) - 1)
    value = size / 1024**power
    return f"{value:.3g} {units[power]}" if value < 1000 else f"{value:.0f} {units[power]}"


def _table(console: Console, title: str, rows: Mapping[str, str]) -> None:
    table = Table(title, "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, value in rows.items():
        table.add_row(f"  {name}", value)
    console.print(table)
