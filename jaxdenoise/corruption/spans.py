"""Where the noise is, as spans: drawn from a key, O(K) random numbers for K spans.

Unbatched; `jax.vmap` over keys and lengths. `length` may be traced, the row's size may not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxdenoise.arrays import UNUSED, AnyArray, Key, NoiseMask, NoiseSpans, Scalar
from jaxdenoise.corruption import checks, lengths, rates, sums
from jaxdenoise.corruption.rates import Chosen

FEW = 32
"""Up to so many numbers, comparing all with all is faster than sorting."""


def random_spans(
    key: Key, size: int, length: Scalar, noise_density: Chosen, mean_noise_span_length: Chosen
) -> NoiseSpans:
    """Draws T5's noise spans: N noise tokens in K spans, every such arrangement equally likely.

    Noise and text are each parted into K non-empty pieces, uniformly, and interleaved, text
    first. So token 0 is never noise and the last token always is; see `rotate`.

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
    chosen = noise_density, mean_noise_span_length
    for values in rates.combinations(*chosen):
        checks.check_spans(*values)
    counts = rates.table(lambda *values: lengths.noise_count_table(size, *values), *chosen)
    capacity = max(lengths.max_spans(size, *chosen), 1)
    noise, spans = jnp.asarray(counts)[length]
    noise_lengths, text_lengths = jax.vmap(
        lambda key, total: _random_parts(key, total, spans, capacity)
    )(jax.random.split(key), jnp.stack([noise, length - noise]))
    before = sums.running(noise_lengths) - noise_lengths
    starts = before + sums.running(text_lengths)
    used = jnp.arange(capacity) < spans
    return NoiseSpans(jnp.where(used, starts, UNUSED), jnp.where(used, noise_lengths, 0))


def rotate(spans: NoiseSpans, length: Scalar, offset: Scalar) -> NoiseSpans:
    """Moves spans around the row by `offset`; one that passes its end becomes two.

    With an offset drawn from [0, length) every token is noise equally often.

    Args:
      spans: in order, K slots.
      length: Int[], real tokens.
      offset: Int[], in [0, length).

    Returns:
      `NoiseSpans` in order, K + 1 slots.

    Example:
      >>> rotate(to_spans(jnp.array([0, 1, 1, 0, 0, 1], bool), 2), 6, 4).starts.tolist()
      [0, 3, 5]
      >>> to_mask(rotate(to_spans(jnp.array([0, 1, 1, 0], bool), 1), 4, 2), 4).tolist()
      [True, False, False, True]
    """
    moved = jnp.where(spans.lengths > 0, (spans.starts + offset) % jnp.maximum(length, 1), 0)
    over = jnp.maximum(moved + spans.lengths - length, 0)
    kept = jnp.append(spans.lengths - over, jnp.max(over))
    starts = jnp.where(kept > 0, jnp.append(moved, 0), UNUSED)
    order = jnp.argsort(starts)
    return NoiseSpans(starts[order].astype(jnp.int32), kept[order].astype(jnp.int32))


def iid_spans(
    key: Key, size: int, length: Scalar, noise_density: Chosen, capacity: int
) -> NoiseSpans:
    """The runs of noise where every token is noise with the same probability, independently.

    Runs of noise and of text have geometric lengths, which are drawn.

    Args:
      key: randomness.
      size: L.
      length: Int[], real tokens.
      noise_density: in (0, 1).
      capacity: slots; runs beyond are left as they are.

    Returns:
      `NoiseSpans`, `capacity` slots.

    Example:
      >>> spans = iid_spans(jax.random.key(0), 1000, 1000, 0.15, 200)
      >>> 100 < int(spans.noise) < 200
      True
    """
    density = rates.value(noise_density)
    first, key = jax.random.split(key)
    # 1 - uniform is in (0, 1]: its logarithm is finite.
    draws = jnp.log1p(-jax.random.uniform(key, (2, capacity)))
    leaving = jnp.log1p(-jnp.stack([density, 1 - density]))[:, None]  # text, then noise
    text, noise = 1 + jnp.minimum(jnp.floor(draws / leaving), size).astype(jnp.int32)
    begins_with_noise = jax.random.uniform(first) < density
    text = text.at[0].set(jnp.where(begins_with_noise, 0, text[0]))
    starts = sums.running(text) + sums.running(noise) - noise
    inside = starts < length
    noise = jnp.where(inside, jnp.minimum(noise, length - starts), 0)
    return NoiseSpans(jnp.where(inside, starts, UNUSED).astype(jnp.int32), noise.astype(jnp.int32))


def budget_spans(
    key: Key, length: Scalar, budget: Scalar, cumulative: np.ndarray, capacity: int
) -> NoiseSpans:
    """Draws span lengths until they use up a budget, and places the spans anywhere in the row.

    The last span is cut to what is left of the budget; in the last slot it takes all of it. Spans
    may touch and do not overlap; all ways to place them in the order drawn are equally likely.
    Spans of length 0 take part.

    Args:
      key: randomness.
      length: Int[], real tokens.
      budget: Int[], tokens that are noise, at most `length`.
      cumulative: P(span length ≤ 0, 1, …); the last is 1.
      capacity: slots, from `lengths.budget_slots`.

    Returns:
      `NoiseSpans`, `capacity` slots, some perhaps of length 0.

    Source: Lewis et al. 2020, section 2.2 ("text infilling"); Joshi et al. 2020, section 3.1.

    Example:
      >>> lengths_of = lengths.poisson_cumulative(3.0)
      >>> spans = budget_spans(jax.random.key(0), 50, 15, lengths_of, 20)
      >>> int(spans.noise)
      15
    """
    how_long, where = jax.random.split(key)
    drawn = draw_lengths(how_long, cumulative, capacity)
    before = jnp.minimum(sums.running(drawn) - drawn, budget)
    used = jnp.sum(before < budget)
    last = jnp.arange(capacity) == capacity - 1
    span_lengths = jnp.where(last, budget - before, jnp.minimum(drawn, budget - before))
    gaps = _random_gaps(where, length - budget, used, capacity)
    starts = before + gaps
    taken = jnp.arange(capacity) < used
    return NoiseSpans(
        jnp.where(taken, starts, UNUSED).astype(jnp.int32),
        jnp.where(taken, span_lengths, 0).astype(jnp.int32),
    )


def one_span(key: Key, length: Scalar, span: Scalar) -> NoiseSpans:
    """One span of `span` tokens, anywhere in the row: one slot.

    Example:
      >>> one_span(jax.random.key(0), 8, 8).starts.tolist()
      [0]
    """
    start = jax.random.randint(key, (), 0, jnp.maximum(length - span, 0) + 1)
    starts = jnp.where(span > 0, start, UNUSED)
    return NoiseSpans(starts[None].astype(jnp.int32), jnp.asarray(span)[None].astype(jnp.int32))


def draw_lengths(key: Key, cumulative: np.ndarray, number: int) -> Int[AnyArray, "K"]:
    """Draws from a distribution on 0, 1, …, by its cumulative probabilities."""
    uniform = jax.random.uniform(key, (number,))
    below = jnp.asarray(cumulative[:-1], jnp.float32)
    return jnp.sum(uniform[:, None] >= below, axis=1).astype(jnp.int32)


def to_mask(spans: NoiseSpans, size: int) -> NoiseMask:
    """Bool[size]: True inside the spans."""
    changes = jnp.zeros(size + 1, jnp.int32)
    changes = changes.at[spans.starts].add(1, mode="drop")
    changes = changes.at[spans.starts + spans.lengths].add(-1, mode="drop")
    return sums.running(changes[:size]) > 0


def to_spans(noise: NoiseMask, capacity: int) -> NoiseSpans:
    """The spans of a mask, in order; those past `capacity` are lost, so give enough.

    Example:
      >>> spans = to_spans(jnp.array([1, 1, 0, 0, 1, 0], bool), 3)
      >>> spans.starts[:2].tolist(), spans.lengths.tolist()
      ([0, 4], [2, 1, 0])
    """
    size = noise.shape[-1]
    padded = jnp.pad(noise, 1)
    changes = padded[1:] != padded[:-1]
    edges = jnp.flatnonzero(changes, size=2 * capacity, fill_value=size)
    starts, ends = edges.reshape(capacity, 2).T
    starts = jnp.where(starts < size, starts, UNUSED)
    return NoiseSpans(starts.astype(jnp.int32), jnp.maximum(ends - starts, 0).astype(jnp.int32))


def _random_parts(key: Key, total: Scalar, parts: Scalar, capacity: int) -> Int[AnyArray, "K"]:
    """Parts `total` into `parts` positive integers, all ways equally likely; 0 past `parts`."""
    index = jnp.arange(capacity)
    breaks = _random_subset(key, total - 1, parts - 1, capacity - 1) + 1
    ends = jnp.where(index < parts - 1, jnp.append(breaks, 0), total)
    return jnp.where(index < parts, jnp.diff(ends, prepend=0), 0)


def _random_gaps(key: Key, total: Scalar, spans: Scalar, capacity: int) -> Int[AnyArray, "K"]:
    """What of `total` stands before each of `spans` dividers, all ways equally likely.

    Stars and bars: the dividers are a subset of the total + spans places.
    """
    places = _random_subset(key, total + spans, spans, capacity)
    return places - jnp.arange(capacity)


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
        taken = sums.count(chosen == draws[step]) > 0
        return chosen.at[step].set(jnp.where(taken, top[step], draws[step]))

    chosen = jax.lax.fori_loop(0, capacity, draw, jnp.full(capacity, -1, jnp.int32))
    return _sort(jnp.where(index < size, chosen, population + index))


def _sort(values: Int[AnyArray, "M"]) -> Int[AnyArray, "M"]:
    """Sorts distinct numbers; a few by counting the smaller ones, which has no branches."""
    if len(values) > FEW:
        return jnp.sort(values, stable=False)
    rank = jnp.sum(values[None, :] < values[:, None], axis=1)
    return jnp.sum(jnp.where(rank[:, None] == np.arange(len(values)), values[:, None], 0), axis=0)
