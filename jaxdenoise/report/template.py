"""Pages from the templates of this folder: one HTML file each that opens offline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2

from jaxdenoise.paths import write_whole

SPAN_COLOURS = 6


def write_page(template: str, output: Path, **values: Any) -> None:
    """Renders a template and writes it, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["heat"] = _heat
    environment.filters["visible"] = _visible
    environment.filters["as_json"] = lambda value: json.dumps(value, ensure_ascii=False)
    page = environment.get_template(template).render(span_colours=SPAN_COLOURS, **values)
    write_whole(output, page.encode())


def _heat(loss: float | None) -> str:
    """How strongly a target is tinted: 0 at no loss, full at ln 1000."""
    return f"{min((loss or 0.0) / math.log(1000), 1.0):.2f}"


def _visible(text: str) -> str:
    """A token's text with its white space to be seen."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·" if text.isspace() else " ")
