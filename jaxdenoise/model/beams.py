"""Beam search: pure, jitted with static shapes, whole batches."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdenoise.arrays import AnyArray, Example, Params
from jaxdenoise.errors import require
from jaxdenoise.model.decoding import STRETCH, Cache, allowed, begin, by_layer, extend, in_stretches
from jaxdenoise.model.model import Model
from jaxdenoise.vocabulary import Vocabulary

NONE = -1e9
"""The score of a beam that is not there; finite, so that sums and quotients of it are too."""


class _Beams(NamedTuple):
    """The beams of all rows: K that go on, and the K best that have ended."""

    step: AnyArray
    tokens: Int[AnyArray, "B K S"]
    scores: Float[AnyArray, "B K"]
    ended_tokens: Int[AnyArray, "B K S"]
    ended_scores: Float[AnyArray, "B K"]
    better: Bool[AnyArray, "B"]  # a beam that goes on may yet beat one that has ended
    cache: Cache


def beam_search(
    model: Model,
    params: Params,
    batch: Example,
    length: int,
    vocab: Vocabulary,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    penalty: Literal["bart", "t5"] = "bart",
) -> tuple[Int[AnyArray, "B K S"], Float[AnyArray, "B K"]]:
    """The K likeliest continuations that are found when each step keeps K beams.

    A continuation ends with EOS, or at the last step. Its score is the sum of its tokens' log
    probabilities divided by a penalty of its length n: n^α for BART, ((5 + n) / 6)^α for T5. A row
    is done when no beam that goes on could beat the worst of the K best that have ended.

    Args:
      model: an encoder-decoder, or a decoder alone.
      params: of the model.
      batch: as in `decoding.greedy`.
      length: S, tokens to generate at most.
      vocab: for padding and EOS.
      beams: K.
      length_penalty: α; 0 for none, more for longer answers.
      penalty: whose.

    Returns:
      Int32[B, K, S]: the best first, EOS where a continuation ended, padding behind; and their
      scores, [B, K], −1e9 where fewer have ended.

    Raises:
      UserError: no beams, or more positions than the model has learned.

    Source: Wu et al. 2016, section 7 (T5's penalty); fairseq/search.py and
    fairseq/sequence_generator.py (BART's); transformers' `early_stopping="never"` is the same.
    """
    require(beams >= 1, f"beams is {beams}; it must be at least 1")
    params = by_layer(params)
    hidden, cache = begin(model, params, batch, length, vocab, STRETCH)
    rows, project = hidden.shape[0], model.projection(params)

    def weigh(number: Any) -> Any:
        """The penalty of a length."""
        number = (5 + number) / 6 if penalty == "t5" else number
        return jnp.asarray(number, jnp.float32) ** length_penalty

    def grow(now: _Beams, hidden: Float[AnyArray, "rows width"]) -> tuple[_Beams, AnyArray]:
        """The beams with a token more each, and the beam that each has come from."""
        scores = jax.nn.log_softmax(allowed(project(hidden), vocab)).reshape(rows, beams, -1)
        scores = scores + jnp.asarray(now.scores)[..., None]
        # Twice as many: if the best K all end, as many are left to go on.
        found, place = jax.lax.top_k(scores.reshape(rows, -1), 2 * beams)
        origin, token = place // scores.shape[-1], (place % scores.shape[-1]).astype(jnp.int32)
        tokens = _take(now.tokens, origin).at[:, :, now.step].set(token)
        ends = (token == vocab.eos_id) | (now.step == length - 1)
        counts = ends & (found > NONE / 2) & (jnp.arange(2 * beams) < beams)
        counts &= jnp.asarray(now.better)[:, None]
        ended = jnp.where(counts, found / weigh(now.step + 1), NONE)
        ended_scores, best = jax.lax.top_k(
            jnp.concatenate([now.ended_scores, ended], axis=1), beams
        )
        ended_tokens = _take(jnp.concatenate([now.ended_tokens, tokens], axis=1), best)
        going, best = jax.lax.top_k(jnp.where(ends, NONE, found), beams)
        most = length if length_penalty > 0 else now.step + 1
        better = now.better & (going[:, 0] / weigh(most) > jnp.min(ended_scores, axis=1))
        tokens, origin = _take(tokens, best), jnp.take_along_axis(origin, best, axis=1)
        grown = _Beams(now.step + 1, tokens, going, ended_tokens, ended_scores, better, now.cache)
        return grown, origin

    def go_on(now: _Beams) -> _Beams:
        last = jnp.asarray(now.tokens)[:, :, now.step - 1].reshape(-1)
        hidden, cache = extend(model, params, now.cache, last, now.step - 1)
        now, origin = grow(now._replace(cache=cache), hidden)
        return now._replace(cache=_reordered(now.cache, origin))

    def running(now: _Beams) -> AnyArray:
        return (now.step < length) & jnp.any(now.better)

    hidden, cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), (hidden, cache))
    blank = jnp.full((rows, beams, length), vocab.pad_id, jnp.int32)
    nothing = jnp.full((rows, beams), NONE)
    alone = nothing.at[:, 0].set(0.0)  # at first all beams are the same one
    start = _Beams(jnp.int32(0), blank, alone, blank, nothing, jnp.ones(rows, bool), cache)
    now = in_stretches(running, go_on, grow(start, hidden)[0], length)
    return now.ended_tokens, now.ended_scores


def _take(values: Int[AnyArray, "B N S"], places: Int[AnyArray, "B M"]) -> jax.Array:
    return jnp.take_along_axis(jnp.asarray(values), places[..., None], axis=1)


def _reordered(cache: Cache, origin: Int[AnyArray, "B K"]) -> Cache:
    """Each beam with what was kept of the one that it comes from.

    What is of the encoder's output, or of the prompt's places, is alike in all beams of a row.
    """
    rows, beams = origin.shape
    places = (jnp.arange(rows)[:, None] * beams + origin).reshape(-1)

    def reorder(path: Any, x: jax.Array) -> jax.Array:
        return x if path[-1].key.startswith("memory_") else x[places]

    return dataclasses.replace(
        cache, layers=jax.tree_util.tree_map_with_path(reorder, cache.layers)
    )
