"""Other orders of the same tokens: what is drawn takes a key, what is done takes none.

Unbatched; outputs have the size of the row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxdenoise.arrays import AnyArray, Key, Scalar, Tokens
from jaxdenoise.corruption import lengths, masks, sums
from jaxdenoise.corruption.rewrite import join_pieces
from jaxdenoise.vocabulary import Vocabulary


class Pieces(NamedTuple):
    """A row cut into pieces, K slots.

    Attributes:
      starts: first token of each.
      lengths: tokens of each; 0 in slots behind the last.
      number: of pieces.
    """

    starts: Int[AnyArray, "K"]
    lengths: Int[AnyArray, "K"]
    number: Int[AnyArray, ""]


def random_order(key: Key, moving: Bool[AnyArray, "L"]) -> Int[AnyArray, "L"]:
    """Permutes the moving places among themselves, all ways equally likely: Int[L], a permutation.

    Example:
      >>> order = random_order(jax.random.key(1), jnp.array([1, 1, 0, 1], bool))
      >>> sorted(order.tolist()), int(order[2])
      ([0, 1, 2, 3], 2)
    """
    size = moving.shape[-1]
    labels = jnp.where(moving, masks.random_labels(key, size), np.uint32(2**32 - 1))
    shuffled = jnp.sort(labels, stable=False) & np.uint32(2 ** max(size - 1, 1).bit_length() - 1)
    turn = sums.running(moving) - 1
    return jnp.where(moving, shuffled.astype(jnp.int32)[turn], jnp.arange(size))


def any_place(key: Key, length: Scalar) -> Int[AnyArray, ""]:
    """One of the first `length` places, all equally likely."""
    return jax.random.randint(key, (), 0, jnp.maximum(length, 1))


def output_length(key: Key, size: int, length: Scalar, longest_output: float) -> Int[AnyArray, ""]:
    """How many tokens at the end are the output: 1 up to a share of the row; 0 of fewer than two.

    Args:
      key: randomness.
      size: L.
      length: Int[], real tokens.
      longest_output: the share, in (0, 1]; one token always stays before the output.
    """
    most = jnp.asarray(lengths.noise_count_table(size, longest_output, 1.0))[length, 0]
    return jnp.where(most > 0, jax.random.randint(key, (), 1, jnp.maximum(most, 1) + 1), 0)


def random_offset(key: Key, length: Scalar, rotate_ratio: float) -> Int[AnyArray, ""]:
    """With probability `rotate_ratio` a number from 1 to length − 1, all equally likely; else 0."""
    whether, where = jax.random.split(key)
    offset = jax.random.randint(where, (), 1, jnp.maximum(length, 2))
    rotated = happens(whether, rotate_ratio) & (jnp.asarray(length) > 1)
    return jnp.where(rotated, offset, 0)


def random_cuts(key: Key, length: Scalar) -> tuple[Int[AnyArray, ""], Int[AnyArray, ""]]:
    """Two places from 0 to `length`, drawn independently, in order."""
    first, second = jax.random.randint(key, (2,), 0, jnp.asarray(length) + 1)
    return jnp.minimum(first, second), jnp.maximum(first, second)


def happens(key: Key, probability: float) -> Bool[AnyArray, ""]:
    """True with this probability."""
    return jax.random.uniform(key) < probability


def rotate(tokens: Tokens, length: Scalar, offset: Scalar) -> Tokens:
    """Begins the row at `offset` and puts what stood before it behind: Int[L].

    Undone by the offset length − offset.

    Source: Lewis et al. 2020, section 2.2 ("document rotation"); Xiao and Zhu 2025, section 1.2.3.

    Example:
      >>> words = "Hard work leads to success . Success brings happiness .".split()
      >>> " ".join(words[token] for token in rotate(jnp.arange(10), 10, 2))
      'leads to success . Success brings happiness . Hard work'
    """
    size = tokens.shape[-1]
    place = jnp.arange(size)
    turned = place + jnp.where(place < length - offset, offset, offset - length)
    return tokens[jnp.where(place < length, turned, place)]


def sentences(tokens: Tokens, length: Scalar, vocab: Vocabulary) -> Pieces:
    """Cuts a row into sentences, the last of which may lack its end.

    A sentence ends with a token of `vocab.sentence_end_ids` before the begin of a word that is
    no such token itself: "…" ends once, "np.array" not at all.

    Returns:
      `Pieces`, with as many slots as a row can have sentences.

    Raises:
      UserError: the vocabulary has no sentence ends.

    Example:
      >>> vocab = Vocabulary(size=20, sentence_end_ids=(9,))
      >>> sentences(jnp.array([5, 9, 6, 7, 9, 8]), 6, vocab).lengths.tolist()
      [2, 3, 1, 0]
    """
    vocab.require_sentence_ends()
    size = tokens.shape[-1]
    ends, begins = (jnp.asarray(x) for x in (vocab.ends_sentence, vocab.word_starts))
    is_end, place = ends[tokens], jnp.arange(size)
    first = (begins & ~ends)[tokens]
    last = is_end & jnp.pad(first[1:], (0, 1)) & (place < length - 1)
    slots = size // 2 + 1
    number = sums.running(last)
    starts = jnp.full(slots, length, jnp.int32).at[0].set(0)
    starts = starts.at[jnp.where(last, number, slots)].set(place + 1, mode="drop")
    lengths = jnp.diff(jnp.append(starts, length))
    return Pieces(starts, lengths, number[-1] + (jnp.asarray(length) > 0))


def random_piece_order(
    key: Key, pieces: Pieces, counts: np.ndarray | Int[AnyArray, "N"]
) -> Int[AnyArray, "K"]:
    """Permutes `counts[number]` of the pieces among their places, chosen and ordered uniformly."""
    which, how = jax.random.split(key)
    slots = pieces.starts.shape[-1]
    moving = jnp.arange(slots) < pieces.number
    if isinstance(counts, jax.Array) or (counts != np.arange(slots + 1)).any():  # not always all
        moving = masks.choose(which, moving, jnp.asarray(counts)[pieces.number])
    return random_order(how, moving)


def permute(tokens: Tokens, pieces: Pieces, order: Int[AnyArray, "K"]) -> Tokens:
    """Writes the pieces in another order, each kept whole: Int[L].

    Source: Lewis et al. 2020, section 2.2 ("sentence permutation"); Xiao and Zhu 2025, section
    1.2.3 (sentence reordering).

    Example:
      >>> words = "Hard work leads to success . Success brings happiness .".split()
      >>> vocab = Vocabulary(size=12, pad_id=10, eos_id=11, sentence_end_ids=(5, 9))
      >>> pieces = sentences(jnp.arange(10), 10, vocab)
      >>> reordered = permute(jnp.arange(10), pieces, jnp.array([1, 0, 2, 3, 4, 5]))
      >>> " ".join(words[token] for token in reordered)
      'Success brings happiness . Hard work leads to success .'
    """
    return join_pieces(tokens, pieces.starts[order], pieces.lengths[order], tokens.shape[-1])


def fill_in_the_middle(
    tokens: Tokens,
    length: Scalar,
    cuts: tuple[Scalar, Scalar],
    suffix_first: Bool[AnyArray, ""],
    vocab: Vocabulary,
) -> Int[AnyArray, "T"]:
    """Moves what stands between two cuts to the end, T = L + 4; what lies past EOS is undefined.

    PSM: <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle </s>.
    SPM: <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle </s>.

    Args:
      tokens: Int[L].
      length: Int[], real tokens.
      cuts: where the middle begins and ends.
      suffix_first: Bool[], SPM.
      vocab: with the three marks.

    Raises:
      UserError: the vocabulary lacks a mark.

    Source: Bavarian et al. 2022, sections 3 and 3.1 (SPM variant 2).
    """
    size, (begin, end) = tokens.shape[-1], cuts
    marks = [vocab.named(f"fim_{part}") for part in ("prefix", "suffix", "middle")]
    table = jnp.concatenate([tokens, jnp.array([*marks, vocab.eos_id], tokens.dtype)])
    pre, suf, mid, eos = ((size + n, 1) for n in range(4))
    prefix, middle, suffix = (0, begin), (begin, end - begin), (end, length - end)
    psm = [pre, prefix, suf, suffix, mid, middle, eos]
    spm = [pre, suf, suffix, mid, prefix, middle, eos]
    starts, lengths = (
        jnp.where(suffix_first, *(jnp.stack([jnp.asarray(p[i]) for p in o]) for o in (spm, psm)))
        for i in (0, 1)
    )
    return join_pieces(table, starts, lengths, size + 4)
