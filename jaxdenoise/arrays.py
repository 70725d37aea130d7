"""Array types, and the PyTrees that travel between the rooms.

Axes: L raw tokens of a row, B rows of a batch, K noise spans, T positions of a stack, V ids.
Everything is written for one example; a batch is the same PyTree with B in front, by `jax.vmap`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, UInt

from jaxdenoise import keys
from jaxdenoise.errors import UserError

AnyArray = jax.Array | np.ndarray
Key = jax.Array
"""A key of `jax.random.key`; its dtype is checked by JAX itself."""
Scalar = int | np.integer | Int[AnyArray, ""]
Tokens = Int[AnyArray, "L"]
NoiseMask = Bool[AnyArray, "L"]
"""True where a token is corrupted."""
Params = Any
"""A PyTree of parameters."""


def wide(dtype: Any) -> jnp.dtype:
    """The dtype of sums, softmax and loss: float32, or float64 where that comes in."""
    return jnp.promote_types(dtype, jnp.float32)


UNUSED = 2**30
"""Where a span starts that is none: past the end of any row."""


@struct.dataclass
class NoiseSpans:
    """Where the noise is, as K spans in order, none touching the next.

    Rewriting whole spans needs only their starts and lengths: O(K) numbers instead of a mask of
    L, which is what makes span corruption fast. `spans.to_spans` and `spans.to_mask` convert.

    Attributes:
      starts: first token of each span; `UNUSED` in slots that hold none.
      lengths: tokens in each span; 0 in unused slots. A span in use may have 0 too: a place between
        two tokens.
    """

    starts: Int[AnyArray, "*B K"]
    lengths: Int[AnyArray, "*B K"]

    @property
    def noise(self) -> Int[AnyArray, "*B"]:
        """N, the number of noise tokens."""
        return self.lengths.sum(axis=-1)

    @property
    def used(self) -> Int[AnyArray, "*B"]:
        """The number of spans, of the K slots."""
        return (self.starts < UNUSED).sum(axis=-1)

    def append(self, place: Scalar) -> NoiseSpans:
        """One span of length 0 more, at `place`, behind all others; one example's only."""
        slots = jnp.arange(self.starts.shape[-1] + 1)
        starts = jnp.where(slots == self.used, place, jnp.append(self.starts, UNUSED))
        return NoiseSpans(starts.astype(jnp.int32), jnp.append(self.lengths, 0))


@struct.dataclass
class Visibility:
    """Integers of each position that decide which keys a query sees in its own segment.

    Key k is seen from query q when visible_at[k] <= sees_until[q], or when both are in one group.
    This covers causal, prefix, bidirectional and block-causal attention, in packed rows too,
    without a stored [T, T] mask.

    Attributes:
      visible_at: a key is seen by queries whose `sees_until` is at least this.
      sees_until: see `visible_at`.
      groups: positions that see each other whatever the others say; None for no groups.
    """

    visible_at: Int[AnyArray, "*B T"]
    sees_until: Int[AnyArray, "*B T"]
    groups: Int[AnyArray, "*B T"] | None = None

    @classmethod
    def bidirectional(cls, size: int) -> Visibility:
        """Every position sees all of its segment."""
        nowhere = jnp.zeros(size, jnp.int32)
        return cls(nowhere, nowhere)

    @classmethod
    def causal(cls, size: int) -> Visibility:
        """A position sees itself and what stands before it."""
        place = jnp.arange(size)
        return cls(place, place)

    @classmethod
    def prefix(cls, size: int, length: Scalar) -> Visibility:
        """Causal, but the first `length` positions see each other."""
        place = jnp.arange(size)
        return cls(place, jnp.maximum(place, length - 1))


STACK_FIELDS = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
STACK_FIELDS += ("visibility", "selected")


@struct.dataclass
class Example:
    """What a model is trained on: per stack inputs, targets and weights, where the stack exists.

    Segment ids are 1 for tokens and 0 for padding (2, 3, … for further documents in a packed
    row). Positions are None where they simply count up. Visibility is None where the stack's own
    holds: an encoder is bidirectional, a decoder causal.

    `*_selected` are the places of the positions that are predicted, as many as a row can have at
    most, so that the model projects those alone on the vocabulary; None selects all. A target
    elsewhere is lost, and counted: `unselected`. See `part_places` for slots to spare.

    `count` is what the example divides by when a loss is normalised by it: often, but not always,
    the number of targets.
    """

    encoder_input_tokens: Int[AnyArray, "*B T"] | None = None
    encoder_target_tokens: Int[AnyArray, "*B T"] | None = None
    encoder_loss_weights: Float[AnyArray, "*B T"] | None = None
    encoder_segment_ids: Int[AnyArray, "*B T"] | None = None
    encoder_positions: Int[AnyArray, "*B T"] | None = None
    encoder_visibility: Visibility | None = None
    encoder_selected: Int[AnyArray, "*B P"] | None = None
    decoder_input_tokens: Int[AnyArray, "*B S"] | None = None
    decoder_target_tokens: Int[AnyArray, "*B S"] | None = None
    decoder_loss_weights: Float[AnyArray, "*B S"] | None = None
    decoder_segment_ids: Int[AnyArray, "*B S"] | None = None
    decoder_positions: Int[AnyArray, "*B S"] | None = None
    decoder_visibility: Visibility | None = None
    decoder_selected: Int[AnyArray, "*B P"] | None = None
    count: Float[AnyArray, "*B"] | None = None

    def inputs(self, stack: str) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        """Input tokens, segment ids and positions of a stack, "encoder" or "decoder"."""
        fields = self.fields(stack)
        tokens, segment_ids = fields["input_tokens"], fields["segment_ids"]
        if tokens is None or segment_ids is None:
            raise UserError(f"the example has no {stack} inputs")
        return tokens, segment_ids, fields["positions"]

    def targets(self, stack: str) -> tuple[AnyArray, AnyArray]:
        """Target tokens and loss weights of a stack."""
        fields = self.fields(stack)
        tokens, weights = fields["target_tokens"], fields["loss_weights"]
        if tokens is None or weights is None:
            raise UserError(f"the example has no {stack} targets")
        return tokens, weights

    @property
    def architecture(self) -> str:
        """What it is for: an encoder_decoder, an encoder or a decoder."""
        if self.decoder_input_tokens is None:
            return "encoder"
        return "decoder" if self.encoder_input_tokens is None else "encoder_decoder"

    def visibility(self, stack: str) -> Visibility | None:
        """Who sees whom in a stack; None for what holds there by itself."""
        return self.fields(stack)["visibility"]

    def places(self, stack: str) -> Int[AnyArray, "*B P"] | None:
        """Where the selected positions stand, each once and in order; None if all are selected."""
        selected = self.fields(stack)["selected"]
        return None if selected is None else part_places(selected, self.size(stack))[0]

    def selected_targets(self, stack: str) -> tuple[AnyArray, AnyArray]:
        """Target tokens and loss weights of the selected positions, or of all."""
        tokens, weights = self.targets(stack)
        places = self.places(stack)
        if places is None:
            return tokens, weights
        take = functools.partial(jnp.take_along_axis, indices=places, axis=-1)
        return take(jnp.asarray(tokens)), take(jnp.asarray(weights))

    def unselected(self, stack: str) -> Float[AnyArray, "*B"]:
        """Targets that are lost because the selection has no room for them."""
        counts = [
            jnp.sum(jnp.asarray(weights) != 0, axis=-1, dtype=jnp.float32)
            for weights in (self.targets(stack)[1], self.selected_targets(stack)[1])
        ]
        return counts[0] - counts[1]

    def size(self, stack: str) -> int:
        """T, the positions of a stack."""
        return self.inputs(stack)[0].shape[-1]

    def fields(self, stack: str) -> dict[str, Any]:
        """All that belongs to a stack, by name without the stack's."""
        return {name: getattr(self, f"{stack}_{name}") for name in STACK_FIELDS}


def part_places(
    selected: Int[AnyArray, "*B P"], size: int
) -> tuple[Int[AnyArray, "*B P"], Int[AnyArray, "*B C"]]:
    """The places that are selected, and the C = size − P others, each in order.

    A place given twice counts once and one outside [0, size) not at all, so that a selection may be
    filled up as `jnp.nonzero` does it; other places then fill up the first part.

    Example:
      >>> [part.tolist() for part in part_places(jnp.array([4, 2, 2]), 5)]
      [[2, 4, 0], [1, 3]]
    """

    def one_row(selected: AnyArray) -> tuple[AnyArray, AnyArray]:
        inside = (selected >= 0) & (selected < size)
        chosen = jnp.zeros(size, bool).at[jnp.where(inside, selected, size)].set(True, mode="drop")
        order = jnp.argsort(~chosen, stable=True)
        return order[: selected.shape[-1]], order[selected.shape[-1] :]

    return jnp.vectorize(one_row, signature="(p)->(q),(r)")(jnp.asarray(selected))


@struct.dataclass
class Pieces:
    """What packed rows are made of: pieces of documents, one behind another.

    Attributes:
      lengths: raw tokens of each piece; 0 in slots that hold none, which are the last.
      example_ids: which piece of the corpus it is.
      places: how many pieces the run has had before it.
      raw_length: L, the most tokens of a piece.
      sizes: positions of the encoder and the decoder in a packed row.
    """

    lengths: Int[AnyArray, "B N"]
    example_ids: UInt[AnyArray, "B N"]
    places: UInt[AnyArray, "B N"]
    raw_length: int = struct.field(pytree_node=False)
    sizes: tuple[int, int] = struct.field(pytree_node=False)


@struct.dataclass
class Rows:
    """Plain rows as the host sends them; everything random is derived from these identities.

    Attributes:
      tokens: raw tokens, padded at the end.
      lengths: real tokens of each row.
      example_ids: which row of the corpus it is; with the epoch, the identity of its randomness.
      epochs: how often the row has been seen before; the corpora of a mixture count on from numbers
        of their own.
      places: how many rows the run has had before it; None for the example ids.
      pieces: of packed rows; None where a row is one example.
      seeds: of the experiment, the same for all rows of a run; an array, so that one compiled step
        serves every seed. None for 0.
    """

    tokens: Int[AnyArray, "B L"]
    lengths: Int[AnyArray, "B"]
    example_ids: UInt[AnyArray, "B"]
    epochs: UInt[AnyArray, "B"]
    places: UInt[AnyArray, "B"] | None = None
    pieces: Pieces | None = None
    seeds: UInt[AnyArray, "B"] | None = None

    def unpacked(self) -> Rows:
        """The pieces of packed rows, B · N rows of one piece each; others as they are."""
        pieces = self.pieces
        if pieces is None:
            return self
        lengths = jnp.asarray(pieces.lengths)
        starts = jnp.cumsum(lengths, axis=-1) - lengths
        inside = starts[..., None] + jnp.arange(pieces.raw_length)
        flat = inside.reshape(len(lengths), -1)
        tokens = jnp.take_along_axis(jnp.asarray(self.tokens), flat, axis=-1, mode="clip")
        return Rows(
            tokens=tokens.reshape(-1, pieces.raw_length),
            lengths=lengths.reshape(-1),
            example_ids=pieces.example_ids.reshape(-1),
            epochs=jnp.repeat(jnp.asarray(self.epochs), lengths.shape[-1]),
            places=pieces.places.reshape(-1),
            seeds=None if self.seeds is None else jnp.repeat(self.seeds, lengths.shape[-1]),
        )

    def seeded(self, seed: int) -> Rows:
        """The same rows in a run of this seed."""
        return dataclasses.replace(self, seeds=np.full(len(self.lengths), seed, np.uint32))

    @property
    def keys(self) -> Key:
        """Key[B]: for the corruption of each row."""
        return self.stream("corruption")

    @property
    def uniforms(self) -> Float[AnyArray, "B"]:
        """A number in [0, 1) for each row, spread evenly over the rows that follow each other.

        frac(u₀ + place / φ), in integers, which lose nothing in long runs; u₀ from the seed.
        """
        places = jnp.asarray(self.example_ids if self.places is None else self.places, jnp.uint32)
        first = jax.vmap(lambda seed: jax.random.bits(keys.stream("uniform", seed)))
        return keys.to_uniform(places * np.uint32(keys.GOLDEN) + first(self._seeds))

    def stream(self, name: str) -> Key:
        """Key[B]: for each row's use of the named stream of randomness."""

        def one(seed: AnyArray, epoch: AnyArray, example_id: AnyArray) -> Key:
            return keys.example_key(keys.stream(name, seed), epoch, example_id)

        return jax.vmap(one)(self._seeds, self.epochs, self.example_ids)

    @property
    def _seeds(self) -> UInt[AnyArray, "B"]:
        nothing = jnp.zeros(jnp.shape(self.lengths), jnp.uint32)
        return nothing if self.seeds is None else jnp.asarray(self.seeds)


NEVER = -1e9
"""A logit of what is never predicted; finite, so that nothing becomes NaN."""


@struct.dataclass
class Projection:
    """From hidden states to logits: hidden · scale @ kernel + bias, in float32 as in T5X.

    Attributes:
      kernel: one column for each id.
      bias: one number for each id, or None.
      scale: of the hidden states.
    """

    kernel: Float[AnyArray, "width V"]
    bias: Float[AnyArray, "V"] | None = None
    scale: float = struct.field(pytree_node=False, default=1.0)

    def without(self, ids: tuple[int, ...]) -> Projection:
        """The projection that never predicts these ids: their logits are far below all others."""
        if not ids:
            return self
        size = self.kernel.shape[-1]
        bias = jnp.zeros(size, wide(self.kernel.dtype)) if self.bias is None else self.bias
        bias = jnp.asarray(bias)
        return dataclasses.replace(self, bias=bias.at[jnp.array(ids)].set(NEVER))

    def __call__(self, hidden: Float[AnyArray, "*T width"]) -> Float[AnyArray, "*T V"]:
        """The logits."""
        dtype = wide(hidden.dtype)
        rows = hidden.reshape(-1, hidden.shape[-1]).astype(dtype) * self.scale
        logits = rows @ self.kernel.astype(dtype)
        logits = logits if self.bias is None else logits + self.bias.astype(dtype)
        return logits.reshape(*hidden.shape[:-1], self.kernel.shape[-1])


@struct.dataclass
class LossTerms:
    """Sums that add up over positions, sequences, micro-batches and devices; divided once, last.

    Attributes:
      loss: sum of weight · (loss + z-loss): what is minimised, and what has a gradient.
      z_loss: the part of it that is z-loss, its coefficient included; for looking at.
      correct: number of targets (positions of positive weight) predicted right.
      targets: number of targets.
      weight: sum of the weights.
      count: sum of the examples' counts.
    """

    loss: Float[AnyArray, ""]
    z_loss: Float[AnyArray, ""]
    correct: Float[AnyArray, ""]
    targets: Float[AnyArray, ""]
    weight: Float[AnyArray, ""]
    count: Float[AnyArray, ""]

    def __add__(self, other: LossTerms) -> LossTerms:
        return jax.tree.map(jnp.add, self, other)


@struct.dataclass
class TrainState:
    """All that a run carries from step to step.

    Attributes:
      step: updates made, those counted that were not applied.
      params: of the model.
      opt_state: of the optimizer.
      recent: the last losses, where spikes are told by them.
    """

    step: Int[AnyArray, ""]
    params: Params
    opt_state: Any
    recent: Float[AnyArray, "W"] | None = None
