"""Held-out text as a person sees it: sentences with their blanks filled, and a gallery."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdenoise.arrays import Example, Params, Rows
from jaxdenoise.corruption.restore import (
    spans_in_targets,
    split_at_sentinels,
    trace_sentinels,
    until_eos,
)
from jaxdenoise.data.rows import Tokens
from jaxdenoise.model.model import Model
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.tokenizer import Tokenizer
from jaxdenoise.training.blanks import Pieces, fill_sentinels, generate, likeliest
from jaxdenoise.training.parallel import fetch
from jaxdenoise.training.step import corrupted, token_losses

_SENTENCE = re.compile(r"(?:^|(?<=[.\n]\s))[A-Z][a-z]+ [\w ,'\n()-]{60,240}\.(?=\s|$)")
LONG_SENTENCE = 35  # tokens

_token_losses = jax.jit(token_losses, static_argnums=0)


def fill_held_out_sentences(
    objective: Objective, model: Model, params: Params, tokenizer: Tokenizer, sentences: list[str]
) -> list[Pieces]:
    """Corrupts sentences with the run's objective and fills them in; gives the truth beside it.

    None where the objective leaves no blanks.
    """
    encoded = [tokenizer.encode(sentence) for sentence in sentences]
    length = max(map(len, encoded))
    rows = Rows(
        tokens=np.stack([np.pad(ids, (0, length - len(ids))) for ids in encoded]),
        lengths=np.array([len(ids) for ids in encoded], np.int32),
        example_ids=np.arange(len(encoded), dtype=np.uint32),
        epochs=np.zeros(len(encoded), np.uint32),
    )
    batch = fetch(corrupted(objective, rows))
    inputs = [[*until_eos(ids, tokenizer.vocab)] for ids in batch.encoder_input_tokens]
    ended = [[*ids, tokenizer.vocab.eos_id] for ids in inputs]
    if not any(token in tokenizer.vocab.sentinel_number for ids in inputs for token in ids):
        return []  # no blanks
    truth = [split_at_sentinels(ids, tokenizer.vocab) for ids in batch.decoder_target_tokens]
    return fill_sentinels(model, params, tokenizer, ended, truth)


def find_sentences(tokens: Tokens, tokenizer: Tokenizer, number: int, longest: int) -> list[str]:
    """Picks sentences of plain prose from a token stream, the same ones every time.

    Args:
      tokens: Int[tokens], held out.
      tokenizer: that made them.
      number: sentences wanted; there may be fewer.
      longest: tokens that a sentence may have. Those with room for several blanks come first.
    """
    tokens = np.asarray(tokens[:200_000])
    ends = np.flatnonzero(tokens == tokenizer.separator_id)
    texts = [tokenizer.decode(document) for document in np.split(tokens, ends)]
    matches = {" ".join(match.split()) for text in texts for match in _SENTENCE.findall(text)}
    found = sorted(match for match in matches if "--" not in match)  # a heading is no prose
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(found))
    sizes = {sentence: len(tokenizer.encode(sentence)) for sentence in found}
    fitting = [found[i] for i in order if sizes[found[i]] <= longest]
    return sorted(fitting, key=lambda sentence: sizes[sentence] < LONG_SENTENCE)[:number]


def gallery(
    objective: Objective, model: Model, params: Params, tokenizer: Tokenizer, rows: Rows
) -> list[dict[str, Any]]:
    """Held-out rows token by token: source, inputs, targets with their loss, greedy prediction.

    Returns:
      For each row {"source", "inputs", "targets", "prediction"}: lists of tokens, each
      {"text", "span" (the number of its noise span, or None)} and for targets {"loss" (nats)}.
    """
    batch = corrupted(objective, rows)
    losses = fetch(_token_losses(model, params, batch))
    pairs = zip(np.asarray(rows.tokens), np.asarray(rows.lengths), strict=True)
    sources = [tokens[:length] for tokens, length in pairs]
    if model.config.architecture == "encoder_decoder":
        longest = batch.targets("decoder")[0].shape[1]
        predicted = fetch(generate(model, params, batch, longest, tokenizer.vocab))
        show = _show_pair
    else:
        found = likeliest(model, params, batch, tokenizer.vocab, everywhere=True)
        predicted = fetch(found.tokens)[..., 0]
        show = functools.partial(_show_positions, stack=model.stack)
    batch = fetch(batch)
    return [
        show(
            tokenizer,
            jax.tree.map(lambda x, r=row: x[r], batch),
            losses[row],
            predicted[row],
            source=sources[row],
        )
        for row in range(len(rows.lengths))
    ]


def _show_pair(
    tokenizer: Tokenizer,
    example: Example,
    losses: np.ndarray,
    predicted: np.ndarray,
    source: np.ndarray,
) -> dict[str, Any]:
    """What an encoder reads and a decoder writes, a span at a time where there are sentinels."""
    vocab = tokenizer.vocab
    inputs = until_eos(np.asarray(example.inputs("encoder")[0]), vocab)
    target = until_eos(np.asarray(example.targets("decoder")[0]), vocab)
    answer = until_eos(predicted, vocab)
    marks = [vocab.sentinel_number.get(token) for token in inputs]
    traced = [(token, None) for token in source]
    if any(mark is not None for mark in marks):
        traced = trace_sentinels(inputs, target, vocab)
    return {
        "source": _tokens(tokenizer, [t for t, _ in traced], [span for _, span in traced]),
        "inputs": _tokens(tokenizer, inputs, marks),
        "targets": _tokens(tokenizer, target, spans_in_targets(target, vocab), losses),
        "prediction": _tokens(tokenizer, answer, spans_in_targets(answer, vocab)),
    }


def _show_positions(
    tokenizer: Tokenizer,
    example: Example,
    losses: np.ndarray,
    predicted: np.ndarray,
    stack: str,
    source: np.ndarray,
) -> dict[str, Any]:
    """What a lone stack reads and predicts, each token given those before it in a decoder.

    Runs of targets are the spans.
    """
    inputs, segment_ids = (np.asarray(x) for x in example.inputs(stack)[:2])
    targets, weights = map(np.asarray, example.targets(stack))
    real, noise = segment_ids > 0, weights > 0
    same = np.array_equal(targets[real], source)  # predictions stand in their places
    number = np.cumsum(noise & ~np.pad(noise[:-1], (1, 0))) - 1
    spans = [int(n) if is_noise else None for n, is_noise in zip(number, noise, strict=True)]
    marks, chosen = spans[: real.sum()], number[noise].tolist()
    return {
        "source": _tokens(tokenizer, source, marks if same else [None] * len(source)),
        "inputs": _tokens(tokenizer, inputs[real], marks),
        "targets": _tokens(tokenizer, targets[noise], chosen, losses[noise]),
        "prediction": _tokens(tokenizer, predicted[noise], chosen),
    }


def _tokens(
    tokenizer: Tokenizer,
    ids: Sequence[int] | np.ndarray,
    spans: Sequence[int | None],
    losses: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Tokens for display, each with its text, its span and, for targets, its loss."""
    shown: list[dict[str, Any]] = [
        {"text": text, "span": span}
        for text, span in zip(tokenizer.pieces(ids), spans, strict=True)
    ]
    if losses is not None:
        for token, loss in zip(shown, losses, strict=False):  # losses go on into the padding
            token["loss"] = round(float(loss), 3)
    return shown
