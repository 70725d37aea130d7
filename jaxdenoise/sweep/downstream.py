"""What a run of an ablation is worth to others: fine-tuned on pairs, it answers held-out ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from rich.console import Console

from jaxdenoise.experiment import Experiment
from jaxdenoise.objectives import configure
from jaxdenoise.sweep.jobs import Job
from jaxdenoise.training.run import train
from jaxdenoise.training.run_directory import RunDirectory, started_from
from jaxdenoise.training.scoring import MODEL
from jaxdenoise.training.setup import build


def fitting(experiment: Experiment) -> Experiment | None:
    """The experiment with an objective that its model can have; None for an encoder."""
    architecture, objective = experiment.model.architecture, experiment.objective
    if architecture == "decoder" and objective.recipe.pairs == "only":
        return dataclasses.replace(experiment, objective=configure("subsequence"))
    return None if architecture == "encoder" else experiment


def fine_tune(
    job: Job, name: str, experiment: Experiment, console: Console
) -> Mapping[str, float] | None:
    """Fine-tunes a finished run in a folder of its own, or goes on with it.

    Args:
      job: the run.
      name: of the folder.
      experiment: on pairs; its model and tokenizer become the run's.
      console: for progress.

    Returns:
      How its answers to held-out pairs score (`training.scoring.MEASURES`); None for an encoder,
      which writes none.
    """
    tuned = fitting(started_from(experiment, job.path))
    if tuned is None:
        return None
    results = train(build(tuned), name, RunDirectory(job.run.path / name), console)
    return results["scores"][MODEL]
