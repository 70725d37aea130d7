"""Which tokens of a source a model is given: its place in what the model reads, token by token."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from jaxdenoise.arrays import AnyArray, Example
from jaxdenoise.corruption.restore import trace_sentinels
from jaxdenoise.vocabulary import Vocabulary

Ids = Int[np.ndarray, "n"]


def real_places(example: Example, stack: str) -> Ids:
    """Where the tokens of a stack stand; of a noisy copy with a clean one behind it, the noisy."""
    _, segment_ids, positions = example.inputs(stack)
    places = np.flatnonzero(np.asarray(segment_ids) > 0)
    half = len(places) // 2
    if stack == "decoder" or positions is None or len(places) % 2 or not half:
        return places
    first, second = np.split(np.asarray(positions)[places], 2)
    return places[:half] if np.array_equal(first, second) else places


def align(example: Example, source: Ids, vocab: Vocabulary) -> tuple[Ids, Ids] | None:
    """What an encoder reads, and for each source token its place there, −1 where it is not kept.

    Sentinels say exactly where the spans were. An encoder alone predicts in its places, so that
    tokens are compared there. Otherwise what is kept is the longest common subsequence: a token
    that is out of order counts as not kept.

    Args:
      example: unbatched.
      source: Int[n], the tokens that it was made of.
      vocab: says what is a sentinel.

    Returns:
      Int[m] and Int[n], the places rising where they are not −1; None for a lone decoder.
    """
    if example.encoder_input_tokens is None:
        return None
    read = np.asarray(example.encoder_input_tokens)[real_places(example, "encoder")]
    if any(int(token) in vocab.sentinel_number for token in read):
        targets = example.decoder_target_tokens
        places = (
            None if targets is None else _by_sentinels(source, read, np.asarray(targets), vocab)
        )
        if places is not None:
            return read, places
    if example.architecture == "encoder" and len(read) == len(source):
        return read, np.where(read == source, np.arange(len(source)), -1)
    return read, kept_places(source, read)


def _by_sentinels(
    source: Ids, read: Ids, targets: AnyArray | None, vocab: Vocabulary
) -> Ids | None:
    """The places, if the spans put back are the source; in front of it a mode token may stand."""
    if targets is None:
        return None
    traced = trace_sentinels(read, np.asarray(targets), vocab)
    before = len(traced) - len(source)
    if before < 0 or [token for token, _ in traced[before:]] != source.tolist():
        return None
    text = [place for place, token in enumerate(read) if int(token) not in vocab.sentinel_number]
    kept = np.array([span is None for _, span in traced], bool)
    places = np.full(len(traced), -1)
    places[kept] = text[: kept.sum()]
    return places[before:]


def kept_places(source: Ids, read: Ids) -> Ids:
    """Int[n]: the place in `read` of each source token of the longest common subsequence, else −1.

    In place, where that keeps as much; else with as few gaps as a walk from the end finds.

    Example:
      >>> kept_places(np.array([5, 6, 7, 6, 8]), np.array([5, 6, 8])).tolist()
      [0, -1, -1, 1, 2]
    """
    common = np.zeros((len(source) + 1, len(read) + 1), np.int32)
    for i, token in enumerate(source):  # of source[:i + 1] and read[:j + 1], for every j
        extended = np.maximum(common[i, 1:], common[i, :-1] + (read == token))
        common[i + 1, 1:] = np.maximum.accumulate(extended)
    both = min(len(source), len(read))
    same = np.zeros(len(source), bool)
    same[:both] = source[:both] == read[:both]
    if same.sum() == common[-1, -1]:
        return np.where(same, np.arange(len(source)), -1)
    places, place, in_gap = np.full(len(source), -1), len(read), False
    for i in range(len(source), 0, -1):
        skips = common[i - 1, place] == common[i, place]
        while place and not skips and common[i, place - 1] == common[i, place]:
            place -= 1  # read, but not of the source
        if skips and (in_gap or place == 0 or source[i - 1] != read[place - 1]):
            in_gap = True
            continue
        place, in_gap = place - 1, False
        places[i - 1] = place
    return places
