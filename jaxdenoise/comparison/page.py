"""The page of a sweep: one HTML file that opens offline, all runs beside each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from jaxdenoise.comparison import numbers
from jaxdenoise.comparison.charts import Views, curves, trade_offs
from jaxdenoise.comparison.examples import side_by_side
from jaxdenoise.comparison.results import Comparison
from jaxdenoise.comparison.table import cell, sentences
from jaxdenoise.report.page import RunView, load_run
from jaxdenoise.report.plots import swatch
from jaxdenoise.report.template import write_page

PAGE = "report.html"


def write_comparison(comparison: Comparison, root: Path, output: Path | None = None) -> Path:
    """Writes the page of whatever has finished, and returns where it is.

    Args:
      comparison: of a sweep.
      root: its folder.
      output: the HTML file; report.html in the folder by default, where it has links to the pages
        of its runs.
    """
    output = output or root / PAGE
    measures = [measure for measure in comparison.measures.values() if measure.values]
    views = {job.name: load_run(job.run) for job in comparison.jobs if job.run.config.exists()}
    write_page(
        "comparison/page.html",
        output,
        comparison=comparison,
        slug=re.sub(r"\W+", "-", comparison.title.lower()).strip("-"),
        swatches=[swatch(number) for number in range(len(comparison.arms))],
        facts=dict(_facts(comparison)),
        answer=nested(sentences(comparison)),
        measures=measures,
        cell=cell,
        numbers=numbers,
        curves=curves(comparison, views),
        trade_offs={measure.name: trade_offs(comparison, measure) for measure in measures},
        examples=side_by_side(_with_gallery(comparison, views)),
        links=_links(comparison, root) if output.parent == root else {},
    )
    return output


def nested(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Sentences, each with the indented ones that follow it.

    Example:
      >>> nested(["a:", "  b", "c"])
      [('a:', ['b']), ('c', [])]
    """
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith(" ") and found:
            found[-1][1].append(line.strip())
        else:
            found.append((line, []))
    return found


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What the figures are of."""
    results = comparison.results.values()
    seeds = dict.fromkeys(str(job.experiment["seed"]) for job in comparison.jobs)
    versions = {f"{name} {number}" for r in results for name, number in r["versions"].items()}
    facts = {
        "source": comparison.source,
        "scale": comparison.scale,
        "the same for all arms": comparison.budget.replace("_", " "),
        "seeds": ", ".join(seeds),
        "runs": f"{len(results)} of {len(comparison.jobs)} finished",
        "machine": "; ".join(dict.fromkeys(result["device"] for result in results)),
        "versions": ", ".join(sorted(versions)),
    }
    yield from ((name, text) for name, text in facts.items() if text)


def _with_gallery(comparison: Comparison, views: Views) -> dict[str, RunView]:
    """By arm, its first run that has a gallery."""
    found: dict[str, RunView] = {}
    for job in comparison.jobs:
        if job.name in views and views[job.name].gallery:
            found.setdefault(job.arm, views[job.name])
    return found


def _links(comparison: Comparison, root: Path) -> dict[str, str]:
    """By run, its own page."""
    return {
        job.name: quote(job.run.report.relative_to(root).as_posix())
        for job in comparison.jobs
        if job.run.report.exists()
    }
