"""The loss of every target of held-out rows, under an objective that a model can be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdenoise.arrays import Example, Params, Rows
from jaxdenoise.errors import UserError
from jaxdenoise.losses.projected import projected_values
from jaxdenoise.model.model import Model
from jaxdenoise.objectives import Objective, ObjectiveConfig
from jaxdenoise.training.evaluation import chunks_of
from jaxdenoise.training.setup import Plan, Setup
from jaxdenoise.training.step import corrupt


def expressible(config: ObjectiveConfig, plan: Plan, *, alone: bool = False) -> Objective | None:
    """The objective for the rows of a run; None where model or vocabulary cannot have it.

    Args:
      config: of the objective.
      plan: of the run.
      alone: whatever the model is: for corrupting alone.
    """
    try:
        config.check(plan.experiment.data.raw_length, len(plan.objective.vocab.sentinel_ids))
        objective = plan.fit(config.build(plan.objective.vocab))
        if not alone:
            shapes = objective.shapes(plan.experiment.data.raw_length)
            plan.model.check(shapes, "full")
            shapes.targets(plan.model.stack)
    except UserError:
        return None
    return objective


def scores_of(
    objective: Objective, setup: Setup, params: Params, rows: Rows
) -> Iterator[tuple[Rows, Example, Any, Any, Any]]:
    """Chunk by chunk: rows, batch, and Bool[B, T] text targets, their loss in nats, and hits.

    Args:
      objective: from `expressible`.
      setup: of the run.
      params: as trained.
      rows: one example each.
    """
    compute = setup.backend.evaluation(_make_scores(objective.for_evaluation(), setup.model))
    special = np.asarray(objective.vocab.is_special)
    for chunk in chunks_of(rows, setup.backend.parts):
        batch, loss, hit = compute(params, chunk)
        targets, weights = map(np.asarray, batch.targets(setup.model.stack))
        yield chunk, batch, (weights > 0) & ~special[targets], loss, hit


def _make_scores(
    objective: Objective, model: Model
) -> Callable[[Params, Rows], tuple[Example, Any, Any]]:
    """(params, rows) to the batch, and of each target its loss and whether it is the likeliest."""

    def scores(params: Params, rows: Rows) -> tuple[Example, Any, Any]:
        batch = corrupt(objective, rows)
        hidden, projection, _ = model.forward(params, batch, everywhere=True)
        projection = projection.without(objective.never_predicted)
        values = projected_values(hidden, projection, batch.targets(model.stack)[0])
        return batch, values.loss, values.correct

    return scores
