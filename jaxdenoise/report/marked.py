"""An example as lines of marked tokens, for a terminal and for a page alike.

A mark is the number of a noise span: the same in the source, in what is read and in the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdenoise.arrays import Example
from jaxdenoise.corruption.restore import spans_in_targets, trace_sentinels
from jaxdenoise.report.alignment import align, real_places
from jaxdenoise.report.statistics import predicting_stack
from jaxdenoise.tokenizer import Tokenizer
from jaxdenoise.vocabulary import Vocabulary

_WEIGHTS = 4  # more different ones are given by their bounds


class Piece(NamedTuple):
    """A token's text; its mark, None for text as it was; whether it stands in the background."""

    text: str
    mark: int | None
    dim: bool


Line = tuple[str, list[Piece]]
Marks = Sequence[int | None]


def marked_lines(
    example: Example, tokenizer: Tokenizer, source: np.ndarray | None = None
) -> list[Line]:
    """Source, inputs and targets of one unbatched example, as far as it has them.

    Args:
      example: from an objective, on the host.
      tokenizer: that made the tokens.
      source: Int[n], the tokens it was made of; found from inputs and targets where they tell.
    """
    lines = {
        "encoder": _encoder_lines,
        "decoder": _decoder_lines,
        "encoder_decoder": _both_lines,
    }[example.architecture](example, tokenizer.vocab, source)
    shown = [(name, _pieces(tokenizer, *line)) for name, line in lines]
    unseen = _clean_copy(example)
    if unseen:
        note = f"{unseen} more positions hold the source as it is"
        shown.append(("", [Piece(note, None, True)]))
    return shown


def _clean_copy(example: Example) -> int:
    """Positions of an encoder behind its noisy copy."""
    if example.encoder_input_tokens is None:
        return 0
    real = int((np.asarray(example.encoder_segment_ids) > 0).sum())
    return real - len(real_places(example, "encoder"))


def weights_line(example: Example) -> str:
    """How many positions weigh how much: '29 of weight 1, 3 of weight 0'."""
    weights = np.asarray(example.targets(predicting_stack(example))[1])
    values, counts = np.unique(weights, return_counts=True)
    pairs = sorted(zip(values.tolist(), counts.tolist(), strict=True), reverse=True)
    if len(pairs) > _WEIGHTS:
        inside = [pair for pair in pairs if pair[0] > 0]
        bounds = f"{_number(inside[-1][0])} to {_number(inside[0][0])}"
        some = [f"{sum(count for _, count in inside)} of weight {bounds}"]
        pairs = [pair for pair in pairs if pair[0] <= 0]
    else:
        some = []
    return ", ".join([*some, *(f"{count} of weight {_number(value)}" for value, count in pairs)])


def _number(value: float) -> str:
    return f"{value:g}" if value == round(value) else f"{value:.3g}"


_Marked = tuple[np.ndarray, Marks, Sequence[bool]]  # tokens, marks, which are dim


def _encoder_lines(
    example: Example, vocab: Vocabulary, source: np.ndarray | None
) -> list[tuple[str, _Marked]]:
    """What is corrupted or predicted is marked; targets in other places have their own line."""
    real = real_places(example, "encoder")
    targets, weights = (np.asarray(x)[real] for x in example.targets("encoder"))
    read, predicted = np.asarray(example.inputs("encoder")[0])[real], weights > 0
    aligned = None if source is None else align(example, source, vocab)
    if source is None or aligned is None:
        marks = [0 if at else None for at in predicted]
        return [("source", _plain(targets, marks)), ("inputs", _plain(read, marks))]
    places, in_place = aligned[1].copy(), np.array_equal(targets, source)
    if in_place and not predicted.all():  # noise that was kept is predicted too
        places[predicted] = -1
    of_source, of_read = _marks(places, read, vocab)
    lines = [("source", _plain(source, of_source)), ("inputs", _plain(read, of_read))]
    if not in_place:
        lines.append(("targets", (targets, [None] * len(targets), (~predicted).tolist())))
    return lines


def _decoder_lines(
    example: Example, vocab: Vocabulary, source: np.ndarray | None
) -> list[tuple[str, _Marked]]:
    """What a lone decoder reads and predicts; the context's targets, of weight 0, are dim."""
    real = real_places(example, "decoder")
    targets, weights = (np.asarray(x)[real] for x in example.targets("decoder"))
    read, predicted = np.asarray(example.inputs("decoder")[0])[real], weights > 0
    if source is None or np.array_equal(source, targets):
        first = _plain(targets, [0 if at else None for at in predicted])
    else:
        first = _plain(source)
    return [
        ("source", first),
        ("inputs", _plain(read)),
        ("targets", (targets, [None] * len(targets), (~predicted).tolist())),
    ]


def _both_lines(
    example: Example, vocab: Vocabulary, source: np.ndarray | None
) -> list[tuple[str, _Marked]]:
    """Spans in the colours of their sentinels, or in those of the gaps that they leave."""
    read = np.asarray(example.inputs("encoder")[0])[real_places(example, "encoder")]
    targets = np.asarray(example.targets("decoder")[0])[real_places(example, "decoder")]
    end = len(targets) - (len(targets) > 0 and targets[-1] == vocab.eos_id)
    in_targets = [*spans_in_targets(targets[:end], vocab), *[None] * (len(targets) - end)]
    last = [("targets", _plain(targets, in_targets))]
    has_sentinels = any(int(token) in vocab.sentinel_number for token in read)
    if source is None and has_sentinels:
        source = np.array([token for token, _ in trace_sentinels(read, targets, vocab)])
    aligned = None if source is None else align(example, source, vocab)
    if source is None or aligned is None:
        special = vocab.is_special[read] & (read != vocab.eos_id)
        return [("inputs", _plain(read, [0 if mark else None for mark in special])), *last]
    of_source, of_read = _marks(aligned[1], read, vocab)
    return [("source", _plain(source, of_source)), ("inputs", _plain(read, of_read)), *last]


def _marks(places: np.ndarray, read: np.ndarray, vocab: Vocabulary) -> tuple[Marks, Marks]:
    """The gap that each token of the source and of what is read stands in; None where it is kept.

    Gaps are numbered in order, or as the sentinels that stand in them. An EOS is no gap.
    """
    kept = places >= 0
    stays = np.zeros(len(read), bool)
    stays[places[kept]] = True
    own = [vocab.sentinel_number.get(int(token)) for token in read]
    if any(number is not None for number in own):
        stays |= np.array([number is None for number in own])
    stays |= read == vocab.eos_id
    copied = np.zeros(len(read), int)
    copied[places[kept]] = 1
    gaps, gaps_read = np.cumsum(kept), np.cumsum(copied)
    found = sorted({*gaps[~kept].tolist(), *gaps_read[~stays].tolist()})
    numbers: dict[int, int | None] = {gap: number for number, gap in enumerate(found)}
    numbers |= {int(g): n for g, n in zip(gaps_read, own, strict=True) if n is not None}
    of_source = [None if k else numbers[int(g)] for k, g in zip(kept, gaps, strict=True)]
    of_read = [None if s else numbers[int(g)] for s, g in zip(stays, gaps_read, strict=True)]
    return of_source, of_read


def _plain(tokens: np.ndarray, marks: Marks | None = None) -> _Marked:
    return tokens, [None] * len(tokens) if marks is None else marks, [False] * len(tokens)


def _pieces(
    tokenizer: Tokenizer, tokens: np.ndarray, marks: Marks, dim: Sequence[bool]
) -> list[Piece]:
    texts = tokenizer.pieces(tokens)
    return [Piece(t, m, bool(d)) for t, m, d in zip(texts, marks, dim, strict=True)]
