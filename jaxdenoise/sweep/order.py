"""Whether a model takes the true order of sentences for likelier than another one."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from jaxdenoise.arrays import Params, Rows
from jaxdenoise.objectives import Objective, configure
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import corrupted
from jaxdenoise.training.targets import expressible, scores_of

PERMUTE = configure("sentence_permutation")


def prefer_order(setup: Setup, params: Params, rows: Rows) -> dict[str, float] | None:
    """How often the true order of a text's sentences is likelier than a permuted one.

    An encoder-decoder reads the permuted text and scores both as what it would write; a decoder
    scores them as they stand.

    Args:
      setup: of the run.
      params: as trained.
      rows: one text each; those of one sentence, or whose sentences come out as they were, are
        left out.

    Returns:
      "share": of the texts whose true order is likelier, 0.5 where the model cannot tell; "margin":
      nats a token between the two; "texts": how many. None where the model cannot be asked: of an
      encoder, without sentence ends, or without such a text.
    """
    permuting = expressible(PERMUTE, setup, alone=True)
    if permuting is None or setup.model.config.architecture == "encoder":
        return None
    permuted = permute(permuting, rows)
    chosen = (np.asarray(rows.tokens) != np.asarray(permuted.tokens)).any(axis=1)
    if not chosen.any():
        return None
    true, other = (jax.tree.map(lambda x: x[chosen], r) for r in (rows, permuted))
    if setup.model.config.architecture == "decoder":
        plain = configure("causal_lm").build(permuting.vocab)
        first, second = (plain, true), (plain, other)
    else:
        first, second = (permuting, true), (configure("identity").build(permuting.vocab), other)
    likelier = _nats(setup, params, *second) - _nats(setup, params, *first)
    lengths = np.asarray(true.lengths)
    return {
        "share": float(np.mean((likelier > 0) + 0.5 * (likelier == 0))),
        "margin": math.fsum(likelier) / int(lengths.sum()),
        "texts": len(likelier),
    }


def permute(permuting: Objective, rows: Rows) -> Rows:
    """The rows with their sentences in another order, which follows from their identities."""
    batch = jax.device_get(corrupted(permuting, rows))
    tokens = np.asarray(batch.encoder_input_tokens)[:, : rows.tokens.shape[1]]
    inside = np.arange(tokens.shape[1]) < np.asarray(rows.lengths)[:, None]
    return dataclasses.replace(rows, tokens=np.where(inside, tokens, np.asarray(rows.tokens)))


def _nats(setup: Setup, params: Params, objective: Objective, rows: Rows) -> np.ndarray:
    """Of each row's text, all in all."""
    sums = [
        np.sum(loss * text, axis=1, dtype=np.float64)
        for _, _, text, loss, _ in scores_of(objective, setup, params, rows)
    ]
    return np.concatenate(sums)[: len(rows.lengths)]
