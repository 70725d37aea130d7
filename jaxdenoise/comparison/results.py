"""What the runs of a sweep have found, read from their directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdenoise.ablation import Published
from jaxdenoise.comparison.paired import Values
from jaxdenoise.errors import unknown
from jaxdenoise.sweep.jobs import Job
from jaxdenoise.sweep.plan import read_sweep
from jaxdenoise.training.run_directory import check_comparable, read_json
from jaxdenoise.training.scoring import MEASURES, MODEL


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of every run.

    Attributes:
      name: such as "infill accuracy".
      explained: in a few words, with its unit.
      values: by arm and seed; arms that have none are left out.
      higher_is_better: of them.
      percent: whether it is a share.
    """

    name: str
    explained: str
    values: Values
    higher_is_better: bool = True
    percent: bool = False

    def shown(self, value: float) -> str:
        """With as many digits as are worth reading."""
        return f"{value:.1%}" if self.percent else f"{value:.3f}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The runs of a sweep beside each other.

    Attributes:
      title: what was asked.
      source: paper and table.
      scale: of the config.
      budget: what all arms have the same of.
      arms: in the config's order.
      measures: by name; the first one ranks the arms.
      objectives: of the matrix, in order.
      matrix: loss on text (nats a token), by objective, arm and seed.
      published: what the paper found.
      jobs: all, finished or not.
      results: of finished runs by name: results.json and measures.json together.
    """

    title: str
    source: str
    scale: str
    budget: str
    arms: tuple[str, ...]
    measures: Mapping[str, Measure]
    objectives: tuple[str, ...]
    matrix: Mapping[str, Values]
    published: Published | None
    jobs: Sequence[Job]
    results: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ranked_by(self) -> Measure:
        """The measure that ranks the arms."""
        return next(iter(self.measures.values()))

    @property
    def architectures(self) -> dict[str, list[str]]:
        """The arms of each; those of one compare."""
        found: dict[str, list[str]] = {}
        for arm, job in {job.arm: job for job in self.jobs}.items():
            found.setdefault(job.experiment["model"]["architecture"], []).append(arm)
        return found

    def comparable(self, measure: Measure) -> list[Values]:
        """The measure's values, those of each architecture by themselves."""
        return [
            {arm: measure.values[arm] for arm in arms if arm in measure.values}
            for arms in self.architectures.values()
        ]

    @property
    def unfinished(self) -> list[Job]:
        """Runs that are missing in the figures."""
        return [job for job in self.jobs if job.name not in self.results]


def collect(root: Path) -> Comparison:
    """Reads a sweep, finished or not.

    Raises:
      UserError: the folder holds none, its measure does not exist, or its runs were evaluated on
        other held-out sets.
    """
    about, jobs = read_sweep(root)
    finished = [job for job in jobs if job.state() == "done"]
    check_comparable({job.name: job.run for job in finished})
    results = {
        job.name: {**read_json(job.run.results), **read_json(job.measures)} for job in finished
    }

    def values(of: Any) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for job in finished:
            value = of(results[job.name])
            if value is not None:
                found.setdefault(job.arm, {})[job.experiment["seed"]] = value
        return found

    objectives = tuple(jobs[0].objectives) if jobs else ()
    published = about["published"]
    return Comparison(
        title=about["title"],
        source=about["source"],
        scale=about["scale"],
        budget=about["budget"],
        arms=tuple(dict.fromkeys(job.arm for job in jobs)),
        measures=_measures(values, _of_answers(values, jobs), about["measure"]),
        objectives=objectives,
        matrix={
            name: values(lambda result, n=name: result["matrix"].get(n, {}).get("text_loss"))
            for name in objectives
        },
        published=None if published is None else Published(**published),
        jobs=jobs,
        results=results,
    )


def check_measure(measure: str | None, jobs: Sequence[Job]) -> None:
    """Raises `UserError` unless such jobs, when they are done, have the measure."""

    def nothing(of: Any) -> dict[str, dict[int, float]]:
        del of
        return {}

    _measures(nothing, _of_answers(nothing, jobs), measure)


def _of_answers(values: Any, jobs: Sequence[Job]) -> list[Measure]:
    """How held-out pairs are answered by runs on pairs, or by runs that were fine-tuned on some."""
    tasks = {name: f"{name} " for job in jobs for name in job.downstream}
    if any(job.experiment["data"].get("pairs") for job in jobs):
        tasks[""] = ""

    def of(task: str, name: str) -> Any:
        def find(result: Mapping[str, Any]) -> float | None:
            if task:
                return (result.get("downstream", {}).get(task) or {}).get(name)
            return result.get("scores", {}).get(MODEL, {}).get(name)

        return find

    return [
        Measure(
            name=f"{begin}{title}",
            explained=f"of the answers to held-out pairs{' after fine-tuning' if task else ''}",
            values=values(of(task, name)),
            percent=True,
        )
        for task, begin in tasks.items()
        for name, title in MEASURES.items()
    ]


def _measures(values: Any, more: list[Measure], first: str | None) -> dict[str, Measure]:
    """All that compare across arms; the one that ranks them first."""

    def infill(name: str) -> Any:
        return values(lambda result: result["infill"] and result["infill"][name])

    def mean_over_matrix(result: Mapping[str, Any]) -> float | None:
        losses = [cell["text_loss"] for cell in result["matrix"].values()]
        return sum(losses) / len(losses) if losses else None

    found = [
        Measure(
            name="infill accuracy",
            explained="share of the hidden tokens of the same blanks that are likeliest",
            values=infill("accuracy"),
            percent=True,
        ),
        Measure(
            name="infill loss",
            explained="nats a hidden token of the same blanks",
            values=infill("loss"),
            higher_is_better=False,
        ),
        Measure(
            name="mean loss",
            explained="nats a text token, over all objectives of the matrix",
            values=values(mean_over_matrix),
            higher_is_better=False,
        ),
        Measure(
            name="true order",
            explained="share of texts whose sentences are likelier in order than permuted",
            values=values(lambda result: result["order"] and result["order"]["share"]),
            percent=True,
        ),
        Measure(
            name="own loss",
            explained="nats a text token, under the arm's own objective: of another task each",
            values=values(lambda result: result["held_out"]["text_loss"]),
            higher_is_better=False,
        ),
        Measure(
            name="bits a byte",
            explained="of the text targets of the arm's own objective",
            values=values(lambda result: result["held_out"]["bits_per_byte"]),
            higher_is_better=False,
        ),
    ]
    named = {measure.name: measure for measure in [*found, *more]}
    if first is not None and first not in named:
        raise unknown("measure", first, named)
    return {first: named[first], **named} if first else named
