"""Pages from templates: one HTML file each that opens offline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2

from jaxdenoise.paths import write_whole

SPAN_COLOURS = 6


def write_page(template: str, output: Path, **values: Any) -> None:
    """Renders a template and writes it, whole or not at all.

    Args:
      template: such as "report/page.html", from the package's root.
      output: the HTML file.
      **values: what the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["heat"] = _heat
    environment.filters["visible"] = _visible
    environment.filters["as_json"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["span_colours"] = SPAN_COLOURS
    page = environment.get_template(template).render(**values)
    write_whole(output, page.encode())


def _heat(loss: float | None) -> str:
    """How strongly a target is tinted: 0 at no loss, full at ln 1000."""
    return f"{min((loss or 0.0) / math.log(1000), 1.0):.2f}"


def _visible(text: str) -> str:
    """A token's text with its white space to be seen."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·" if text.isspace() else " ")
