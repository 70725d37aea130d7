"""The tables of a sweep's page, as they are read and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from jaxdenoise.comparison.charts import costs
from jaxdenoise.comparison.downloads import as_csv
from jaxdenoise.comparison.paired import Gap, Spread, agreement, gaps, spread
from jaxdenoise.comparison.results import Comparison, Measure
from jaxdenoise.comparison.table import spread_of
from jaxdenoise.sweep.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Of the matrix.

    Attributes:
      text: mean ± deviation, or why there is none.
      tint: 1 at the lowest loss of the column, 0 at the highest.
      own: whether the arm was trained on this objective.
      empty: whether there is no loss.
    """

    text: str
    tint: float = 0.0
    own: bool = False
    empty: bool = False


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run: what it has found and what it took; why not, where it is not finished."""

    job: Job
    state: str
    values: Mapping[str, str]
    costs: Mapping[str, float | None]


def finished(comparison: Comparison, arm: str) -> int:
    """How many runs of an arm have ended well."""
    return sum(job.arm == arm and job.name in comparison.results for job in comparison.jobs)


def arms_csv(comparison: Comparison, measures: Sequence[Measure]) -> str:
    """Mean, deviation and seeds of each measure, the published value; an arm a row."""
    columns = ["arm", *(f"{measure.name}, {part}" for measure in measures for part in _PARTS)]
    rows: list[list[object]] = [
        [arm, *(part for measure in measures for part in _parts(measure.values.get(arm)))]
        for arm in comparison.arms
    ]
    if comparison.published is not None:
        columns.append(comparison.published.measure)
        for arm, row in zip(comparison.arms, rows, strict=True):
            row.append(comparison.published.values.get(arm))
    return as_csv(columns, rows)


_PARTS = [field.name for field in fields(Spread)]


def _parts(values: Mapping[int, float] | None) -> list[Any]:
    return list(asdict(spread(values)).values()) if values else [None] * len(_PARTS)


def agreements(comparison: Comparison, measures: Sequence[Measure]) -> dict[str, str]:
    """Rank correlation of each measure with what the paper found; empty where there is none."""
    published, found = comparison.published, {}
    if published is None:
        return found
    for measure in measures:
        beside = agreement(
            measure.values,
            published.values,
            higher_is_better=measure.higher_is_better,
            published_higher_is_better=published.higher_is_better,
        )
        tau = beside.tau
        found[measure.name] = "" if tau is None else f"{tau:+.2f}, {beside.arms} arms"
    return found if any(found.values()) else {}


def all_gaps(comparison: Comparison) -> list[Gap]:
    """Between every two arms of one architecture, the surest first."""
    measure = comparison.ranked_by
    found = [
        gap
        for values in comparison.comparable(measure)
        for gap in gaps(values, higher_is_better=measure.higher_is_better)
    ]
    return sorted(found, key=lambda gap: (2.0 if gap.chance is None else gap.chance, gap.better))


def gaps_csv(comparison: Comparison) -> str:
    """The same, as a file."""
    columns = [field.name for field in fields(Gap)]
    return as_csv(columns, [[*asdict(gap).values()] for gap in all_gaps(comparison)])


def matrix(comparison: Comparison) -> dict[str, dict[str, Cell]]:
    """By arm and objective."""
    columns = {name: _column(comparison, name) for name in comparison.objectives}
    return {arm: {name: columns[name][arm] for name in columns} for arm in comparison.arms}


def _column(comparison: Comparison, objective: str) -> dict[str, Cell]:
    values = comparison.matrix[objective]
    means = {arm: spread(of_arm).mean for arm, of_arm in values.items()}
    low, high = (min(means.values()), max(means.values())) if means else (0.0, 0.0)
    own = {job.arm for job in comparison.jobs if _is_own(job, objective)}
    cells = {}
    for arm in comparison.arms:
        if arm not in values:
            cells[arm] = Cell(text="–" if finished(comparison, arm) else "no run", empty=True)
            continue
        tint = (high - means[arm]) / (high - low) if high > low else 0.0
        text = spread_of(values[arm], "{:.3f}".format)
        cells[arm] = Cell(text=text, tint=tint, own=arm in own)
    return cells


def _is_own(job: Job, objective: str) -> bool:
    return job.experiment["objective"] == job.objectives[objective]


def matrix_csv(comparison: Comparison) -> str:
    """The matrix, a cell a row."""
    rows = [
        [arm, objective, *_parts(comparison.matrix[objective].get(arm))]
        for arm in comparison.arms
        for objective in comparison.objectives
    ]
    return as_csv(["arm", "objective", *_PARTS], rows)


def run_rows(comparison: Comparison, measures: Sequence[Measure]) -> list[RunRow]:
    """Every run, in order."""
    return [
        RunRow(
            job=job,
            state=job.state(),
            values={m.name: m.shown(v) for m in measures if (v := _value(m, job)) is not None},
            costs=costs(job, comparison.results[job.name])
            if job.name in comparison.results
            else {},
        )
        for job in comparison.jobs
    ]


def runs_csv(comparison: Comparison, measures: Sequence[Measure]) -> str:
    """Every run with its figures, a row each."""
    found = run_rows(comparison, measures)
    spent = list(next((row.costs for row in found if row.costs), {}))
    rows = [
        [
            *(row.job.name, row.job.arm, row.job.experiment["seed"], row.state),
            *(_value(measure, row.job) for measure in measures),
            *(row.costs.get(name) for name in spent),
            row.job.reason(),
        ]
        for row in found
    ]
    names = [measure.name for measure in measures]
    return as_csv(["run", "arm", "seed", "state", *names, *spent, "reason"], rows)


def _value(measure: Measure, job: Job) -> float | None:
    return measure.values.get(job.arm, {}).get(job.experiment["seed"])
