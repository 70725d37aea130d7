"""Decoding: pure, jitted with static shapes, whole batches, keys and values kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from jaxdenoise.arrays import AnyArray, Example, Key, Params, Visibility
from jaxdenoise.errors import require
from jaxdenoise.model.model import Model
from jaxdenoise.model.streams import Sight
from jaxdenoise.model.transformer import layer_by_layer
from jaxdenoise.vocabulary import Vocabulary

Tokens = Int[AnyArray, "B S"]
Logits = Float[AnyArray, "B V"]

STRETCH = 32
"""Tokens that a cache has room for at first; then twice as many, and so on."""
BLOCK = 128
"""Logits whose largest is found at once."""


@struct.dataclass
class Cache:
    """What a decoder keeps of the positions before.

    Attributes:
      layers: keys and values of each layer, [B, …].
      slots: [B, C], where positions stand, also those that are not generated yet.
      batch: the encoder's side.
      prompt: P, positions that were there before any was generated.
    """

    layers: Any
    slots: Sight
    batch: Example
    prompt: int = struct.field(pytree_node=False)

    @property
    def room(self) -> int:
        """Tokens that can be generated: the last has no slot, since none comes behind it."""
        return self.slots.size - self.prompt + 1


def greedy(
    model: Model, params: Params, batch: Example, length: int, vocab: Vocabulary
) -> Int[AnyArray, "B S"]:
    """The likeliest token at each step, given those before, until EOS.

    Args:
      model: an encoder-decoder, or a decoder alone.
      params: of the model.
      batch: the encoder's side of an `Example`; for a decoder alone its inputs, which are gone on
        with: one document of at least a token in each row, padding behind.
      length: S, tokens to generate at most.
      vocab: for padding and EOS.

    Returns:
      Int32[B, S]: EOS where the model ended, padding behind.

    Raises:
      UserError: more positions than the model has learned.

    Source: the decoding of Raffel et al. 2020, section 3.1.2.
    """
    return _generate(model, params, batch, length, vocab, lambda _, logits: _first_largest(logits))


def _first_largest(logits: Logits) -> Int[AnyArray, "B"]:
    """Where the largest logit is, the first of equals: `jnp.argmax`, a tenth of its time on a CPU.

    The largest of a block needs no places, which is many numbers at once; places are looked for in
    one block.
    """
    rows, blocks = logits.shape[0], -(-logits.shape[1] // BLOCK)
    more = [(0, 0), (0, blocks * BLOCK - logits.shape[1])]
    parts = jnp.pad(logits, more, constant_values=-jnp.inf).reshape(rows, blocks, BLOCK)
    block = jnp.argmax(jnp.max(parts, axis=-1), axis=-1)
    part = jnp.take_along_axis(parts, block[:, None, None], axis=1)[:, 0]
    return (block * BLOCK + jnp.argmax(part, axis=-1)).astype(jnp.int32)


def sample(
    keys: Key,
    model: Model,
    params: Params,
    batch: Example,
    length: int,
    vocab: Vocabulary,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[AnyArray, "B S"]:
    """A token drawn at each step, given those before, until EOS.

    Args:
      keys: Key[B], of the rows; a row's tokens depend on its own key alone.
      model: as in `greedy`, like `params`, `batch`, `length` and `vocab`.
      params: of the model.
      batch: what is gone on with.
      length: S, tokens to generate at most.
      vocab: for padding and EOS.
      temperature: logits are divided by it.
      top_k: draw among the likeliest so many; None for all.
      top_p: draw among the likeliest that have this probability together, at least one; None for
        all. Of `top_k`'s, where both are given.

    Returns:
      Int32[B, S], as `greedy`.

    Raises:
      UserError: an option out of range, or more positions than the model has learned.

    Source: Fan et al. 2018, section 5.4 (top-k); Holtzman et al. 2020, section 3.1 (top-p).
    """
    require(temperature > 0, f"temperature is {temperature}; it must be above 0 (greedy is 0's)")
    require(top_k is None or top_k >= 1, f"top_k is {top_k}; it must be at least 1, or None")
    require(top_p is None or 0 < top_p <= 1, f"top_p is {top_p}; it must be in (0, 1], or None")

    def draw(step: AnyArray, logits: Logits) -> Int[AnyArray, "B"]:
        of_step = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        kept = _likely(logits / temperature, top_k, top_p)
        return jax.vmap(jax.random.categorical)(of_step, kept).astype(jnp.int32)

    return _generate(model, params, batch, length, vocab, draw)


def _likely(logits: Logits, top_k: int | None, top_p: float | None) -> Logits:
    """The logits, −∞ where a token is not among the likeliest."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if top_p is not None and top_p < 1:
        falling = -jnp.sort(-logits, axis=-1)
        shares = jax.nn.softmax(falling, axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares
        least = jnp.min(jnp.where(before < top_p, falling, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


class _Running(NamedTuple):
    step: AnyArray  # tokens written
    outputs: Tokens
    ended: AnyArray
    cache: Cache


def _generate(
    model: Model,
    params: Params,
    batch: Example,
    length: int,
    vocab: Vocabulary,
    choose: Callable[[AnyArray, Logits], Int[AnyArray, "B"]],
) -> Tokens:
    """Writes what `choose` takes, of the logits of each step, until all rows have ended."""
    params = by_layer(params)
    hidden, cache = begin(model, params, batch, length, vocab, STRETCH)
    size, project = hidden.shape[0], model.projection(params)

    def write(step: AnyArray, hidden: AnyArray, outputs: Tokens, ended: AnyArray) -> Any:
        token = choose(step, allowed(project(hidden), vocab))
        token = jnp.where(ended, vocab.pad_id, token)
        return jnp.asarray(outputs).at[:, step].set(token), ended | (token == vocab.eos_id)

    def running(now: _Running) -> AnyArray:
        return (now.step < length) & ~jnp.all(now.ended)

    def go_on(now: _Running) -> _Running:
        last = now.outputs[:, now.step - 1]
        hidden, cache = extend(model, params, now.cache, last, now.step - 1)
        outputs, ended = write(now.step, hidden, now.outputs, now.ended)
        return _Running(now.step + 1, outputs, ended, cache)

    blank = jnp.full((size, length), vocab.pad_id, jnp.int32)
    first, ended = write(jnp.int32(0), hidden, blank, jnp.zeros(size, bool))
    start = _Running(jnp.int32(1), first, ended, cache)
    return in_stretches(running, go_on, start, length).outputs


def in_stretches(running: Callable, go_on: Callable, now: Any, length: int) -> Any:
    """`jax.lax.while_loop` with a cache that grows: a slot costs the same, empty or not.

    Args:
      running: whether a state is gone on from.
      go_on: the next state.
      now: the state with `step`, tokens written, and `cache`.
      length: tokens to generate at most.
    """
    while (room := now.cache.room) < length:
        now = jax.lax.while_loop(lambda at, n=room: running(at) & (at.step < n), go_on, now)
        now = now._replace(cache=_grown(now.cache, min(room, length - room)))
    return jax.lax.while_loop(running, go_on, now)


def _grown(cache: Cache, number: int) -> Cache:
    """The cache with so many more slots."""
    size = cache.slots.size
    ahead = _ahead(_behind(cache.slots), size, number)

    def grow(path: Any, x: jax.Array) -> jax.Array:
        of_memory = path[-1].key.startswith("memory_")
        return x if of_memory else jnp.pad(x, [(0, 0), (0, 0), (0, number), (0, 0)])

    layers = jax.tree_util.tree_map_with_path(grow, cache.layers)
    return dataclasses.replace(cache, layers=layers, slots=_beside(cache.slots, ahead))


def by_layer(params: Params) -> Params:
    """The parameters with those of the decoder's layers apart, a copy.

    A loop over tokens would copy them out of the stacked ones at every step.
    """
    decoder = {**params["decoder"], "layers": layer_by_layer(params["decoder"]["layers"])}
    return {**params, "decoder": decoder}


def allowed(
    logits: Float[AnyArray, "*T V"], vocab: Vocabulary, *, special: bool = True
) -> Float[AnyArray, "*T V"]:
    """The logits, −∞ for rows of the embedding that are no id, or, if not `special`, no text."""
    if special and vocab.size == logits.shape[-1]:
        return logits
    known = np.full(vocab.size, True) if special else ~vocab.is_special
    return jnp.where(np.pad(known, (0, logits.shape[-1] - vocab.size)), logits, -jnp.inf)


def begin(
    model: Model,
    params: Params,
    batch: Example,
    length: int,
    vocab: Vocabulary,
    room: int | None = None,
) -> tuple[Float[AnyArray, "B width"], Cache]:
    """What is projected for the first token that is generated, and what is kept for the next.

    Args:
      model: an encoder-decoder, which begins with the vocabulary's start; or a decoder, with the
        batch's inputs.
      params: of the model.
      batch: as in `greedy`.
      length: tokens that will be generated at most.
      vocab: for padding.
      room: tokens that there is room for at first (see `in_stretches`); None for all.

    Raises:
      UserError: an encoder alone, or more positions than the model has learned.
    """
    kind = model.config.architecture
    require(kind != "encoder", "an encoder alone has no decoder to generate with")
    require(length >= 1, f"length is {length}; it must be at least 1")
    encoded = model.encode(params, batch) if kind == "encoder_decoder" else None
    tokens, sight = _prompt(model, batch, vocab)
    size = tokens.shape[1]
    _check_positions(model, size + length - 1)
    ahead = _ahead(_behind(sight), size, min(length, room or length) - 1)
    slots = _beside(sight, ahead)
    side = Example(**{f"encoder_{k}": v for k, v in batch.fields("encoder").items()})
    hidden, layers = model.decode_on(params, tokens, sight, slots, 0, side, encoded)
    last = jnp.sum(sight.segment_ids > 0, axis=1) - 1
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return hidden, Cache(layers, slots, side, size)


def extend(
    model: Model, params: Params, cache: Cache, tokens: Int[AnyArray, "B"], step: AnyArray
) -> tuple[Float[AnyArray, "B width"], Cache]:
    """What is projected for the token behind these, which were generated as number `step`."""
    slots, slot = cache.slots, cache.prompt + step
    sight = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1, axis=1), slots)
    hidden, layers = model.decode_on(
        params, tokens[:, None], sight, slots, slot, cache.batch, None, cache.layers
    )
    return hidden[:, 0], dataclasses.replace(cache, layers=layers)


def _prompt(model: Model, batch: Example, vocab: Vocabulary) -> tuple[Tokens, Sight]:
    """What the decoder has read before it generates: of an encoder-decoder, its start alone."""
    if model.config.architecture == "encoder_decoder":
        size = batch.inputs("encoder")[0].shape[0]
        nothing = jnp.zeros((size, 1), jnp.int32)
        visibility = Visibility(nothing, nothing)
        return nothing + vocab.start_id, Sight(nothing + 1, nothing, visibility)
    tokens, segment_ids, positions = batch.inputs("decoder")
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    visibility = batch.visibility("decoder")
    visibility = Visibility(places, places) if visibility is None else visibility
    require(visibility.groups is None, "positions in groups cannot be generated one by one")
    return tokens, Sight(segment_ids, places if positions is None else positions, visibility)


def _behind(sight: Sight) -> Int[AnyArray, "B 1"]:
    """The position behind the last."""
    real = sight.segment_ids > 0
    return jnp.max(jnp.where(real, sight.positions + 1, 0), axis=1, keepdims=True)


def _beside(*sights: Sight) -> Sight:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *sights)


def _ahead(behind: Int[AnyArray, "B 1"], first: int, number: int) -> Sight:
    """The sight of positions that will be generated: each sees all that stands before it."""
    places = jnp.broadcast_to(jnp.arange(number), (behind.shape[0], number))
    seen = first + places
    return Sight(jnp.ones_like(places), behind + places, Visibility(seen, seen))


def _check_positions(model: Model, longest: int) -> None:
    """Raises `UserError` if there are not as many learned positions."""
    config = model.config
    require(
        config.positions != "learned" or longest <= config.max_positions,
        f"model.max_positions is {config.max_positions}, and {longest} positions would be decoded; "
        "generate fewer tokens, or shorten the prompt",
    )
