"""What happens to the noise: pure rewriting of tokens under a mask or spans, no randomness.

Unbatched; outputs have a static size and the caller says how long the real part is. Functions on
whole spans take `NoiseSpans`, functions on single tokens take a noise mask.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Int

from jaxdenoise.arrays import (
    AnyArray,
    Example,
    NoiseMask,
    NoiseSpans,
    Scalar,
    Tokens,
    Visibility,
)
from jaxdenoise.corruption import lengths
from jaxdenoise.vocabulary import Vocabulary

Output = Int[AnyArray, "T"]


def tokens_to_mask(tokens: Tokens, noise: NoiseMask, mask_id: int | Tokens) -> Tokens:
    """Replaces each noise token by `mask_id`, or by ids given for each position.

    Example:
      >>> noise = jnp.array([1, 1, 0, 0, 1, 0], bool)
      >>> tokens_to_mask(jnp.arange(10, 16), noise, 999).tolist()
      [999, 999, 12, 13, 999, 15]
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
      capacity: the most noise tokens that are predicted; see `select`. None for all positions.

    Raises:
      UserError: the vocabulary has no mask token.

    Source: Devlin et al. 2019, section 3.1, without the random and the kept tokens.
    """
    masked = tokens_to_mask(tokens, noise, vocab.require_mask())
    return encoder_example(masked, tokens, noise, capacity)


def encoder_example(
    inputs: Tokens, targets: Tokens, predicted: NoiseMask, capacity: int | None = None
) -> Example:
    """An encoder that predicts `targets` where `predicted`; `capacity` as in `mask_tokens`."""
    weights = predicted.astype(jnp.float32)
    return Example(
        encoder_input_tokens=inputs,
        encoder_target_tokens=targets,
        encoder_loss_weights=weights,
        encoder_selected=None if capacity is None else select(predicted, capacity),
    )


def select(predicted: NoiseMask, capacity: int) -> Int[AnyArray, "P"]:
    """Places of the predicted positions, in order, then of others until there are `capacity`.

    The model projects these alone on the vocabulary, and under `output_only` gradients trains
    these alone. What does not fit is lost, and counted by the training step.

    Example:
      >>> select(jnp.array([0, 0, 1, 0, 1], bool), 3).tolist()
      [2, 4, 0]
    """
    return jnp.argsort(~predicted, stable=True)[:capacity].astype(jnp.int32)


def decoder_example(
    tokens: Tokens,
    length: Scalar,
    predicted: NoiseMask,
    vocab: Vocabulary,
    *,
    visibility: Visibility | None = None,
    capacity: int | None = None,
) -> Example:
    """A lone decoder that reads a row and predicts it, where `predicted`.

    Position t reads token t − 1, the first one padding, and predicts token t.

    Args:
      tokens: Int[L].
      length: Int[], real tokens; nothing past them is predicted.
      predicted: Bool[L].
      vocab: for padding.
      visibility: of the positions; causal if None.
      capacity: the most tokens that are predicted; see `select`. None for all positions.

    Example:
      >>> predicted = jnp.array([0, 0, 1, 1], bool)
      >>> example = decoder_example(jnp.arange(7, 11), 3, predicted, Vocabulary(size=20))
      >>> example.decoder_input_tokens.tolist(), example.decoder_loss_weights.tolist()
      ([0, 7, 8, 9], [0.0, 0.0, 1.0, 0.0])
    """
    real = jnp.arange(tokens.shape[-1]) < length
    predicted = predicted & real
    return Example(
        decoder_input_tokens=shift_right(tokens, vocab),
        decoder_target_tokens=tokens,
        decoder_loss_weights=predicted.astype(jnp.float32),
        decoder_segment_ids=real.astype(jnp.int32),
        decoder_visibility=visibility,
        decoder_selected=None if capacity is None else select(predicted, capacity),
    )


def spans_to_mask(tokens: Tokens, spans: NoiseSpans, mask_id: int, size: int) -> Output:
    """Replaces each noise span by one `mask_id`; `size` is that of the output."""
    return _spans_to_ids(tokens, spans, jnp.full(spans.starts.shape, mask_id), size)


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
    inputs and targets differently; here they always match.
    """
    return _spans_to_ids(tokens, spans, _sentinels(spans, vocab), size)


def spans_after_sentinels(
    tokens: Tokens, spans: NoiseSpans, vocab: Vocabulary, size: int
) -> Output:
    """Writes each noise span after its sentinel: T5's targets, N + K real tokens.

    Arguments, errors and source as in `spans_to_sentinels`. No sentinel follows the last span,
    as in T5's code (its paper shows one).
    """
    sentinels = _sentinels(spans, vocab)
    before = jnp.cumsum(spans.lengths) - spans.lengths
    at = before + jnp.arange(len(sentinels))
    # Behind sentinel k, output position j holds token j + starts[k] - at[k] - 1.
    offset = spans.starts - at - 1
    return _splice(tokens, _used(at, spans, size), sentinels, jnp.diff(offset, prepend=0), size)


def drop_spans(tokens: Tokens, spans: NoiseSpans, size: int) -> Output:
    """Deletes the noise spans; `length` − N real tokens remain."""
    before = jnp.cumsum(spans.lengths) - spans.lengths
    position = jnp.arange(size)[:, None]
    shift = jnp.where(position >= spans.starts - before, spans.lengths, 0)
    return _take(tokens, position[:, 0] + jnp.sum(shift, axis=1))


def keep_spans(tokens: Tokens, spans: NoiseSpans, size: int) -> Output:
    """Joins the noise spans and deletes the rest; N real tokens remain."""
    at = jnp.cumsum(spans.lengths) - spans.lengths
    jumps = jnp.diff(spans.starts - at, prepend=0)
    position = jnp.arange(size)[:, None]
    shift = jnp.where(position >= _used(at, spans, size), jumps, 0)
    return _take(tokens, position[:, 0] + jnp.sum(shift, axis=1))


def end(tokens: Output, length: Scalar, vocab: Vocabulary) -> Output:
    """Puts EOS at `length` and padding behind it."""
    position = jnp.arange(tokens.shape[-1])
    tail = jnp.where(position == length, vocab.eos_id, vocab.pad_id)
    return jnp.where(position < length, tokens, tail)


def shift_right(tokens: Output, vocab: Vocabulary) -> Output:
    """The decoder's inputs for these targets: a padding id, then all targets but the last.

    Source: Raffel et al. 2020; t5x and transformers start the decoder so too.

    Example:
      >>> shift_right(jnp.array([7, 8, 1]), Vocabulary(size=10)).tolist()
      [0, 7, 8]
    """
    return jnp.pad(tokens[:-1], (1, 0), constant_values=vocab.pad_id)


def encoder_decoder_example(
    inputs: Output,
    inputs_length: Scalar,
    targets: Int[AnyArray, "S"],
    targets_length: Scalar,
    vocab: Vocabulary,
) -> Example:
    """Ends both sides with EOS, shifts the targets, and weighs all of them.

    Args:
      inputs: Int[T], tokens up to `inputs_length` and anything behind.
      inputs_length: Int[], below T.
      targets: Int[S], tokens up to `targets_length` and anything behind.
      targets_length: Int[], below S; 0 if there is nothing to predict: all weights are 0 then.
      vocab: for EOS and padding.
    """
    inputs, targets = end(inputs, inputs_length, vocab), end(targets, targets_length, vocab)
    real_input = jnp.arange(inputs.shape[-1]) <= inputs_length
    real_target = jnp.arange(targets.shape[-1]) <= targets_length
    weights = (real_target & (targets_length > 0)).astype(jnp.float32)
    return Example(
        encoder_input_tokens=inputs,
        encoder_segment_ids=real_input.astype(jnp.int32),
        decoder_input_tokens=shift_right(targets, vocab),
        decoder_target_tokens=targets,
        decoder_loss_weights=weights,
        decoder_segment_ids=real_target.astype(jnp.int32),
        count=jnp.sum(weights),
    )


def _spans_to_ids(tokens: Tokens, spans: NoiseSpans, ids: Int[AnyArray, "K"], size: int) -> Output:
    before = jnp.cumsum(spans.lengths) - spans.lengths
    at = spans.starts - before + jnp.arange(len(ids))
    return _splice(tokens, _used(at, spans, size), ids, spans.lengths - 1, size)


def _splice(
    tokens: Tokens,
    at: Int[AnyArray, "K"],
    ids: Int[AnyArray, "K"],
    jumps: Int[AnyArray, "K"],
    size: int,
) -> Output:
    """Writes `ids[k]` at `at[k]`; the tokens behind it come from `jumps[k]` further on.

    out[j] = ids[k] where j = at[k], else tokens[j + Σₖ [at[k] < j] · jumps[k]]. Tokens and ids
    stand in one table, and the place to read moves by two steps at every k: into the ids and back.
    The sums are comparisons with K positions, which vectorise; a scatter and a running sum do not.
    """
    table = jnp.concatenate([tokens, ids])
    offset = jnp.cumsum(jumps)
    to_id = tokens.shape[-1] + jnp.arange(len(ids)) - at  # from place to place of its id
    into, back = to_id - (offset - jumps), offset - to_id
    place = jnp.arange(size)[:, None]
    moved = jnp.where(place >= at, into, 0) + jnp.where(place > at, back, 0)
    return _take(table, place[:, 0] + jnp.sum(moved, axis=1))


def _used(at: Int[AnyArray, "K"], spans: NoiseSpans, size: int) -> Int[AnyArray, "K"]:
    """Moves unused slots past the end of the output."""
    return jnp.where(spans.lengths > 0, at, size)


def _take(tokens: Tokens, source: Output) -> Output:
    return tokens[jnp.clip(source, 0, tokens.shape[-1] - 1)]


def _sentinels(spans: NoiseSpans, vocab: Vocabulary) -> Int[AnyArray, "K"]:
    slots = spans.starts.shape[-1]
    lengths.check_sentinels(slots, len(vocab.sentinel_ids))
    return jnp.array(vocab.sentinel_ids[:slots], jnp.int32)
