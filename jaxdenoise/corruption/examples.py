"""Examples of the three architectures, from inputs, targets and what is predicted.

Unbatched; the caller says how long the real part of each side is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, Example, NoiseMask, Scalar, Tokens, Visibility
from jaxdenoise.errors import require
from jaxdenoise.vocabulary import Vocabulary

Output = Int[AnyArray, "T"]


def encoder(
    inputs: Output,
    targets: Output,
    predicted: NoiseMask | Float[AnyArray, "T"],
    capacity: int | None = None,
    count: Scalar | Float[AnyArray, ""] | None = None,
) -> Example:
    """An encoder that predicts `targets` in their places.

    Args:
      inputs: Int[T].
      targets: Int[T].
      predicted: Bool[T], or Float[T], the weights.
      capacity: the most positions that are predicted; see `select`. None for all positions.
      count: what the example divides by; by default the number of targets.
    """
    weights = predicted.astype(jnp.float32)
    return Example(
        encoder_input_tokens=inputs,
        encoder_target_tokens=targets,
        encoder_loss_weights=weights,
        encoder_selected=None if capacity is None else select(weights > 0, capacity),
        count=None if count is None else jnp.asarray(count, jnp.float32),
    )


def decoder(
    tokens: Output,
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
      tokens: Int[T].
      length: Int[], real tokens; nothing past them is predicted.
      predicted: Bool[T].
      vocab: for padding.
      visibility: of the positions; causal if None.
      capacity: the most tokens that are predicted; see `select`. None for all positions.

    Example:
      >>> predicted = jnp.array([0, 0, 1, 1], bool)
      >>> example = decoder(jnp.arange(7, 11), 3, predicted, Vocabulary(size=20))
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


def encoder_decoder(
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


def full_target(
    inputs: Output, inputs_length: Scalar, tokens: Tokens, length: Scalar, vocab: Vocabulary
) -> Example:
    """An encoder-decoder that writes the whole clean text, EOS included.

    Args:
      inputs: Int[T], corrupted; `room` makes its place for EOS.
      inputs_length: Int[], at most T.
      tokens: Int[L], clean.
      length: Int[], real ones.
      vocab: for EOS and padding.
    """
    return encoder_decoder(room(inputs, vocab), inputs_length, room(tokens, vocab), length, vocab)


def room(tokens: Output, vocab: Vocabulary, more: int = 1) -> Int[AnyArray, "S"]:
    """The tokens with `more` positions of padding behind them, for what ends them."""
    return jnp.pad(tokens, (0, more), constant_values=vocab.pad_id)


def select(predicted: NoiseMask, capacity: int) -> Int[AnyArray, "P"]:
    """Places of the predicted positions, in order, then none until there are `capacity`.

    The model projects these alone on the vocabulary, and under `output_only` gradients trains
    these alone. What does not fit is lost, and counted by the training step.

    Example:
      >>> select(jnp.array([0, 0, 1, 0, 1], bool), 3).tolist()
      [2, 4, 5]
    """
    size = predicted.shape[-1]
    return jnp.flatnonzero(predicted, size=capacity, fill_value=size).astype(jnp.int32)


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


def prepend(example: Example, token: Scalar, vocab: Vocabulary) -> Example:
    """Puts a token in front of what the model reads: a mode token.

    In front of the encoder's inputs where there is an encoder. A lone decoder reads it behind its
    first padding and does not predict it; everything sees it that sees the first token.

    Example:
      >>> lm = decoder(jnp.arange(7, 9), 2, jnp.ones(2, bool), Vocabulary(size=20))
      >>> prepend(lm, 19, Vocabulary(size=20)).decoder_input_tokens.tolist()
      [0, 19, 7]
    """
    stack = "decoder" if example.encoder_input_tokens is None else "encoder"
    tokens, segment_ids, positions = example.inputs(stack)
    tokens = jnp.asarray(tokens)
    visibility, targets = example.visibility(stack), example.fields(stack)["target_tokens"]
    require(positions is None, "a mode token has no place where an objective gives positions")

    def put(first: Scalar, row: AnyArray) -> AnyArray:
        return jnp.concatenate([jnp.asarray(first, row.dtype)[None], row])

    reads = (token, tokens) if stack == "encoder" else (tokens[0], tokens.at[0].set(token))
    inputs = put(*reads)
    changes: dict[str, Any] = {
        "input_tokens": inputs,
        "segment_ids": put(segment_ids[0], segment_ids),
    }
    if targets is not None:
        weights = example.targets(stack)[1]
        changes |= {"target_tokens": put(token, targets), "loss_weights": put(0, weights)}
    if visibility is not None:
        changes["visibility"] = dataclasses.replace(
            visibility,
            visible_at=put(visibility.visible_at[0] - 1, visibility.visible_at),
            sees_until=put(visibility.sees_until[0], visibility.sees_until),
            groups=None
            if visibility.groups is None
            else put(visibility.groups[0], visibility.groups),
        )
    selected = example.fields(stack)["selected"]
    if selected is not None:
        changes["selected"] = selected + 1
    return dataclasses.replace(example, **{f"{stack}_{name}": x for name, x in changes.items()})
