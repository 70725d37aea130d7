"""Pairs answered: what a model writes for held-out sources, and how good that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Example, Params, Visibility
from jaxdenoise.corruption.restore import until_eos
from jaxdenoise.model.decoding import greedy
from jaxdenoise.model.model import Model
from jaxdenoise.tokenizer import Tokenizer
from jaxdenoise.training import processes
from jaxdenoise.training.parallel import fetch
from jaxdenoise.training.scoring import MODEL, baseline_answers, score
from jaxdenoise.training.setup import Setup

CHUNK = 64  # sources decoded at a time
MOST_KNOWN = 50_000  # training pairs that the baselines know
_greedy = jax.jit(greedy, static_argnums=(0, 3, 4))


def answer_held_out(setup: Setup, params: Params) -> dict[str, Any]:
    """Answers the held-out pairs that a run is evaluated on, greedily, and scores that.

    Args:
      setup: of a run on pairs.
      params: as trained.

    Returns:
      "scores": by name, the model and the baselines, what `scoring.score` gives. "answers": for
      each pair {"source", "target", "answer"}. Empty in other processes than the first.
    """
    tokenizer, experiment = setup.store.tokenizer, setup.experiment
    rows, length = setup.held_out(experiment.training.evaluation_rows), experiment.data.raw_length
    pairs = setup.store.pairs("held_out")
    targets = [pairs.parts(int(number))[1] for number in rows.example_ids]
    cut = dataclasses.replace(pairs, most=length)
    prompts = [cut.parts(int(number))[0] for number in rows.example_ids]
    longest = min(max(map(len, targets)) + 1, length)
    together = getattr(setup.objective.config, "bidirectional_context", False)
    written = answer(
        setup.model, params, tokenizer, prompts, longest=longest, bidirectional=together
    )
    if not processes.first():
        return {}
    pairs = dataclasses.replace(setup.store.pairs("train"), most=length)
    parts = [pairs.parts(number) for number in _some(len(pairs))]
    known = [(tokenizer.decode(source), tokenizer.decode(target)) for source, target in parts]
    sources, wanted = ([tokenizer.decode(ids) for ids in side] for side in (prompts, targets))
    answers = {**baseline_answers(known, sources), MODEL: written}
    return {
        "scores": {name: score(texts, wanted) for name, texts in answers.items()},
        "answers": [
            {"source": source, "target": target, "answer": text}
            for source, target, text in zip(sources, wanted, written, strict=True)
        ],
    }


def answer(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    sources: Sequence[np.ndarray],
    *,
    longest: int,
    bidirectional: bool = False,
) -> list[str]:
    """What a model writes for each source, greedily.

    Args:
      model: an encoder-decoder, which reads the source; or a decoder, which goes on behind source
        and separator.
      params: of the model.
      tokenizer: of the model.
      sources: ids of each.
      longest: tokens that are written at most, EOS among them.
      bidirectional: a decoder's source sees all of itself.
    """
    vocab, found = tokenizer.vocab, []
    stack = "encoder" if model.config.architecture == "encoder_decoder" else "decoder"
    begins, ends = (
        ([], vocab.eos_id) if stack == "encoder" else ([vocab.pad_id], tokenizer.separator_id)
    )
    rows = [np.concatenate([begins, ids, [ends]]).astype(np.int32) for ids in sources]
    size = max(map(len, rows))
    if stack == "decoder" and model.config.positions == "learned":
        longest = max(1, min(longest, model.config.max_positions - size + 1))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        batch = _prompts(chunk, size, stack, bidirectional)
        written = fetch(_greedy(model, params, batch, longest, vocab))
        found += [tokenizer.decode(until_eos(ids, vocab)) for ids in written[: len(chunk)]]
    return found


def _prompts(rows: Sequence[np.ndarray], size: int, stack: str, together: bool) -> Example:
    """`CHUNK` rows as one side of an `Example`, padded; rows that are not there have a token."""
    lengths = np.array([len(ids) for ids in rows] + [1] * (CHUNK - len(rows)))
    tokens = np.zeros((CHUNK, size), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    fields: dict[str, Any] = {
        "input_tokens": jnp.asarray(tokens),
        "segment_ids": jnp.asarray(np.arange(size) < lengths[:, None], jnp.int32),
    }
    if together:
        fields["visibility"] = jax.vmap(lambda length: Visibility.prefix(size, length))(lengths)
    return Example(**{f"{stack}_{name}": value for name, value in fields.items()})


def _some(number: int) -> np.ndarray:
    """Up to `MOST_KNOWN` of so many, from all over, the same every time."""
    order = np.random.Generator(np.random.Philox(key=0)).permutation(number)
    return np.sort(order[:MOST_KNOWN])
