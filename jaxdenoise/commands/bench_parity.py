"""jaxdenoise bench parity: the same weights here and in transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.table import Table

from jaxdenoise.commands.console import make_console
from jaxdenoise.training.run_directory import write_json


def run_parity(output: str | None) -> int:
    """Compares and prints."""
    from importlib import metadata

    from jaxdenoise.bench.pairs import machine
    from jaxdenoise.bench.parity import parities

    console = make_console()
    with console.status("comparing"):
        found = list(parities())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    console.print(f"{machine()}; {versions}; float32")
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("logits", "loss", "gradients", "same bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for name, case, parity in found:
        table.add_row(
            name,
            *(f"{x:.0e}" for x in (parity.outputs, parity.loss, parity.gradients)),
            f"{parity.identical} of {parity.tensors}",
            case.what,
        )
    console.print(table)
    console.print(
        "logits: largest difference (hidden states without a head); loss: relative difference; "
        "gradients: of all tensors the largest ‖g − g′‖ / max(‖g′‖, 10⁻³ ‖all‖); same bytes: "
        "tensors that come back as they were"
    )
    if output:
        write_json(Path(output), {name: dataclasses.asdict(parity) for name, _, parity in found})
    return 0
