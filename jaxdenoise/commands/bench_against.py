"""jaxdenoise bench step, or decode, --against transformers: beside a peer, in one run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jaxdenoise.commands.console import make_console
from jaxdenoise.config import DataConfig, ModelConfig, TrainingConfig
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.experiment import Experiment, experiments, override
from jaxdenoise.flags import refuse_others, take_single
from jaxdenoise.training.run_directory import write_json

if TYPE_CHECKING:
    from jaxdenoise.bench.peers import Beside

PEERS = ("transformers",)
ROUNDS = 9


def compared() -> Experiment:
    """T5 as transformers has it by default, in small: relu, not gated, tied; 8 × (512 + 114)."""
    return Experiment(
        data=DataConfig(vocabulary_size=32_128, sentinels=100, raw_length=568),
        model=ModelConfig(
            width=256,
            mlp_width=1024,
            heads=4,
            head_width=64,
            encoder_layers=4,
            decoder_layers=4,
            activation="relu",
            gated=False,
            tied_embeddings=True,
            scan_unroll=4,  # PyTorch's layers are no loop either
        ),
        training=TrainingConfig(batch_size=8),
    )


def run_against(what: str, flags: dict[str, list[str]], output: str | None) -> int:
    """Measures and prints a "step", or "decode"."""
    peer = take_single(flags, "against")
    if peer not in PEERS:
        raise unknown("peer", str(peer), PEERS)
    rounds = _rounds(take_single(flags, "rounds"))
    if what == "decode":
        refuse_others(flags, "bench decode", ["against", "rounds", "output"])
        return _decode(rounds, output)
    name = take_single(flags, "experiment")
    experiment = override(experiments[name]() if name else compared(), flags)
    # Both sides have the same GPU: JAX may not take it all at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    from jaxdenoise.bench import peers
    from jaxdenoise.bench.pairs import machine

    steps = peers.steps_beside_transformers(experiment, rounds)
    console = make_console()
    described = f"{machine()}; {peers.versions()}"
    console.print(described)
    console.print(_work(experiment))
    with console.status("compiling and timing"):
        found = list(steps)
    _print(console, found)
    if output:
        summaries = {beside.peer: beside.summary() for beside in found}
        write_json(Path(output), {"machine": described, "steps": summaries})
    return 0


def _decode(rounds: int, output: str | None) -> int:
    from jaxdenoise.bench import decoding, peers
    from jaxdenoise.bench.pairs import machine

    console = make_console()
    described = f"{machine()}; {peers.versions()}"
    console.print(described)
    with console.status("compiling and timing"):
        found = decoding.greedy_beside_transformers(rounds)
    (theirs, ours), (low, high) = found.speeds, found.times.spread
    console.print(
        f"greedy, T5 small, {decoding.ROWS} × {decoding.TOKENS} tokens: {ours:,.0f} tokens/s, "
        f"transformers' generate {theirs:,.0f}: {found.times.ratio:.2f} times ({low:.2f} to "
        f"{high:.2f}); {found.same:.1%} of the tokens equal; compiled in {found.compiling:.1f} s, "
        "not counted"
    )
    if output:
        write_json(Path(output), {"machine": described, "decode": found.summary()})
    return 0


def _rounds(given: str | None) -> int:
    if given is None:
        return ROUNDS
    try:
        rounds = int(given)
    except ValueError:
        raise UserError(f"rounds is '{given}'; it must be a whole number") from None
    require(rounds >= 3, f"rounds is {rounds}; it must be at least 3")
    return rounds


def _work(experiment: Experiment) -> str:
    model = experiment.model
    gated = "gated " if model.gated else ""
    return (
        f"T5 {model.encoder_layers} + {model.decoder_layers} × {model.width}, {model.heads} heads "
        f"of {model.head_width}, {gated}{model.activation} MLP of {model.mlp_width}, projection "
        f"tied, {model.compute_dtype}; forward, loss, backward, clipping, AdamW; ours corrupts "
        "the rows too"
    )


def _print(console: Console, found: list[Beside]) -> None:
    (inputs, targets), (theirs, ours) = found[0].tokens, found[0].parameters
    console.print(
        f"{inputs:,} + {targets:,} tokens a step, padding not counted; {ours:,} parameters"
        + ("" if ours == theirs else f", theirs {theirs:,}")
    )
    table = Table("PyTorch", "tokens/s", "ours", "ours is faster", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for beside in found:
        low, high = beside.times.spread
        ratio = f"{beside.times.ratio:.2f} times ({low:.2f} to {high:.2f})"
        table.add_row(beside.peer, *(f"{speed:,.0f}" for speed in beside.speeds), ratio)
    console.print(table)
