"""Files that a page carries in its links: tables as CSV, charts as SVG."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxdenoise.report.plots import Chart


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart in a page.

    Attributes:
      name: of its files, without an ending.
      title: above it.
      inline: an <svg> element.
      svg: address of the chart alone.
      csv: address of its points.
    """

    name: str
    title: str
    inline: str
    svg: str
    csv: str


def picture(chart: Chart, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Picture:
    """A chart with what it is downloaded as.

    Args:
      chart: to draw; the page has its legend.
      columns: names of the points' columns.
      rows: the points.
    """
    return Picture(
        name=chart.name,
        title=chart.title,
        inline=chart.inline(legend=False),
        svg=_address("image/svg+xml", chart.alone()),
        csv=as_csv(columns, rows),
    )


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The address of a table as CSV (RFC 4180); floats are whole, None is empty.

    Example:
      >>> as_csv(["arm", "loss"], [["a,b", 0.1]])
      'data:text/csv;base64,YXJtLGxvc3MNCiJhLGIiLDAuMQ0K'
    """
    file = io.StringIO()
    csv.writer(file).writerows([columns, *rows])
    return _address("text/csv", file.getvalue())


def _address(kind: str, content: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"
