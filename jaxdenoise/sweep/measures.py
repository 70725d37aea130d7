"""What every run of an ablation is asked, whatever it was trained on.

Held-out losses of different objectives are of different tasks. What compares is the same question
to all: the loss under every objective that the architecture can express (a matrix of runs and
objectives), and how well the same blanks are filled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdenoise.arrays import Example, Params, Rows
from jaxdenoise.corruption.restore import until_eos
from jaxdenoise.costs.flops import model_flops
from jaxdenoise.errors import UserError
from jaxdenoise.objectives import Objective, ObjectiveConfig, configure
from jaxdenoise.report.alignment import kept_places
from jaxdenoise.sweep.order import prefer_order
from jaxdenoise.training.compiled import count_positions, sample_rows
from jaxdenoise.training.evaluation import Evaluator
from jaxdenoise.training.setup import Plan, Setup
from jaxdenoise.training.targets import expressible, scores_of

INFILL = {
    "encoder_decoder": configure("span_corruption"),
    "encoder": configure("masked_lm"),
    "decoder": configure("fill_in_the_middle", fim_rate=1.0, spm_rate=0.0),
}
"""The blanks that every model of an architecture is asked to fill, where a config does not say."""


def measure(
    setup: Setup,
    params: Params,
    objectives: Mapping[str, ObjectiveConfig],
    infill: ObjectiveConfig | None = None,
) -> dict[str, Any]:
    """Asks a trained model all of it, on the held-out rows of its run.

    Args:
      setup: of the run.
      params: as trained.
      objectives: by name; those that the architecture cannot express are left out.
      infill: whose blanks are filled; None for that of `INFILL`.

    Returns:
      "matrix": by objective, what `Evaluator` gives: loss and accuracy on text and on special
      targets, bits per byte. "infill": loss (nats) and accuracy on the tokens of the text that the
      model is not given, the true ones before them given. "order": as `prefer_order`. The two are
      None of runs on pairs.
    """
    number = setup.experiment.training.evaluation_rows
    rows, alone = setup.held_out(number), setup.held_out_alone(number)
    token_bytes = setup.store.tokenizer.token_bytes
    matrix = {}
    for name, config in objectives.items():
        objective = expressible(config, setup)
        if objective is not None:
            evaluator = Evaluator(objective, setup.model, rows, token_bytes, setup.backend)
            matrix[name] = evaluator(params)
    if setup.experiment.data.pairs:  # its answers are scored at the end of the training
        return {"matrix": matrix, "infill": None, "order": None}
    frozen = infill or INFILL[setup.model.config.architecture]
    objective = expressible(frozen, setup)
    filled = None if objective is None else fill(objective, setup, params, alone)
    return {"matrix": matrix, "infill": filled, "order": prefer_order(setup, params, alone)}


def fill(objective: Objective, setup: Setup, params: Params, rows: Rows) -> dict[str, float]:
    """Loss and accuracy of a model on the tokens that an objective hides from it.

    Of a whole text that is the target, the tokens that the encoder reads are left out; of one
    whose middle comes last, all but the middle.
    """
    losses, hits = [], []
    for chunk, batch, text, loss, hit in scores_of(objective, setup, params, rows):
        hidden = text & ~given(batch, chunk, setup.model.stack, objective)
        losses.append(loss[hidden])
        hits.append(hit[hidden])
    number = sum(map(len, losses))
    return {
        "loss": math.fsum(map(float, np.concatenate(losses))) / max(number, 1),
        "accuracy": float(np.concatenate(hits).sum()) / max(number, 1),
        "targets": number,
    }


def given(batch: Example, rows: Rows, stack: str, objective: Objective) -> np.ndarray:
    """Bool[B, T]: the targets that the model is given elsewhere, or that are not of a middle.

    Args:
      batch: on the host, of the rows.
      rows: that were corrupted.
      stack: that predicts.
      objective: that corrupted them.
    """
    vocab, targets = objective.vocab, np.asarray(batch.targets(stack)[0])
    found = np.zeros(targets.shape, bool)
    if stack == "encoder":
        return found
    if batch.encoder_input_tokens is None:
        middle = dict(vocab.named_ids).get("fim_middle")
        marks = np.asarray(batch.decoder_input_tokens) == middle
        return np.cumsum(marks, axis=1) == 0 if marks.any() else found
    for row, length in enumerate(np.asarray(rows.lengths)):
        source = np.asarray(rows.tokens[row][:length])
        if np.array_equal(until_eos(targets[row], vocab)[:length], source):
            read = np.asarray(batch.encoder_input_tokens[row])
            read = read[np.asarray(batch.inputs("encoder")[1][row]) > 0]
            found[row, :length] = kept_places(source, read) >= 0
    return found


def costs_of(plan: Plan) -> dict[str, float]:
    """What a step of a run takes: source and target tokens on average, FLOPs of the model."""
    rows = sample_rows(plan)
    computed, text = count_positions(plan.objective, rows, plan.model.stack)
    number = plan.experiment.training.batch_size
    flops = model_flops(plan.model.config, plan.model.vocab_size, computed).total
    lengths = rows.unpacked().lengths
    return {
        "source_tokens": number * float(np.sum(lengths)) / len(rows.lengths),
        "target_tokens": number * text.predicted,
        "flops": number * flops,
    }


def by_name(arms: Mapping[str, ObjectiveConfig]) -> dict[str, ObjectiveConfig]:
    """The objectives of arms, each once: under its arm's name, or its own where arms share it."""
    found: dict[str, ObjectiveConfig] = {}
    for name, config in arms.items():
        same = [arm for arm, other in arms.items() if other == config]
        label = name if len(same) == 1 else config.name
        taken = label in found and found[label] != config
        found[f"{label} ({name})" if taken else label] = config
    return found


def objective_of(plain: Mapping[str, Any]) -> ObjectiveConfig:
    """An objective from its name and options.

    Raises:
      UserError: no name, or as `configure`.
    """
    options = dict(plain)
    if "name" not in options:
        raise UserError(f'{plain} names no objective; add name = "…"')
    return configure(options.pop("name"), **options)


def as_plain(config: ObjectiveConfig) -> dict[str, Any]:
    """The inverse of `objective_of`."""
    return {"name": config.name, **dataclasses.asdict(config)}
