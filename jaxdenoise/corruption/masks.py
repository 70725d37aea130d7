"""Where the noise is, token by token: masks drawn from a key. True is noise, everywhere.

Unbatched; `jax.vmap` over keys, tokens and lengths. `length` may be traced, the row's size may not.
Special ids are never noise. Whole spans, which may cover separators, are in `spans`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt

from jaxdenoise.arrays import AnyArray, Key, NoiseMask, Scalar, Tokens
from jaxdenoise.corruption import lengths, rates, sums
from jaxdenoise.corruption.rates import Chosen
from jaxdenoise.errors import require
from jaxdenoise.vocabulary import Vocabulary


def maskable(tokens: Tokens, length: Scalar, vocab: Vocabulary) -> NoiseMask:
    """Bool[L]: True for the ordinary tokens among the first `length`."""
    real = jnp.arange(tokens.shape[-1]) < length
    return ~jnp.asarray(vocab.is_special)[tokens] & real


def iid(
    key: Key, tokens: Tokens, length: Scalar, noise_density: Chosen, vocab: Vocabulary
) -> NoiseMask:
    """Marks each ordinary token as noise with probability `noise_density`, independently.

    Args:
      key: randomness.
      tokens: Int[L]; special ids are never marked.
      length: Int[], the real tokens; positions past it are never marked.
      noise_density: in [0, 1].
      vocab: says which ids are special.

    Returns:
      Bool[L].

    Raises:
      UserError: `noise_density` outside [0, 1].

    Source: Devlin et al. 2019, section 3.1 (there at .15).

    Example:
      >>> vocab = Vocabulary.with_sentinels(size=1000)
      >>> noise = iid(jax.random.key(0), jnp.array([10, 11, 12, 1, 0]), 4, 1.0, vocab)
      >>> noise.tolist()  # 1 is EOS, the last position is padding
      [True, True, True, False, False]
    """
    _check_density(noise_density)
    return at_random(key, maskable(tokens, length, vocab), rates.value(noise_density))


def at_random(
    key: Key, candidates: NoiseMask, chances: Float[AnyArray, "*L"] | float | np.floating
) -> NoiseMask:
    """Marks each candidate with its chance, or with one for all, independently.

    Example:
      >>> at_random(jax.random.key(0), jnp.ones(3, bool), jnp.array([0.0, 1.0, 1.0])).tolist()
      [False, True, True]
    """
    return candidates & (jax.random.uniform(key, candidates.shape) < chances)


def exact(
    key: Key, tokens: Tokens, length: Scalar, noise_density: Chosen, vocab: Vocabulary
) -> NoiseMask:
    """Marks max(1, round(n · density)) of a row's n ordinary tokens, all choices equally likely.

    A row without ordinary tokens has no noise. Arguments, errors and source as in `iid`.

    Example:
      >>> vocab = Vocabulary.with_sentinels(size=1000)
      >>> int(exact(jax.random.key(0), jnp.arange(10, 30), 20, 0.15, vocab).sum())
      3
    """
    _check_density(noise_density)
    candidates = maskable(tokens, length, vocab)
    return choose(key, candidates, exact_count(candidates, noise_density))


def exact_count(candidates: NoiseMask, noise_density: Chosen) -> Int[AnyArray, ""]:
    """max(1, round(n · density)) of n candidates, 0 of none."""
    size = candidates.shape[-1]
    counts = rates.table(lambda density: lengths.exact_count_table(size, density), noise_density)
    return jnp.asarray(counts)[jnp.sum(candidates)]


def choose(key: Key, candidates: NoiseMask, number: Scalar) -> NoiseMask:
    """Marks `number` of the candidates, all choices equally likely; all of them if there are fewer.

    Args:
      key: randomness.
      candidates: Bool[L].
      number: Int[], at least 0.

    Example:
      >>> marked = choose(jax.random.key(0), jnp.array([1, 0, 1, 1], bool), 2)
      >>> int(marked.sum()), bool(marked[1])
      (2, False)
    """
    labels = jnp.where(candidates, random_labels(key, candidates.shape[-1]), _LAST)
    return candidates & (labels < _kth(labels, number))


def words(
    key: Key, tokens: Tokens, length: Scalar, noise_density: Chosen, vocab: Vocabulary
) -> NoiseMask:
    """Marks whole words in random order, up to max(1, round(n · density)) of n ordinary tokens.

    The first word that does not fit ends it, but one word is always marked. Arguments and errors
    as in `iid`.

    Source: whole word masking, google-research/bert, create_pretraining_data.py.

    Example:
      >>> vocab = Vocabulary(size=100, continuation_ids=(11, 13))
      >>> tokens = jnp.array([10, 11, 12, 13, 14, 15])
      >>> words(jax.random.key(3), tokens, 6, 0.4, vocab).tolist()
      [True, True, False, False, False, False]
    """
    _check_density(noise_density)
    size = tokens.shape[-1]
    candidates = maskable(tokens, length, vocab)
    begins = jnp.asarray(vocab.word_starts)[tokens] | ~jnp.pad(candidates[:-1], (1, 0))
    word = sums.running(begins) - 1
    sizes = jnp.zeros(size, jnp.int32).at[word].add(candidates)
    order = jnp.argsort(jnp.where(sizes > 0, random_labels(key, size), _LAST))
    total = sums.running(sizes[order])
    taken = (total <= exact_count(candidates, noise_density)) | (jnp.arange(size) == 0)
    return candidates & jnp.zeros(size, bool).at[order].set(taken)[word]


def ordinary_ids(key: Key, size: int, vocab: Vocabulary) -> Int[AnyArray, "L"]:
    """Random ids that stand for text, each as likely as any other: Int[size]."""
    ids = vocab.ordinary_ids
    # The remainder favours some ids by less than one part in 2^32 / V.
    bits = jax.random.bits(key, (size,), jnp.uint32)
    drawn = (bits % np.uint32(len(ids))).astype(jnp.int32)
    if ids[-1] - ids[0] == len(ids) - 1:  # without a gap
        return drawn + int(ids[0])
    return jnp.asarray(ids, jnp.int32)[drawn]


def random_labels(key: Key, size: int) -> UInt[AnyArray, "L"]:
    """Distinct random numbers, whose order is a random permutation: UInt[size].

    Random above, the position below, which decides between equals: for rows of 2^10 tokens two of
    them are equal above once in four million.
    """
    below = max(size - 1, 1).bit_length()
    bits = jax.random.bits(key, (size,), jnp.uint32) >> below << below
    return bits | jnp.arange(size, dtype=jnp.uint32)


_LAST = np.uint32(2**32 - 1)


def _kth(labels: UInt[AnyArray, "L"], number: Scalar) -> UInt[AnyArray, ""]:
    """The least number that `number` labels are below: bit by bit, faster than sorting them."""

    def settle(step: Int[jax.Array, ""], least: UInt[jax.Array, ""]) -> UInt[jax.Array, ""]:
        higher = least | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        return jnp.where(sums.count(labels < higher) <= number, higher, least)

    return jax.lax.fori_loop(0, 32, settle, jnp.uint32(0))


def _check_density(noise_density: Chosen) -> None:
    for (density,) in rates.combinations(noise_density):
        require(0 <= density <= 1, f"noise_density is {density}; it must be in [0, 1]")
