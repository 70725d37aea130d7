"""Charts as SVG: in a page with the page's colours, to suit light and dark, or alone."""

from __future__ import annotations

import functools
import html
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter

SERIES = 8  # colours; after them they come again, in other dashes and with other marks
INSIDE_LEGEND = 4  # more entries than these stand beside the chart
# Matplotlib needs colours; these stand for variables of the page's style sheet.
_INK, _FAINT = "#010101", "#020202"
_SERIES = [f"#0300{number:02x}" for number in range(1, SERIES + 1)]
_VARIABLES = {_INK: "ink", _FAINT: "line"} | {
    colour: f"series-{number}" for number, colour in enumerate(_SERIES, 1)
}
_DASHES = ((), (1, 1.65), (3.7, 1.6), (6.4, 1.6, 1, 1.6))  # in widths of the line
_MARKS = {  # Matplotlib's name, and the same about (0, 0)
    "o": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "s": "M-3.5 -3.5H3.5V3.5H-3.5Z",
    "^": "M-4.5 4L0 -4.5L4.5 4Z",
    "D": "M-5 0L0 -5L5 0L0 5Z",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxdenoise",  # ids are the same each time
    "text.parse_math": False,  # a name may have a $ in it
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
      dots: marks alone, without a line.
      around: half the height of a band about the line, at each point.
      group: elements of one group carry its number, as data-group; None for no group.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    faint: bool = False
    marked: bool = False
    dashed: bool = False
    dots: bool = False
    around: Sequence[float] | None = None
    group: int | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over steps, or dots over anything.

    Attributes:
      name: makes the SVG's ids unique in the page.
      lines: drawn in order.
      y_label: with its unit.
      title: read by screen readers, shown on hover.
      x_label: with its unit.
      size: in inches; the page scales it.
      log: logarithmic y axis.
      from_zero: y axis from 0.
      percent: y is a share.
      prefixes: x is a number to be written as 3 G; else steps.
    """

    name: str
    lines: Sequence[Line]
    y_label: str
    title: str
    x_label: str = "step"
    size: tuple[float, float] = (7.2, 3.2)
    log: bool = False
    from_zero: bool = False
    percent: bool = False
    prefixes: bool = False

    def inline(self, *, legend: bool = True) -> str:
        """An <svg> element for a page, without a fixed size, in the page's colours."""
        body, view = _parts(self._draw(legend=True) if legend else self._without_legend)
        body = re.sub(r'\bid="', f'id="{self.name}-', body)
        body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{self.name}-", body)
        for colour, variable in _VARIABLES.items():
            body = body.replace(colour, f"var(--{variable})")
        body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", body)
        title = html.escape(self.title)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" class="chart" '
            f'aria-label="{title}"><title>{title}</title>{body}'
        )

    def alone(self) -> str:
        """An SVG document of its own: with its legend, light, on white."""
        body, view = _parts(self._without_legend)
        width, height = map(float, view.split()[2:])
        labelled = [line for line in self.lines if line.label]
        key = "".join(
            f'<g transform="translate({width + 6:g} {20 + 17 * row})">{_key(line.colour)}'
            f'<text x="38" y="10" font-size="10" fill="{_INK}">{html.escape(line.label)}</text></g>'
            for row, line in enumerate(labelled)
        )
        width += 50 + 6.5 * max((len(line.label) for line in labelled), default=-8)
        height = max(height, 30 + 17 * len(labelled))
        body = body.replace("</svg>", f'<g font-family="DejaVu Sans, sans-serif">{key}</g></svg>')
        for colour, variable in _VARIABLES.items():
            body = body.replace(colour, _light()[variable])
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}">'
            f"<title>{html.escape(self.title)}</title>"
            f'<rect width="100%" height="100%" fill="{_light()["paper"]}"/>{body}'
        )

    @functools.cached_property
    def _without_legend(self) -> str:
        return self._draw(legend=False)

    def _draw(self, *, legend: bool) -> str:
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # The reader's fonts write the text, not those that measure it here.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure = Figure(figsize=self.size, layout="constrained")
            FigureCanvasSVG(figure)
            axes = figure.add_subplot()
            for line in self.lines:
                _plot(axes, line)
            self._lay_out(axes)
            if legend:
                _legend(axes)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()

    def _lay_out(self, axes: Axes) -> None:
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=not self.prefixes, nbins=6))
        if self.prefixes:
            axes.xaxis.set_major_formatter(FuncFormatter(_with_prefix))
        if self.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if self.log and any(np.any(np.asarray(line.y) > 0) for line in self.lines):
            axes.set_yscale("log")
        if self.from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y")


def _plot(axes: Axes, line: Line) -> None:
    colour, turn = _SERIES[line.colour % SERIES], line.colour // SERIES
    dashes = _DASHES[turn % len(_DASHES)]
    gid = None if line.group is None else f"group:{line.group}"
    if line.around is not None:
        low, high = (np.asarray(line.y) + sign * np.asarray(line.around) for sign in (-1, 1))
        band = axes.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)
        band.set_gid(gid)
    [drawn] = axes.plot(
        line.x,
        line.y,
        label=line.label or "_nolegend_",
        color=colour,
        alpha=0.3 if line.faint else 1.0,
        linewidth=0 if line.dots else 0.8 if line.faint else 1.6,
        linestyle="--" if line.dashed else (0, dashes) if dashes else "-",
        marker=list(_MARKS)[turn % len(_MARKS)] if line.marked or line.dots else None,
        markersize=6 if line.dots else 4,
    )
    drawn.set_gid(gid)


def _with_prefix(value: float, _: int) -> str:
    """3 G, but not 300 m."""
    return EngFormatter()(value) if abs(value) >= 1000 else f"{value:g}"


def _legend(axes: Axes) -> None:
    labels = len(axes.get_legend_handles_labels()[1])
    if labels > INSIDE_LEGEND:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    elif labels:
        axes.legend(loc="best", fontsize=9)


def swatch(colour: int) -> str:
    """A small <svg> of a series' line and mark, for a legend in the page."""
    place, variable = _SERIES[colour % SERIES], f"var(--series-{colour % SERIES + 1})"
    return (
        '<svg class="swatch" viewBox="0 0 30 12" width="30" height="12" aria-hidden="true">'
        f"{_key(colour).replace(place, variable)}</svg>"
    )


def _key(colour: int) -> str:
    """The line and mark of a series, 30 by 12."""
    place, turn = _SERIES[colour % SERIES], colour // SERIES
    dashes = " ".join(f"{2 * dash:g}" for dash in _DASHES[turn % len(_DASHES)]) or "none"
    mark = list(_MARKS.values())[turn % len(_MARKS)]
    return (
        f'<path d="M0 6H30" stroke="{place}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        f'<path d="{mark}" transform="translate(15 6)" fill="{place}"/>'
    )


def smooth(values: Sequence[float], window: int = 15) -> list[float]:
    """A running mean of the last `window` values, of those that are numbers."""
    if not values:
        return []
    padded = np.concatenate([np.full(window - 1, np.nan), np.asarray(values, float)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    finite = np.isfinite(windows)
    sums = np.where(finite, windows, 0.0).sum(axis=1)
    return np.where(finite.any(axis=1), sums / np.maximum(finite.sum(axis=1), 1), np.nan).tolist()


def _parts(svg: str) -> tuple[str, str]:
    """What is in an SVG document, to its end, and its view box; groups as data-group."""
    head, body = svg[svg.index("<svg") :].split(">", 1)
    view = re.search(r'viewBox="([^"]*)"', head)
    assert view is not None  # Matplotlib always writes one
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return re.sub(r'\bid="group:(\d+)"', r'data-group="\1"', body), view[1]


@functools.cache
def _light() -> dict[str, str]:
    """The colours of the style sheet that are not the dark ones, by variable."""
    sheet = (Path(__file__).parent / "page.css").read_text("utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", sheet.split("@media")[0]))
