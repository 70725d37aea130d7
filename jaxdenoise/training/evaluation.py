"""Held-out loss on text targets, beside two baselines on the very same targets."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np

from jaxdenoise.arrays import Example, Params, Rows
from jaxdenoise.data.baselines import Baselines
from jaxdenoise.model.model import Model
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.training.parallel import Backend
from jaxdenoise.training.step import corrupted, make_evaluation
from jaxdenoise.vocabulary import Vocabulary

CHUNK = 64  # rows evaluated at a time

_make_evaluation = functools.lru_cache(maxsize=32)(make_evaluation)  # other seeds compile nothing


class Evaluator:
    """Evaluates parameters on fixed rows under one frozen corruption.

    Args:
      objective: of the run.
      model: of the run.
      rows: held-out rows; their corruption follows from their ids, the same for every run.
      token_bytes: Int[V], to give bits per byte.
      backend: where it runs.

    Attributes:
      corrupted: the rows as `Example`s, whatever the devices.
    """

    def __init__(
        self,
        objective: Objective,
        model: Model,
        rows: Rows,
        token_bytes: np.ndarray,
        backend: Backend,
    ):
        objective = objective.for_evaluation()
        self._backend, self._chunks = backend, chunks_of(rows, backend.parts)
        chunks = [jax.device_get(corrupted(objective, chunk)) for chunk in self._chunks]
        self._targets = [_text_targets(batch, model.stack, objective.vocab) for batch in chunks]
        total = len(rows.lengths)
        self.corrupted: Example = jax.tree.map(lambda *x: np.concatenate(x)[:total], *chunks)
        self._bytes = sum(int(token_bytes[targets].sum()) for _, targets in self._targets)
        self._evaluate = backend.evaluation(_make_evaluation(objective, model))

    def __call__(self, params: Params) -> dict[str, float]:
        """Loss in nats and accuracy, on text and on special targets; bits per byte of the text."""
        parts = [self._evaluate(params, chunk) for chunk in self._mine()]
        sums: dict[str, Any] = jax.tree.map(lambda *terms: math.fsum(map(float, terms)), *parts)
        result = {}
        for name, terms in sums.items():
            result[f"{name}_loss"] = terms.loss / max(terms.weight, 1)
            result[f"{name}_accuracy"] = terms.correct / max(terms.targets, 1)
            result[f"{name}_targets"] = terms.targets
        result["bits_per_byte"] = self._bits_per_byte(sums["text"].loss)
        return result

    def baselines(self, models: Baselines) -> dict[str, dict[str, float]]:
        """The same figures for the unigram and the bigram model, given the true previous token."""
        previous, targets = map(np.concatenate, zip(*self._targets, strict=True))
        losses, guesses = models.losses(previous, targets), models.predictions(previous)
        return {
            name: {
                "text_loss": float(losses[name].mean()),
                "text_accuracy": float((guesses[name] == targets).mean()),
                "bits_per_byte": self._bits_per_byte(float(losses[name].sum())),
            }
            for name in losses
        }

    def _mine(self) -> list[Rows]:
        """Of each chunk the rows that this process reads."""
        chosen = self._backend.rows(len(self._chunks[0].lengths))
        return [jax.tree.map(lambda x: x[chosen], chunk) for chunk in self._chunks]

    def _bits_per_byte(self, nats: float) -> float:
        return nats / math.log(2) / max(self._bytes, 1)


def gap_closed(result: dict[str, float], baselines: dict[str, Any]) -> float:
    """How far from the unigram's loss (0) to the bigram's (1) the model has come."""
    unigram, bigram = (baselines[name]["text_loss"] for name in ("unigram", "bigram"))
    return (unigram - result["text_loss"]) / (unigram - bigram)


def chunks_of(rows: Rows, parts: int) -> list[Rows]:
    """The rows in pieces of one size, which `parts` divides; filled up with rows of no tokens."""
    total = len(rows.lengths)
    size = -(-min(CHUNK, total) // parts) * parts
    filled = jax.tree.map(lambda x: np.pad(x, [(0, -total % size)] + [(0, 0)] * (x.ndim - 1)), rows)
    starts = range(0, total, size)
    return [jax.tree.map(lambda x, s=start: x[s : s + size], filled) for start in starts]


def _text_targets(batch: Example, stack: str, vocab: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """All ordinary targets of positive weight, and the token before each in the source text."""
    targets, weights = map(np.asarray, batch.targets(stack))
    chosen = (weights > 0) & ~vocab.is_special[targets]
    return _previous_tokens(batch, stack, vocab)[chosen], targets[chosen]


def _previous_tokens(batch: Example, stack: str, vocab: Vocabulary) -> np.ndarray:
    """The source token before each target.

    In a decoder it is the decoder's input, but behind a sentinel it is what stands before that
    sentinel in the encoder's inputs. In an encoder it is the target before.
    """
    segments = np.asarray(batch.inputs(stack)[1])
    if stack == "encoder":
        targets = np.asarray(batch.encoder_target_tokens)
        before = np.pad(targets[:, :-1], [(0, 0), (1, 0)], constant_values=vocab.pad_id)
        same = segments == np.pad(segments[:, :-1], [(0, 0), (1, 0)])
        return np.where(same, before, vocab.pad_id)
    previous = np.array(batch.decoder_input_tokens)
    if batch.encoder_input_tokens is None:
        return previous
    inputs, documents = map(np.asarray, batch.inputs("encoder")[:2])
    is_sentinel = np.isin(np.arange(vocab.size), vocab.sentinel_ids)
    for row, place in np.argwhere(is_sentinel[previous]):
        same = documents[row] == segments[row, place]  # the sentinels of others have the same ids
        where = np.flatnonzero((inputs[row] == previous[row, place]) & same)
        before = where[0] - 1 if len(where) else -1
        inside = before >= 0 and same[before]
        previous[row, place] = inputs[row, before] if inside else vocab.pad_id
    return previous
