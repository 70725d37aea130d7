"""Several examples in one row: a gather, with segments that keep them apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxdenoise.arrays import AnyArray, Example


def pack(
    pieces: Example, used: Bool[AnyArray, "N"], sizes: tuple[int, int], pad_id: int = 0
) -> Example:
    """Puts N examples one behind another, without the padding between them.

    Segment ids are 1, 2, …, the same in both stacks; positions restart with every piece. Attention
    stays inside a segment, so that every piece gets what it would get alone. What finds no room is
    cut off, and its targets are lost; a plan from `output_lengths` leaves room.

    Args:
      pieces: an `Example` with N in front of every axis.
      used: which of them there are; others leave nothing.
      sizes: positions of the encoder and of the decoder; of a stack that is not there, anything.
      pad_id: what fills the end.

    Returns:
      One unbatched `Example`; its count is the sum of theirs.

    Source: T5X and tensor2tensor pack so ("segmentation" and "position" features).

    Example:
      >>> two = Example(
      ...     encoder_input_tokens=jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]]),
      ...     encoder_segment_ids=jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
      ...     count=jnp.ones(2),
      ... )
      >>> row = pack(two, jnp.ones(2, bool), (6, 0))
      >>> row.encoder_input_tokens.tolist(), row.encoder_segment_ids.tolist()
      ([5, 6, 7, 8, 9, 0], [1, 1, 1, 2, 2, 0])
      >>> row.encoder_positions.tolist()
      [0, 1, 2, 0, 1, 0]
    """
    fields: dict[str, Any] = {}
    for stack, size in zip(("encoder", "decoder"), sizes, strict=True):
        own = pieces.fields(stack)
        if own["input_tokens"] is not None:
            packed = _pack_stack(own, used, size, pad_id)
            fields |= {f"{stack}_{name}": value for name, value in packed.items()}
    counts = jnp.asarray(pieces.count)
    return Example(**fields, count=jnp.sum(jnp.where(used, counts, 0)))


def _pack_stack(own: dict[str, Any], used: AnyArray, size: int, pad_id: int) -> dict[str, Any]:
    number, length = own["input_tokens"].shape
    real = ((own["segment_ids"] > 0) & used[:, None]).reshape(-1)
    source = jnp.flatnonzero(real, size=size, fill_value=real.size)  # place by place
    inside = source < real.size

    def gather(values: AnyArray, fill: float) -> AnyArray:
        flat = jnp.asarray(values).reshape(-1)
        return jnp.where(inside, jnp.take(flat, source, mode="clip"), fill)

    positions = own["positions"]
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(length), (number, length))
    packed: dict[str, Any] = {
        "input_tokens": gather(own["input_tokens"], pad_id),
        "segment_ids": jnp.where(inside, source // length + 1, 0),
        "positions": gather(positions, 0),
    }
    for name, fill in (("target_tokens", pad_id), ("loss_weights", 0)):
        if own[name] is not None:
            packed[name] = gather(own[name], fill)
    if own["visibility"] is not None:
        seen = own["visibility"]
        present = {
            f.name: gather(value, 0)
            for f in dataclasses.fields(seen)
            if (value := getattr(seen, f.name)) is not None
        }
        packed["visibility"] = type(seen)(**present)
    if own["selected"] is not None:
        packed["selected"] = _selected(own["selected"], real, length, size)
    return packed


def _selected(
    selected: Int[AnyArray, "N P"], real: Bool[AnyArray, "M"], length: int, size: int
) -> Int[AnyArray, "Q"]:
    """Where the selected places went.

    A row has room for as large a share of its positions as a piece has, and for one position more
    of every piece, since each may round its number up.
    """
    number, most = selected.shape
    first = jnp.arange(number)[:, None] * length
    flat = jnp.where((selected >= 0) & (selected < length), first + selected, real.size)
    chosen = jnp.zeros(real.size, bool).at[flat.reshape(-1)].set(True, mode="drop") & real
    arrived = jnp.cumsum(real) - 1
    capacity = min(size, -(-size * most // length) + number)
    which = jnp.flatnonzero(chosen, size=capacity, fill_value=real.size)
    place = jnp.take(arrived, which, mode="clip")
    return jnp.where((which < real.size) & (place < size), place, size)
