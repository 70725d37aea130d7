"""The final lines of a run: held-out figures beside the baselines, and blanks filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdenoise.training.scoring import MEASURES


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Prints sentences, the table of losses, and how the time was spent."""
    if results["sentences"]:
        console.print("held-out sentences, blanks filled: [right] or [wrong ← truth]", style="bold")
    for number, pieces in enumerate(results["sentences"], 1):
        print_pieces(pieces, console, title=f"{number}")
    console.print()
    console.print(results_table(results))
    if "scores" in results:
        console.print(scores_table(results["scores"]))
    held_out = results["held_out"]
    if "scores" not in results:
        console.print(
            f"{results['gap_closed']:.1%} of the gap from unigram to bigram closed, on text targets"
        )
    if held_out.get("special_targets", 1):
        console.print(
            f"special targets apart: loss {held_out['special_loss']:.3f}, accuracy "
            f"{held_out['special_accuracy']:.1%}"
        )
    minutes, seconds = divmod(round(results["seconds"]["total"]), 60)
    console.print(
        f"{results['parameters']:,} parameters, {results['steps']:,} steps in "
        f"{minutes}:{seconds:02} minutes, {results['data_wait']:.2%} of it waiting for data"
    )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    console.print(f"{results['device']}; {versions}")


def print_pieces(pieces: list[dict[str, Any]], console: Console, title: str = "") -> None:
    """Prints a text with its blanks filled in brackets, and the truth behind where it differs."""
    line = Text(f"{title}  " if title else "")
    for piece in pieces:
        shown = {k: x.replace("\n", "⏎") for k, x in piece.items() if isinstance(x, str)}
        if "text" in piece:
            line.append(piece["text"])
        elif "truth" not in piece:
            line.append(f"[{shown['model']}]", "bold cyan")
        elif piece["model"] == piece["truth"]:
            line.append(f"[{shown['model']}]", "bold green")
        else:
            line.append(f"[{shown['model']}", "bold red")
            line.append(f" ←{shown['truth']}]", "dim")
    console.print(line)


def print_choices(pieces: list[dict[str, Any]], console: Console) -> None:
    """Prints for each blank the likeliest tokens, where they were asked for."""
    asked = [piece["choices"] for piece in pieces if "choices" in piece]
    for number, choices in enumerate(asked, 1):
        line = Text(f"  {number} ")
        for text, share in choices:
            line.append(f" {text.replace(chr(10), '⏎')!r}", "cyan").append(f" {share:.1%}")
        console.print(line)


def scores_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """How well held-out sources are answered, by the baselines and by the model."""
    table = Table(title="held-out pairs", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for title in MEASURES.values():
        table.add_column(title, justify="right")
    for name, row in scores.items():
        table.add_row(name, *(f"{row[measure]:.1%}" for measure in MEASURES))
    return table


def results_table(results: Mapping[str, Any]) -> Table:
    """Held-out loss beside the baselines."""
    table = Table(title="held-out text targets", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("loss (nats)", "accuracy", "bits/byte"):
        table.add_column(name, justify="right")
    rows = {**results["baselines"], "this model": results["held_out"]}
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['text_loss']:.3f}",
            f"{row['text_accuracy']:.1%}",
            f"{row['bits_per_byte']:.3f}",
        )
    return table
