"""The statistics of objectives in a terminal: one in full, one on a line, many in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxdenoise.report.statistics import CorruptionStatistics

BAR = 24  # characters of a whole bar
WIDE = 72  # columns from which the table has all of its own
STACKS = ("encoder", "decoder")


def render_statistics(statistics: CorruptionStatistics) -> RenderableType:
    """Rates, a histogram of the span lengths, and the lengths with their bounds."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, shown in _rows(statistics):
        grid.add_row(name, shown)
    return Group(Text(f"{statistics.draws} corruptions", "bold"), grid)


def _rows(statistics: CorruptionStatistics) -> Iterator[tuple[str, RenderableType]]:
    yield "corrupted", f"{percent(statistics.corrupted)} of the source tokens"
    mean = statistics.mean_span_length
    if statistics.spans is not None and mean is not None:
        yield "spans", f"{statistics.spans:.1f} a row, of {mean:.1f} tokens on average"
        yield "", _bars(statistics)
    yield "targets", f"{statistics.targets:.2f} a source token"
    yield "lengths", _lengths(statistics)


def _bars(statistics: CorruptionStatistics) -> Table:
    bars = statistics.histogram()
    largest = max(share for _, share in bars)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(style="cyan")
    for label, share in bars:
        bar = "█" * round(BAR * share / largest) or "▏"
        table.add_row(label, Text.assemble(bar, (f" {percent(share)}", "default")))
    return table


def _lengths(statistics: CorruptionStatistics) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for name in ("mean", "largest", "bound", "padding"):
        table.add_column(name, justify="right")
    for name in ("source", *STACKS):
        lengths = getattr(statistics, name)
        if lengths is not None:
            sizes = (number(lengths.mean), str(lengths.largest), str(lengths.bound))
            table.add_row(name, *sizes, percent(lengths.padding))
    return table


def statistics_line(statistics: CorruptionStatistics) -> str:
    """Such as '15.8% corrupted, 3.0 spans of 3.0, 0.23 targets a token, …'."""
    parts = [f"{percent(statistics.corrupted)} corrupted"]
    if statistics.spans is not None and statistics.mean_span_length is not None:
        parts.append(f"{statistics.spans:.1f} spans of {statistics.mean_span_length:.1f}")
    parts.append(f"{statistics.targets:.2f} targets a token")
    for name in STACKS:
        lengths = getattr(statistics, name)
        if lengths is not None:
            parts.append(f"{name} {number(lengths.mean)} of {lengths.bound}")
    return ", ".join([*parts, f"{percent(statistics.padding)} padding"])


def cells(statistics: CorruptionStatistics) -> dict[str, str]:
    """The columns of a comparison by name; empty where a number has no meaning."""
    mean = statistics.mean_span_length
    shown = {
        "corrupted": percent(statistics.corrupted),
        "spans": "" if mean is None else f"{statistics.spans:.1f} ×{mean:5.1f}",
    }
    for name in STACKS:
        lengths = getattr(statistics, name)
        shown[name] = "" if lengths is None else f"{number(lengths.mean)}/{lengths.bound}"
    return {
        **shown,
        "padding": percent(statistics.padding),
        "targets": f"{statistics.targets:.2f}",
    }


EXPLAINED = {
    "corrupted": "share of the source tokens that the model is not given",
    "spans": "runs of them in a row × their mean length",
    "encoder": "mean length of the inputs / bound",
    "decoder": "mean length of the targets / bound",
    "padding": "share of all positions",
    "targets": "how many a source token",
}
"""What the columns of a comparison mean."""


def render_comparison(statistics: Mapping[str, CorruptionStatistics], width: int) -> RenderableType:
    """One line an objective, those of one architecture together.

    Args:
      statistics: by name.
      width: of the console; where it is narrow the padding is left out, which the bounds tell.
    """
    wide = width >= WIDE
    columns = {name: name for name in EXPLAINED if wide or name != "padding"}
    columns["corrupted"] = "corrupted" if wide else "noise"
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    table.add_column("objective", no_wrap=True)
    for title in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for architecture, members in by_architecture(statistics).items():
        table.add_row(Text(architecture, "dim"))
        for name in members:
            shown = cells(statistics[name])
            row = [shown[column] if wide else shown[column].replace(" ", "") for column in columns]
            table.add_row(Text(name, "cyan"), *row)
    legend = "; ".join(f"{title}: {EXPLAINED[name]}" for name, title in columns.items())
    return Group(table, Text(), Text(f"{legend}.", "dim"))


def by_architecture(statistics: Mapping[str, CorruptionStatistics]) -> dict[str, list[str]]:
    """The names of each architecture that there is."""
    groups: dict[str, list[str]] = {"encoder-decoder": [], "encoder": [], "decoder": []}
    for name, found in statistics.items():
        has = [stack for stack in STACKS if getattr(found, stack) is not None]
        groups["-".join(has)].append(name)
    return {architecture: names for architecture, names in groups.items() if names}


def percent(share: float) -> str:
    """With a decimal: 15.8%."""
    return f"{share:.1%}"


def number(value: float) -> str:
    """With a decimal where there is one."""
    return f"{value:.1f}".removesuffix(".0")
