"""From an ablation to jobs: budgets matched, every arm built before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdenoise.ablation import Ablation, Run, refuse_arms
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment, to_dict
from jaxdenoise.paths import sound
from jaxdenoise.sweep.downstream import fitting
from jaxdenoise.sweep.jobs import SWEEP, Job, is_sweep
from jaxdenoise.sweep.measures import as_plain, by_name, costs_of, objective_of
from jaxdenoise.training.run_directory import (
    check_same_rows,
    default_directory,
    held_out_of,
    read_json,
    write_json,
)
from jaxdenoise.training.scoring import check_installed
from jaxdenoise.training.setup import Plan, plan

ABOUT = {"title", "source", "scale", "budget", "measure", "published"}
"""What is asked of a sweep, beside its jobs."""


def plan_jobs(
    ablation: Ablation,
    root: Path,
    prepared: Callable[[Experiment], TokenStore] | None = None,
    log: Sequence[str] = (),
) -> list[Job]:
    """The jobs of an ablation, every arm of which can be built.

    Args:
      ablation: resolved.
      root: the folder of the sweep.
      prepared: the token store of an experiment; `prepare` by default.
      log: loggers that show the metrics of every run too.

    Raises:
      UserError: arms that cannot be built: which and why, and which can; arms with other held-out
        rows, or blanks of no objective.
    """
    prepared = prepared or (lambda experiment: prepare(experiment.data))
    try:
        plans = _plans(ablation, prepared)
        _check_asked(ablation, prepared)
    except UserError as error:
        raise UserError(f"config {ablation.name}: {error}") from error
    _check_downstream(ablation, plans)
    runs = match_budgets(ablation, plans)
    first = {run.arm: run.experiment for run in reversed(runs)}
    named = {arm: first[arm].objective for arm in ablation.arms}
    own = {name: objective_of(plain) for name, plain in ablation.held_out.items()}
    objectives = {name: as_plain(config) for name, config in {**by_name(named), **own}.items()}
    jobs = []
    for run in runs:
        place = default_directory(run.name, run.experiment, root)
        place.check(run.experiment)
        jobs.append(
            Job(
                name=run.name,
                arm=run.arm,
                experiment=to_dict(run.experiment),
                path=str(place.path),
                objectives=objectives,
                infill=ablation.infill,
                downstream={
                    name: to_dict(dataclasses.replace(experiment, seed=run.experiment.seed))
                    for name, experiment in ablation.downstream.items()
                },
                log=[*log],
            )
        )
    return jobs


def _plans(ablation: Ablation, prepared: Callable[[Experiment], TokenStore]) -> dict[str, Plan]:
    """By arm; the first seed stands for all."""
    plans, refused = {}, {}
    for run in ablation.runs:
        if run.arm in plans or run.arm in refused:
            continue
        try:
            plans[run.arm] = plan(run.experiment, prepared(run.experiment).tokenizer.vocab)
        except UserError as error:
            refused[run.arm] = str(error)
    refuse_arms(refused, plans)
    return plans


def _check_asked(ablation: Ablation, prepared: Callable[[Experiment], TokenStore]) -> None:
    """Raises `UserError` unless all arms can be asked the same, on the same held-out rows."""
    if ablation.infill is not None:
        objective_of(ablation.infill)
    first = {run.arm: run.experiment for run in reversed(ablation.runs)}
    check_same_rows(
        {
            arm: held_out_of(to_dict(first[arm]), prepared(first[arm]).identity)
            for arm in ablation.arms
        }
    )


def _check_downstream(ablation: Ablation, plans: Mapping[str, Plan]) -> None:
    """Raises `UserError` unless every arm can be fine-tuned as it should be at its end."""
    if ablation.downstream:
        check_installed()
    for name, experiment in ablation.downstream.items():
        for arm, made in plans.items():
            model = dataclasses.replace(made.experiment.model, embedding_rows=None)
            tuned = fitting(dataclasses.replace(experiment, model=model))
            if tuned is None:
                continue
            try:
                plan(tuned, made.objective.vocab)
            except UserError as error:
                raise UserError(
                    f"config {ablation.name}: downstream.{name} of arm {arm} cannot be built, "
                    f"nothing was started. {error}"
                ) from error


def match_budgets(ablation: Ablation, plans: Mapping[str, Plan]) -> tuple[Run, ...]:
    """The runs, all arms with as much of the budget as the first: their steps follow.

    Schedules of learning rates and of objectives go with the steps, so do evaluations.

    Args:
      ablation: whose budget it is.
      plans: by arm.
    """
    if ablation.budget == "steps":
        return ablation.runs
    costs = {arm: costs_of(plans[arm])[ablation.budget] for arm in ablation.arms}
    first = ablation.arms[0]
    steps = {run.arm: run.experiment.training.steps for run in ablation.runs}
    total = steps[first] * costs[first]

    def matched(run: Run) -> Run:
        require(
            costs[run.arm] > 0, f"arm {run.arm} has no {ablation.budget}; choose another budget"
        )
        training = run.experiment.training
        wanted = max(round(total / costs[run.arm]), 1)
        share = wanted / training.steps
        every = {
            name: max(round(getattr(training, name) * share), 1)
            for name in ("evaluate_every", "checkpoint_every", "log_every")
        }
        changed = dataclasses.replace(training, steps=wanted, **every)
        return Run(run.arm, dataclasses.replace(run.experiment, training=changed))

    return tuple(map(matched, ablation.runs))


def write_sweep(ablation: Ablation, jobs: list[Job], root: Path) -> None:
    """Writes down what the sweep is, for its table and its page."""
    published = ablation.published
    root.mkdir(parents=True, exist_ok=True)
    write_json(
        root / SWEEP,
        {
            "name": ablation.name,
            "title": ablation.title,
            "source": ablation.source,
            "scale": ablation.scale,
            "budget": ablation.budget,
            "measure": ablation.measure,
            "published": None if published is None else dataclasses.asdict(published),
            "jobs": [_as_plain(job) for job in jobs],
        },
    )


def _as_plain(job: Job) -> dict[str, Any]:
    """What is the same for all who do it: who looks on, its loggers, may change."""
    plain = dataclasses.asdict(job)
    del plain["log"]
    return {**plain, "path": Path(job.path).name}


def read_sweep(root: Path) -> tuple[dict[str, Any], list[Job]]:
    """What `write_sweep` wrote; the directories are those in the folder, wherever it stands.

    Raises:
      UserError: the folder is not of a sweep.
    """
    require(
        is_sweep(root),
        f"'{root}' is not the folder of a sweep: it has no {SWEEP}; give one that `jaxdenoise "
        "sweep` made",
    )
    plain = read_json(root / SWEEP)
    with sound(root / SWEEP):
        jobs = [Job(**{**job, "path": _inside(root, job["path"])}) for job in plain.pop("jobs")]
        lacking = ABOUT - plain.keys()
        if lacking:
            raise KeyError(*lacking)
    return plain, jobs


def _inside(root: Path, name: str) -> str:
    """The path of a run in the folder; not one that leads out of it."""
    if Path(name).name != name or name == "..":
        raise ValueError(f"{name!r} is no folder in it")
    return str(root / name)
