"""Line charts as SVG that takes its colours from the page, to suit light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SERIES = 8  # colours; after them they come again, dotted
INSIDE_LEGEND = 4  # more entries than these stand beside the chart
# Matplotlib needs colours; these stand for variables of the page's style sheet.
_INK, _FAINT = "#010101", "#020202"
_SERIES = [f"#0300{number:02x}" for number in range(1, SERIES + 1)]
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a chart.

    Attributes:
      label: in the legend; empty for none.
      x: steps.
      y: values.
      colour: number of the series' colour, from 0.
      faint: for raw values behind a smoothed line.
      marked: with a dot at each point, for few points.
      dashed: for a level to compare with.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    faint: bool = False
    marked: bool = False
    dashed: bool = False


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    y_label: str,
    title: str,
    size: tuple[float, float] = (7.2, 3.2),
    log: bool = False,
    from_zero: bool = False,
) -> str:
    """An inline <svg> of lines over steps.

    Args:
      name: makes the SVG's ids unique in the page.
      lines: drawn in order.
      y_label: with its unit.
      title: read by screen readers, shown on hover.
      size: in inches; the page scales it.
      log: logarithmic y axis.
      from_zero: y axis from 0.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                label=line.label or "_nolegend_",
                color=_SERIES[line.colour % SERIES],
                alpha=0.3 if line.faint else 1.0,
                linewidth=0.8 if line.faint else 1.6,
                linestyle="--" if line.dashed else ":" if line.colour >= SERIES else "-",
                marker="o" if line.marked else None,
                markersize=4,
            )
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if log:
            axes.set_yscale("log")
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        labels = sum(bool(line.label) for line in lines)
        if labels > INSIDE_LEGEND:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        elif labels:
            axes.legend(loc="best", fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), name, title)


def smooth(values: Sequence[float], window: int = 15) -> list[float]:
    """A running mean of the last `window` values, of those that are numbers."""
    if not values:
        return []
    padded = np.concatenate([np.full(window - 1, np.nan), np.asarray(values, float)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    finite = np.isfinite(windows)
    sums = np.where(finite, windows, 0.0).sum(axis=1)
    return np.where(finite.any(axis=1), sums / np.maximum(finite.sum(axis=1), 1), np.nan).tolist()


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG document as an element of a page: no fixed size, unique ids, the page's colours."""
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None  # Matplotlib always writes one
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", body)
    attributes: Mapping[str, str] = {"role": "img", "class": "chart", "aria-label": title}
    written = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view[0]} {written}><title>{title}</title>{body}'
    )
