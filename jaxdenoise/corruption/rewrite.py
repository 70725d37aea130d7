"""What happens to the noise: pure rewriting of tokens under a mask or spans, no randomness.

Unbatched; outputs have a static size and the caller says how long the real part is. Functions on
whole spans take `NoiseSpans`, functions on single tokens take a noise mask.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import UNUSED, AnyArray, Example, NoiseMask, NoiseSpans, Scalar, Tokens
from jaxdenoise.corruption import checks, examples, sums
from jaxdenoise.vocabulary import Vocabulary

Output = Int[AnyArray, "T"]


def tokens_to_mask(tokens: Tokens, noise: NoiseMask, mask_id: int | Tokens) -> Tokens:
    """Replaces each noise token by `mask_id`, or by ids given for each position.

    Source: Xiao and Zhu 2025, section 1.2.3 (token masking; here of consecutive tokens).

    Example:
      >>> words = "The puppies are frolicking outside the house [M]".split()
      >>> noise = jnp.array([0, 0, 1, 1, 1, 0, 0], bool)
      >>> " ".join(words[token] for token in tokens_to_mask(jnp.arange(7), noise, 7))
      'The puppies [M] [M] [M] the house'
    """
    return jnp.where(noise, mask_id, tokens)


def mask_tokens(
    tokens: Tokens, noise: NoiseMask, vocab: Vocabulary, capacity: int | None = None
) -> Example:
    """The encoder's example of masked language modelling: mask the noise, predict it there.

    Args:
      tokens: Int[L].
      noise: Bool[L].
      vocab: with a mask token.
      capacity: the most tokens that are predicted; see `examples.select`. None for all positions.

    Raises:
      UserError: the vocabulary has no mask token.

    Source: Devlin et al. 2019, section 3.1, without the random and the kept tokens.
    """
    masked = tokens_to_mask(tokens, noise, vocab.require_mask())
    return examples.encoder(masked, tokens, noise, capacity)


def replace_tokens(
    tokens: Tokens,
    noise: NoiseMask,
    share: Float[AnyArray, "L"],
    random_ids: Tokens,
    mask_id: int,
    mask_replace_prob: float,
    random_replace_prob: float,
) -> Tokens:
    """BERT's replacement: of the noise most becomes the mask, some a random id, the rest stays.

    Args:
      tokens: Int[L].
      noise: Bool[L].
      share: Float[L] in [0, 1): below `mask_replace_prob` it is the mask, then a random id.
      random_ids: Int[L].
      mask_id: of the vocabulary.
      mask_replace_prob: of the noise.
      random_replace_prob: of the noise.

    Source: Devlin et al. 2019, appendix A.1.
    """
    inputs = jnp.where(
        noise & (share < mask_replace_prob + random_replace_prob), random_ids, tokens
    )
    return jnp.where(noise & (share < mask_replace_prob), mask_id, inputs)


def keep_tokens(tokens: Tokens, kept: NoiseMask, size: int) -> Output:
    """Deletes all tokens but the kept ones; what lies past them is undefined.

    Source: Xiao and Zhu 2025, section 1.2.3 (token deletion).

    Example:
      >>> words = "The puppies are frolicking outside the house".split()
      >>> noise = jnp.array([0, 1, 0, 0, 1, 0, 0], bool)
      >>> " ".join(words[token] for token in keep_tokens(jnp.arange(7), ~noise, 5))
      'The are frolicking the house'
    """
    return _take(tokens, jnp.flatnonzero(kept, size=size, fill_value=0))


def insert_tokens(tokens: Tokens, inserted: Bool[AnyArray, "T"], ids: Int[AnyArray, "T"]) -> Output:
    """Writes `ids` where `inserted`, and the tokens in order between them.

    Args:
      tokens: Int[L].
      inserted: Bool[T], of the output's places.
      ids: Int[T].

    Example:
      >>> inserted = jnp.array([0, 1, 0, 0], bool)
      >>> insert_tokens(jnp.arange(10, 13), inserted, jnp.full(4, 99)).tolist()
      [10, 99, 11, 12]
    """
    return jnp.where(inserted, ids, _take(tokens, sums.running(~inserted) - 1))


def spans_to_mask(
    tokens: Tokens, spans: NoiseSpans, mask_id: int | Int[AnyArray, "K"], size: int
) -> Output:
    """Replaces each noise span by one `mask_id`, or by an id for each; `size` is the output's.

    Source: Xiao and Zhu 2025, section 1.2.3 (span masking).

    Example:
      >>> words = "The puppies are frolicking outside the house [M]".split()
      >>> spans = NoiseSpans(starts=jnp.array([2]), lengths=jnp.array([3]))
      >>> " ".join(words[token] for token in spans_to_mask(jnp.arange(7), spans, 7, 5))
      'The puppies [M] the house'
    """
    return _spans_to_ids(tokens, spans, jnp.broadcast_to(mask_id, spans.starts.shape), size)


def spans_to_sentinels(tokens: Tokens, spans: NoiseSpans, vocab: Vocabulary, size: int) -> Output:
    """Replaces each noise span by a sentinel of its own, numbered in order: T5's inputs.

    Args:
      tokens: Int[L].
      spans: K slots.
      vocab: with at least K sentinels.
      size: of the output; what lies past the `length` − N + K real tokens is undefined.

    Returns:
      Int[size].

    Raises:
      UserError: fewer sentinels than slots.

    Source: Raffel et al. 2020, figure 2; t5/data/preprocessors.py,
    noise_span_to_unique_sentinel. There a row that begins with noise numbers the sentinels of
    inputs and targets differently; here they always match. Xiao and Zhu 2025, section 1.2.3.

    Example:
      The targets are what `spans_after_sentinels` makes of the same spans.

      >>> words = "The puppies are frolicking outside the house [Y] [X]".split()
      >>> vocab = Vocabulary(size=11, pad_id=9, eos_id=10, sentinel_ids=(8, 7))
      >>> spans = NoiseSpans(starts=jnp.array([1, 4]), lengths=jnp.array([1, 2]))
      >>> inputs = spans_to_sentinels(jnp.arange(7), spans, vocab, 6)
      >>> " ".join(words[token] for token in inputs)
      'The [X] are frolicking [Y] house'
      >>> targets = spans_after_sentinels(jnp.arange(7), spans, vocab, 5)
      >>> " ".join(words[token] for token in targets)
      '[X] puppies [Y] outside the'
    """
    return _spans_to_ids(tokens, spans, _sentinels(spans, vocab), size)


def spans_after_sentinels(
    tokens: Tokens, spans: NoiseSpans, vocab: Vocabulary, size: int
) -> Output:
    """Writes each noise span after its sentinel: T5's targets, N + K real tokens.

    Arguments, errors and source as in `spans_to_sentinels`. No sentinel follows the last span,
    as in T5's code; its paper shows one.
    """
    sentinels = _sentinels(spans, vocab)
    before = sums.running(spans.lengths) - spans.lengths
    at = before + jnp.arange(len(sentinels))
    # Behind sentinel k, output position j holds token j + starts[k] - at[k] - 1.
    offset = spans.starts - at - 1
    return _splice(tokens, _in_use(at, spans), sentinels, jnp.diff(offset, prepend=0), size)


def drop_spans(tokens: Tokens, spans: NoiseSpans, size: int) -> Output:
    """Deletes the noise spans; `length` − N real tokens remain."""
    before = sums.running(spans.lengths) - spans.lengths
    return _take(tokens, jnp.arange(size) + _moved(spans.starts - before, spans.lengths, size))


def keep_spans(tokens: Tokens, spans: NoiseSpans, size: int) -> Output:
    """Joins the noise spans and deletes the rest; N real tokens remain."""
    return join_pieces(tokens, spans.starts, spans.lengths, size)


def spans_to_ids(
    tokens: Tokens,
    length: Scalar,
    spans: NoiseSpans,
    written: Int[AnyArray, "K"],
    ids: Int[AnyArray, "M"],
    size: int,
) -> Output:
    """Replaces span k by `written[k]` ids, the next ones of `ids`.

    Args:
      tokens: Int[L].
      length: Int[], real tokens.
      spans: K slots.
      written: Int[K], 0 in unused slots.
      ids: Int[M], enough for all.
      size: of the output; `length` − N + Σ written are real.

    Example:
      >>> spans = NoiseSpans(starts=jnp.array([1, 4]), lengths=jnp.array([2, 0]))
      >>> ids = jnp.arange(97, 100)
      >>> spans_to_ids(jnp.arange(10, 15), 5, spans, jnp.array([1, 2]), ids, 6).tolist()
      [10, 97, 13, 98, 99, 14]
    """
    starts = jnp.minimum(spans.starts, length)
    behind = jnp.append(0, starts + spans.lengths)  # where the text goes on
    texts = behind, jnp.append(starts, length) - behind
    places = tokens.shape[-1] + sums.running(written) - written
    pieces = zip(texts, (jnp.append(places, 0), jnp.append(written, 0)), strict=True)
    firsts, lengths = (jnp.stack(pair, axis=1).ravel() for pair in pieces)
    return join_pieces(jnp.concatenate([tokens, ids.astype(tokens.dtype)]), firsts, lengths, size)


def join_pieces(
    tokens: Tokens, starts: Int[AnyArray, "K"], lengths: Int[AnyArray, "K"], size: int
) -> Output:
    """Writes pieces of a row one after another; what lies past them is undefined.

    Args:
      tokens: Int[L].
      starts: Int[K], the first token of each piece.
      lengths: Int[K], its tokens; perhaps 0.
      size: of the output.

    Example:
      >>> join_pieces(jnp.arange(10, 16), jnp.array([4, 0, 1]), jnp.array([2, 0, 3]), 5).tolist()
      [14, 15, 11, 12, 13]
    """
    at = sums.running(lengths) - lengths
    jumps = jnp.diff(starts - at, prepend=0)
    return _take(tokens, jnp.arange(size) + _moved(at, jumps, size))


def _spans_to_ids(tokens: Tokens, spans: NoiseSpans, ids: Int[AnyArray, "K"], size: int) -> Output:
    before = sums.running(spans.lengths) - spans.lengths
    at = spans.starts - before + jnp.arange(len(ids))
    return _splice(tokens, _in_use(at, spans), ids, spans.lengths - 1, size)


def _splice(
    tokens: Tokens,
    at: Int[AnyArray, "K"],
    ids: Int[AnyArray, "K"],
    jumps: Int[AnyArray, "K"],
    size: int,
) -> Output:
    """Writes `ids[k]` at `at[k]`; the tokens behind it come from `jumps[k]` further on.

    out[j] = ids[k] where j = at[k], else tokens[j + Σₖ [at[k] < j] · jumps[k]].
    """
    moved = _moved(at + 1, jumps, size)
    return _take(tokens, jnp.arange(size) + moved).at[at].set(ids, mode="drop")


def _moved(at: Int[AnyArray, "K"], by: Int[AnyArray, "K"], size: int) -> Output:
    """Int[size]: for each place the sum of `by[k]` over all `at[k]` up to it."""
    steps = jnp.zeros(size, jnp.int32).at[at].add(by.astype(jnp.int32), mode="drop")
    return sums.running(steps)


def _in_use(at: Int[AnyArray, "K"], spans: NoiseSpans) -> Int[AnyArray, "K"]:
    """Moves the places of unused slots past the end of the output."""
    return jnp.where(spans.starts < UNUSED, at, UNUSED)


def _take(tokens: Tokens, source: Output) -> jax.Array:
    return jnp.take(jnp.asarray(tokens), source, mode="clip")


def _sentinels(spans: NoiseSpans, vocab: Vocabulary) -> Int[AnyArray, "K"]:
    slots = spans.starts.shape[-1]
    checks.check_sentinels(slots, len(vocab.sentinel_ids))
    return jnp.array(vocab.sentinel_ids[:slots], jnp.int32)
