"""Edits of single characters: insert, delete, substitute, transpose.

Unbatched. A row's tokens are spelled in single-character tokens, as the vocabulary says; a token
that an edit touches is written in its characters, all others stay what they are. Tokens without a
spelling, special ones and padding have no characters and are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, Key, Scalar, Tokens
from jaxdenoise.corruption import reorder
from jaxdenoise.corruption.rewrite import join_pieces
from jaxdenoise.vocabulary import Vocabulary

NONE, INSERT, DELETE, SUBSTITUTE, TRANSPOSE = range(5)

Edits = Int[AnyArray, "L C"]
"""What happens to each character; `NONE` behind the last one of a token."""


class Spelled(NamedTuple):
    """A row in characters.

    Attributes:
      ids: of the characters of each token, the first `sizes`.
      sizes: characters of each token; 0 where it cannot be spelled, and of padding.
    """

    ids: Int[AnyArray, "L C"]
    sizes: Int[AnyArray, "L"]


def spell(tokens: Tokens, length: Scalar, vocab: Vocabulary) -> Spelled:
    """The characters of a row.

    Args:
      tokens: Int[L].
      length: Int[], real tokens.
      vocab: with spellings.

    Raises:
      UserError: the vocabulary has no spellings.
    """
    vocab.require_spellings()
    real = jnp.arange(tokens.shape[-1]) < length
    sizes = jnp.where(real, jnp.asarray(vocab.spelling_sizes)[tokens], 0)
    return Spelled(jnp.asarray(vocab.spelling_table)[tokens], sizes)


def random_edits(
    key: Key, spelled: Spelled, noise_density: Float[AnyArray, ""] | float, edits: Sequence[float]
) -> Edits:
    """Draws what happens to each character: an edit with probability `noise_density`.

    The last character of a token has no next one to change places with and suffers one of the
    other edits. A character that its neighbour changes places with suffers no edit of its own.

    Args:
      key: randomness.
      spelled: the row.
      noise_density: in [0, 1].
      edits: how often each edit is drawn, against the others: insert, delete, substitute,
        transpose.

    Returns:
      Int[L, C], `NONE`, `INSERT`, `DELETE`, `SUBSTITUTE` or `TRANSPOSE`.
    """
    drawn = jax.random.uniform(key, spelled.ids.shape)
    share = drawn / jnp.maximum(noise_density, jnp.finfo(jnp.float32).tiny)  # where it happens
    ends = np.cumsum(np.asarray(edits, np.float64) / np.sum(edits))
    place, sizes = jnp.arange(spelled.ids.shape[1]), spelled.sizes[:, None]
    last = place == sizes - 1
    among = jnp.where(last, share * ends[2].astype(np.float32), share)
    edit = INSERT + jnp.sum(among[..., None] >= ends[:3].astype(np.float32), axis=-1)
    happens = (drawn < noise_density) & (place < sizes) & ~(last & (edit == TRANSPOSE))
    return _settle(jnp.where(happens, edit, NONE))


def _settle(edits: Edits) -> Edits:
    """Leaves alone what is moved by the transposition before it."""

    def step(before: AnyArray, edit: AnyArray) -> tuple[AnyArray, AnyArray]:
        settled = jnp.where(before == TRANSPOSE, NONE, edit)
        return settled, settled

    return jax.lax.scan(step, jnp.full_like(edits[:, 0], NONE), edits.T)[1].T


def random_characters(key: Key, spelled: Spelled, number: int) -> Int[AnyArray, "T"]:
    """Ids of `number` characters, each any character of the row, all equally likely."""
    ends = jnp.cumsum(spelled.sizes)
    drawn = jax.random.randint(key, (number,), 0, jnp.maximum(ends[-1], 1))
    token = jnp.searchsorted(ends, drawn, side="right")
    return spelled.ids[token, drawn - (ends - spelled.sizes)[token]]


def fit(key: Key, spelled: Spelled, edits: Edits, length: Scalar, budget: Scalar) -> Edits:
    """Drops the edits of tokens for which there is no room, so that nothing of the text is lost.

    The tokens come in random order; when one does not fit any more, it and those after it stay as
    they were.

    Args:
      key: randomness.
      spelled: the row.
      edits: Int[L, C].
      length: Int[], real tokens.
      budget: Int[], how many tokens more than `length` there may be.
    """
    order = reorder.random_order(key, jnp.arange(len(edits)) < length)
    growth = jnp.maximum(_written(spelled, edits)[:, -1] - 1, 0)
    more = jnp.where(_touched(edits), growth, 0)
    fits = jnp.zeros(len(edits), bool).at[order].set(jnp.cumsum(more[order]) <= budget)
    return jnp.where(fits[:, None], edits, NONE)


def write(
    tokens: Tokens, length: Scalar, spelled: Spelled, edits: Edits, drawn: Int[AnyArray, "T"]
) -> tuple[Int[AnyArray, "T"], Int[AnyArray, ""]]:
    """Writes the row with its edits.

    Args:
      tokens: Int[L].
      length: Int[], real tokens.
      spelled: the row in characters.
      edits: Int[L, C].
      drawn: Int[T]; where the output has a new character, it is the one drawn for that place.

    Returns:
      Int[T], and how many of them are real; what lies past them is undefined.

    Example:
      >>> vocab = Vocabulary(size=6, spellings=((), (), (2,), (3,), (4,), (2, 3, 4)))
      >>> spelled = spell(jnp.array([5, 5]), 2, vocab)
      >>> edits = jnp.array([[NONE, NONE, NONE], [TRANSPOSE, NONE, DELETE]])
      >>> ids, length = write(jnp.array([5, 5]), 2, spelled, edits, jnp.zeros(4, int))
      >>> ids[:length].tolist()
      [5, 3, 2]
    """
    size, longest = edits.shape
    touched, stride = _touched(edits), 2 * longest  # more than a token can become
    ends = _written(spelled, edits)
    lengths = jnp.where(touched, ends[:, -1], jnp.arange(size) < length)
    starts = jnp.arange(size) * stride
    place = join_pieces(jnp.arange(size * stride), starts, lengths, drawn.shape[-1])
    token, within = place // stride, place % stride
    own = jnp.minimum(jnp.sum(ends[token] <= within[:, None], axis=1), longest - 1)
    edit, last = edits[token, own], within == ends[token, own] - 1
    forward = (edits == TRANSPOSE).astype(jnp.int32)
    move = forward - jnp.pad(forward[:, :-1], ((0, 0), (1, 0)))
    new = (edit == SUBSTITUTE) | ((edit == INSERT) & ~last)
    character = jnp.where(new, drawn, spelled.ids[token, own + move[token, own]])
    return jnp.where(touched[token], character, tokens[token]), jnp.sum(lengths)


def _touched(edits: Edits) -> Bool[AnyArray, "L"]:
    return jnp.any(edits != NONE, axis=1)


def _written(spelled: Spelled, edits: Edits) -> Int[AnyArray, "L C"]:
    """How many characters are written up to each one, itself included."""
    number = 1 + (edits == INSERT) - (edits == DELETE).astype(jnp.int32)
    there = jnp.arange(edits.shape[1]) < spelled.sizes[:, None]
    return jnp.cumsum(jnp.where(there, number, 0), axis=1)
