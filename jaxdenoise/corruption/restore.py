"""The way back: from inputs and targets to the text, on the host.

Where restoring works no information was lost; where a model made the targets, its answers are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxdenoise.vocabulary import Vocabulary

Ids = Sequence[int] | np.ndarray


def fill_sentinels(inputs: Ids, targets: Ids, vocab: Vocabulary) -> list[int]:
    """Puts what follows each sentinel in `targets` in its place in `inputs`.

    Args:
      inputs: tokens with sentinels, up to EOS.
      targets: sentinel, span, sentinel, span, … up to EOS; a model's may lack some sentinels,
        whose spans stay empty.
      vocab: says what is a sentinel and what is EOS.

    Example:
      >>> vocab = Vocabulary.with_sentinels(size=100, sentinels=9)
      >>> fill_sentinels([5, 99, 8, 1], [99, 6, 7, 1, 0], vocab)
      [5, 6, 7, 8]
    """
    return [token for token, _ in trace_sentinels(inputs, targets, vocab)]


def trace_sentinels(inputs: Ids, targets: Ids, vocab: Vocabulary) -> list[tuple[int, int | None]]:
    """As `fill_sentinels`, each token with the number of the span it came from, None for text."""
    spans = split_at_sentinels(targets, vocab)
    traced: list[tuple[int, int | None]] = []
    for token in until_eos(inputs, vocab):
        span = vocab.sentinel_number.get(token)
        filled = [token] if span is None else spans.get(span, [])
        traced += [(t, span) for t in filled]
    return traced


def split_at_sentinels(targets: Ids, vocab: Vocabulary) -> dict[int, list[int]]:
    """The tokens behind sentinel 0, 1, …; what stands before the first is left out."""
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in until_eos(targets, vocab):
        span = vocab.sentinel_number.get(token)
        if span is None:
            current.append(token)
        else:
            current = spans.setdefault(span, [])
    return spans


def spans_in_targets(targets: Ids, vocab: Vocabulary) -> list[int | None]:
    """For each token the number of its span: its own if it is a sentinel, else the last one's."""
    spans: list[int | None] = []
    for token in targets:
        number = vocab.sentinel_number.get(int(token))
        spans.append(number if number is not None or not spans else spans[-1])
    return spans


def until_eos(tokens: Ids, vocab: Vocabulary) -> list[int]:
    """The tokens before the first EOS, as plain integers."""
    plain = [int(token) for token in tokens]
    return plain[: plain.index(vocab.eos_id)] if vocab.eos_id in plain else plain
