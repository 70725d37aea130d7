"""What held-out text costs, document by document."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from jaxdenoise import keys
from jaxdenoise.arrays import Params
from jaxdenoise.data.rows import check_ids, lines_of, padded_rows
from jaxdenoise.errors import UserError
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.targets import expressible, scores_of

TOGETHER = 1024  # pieces that are read at a time
Piece = tuple[int, np.ndarray]
"""The number of a document, and tokens of it."""


def document_losses(setup: Setup, params: Params) -> Iterator[dict[str, float]]:
    """The loss of each held-out document under a run's objective, in pieces of its row length.

    Args:
      setup: of the run.
      params: as trained.

    Yields:
      In the order of the corpus {"document" (its number), "source_tokens", "nats" (summed over the
      text that is predicted), "tokens" and "bytes" (of that text)}.

    Raises:
      UserError: an objective that cannot be asked for rows of this length.
    """
    scored = _scored(setup, params)
    for number, parts in itertools.groupby(scored, key=lambda part: part[0]):
        sums = np.sum([part[1:] for part in parts], axis=0)
        yield {
            "document": number,
            "source_tokens": int(sums[0]),
            "nats": float(sums[1]),
            "tokens": int(sums[2]),
            "bytes": int(sums[3]),
        }


def _scored(setup: Setup, params: Params) -> Iterator[tuple[int, int, float, int, int]]:
    """Of each piece its document's number, source tokens, nats, target tokens and their bytes."""
    objective = expressible(setup.experiment.objective, setup)
    if objective is None:
        raise UserError("the objective cannot be asked for rows of data.raw_length; give another")
    sizes, stack = setup.store.tokenizer.token_bytes, setup.model.stack
    pieces, before = _pieces(setup), 0
    while block := list(itertools.islice(pieces, TOGETHER)):
        ids, epochs = np.arange(before, before + len(block)), np.zeros(len(block), np.uint32)
        lines = [tokens for _, tokens in block]
        rows = padded_rows(lines, setup.raw_length, ids, epochs, keys.host_seed("held_out"))
        check_ids(rows, setup.store.tokenizer.vocab.size)
        before += len(block)
        done = 0
        for _, batch, text, loss, _ in scores_of(objective, setup, params, rows):
            targets, loss = np.asarray(batch.targets(stack)[0]), np.asarray(loss, np.float64)
            owners = block[done : done + len(text)]  # the last chunk is filled up with empty rows
            done += len(owners)
            for row, (number, tokens) in enumerate(owners):
                chosen = text[row]
                size = int(sizes[targets[row][chosen]].sum())
                nats = float(loss[row][chosen].sum())
                yield number, len(tokens), nats, int(chosen.sum()), size


def _pieces(setup: Setup) -> Iterator[Piece]:
    """The held-out documents, cut where they are longer than a row; or the pairs."""
    store, length = setup.store, setup.raw_length
    if setup.experiment.data.pairs:
        yield from enumerate(lines_of(store.pairs("held_out"), length))
        return
    stream = store.tokens("held_out")
    for number, (start, size) in enumerate(store.documents("held_out").tolist()):
        for begin in range(start, start + size, length):
            yield number, np.asarray(stream[begin : min(begin + length, start + size)])
