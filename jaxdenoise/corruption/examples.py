"""Examples of the three architectures, from inputs, targets and what is predicted.

Unbatched; the caller says how long the real part of each side is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdenoise.arrays import UNUSED, AnyArray, Example, NoiseMask, Scalar, Tokens, Visibility, wide
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
    weights = predicted.astype(wide(predicted.dtype))
    return Example(
        encoder_input_tokens=inputs,
        encoder_target_tokens=targets,
        encoder_loss_weights=weights,
        encoder_selected=None if capacity is None else select(weights > 0, capacity),
        count=None if count is None else jnp.asarray(count, jnp.float32),
    )


def two_copies(
    noisy: Tokens,
    clean: Tokens,
    length: Scalar,
    weights: Float[AnyArray, "L"] | NoiseMask,
    block_length: int,
    count: Scalar,
) -> Example:
    """An encoder with a noisy and a clean copy of a row, which is denoised block by block.

    A noisy position sees the noisy ones of its block and the clean ones of the blocks before; a
    clean position the clean ones of its block and of those before.

    Args:
      noisy: Int[L].
      clean: Int[L], the targets too.
      length: Int[], real tokens.
      weights: Float[L], of the noisy copy.
      block_length: tokens of a block.
      count: what the example divides by.

    Returns:
      An `Example` of 2L positions.

    Source: Arriola et al. 2025, section 3.2 and appendix B.6.
    """
    size = clean.shape[-1]
    place = jnp.arange(size)
    block, real = place // block_length, (place < length).astype(jnp.int32)
    both = functools.partial(jnp.concatenate, dtype=jnp.int32)
    weights = weights.astype(jnp.float32)
    return Example(
        encoder_input_tokens=both([noisy, clean]),
        encoder_target_tokens=both([clean, clean]),
        encoder_loss_weights=jnp.concatenate([weights, jnp.zeros_like(weights)]),
        encoder_segment_ids=both([real, real]),
        encoder_positions=both([place, place]),
        encoder_visibility=Visibility(
            visible_at=both([jnp.full(size, UNUSED), block]),
            sees_until=both([block - 1, block]),
            groups=both([block, -1 - block]),
        ),
        # The clean copy is read and not predicted.
        encoder_selected=place.astype(jnp.int32),
        count=jnp.asarray(count, jnp.float32),
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

    Position t reads token t − 1, the first one the vocabulary's start, and predicts token t.

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
    """The decoder's inputs for these targets: the vocabulary's start, then all but the last.

    Source: Raffel et al. 2020, where the start is padding; Lewis et al. 2020, where it is EOS.

    Example:
      >>> shift_right(jnp.array([7, 8, 1]), Vocabulary(size=10)).tolist()
      [0, 7, 8]
      >>> shift_right(jnp.array([7, 8, 1]), Vocabulary(size=10, decoder_start_id=1)).tolist()
      [1, 7, 8]
    """
    return jnp.pad(tokens[:-1], (1, 0), constant_values=vocab.start_id)


def choose(which: Scalar, made: Sequence[Example], vocab: Vocabulary) -> Example:
    """One of several examples, by an index that may be traced; padded to their largest shapes.

    Raises:
      UserError: examples of different architectures.
    """
    kinds = {example.architecture for example in made}
    require(len(kinds) == 1, f"examples of different architectures: {', '.join(sorted(kinds))}")
    if len(made) == 1:
        return made[0]
    fields: dict[str, Any] = {"count": _pick(which, [example.count for example in made])}
    for stack in ("encoder", "decoder"):
        own = [example.fields(stack) for example in made]
        if own[0]["input_tokens"] is None:
            continue
        size = max(f["input_tokens"].shape[-1] for f in own)
        for name, fill in _FILLS.items():
            values = [f[name] for f in own]
            if any(value is not None for value in values):
                at_rest = [
                    _default(name, f, stack) if v is None else v
                    for f, v in zip(own, values, strict=True)
                ]
                fill = vocab.pad_id if fill is None else fill
                fields[f"{stack}_{name}"] = _pick(which, [_fit(v, size, fill) for v in at_rest])
        fields |= {
            f"{stack}_{name}": value for name, value in _where(which, own, stack, size).items()
        }
    return Example(**fields)


# What lies past the end of the shorter ones; None for the padding id.
_FILLS = {
    "input_tokens": None,
    "target_tokens": None,
    "loss_weights": 0,
    "segment_ids": 0,
    "positions": 0,
}


def _default(name: str, fields: dict[str, Any], stack: str) -> AnyArray:
    require(name == "positions", f"some examples have {stack}_{name}, others have not")
    return jnp.arange(fields["input_tokens"].shape[-1])


def _where(which: Scalar, own: list[dict[str, Any]], stack: str, size: int) -> dict[str, Any]:
    """Visibility and selection, where any of the examples has its own."""
    found: dict[str, Any] = {}
    if any(f["visibility"] is not None for f in own):
        usual = Visibility.bidirectional if stack == "encoder" else Visibility.causal
        seen = [f["visibility"] or usual(f["input_tokens"].shape[-1]) for f in own]
        require(all(v.groups is None for v in seen), "groups of positions cannot be mixed")
        pairs = [[_fit(getattr(v, n), size, 0) for v in seen] for n in ("visible_at", "sees_until")]
        found["visibility"] = Visibility(*(_pick(which, pair) for pair in pairs))
    selected = [f["selected"] for f in own]
    if all(places is not None for places in selected):
        most = max(places.shape[-1] for places in selected)
        # A place past the end is none, whatever the end.
        kept = [
            jnp.where(p < f["input_tokens"].shape[-1], p, size)
            for f, p in zip(own, selected, strict=True)
        ]
        found["selected"] = _pick(which, [_fit(places, most, size) for places in kept])
    return found


def _fit(row: AnyArray, size: int, fill: int) -> AnyArray:
    return jnp.pad(jnp.asarray(row), (0, size - row.shape[-1]), constant_values=fill)


def _pick(which: Scalar, values: Sequence[Any]) -> AnyArray:
    picked = values[0]
    for number, value in enumerate(values[1:], 1):
        picked = jnp.where(jnp.asarray(which) == number, value, picked)
    return picked


def prepend(example: Example, token: Scalar, vocab: Vocabulary) -> Example:
    """Puts a token in front of what the model reads: a mode token.

    In front of the encoder's inputs where there is an encoder. A lone decoder reads it behind its
    start and does not predict it; everything sees it that sees the first token.

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
