"""Where the noise is: masks and spans, drawn from a key. True is noise, everywhere.

Unbatched; `jax.vmap` over keys, tokens and lengths. `length` may be traced, the row's size may not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxdenoise.arrays import AnyArray, Key, NoiseMask, NoiseSpans, Scalar, Tokens
from jaxdenoise.corruption import lengths
from jaxdenoise.errors import require
from jaxdenoise.vocabulary import Vocabulary


def iid(
    key: Key, tokens: Tokens, length: Scalar, noise_density: float, vocab: Vocabulary
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
    require(0 <= noise_density <= 1, f"noise_density is {noise_density}; it must be in [0, 1]")
    size = tokens.shape[-1]
    drawn = jax.random.uniform(key, (size,)) < noise_density
    maskable = ~jnp.asarray(vocab.is_special)[tokens] & (jnp.arange(size) < length)
    return drawn & maskable


def exact(
    key: Key, tokens: Tokens, length: Scalar, noise_density: float, vocab: Vocabulary
) -> NoiseMask:
    """Marks max(1, round(n · density)) of a row's n ordinary tokens, all choices equally likely.

    A row without ordinary tokens has no noise. Arguments, errors and source as in `iid`.

    Example:
      >>> vocab = Vocabulary.with_sentinels(size=1000)
      >>> int(exact(jax.random.key(0), jnp.arange(10, 30), 20, 0.15, vocab).sum())
      3
    """
    require(0 <= noise_density <= 1, f"noise_density is {noise_density}; it must be in [0, 1]")
    size = tokens.shape[-1]
    maskable = ~jnp.asarray(vocab.is_special)[tokens] & (jnp.arange(size) < length)
    number = jnp.asarray(lengths.exact_count_table(size, noise_density))[jnp.sum(maskable)]
    order = jnp.argsort(jnp.where(maskable, jax.random.uniform(key, (size,)), 2.0))
    return jnp.zeros(size, bool).at[order].set(jnp.arange(size) < number)


def ordinary_ids(key: Key, size: int, vocab: Vocabulary) -> Int[AnyArray, "L"]:
    """Random ids that stand for text, each as likely as any other: Int[size]."""
    return jax.random.choice(key, jnp.asarray(vocab.ordinary_ids, jnp.int32), (size,))


def random_spans(
    key: Key, size: int, length: Scalar, noise_density: float, mean_noise_span_length: float
) -> NoiseSpans:
    """Draws T5's noise spans: N noise tokens in K spans, every such arrangement equally likely.

    Noise and text are each parted into K non-empty pieces, uniformly, and interleaved, text
    first. So token 0 is never noise and the last token always is.

    Args:
      key: randomness.
      size: L, the static size of the row.
      length: Int[], its real tokens; a row of fewer than two has no spans.
      noise_density: in (0, 1).
      mean_noise_span_length: at least 1.

    Returns:
      `NoiseSpans`, with as many slots as a full row may have spans.

    Raises:
      UserError: a density or a mean outside its range.

    Source: Raffel et al. 2020, section 3.1.4; t5/data/preprocessors.py, random_spans_noise_mask.

    Example:
      >>> spans = random_spans(jax.random.key(0), 12, 12, 0.5, 2)
      >>> int(spans.lengths.sum()), spans.lengths.shape
      (6, (3,))
    """
    lengths.check_spans(noise_density, mean_noise_span_length)
    table = lengths.noise_count_table(size, noise_density, mean_noise_span_length)
    capacity = max(int(table[:, 1].max()), 1)
    noise, spans = jnp.asarray(table)[length]
    noise_lengths, text_lengths = jax.vmap(
        lambda key, total: _random_parts(key, total, spans, capacity)
    )(jax.random.split(key), jnp.stack([noise, length - noise]))
    before = jnp.cumsum(noise_lengths) - noise_lengths
    starts = before + jnp.cumsum(text_lengths)
    used = jnp.arange(capacity) < spans
    return NoiseSpans(jnp.where(used, starts, size), jnp.where(used, noise_lengths, 0))


def to_mask(spans: NoiseSpans, size: int) -> NoiseMask:
    """Bool[size]: True inside the spans."""
    position = jnp.arange(size)[:, None]
    inside = (position >= spans.starts) & (position < spans.starts + spans.lengths)
    return jnp.any(inside, axis=1)


def to_spans(noise: NoiseMask, capacity: int) -> NoiseSpans:
    """The spans of a mask, in order; those past `capacity` are lost, so give enough.

    Example:
      >>> to_spans(jnp.array([1, 1, 0, 0, 1, 0], bool), 3)
      NoiseSpans(starts=Array([0, 4, 6], dtype=int32), lengths=Array([2, 1, 0], dtype=int32))
    """
    size = noise.shape[-1]
    padded = jnp.pad(noise, 1)
    changes = padded[1:] != padded[:-1]
    edges = jnp.flatnonzero(changes, size=2 * capacity, fill_value=size)
    starts, ends = edges.reshape(capacity, 2).T
    return NoiseSpans(starts.astype(jnp.int32), (ends - starts).astype(jnp.int32))


def _random_parts(key: Key, total: Scalar, parts: Scalar, capacity: int) -> Int[AnyArray, "K"]:
    """Parts `total` into `parts` positive integers, all ways equally likely; 0 past `parts`."""
    index = jnp.arange(capacity)
    breaks = _random_subset(key, total - 1, parts - 1, capacity - 1) + 1
    ends = jnp.where(index < parts - 1, jnp.append(breaks, 0), total)
    return jnp.where(index < parts, jnp.diff(ends, prepend=0), 0)


def _random_subset(key: Key, population: Scalar, size: Scalar, capacity: int) -> Int[AnyArray, "M"]:
    """Draws `size` of the integers [0, population), all subsets equally likely, ascending.

    Floyd's sampling: O(capacity) random numbers however large the population. Slots past `size`
    hold `population` or more.

    Source: Bentley and Floyd 1987, "A sample of brilliance", algorithm F2.
    """
    if capacity == 0:
        return jnp.zeros(0, jnp.int32)
    index = jnp.arange(capacity, dtype=jnp.int32)
    top = population - size + index  # the largest candidate of each draw
    bits = jax.random.bits(key, (capacity,), jnp.uint32)
    # The remainder favours small values by at most population / 2^32.
    draws = (bits % jnp.maximum(top + 1, 1).astype(jnp.uint32)).astype(jnp.int32)

    def draw(step: Int[jax.Array, ""], chosen: Int[jax.Array, "M"]) -> Int[jax.Array, "M"]:
        taken = jnp.any(chosen == draws[step])
        return chosen.at[step].set(jnp.where(taken, top[step], draws[step]))

    chosen = jax.lax.fori_loop(0, capacity, draw, jnp.full(capacity, -1, jnp.int32))
    return _sort(jnp.where(index < size, chosen, population + index))


def _sort(values: Int[AnyArray, "M"]) -> Int[AnyArray, "M"]:
    """Sorts a few distinct numbers by counting the smaller ones: no branches, unlike `jnp.sort`."""
    rank: Bool[AnyArray, "M"] = jnp.sum(values[None, :] < values[:, None], axis=1)
    return jnp.sum(jnp.where(rank[:, None] == np.arange(len(values)), values[:, None], 0), axis=0)
