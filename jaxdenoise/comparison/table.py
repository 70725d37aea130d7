"""The answer of a sweep in a terminal: figures, gaps beyond the noise, what a paper found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxdenoise.comparison.paired import Values, agreement, gaps, ranking, spread
from jaxdenoise.comparison.results import Comparison, Measure

NARROW = 72  # columns below which only the first two measures are shown


def render(comparison: Comparison, width: int) -> RenderableType:
    """One line an arm, then what can be said.

    Args:
      comparison: of a sweep.
      width: of the console.
    """
    measures = list(comparison.measures.values())
    measures = [m for m in measures if m.values][: 2 if width < NARROW else None]
    title = f"{comparison.title} ({comparison.source})" if comparison.source else comparison.title
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm", overflow="fold")
    for measure in measures:
        table.add_column(measure.name, justify="right")
    if comparison.published:
        table.add_column(comparison.published.measure, justify="right")
    for arm in comparison.arms:
        row = [cell(measure, arm) for measure in measures]
        if comparison.published:
            value = comparison.published.values.get(arm)
            row.append("" if value is None else f"{value:g}")
        table.add_row(arm, *row)
    return Group(table, Text(), *map(Text, sentences(comparison)))


def cell(measure: Measure, arm: str) -> str:
    """Mean ± standard deviation of an arm's runs; empty without any."""
    values = measure.values.get(arm)
    return spread_of(values, measure.shown) if values else ""


def spread_of(values: Mapping[int, float], shown: Callable[[float], str]) -> str:
    """Mean ± standard deviation; the mean alone of one run."""
    found = spread(values)
    if found.deviation is None:
        return shown(found.mean)
    return f"{shown(found.mean)} ± {shown(found.deviation)}"


def sentences(comparison: Comparison) -> Iterator[str]:
    """What can be said: seeds, claims, agreement with the paper, what is missing."""
    measure = comparison.ranked_by
    seeds = sorted({seed for of_arm in measure.values.values() for seed in of_arm})
    if not seeds:
        yield "no run has finished yet"
    elif len(seeds) == 1:
        yield "one seed: no gap can be told from noise, nothing is claimed"
    else:
        yield f"mean ± standard deviation over {len(seeds)} seeds, paired; by {measure.name}:"
        for values in comparison.comparable(measure):
            yield from claims(values, measure.higher_is_better)
    if len(comparison.architectures) > 1:
        yield (
            f"arms are of several architectures ({', '.join(comparison.architectures)}), each with "
            "blanks and objectives of its own: figures compare within one of them"
        )
    if comparison.published is not None:
        yield from _beside_paper(comparison)
    missing = comparison.unfinished
    if missing:
        failed = [f"{job.name} ({job.reason()})" for job in missing if job.state() == "failed"]
        yield f"{len(missing)} of {len(comparison.jobs)} runs are missing" + (
            f"; failed: {'; '.join(failed)}" if failed else ""
        )


def claims(values: Values, higher_is_better: bool) -> Iterator[str]:
    """Each arm with those that it is better than, beyond the noise."""
    order = ranking(values, higher_is_better=higher_is_better)
    claimed = [gap for gap in gaps(values, higher_is_better=higher_is_better) if gap.claimed]
    for arm, worse in order:
        if worse:
            chance = max(g.chance or 0.0 for g in claimed if g.better == arm)
            yield f"  {arm} is better than {', '.join(worse)} (p ≤ {chance:.3f})"
    number = len(order) * (len(order) - 1) // 2
    if len(claimed) < number:
        yield f"  {number - len(claimed)} of {number} gaps are within the noise"


def _beside_paper(comparison: Comparison) -> Iterator[str]:
    published, measure = comparison.published, comparison.ranked_by
    assert published is not None
    found = agreement(
        measure.values,
        published.values,
        higher_is_better=measure.higher_is_better,
        published_higher_is_better=published.higher_is_better,
    )
    if found.tau is None:
        return
    yield (
        f"rank correlation with the published {published.measure}: tau {found.tau:+.2f} over "
        f"{found.arms} arms; of the claimed gaps {found.agreeing} agree with the paper, "
        f"{found.disagreeing} do not"
    )
