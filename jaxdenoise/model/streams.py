"""The positions of a stack, in one or two streams, and what they see.

The first stream is live: it is trained. Under `output_only` gradients a second one holds the
context, whose inputs and parameters are stopped (`transformer` says when).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, Visibility

Streams = tuple[Float[AnyArray, "_ width"], ...]
"""Hidden states [T, width] of each stream."""


@struct.dataclass
class Sight:
    """Where the positions of a stream stand and what they see; see `arrays.Visibility`.

    Attributes:
      segment_ids: 0 for padding, 1, 2, … for documents.
      positions: in the document.
      visibility: inside a segment.
      counted: the positions are simply 0, 1, 2, ….
    """

    segment_ids: Int[AnyArray, "T"]
    positions: Int[AnyArray, "T"]
    visibility: Visibility
    counted: bool = struct.field(pytree_node=False, default=False)

    @property
    def size(self) -> int:
        """T."""
        return self.segment_ids.shape[-1]

    def take(self, places: Int[AnyArray, "P"]) -> Sight:
        """The sight of these places alone."""
        return jax.tree.map(lambda x: x[places], dataclasses.replace(self, counted=False))


@struct.dataclass
class Slots:
    """The slots in which a decoder that goes on by itself keeps keys and values.

    Attributes:
      sight: of all slots, also of those that are still empty and not seen.
      first: where the first of the positions that are computed now goes.
    """

    sight: Sight
    first: Int[AnyArray, ""]


@struct.dataclass
class Surroundings:
    """What the attention of every layer of a stack shares.

    Attributes:
      sights: of the streams, the live one first.
      biases: on the logits of each stream's queries with all streams' keys; None without.
      live: True for the live stream's positions whose keys and values have a gradient; None for
        all of them.
      memory: the encoder's output, where there is one.
      memory_sight: its positions.
      slots: where keys and values are kept for positions to come; None where all are there at once.
    """

    sights: tuple[Sight, ...]
    biases: tuple[Float[AnyArray, "H Tq Tk"] | None, ...] = ()
    live: Bool[AnyArray, "T"] | None = None
    memory: Float[AnyArray, "Tk width"] | None = None
    memory_sight: Sight | None = None
    slots: Slots | None = None


@struct.dataclass
class Reach:
    """How far one layer sees: `window` positions around each, rotary wavelengths from `base`."""

    window: Int[AnyArray, "*layers"] | None
    base: Float[AnyArray, "*layers"]


def seen_by_all(memory: Sight) -> Sight:
    """The encoder's positions, each seen from all queries of its segment."""
    always = jnp.full(memory.size, jnp.iinfo(jnp.int32).min, jnp.int32)
    return dataclasses.replace(memory, visibility=Visibility(always, always))


def continued(sight: Sight, memory: Sight) -> Sight:
    """Positions that count on from the end of the encoder's segment of the same number."""
    same = sight.segment_ids[:, None] == memory.segment_ids
    ends = jnp.max(jnp.where(same, memory.positions + 1, 0), axis=1)
    return dataclasses.replace(sight, positions=sight.positions + ends, counted=False)
