"""The gallery of objectives as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxdenoise.report.figures import EXPLAINED, by_architecture, cells, percent
from jaxdenoise.report.gallery import Entry, Refused
from jaxdenoise.report.template import write_page


def write_gallery(entries: Sequence[Entry], refused: Sequence[Refused], output: Path) -> None:
    """Writes the page.

    Args:
      entries: what is shown, of the same rows.
      refused: what could not be.
      output: the HTML file.
    """
    named = {entry.name: entry for entry in entries}
    groups = by_architecture({name: entry.statistics for name, entry in named.items()})
    write_page(
        "report/gallery.html",
        output,
        groups={kind: [named[name] for name in names] for kind, names in groups.items()},
        refused=refused,
        columns=EXPLAINED,
        cells=cells,
        percent=percent,
    )
