"""The charts of a sweep's page: losses over steps, measures against what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdenoise.comparison.downloads import Picture, picture
from jaxdenoise.comparison.paired import spread
from jaxdenoise.comparison.results import Comparison, Measure
from jaxdenoise.report.page import RunView
from jaxdenoise.report.plots import Chart, Line, smooth
from jaxdenoise.sweep.jobs import Job

SIZE, SMALL = (5.4, 3.4), (4.2, 3.2)  # two in a row, and three
FEW_POINTS = 12  # a mark at each

Views = Mapping[str, RunView]
"""What the files of each run that has begun say, by its name."""
Curve = Mapping[int, float]
"""By step."""


def curves(comparison: Comparison, views: Views) -> list[Picture]:
    """Held-out and training loss by step: a line an arm, a band of its seeds."""
    return [
        _curves(
            comparison,
            views,
            lambda view: {row["step"]: row["text_loss"] for row in view.held_out},
            name="held-out-loss",
            title="Held-out text loss over steps",
            y_label="loss (nats a text target)",
        ),
        _curves(
            comparison,
            views,
            lambda view: dict(zip(view.steps, smooth(view.series("loss")), strict=True)),
            name="training-loss",
            title="Training loss over steps, running mean",
            y_label="loss (nats a target)",
        ),
    ]


def _curves(
    comparison: Comparison, views: Views, of: Callable[[RunView], Curve], **texts: Any
) -> Picture:
    lines, points = [], []
    for number, arm in enumerate(comparison.arms):
        runs = [of(views[job.name]) for job in _to_draw(comparison, views, arm)]
        found = averaged([run for run in runs if run])
        points += [[arm, step, *vars(of_seeds).values()] for step, of_seeds in found.items()]
        means = [of_seeds.mean for of_seeds in found.values()]
        deviations = [of_seeds.deviation or 0.0 for of_seeds in found.values()]
        line = Line(
            label=arm,
            x=list(found),
            y=means,
            around=deviations if len(runs) > 1 else None,
            colour=number,
            group=number,
            marked=len(found) <= FEW_POINTS,
        )
        lines += [line] if found else []
    columns = ["arm", "step", "mean", "deviation", "seeds"]
    return picture(Chart(lines=lines, size=SIZE, **texts), columns, points)


def _to_draw(comparison: Comparison, views: Views, arm: str) -> list[Job]:
    """An arm's finished runs; those that have begun, where none is."""
    begun = [job for job in comparison.jobs if job.arm == arm and job.name in views]
    return [job for job in begun if job.name in comparison.results] or begun


def averaged(runs: Sequence[Curve]) -> dict[int, Any]:
    """The `Spread` of several curves at each step that all of them have.

    Example:
      >>> averaged([{10: 5.0, 20: 4.0}, {10: 3.0}])[10].mean
      4.0
    """
    shared = set.intersection(*(set(run) for run in runs)) if runs else set()
    return {
        step: spread({seed: run[step] for seed, run in enumerate(runs)}) for step in sorted(shared)
    }


def costs(job: Job, result: Mapping[str, Any]) -> dict[str, float | None]:
    """What a run took, by the label of an axis.

    A run that was continued knows the seconds of its last part; the others' are taken as long.
    """
    steps, timed = job.experiment["training"]["steps"], result.get("steps", 0)
    seconds = result["seconds"]["stepping"]
    return {
        "seconds": seconds * steps / timed if timed else None,
        "FLOPs": result["costs"]["flops"] * steps,
        "target tokens": result["costs"]["target_tokens"] * steps,
    }


def trade_offs(comparison: Comparison, measure: Measure) -> list[Picture]:
    """A measure against what the runs took, a dot a run; one chart a cost."""
    spent = {
        (job.arm, job.experiment["seed"]): costs(job, comparison.results[job.name])
        for job in comparison.jobs
        if job.name in comparison.results
    }
    labels = list(next(iter(spent.values()), {}))
    return [
        _trade_off(comparison, measure, label, {run: c[label] for run, c in spent.items()})
        for label in labels
    ]


def _trade_off(
    comparison: Comparison,
    measure: Measure,
    label: str,
    spent: Mapping[tuple[str, int], float | None],
) -> Picture:
    lines, points = [], []
    for number, arm in enumerate(comparison.arms):
        dots = [
            (seed, cost, value)
            for seed, value in measure.values.get(arm, {}).items()
            if (cost := spent[arm, seed]) is not None and math.isfinite(value)
        ]
        points += [[arm, *dot] for dot in dots]
        x, y = [cost for _, cost, _ in dots], [value for _, _, value in dots]
        line = Line(label=arm, x=x, y=y, colour=number, group=number, dots=True)
        lines += [line] if dots else []
    chart = Chart(
        name=f"{measure.name}-{label}".replace(" ", "-"),
        lines=lines,
        title=f"{measure.name.capitalize()} against {label}",
        x_label=label,
        y_label=measure.name,
        size=SMALL,
        percent=measure.percent,
        prefixes=True,
    )
    return picture(chart, ["arm", "seed", label, measure.name], points)
