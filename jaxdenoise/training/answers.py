"""Pairs answered: what a model writes for held-out sources, and how good that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdenoise.arrays import Example, Params, Visibility
from jaxdenoise.corruption.restore import until_eos
from jaxdenoise.model.model import Model
from jaxdenoise.tokenizer import Tokenizer
from jaxdenoise.training import processes
from jaxdenoise.training.blanks import generate, most_behind, padded
from jaxdenoise.training.parallel import fetch
from jaxdenoise.training.scoring import MODEL, baseline_answers, score
from jaxdenoise.training.setup import Setup

CHUNK = 64  # sources decoded at a time
MOST_KNOWN = 50_000  # training pairs that the baselines know


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
    reads = model.config.architecture == "encoder_decoder"
    begins, ends = ([], [vocab.eos_id]) if reads else ([vocab.start_id], [tokenizer.separator_id])
    rows = [[*begins, *ids, *ends] for ids in sources]
    rows += rows[-1:] * (-len(rows) % CHUNK)  # so that all chunks are of one size
    tokens, segments = padded(model, rows)
    longest = most_behind(model, 1 if reads else tokens.shape[1], longest)
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        batch = _prompts(tokens[chunk], segments[chunk], reads, bidirectional)
        written = fetch(generate(model, params, batch, longest, vocab))
        found += [tokenizer.decode(until_eos(ids, vocab)) for ids in written]
    return found[: len(sources)]


def _prompts(tokens: jax.Array, segments: jax.Array, reads: bool, together: bool) -> Example:
    """What an encoder reads, or a decoder goes on with; then the prompt may see all of itself."""
    if reads:
        return Example(encoder_input_tokens=tokens, encoder_segment_ids=segments)
    seen = jax.vmap(lambda real: Visibility.prefix(len(real), real.sum()))(segments)
    return Example(
        decoder_input_tokens=tokens,
        decoder_segment_ids=segments,
        decoder_visibility=seen if together else None,
    )


def _some(number: int) -> np.ndarray:
    """Up to `MOST_KNOWN` of so many, from all over, the same every time."""
    order = np.random.Generator(np.random.Philox(key=0)).permutation(number)
    return np.sort(order[:MOST_KNOWN])
