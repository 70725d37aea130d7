"""Greedy decoding: pure, static shapes, whole batches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxdenoise.arrays import AnyArray, Example, Params
from jaxdenoise.model.model import Model
from jaxdenoise.vocabulary import Vocabulary


def greedy(
    model: Model, params: Params, batch: Example, length: int, vocab: Vocabulary
) -> Int[AnyArray, "B S"]:
    """The likeliest token at each step, given those before, until EOS.

    The decoder is applied to the whole prefix at every step: O(length²) positions, simple and
    exact, for a few short outputs.

    Args:
      model: an encoder-decoder.
      params: of the model.
      batch: the encoder's side of an `Example`.
      length: S, tokens to generate at most.
      vocab: for padding and EOS.

    Returns:
      Int32[B, S]: EOS where the model ended, padding behind.

    Source: the decoding of Raffel et al. 2020, section 3.1.2.
    """
    size = batch.inputs("encoder")[0].shape[0]
    encoded = model.encode(params, batch)
    ones = jnp.ones((size, length), jnp.int32)

    def running(carry: tuple) -> jax.Array:
        step, _, ended = carry
        return (step < length) & ~jnp.all(ended)

    def extend(carry: tuple) -> tuple:
        step, outputs, ended = carry
        inputs = jnp.pad(outputs[:, :-1], ((0, 0), (1, 0)), constant_values=vocab.pad_id)
        example = dataclasses.replace(
            batch, decoder_input_tokens=inputs, decoder_segment_ids=ones, decoder_positions=None
        )
        logits = model.decode(params, encoded, example)[:, step]
        allowed = jnp.where(jnp.arange(logits.shape[-1]) < vocab.size, logits, -jnp.inf)
        token = jnp.where(ended, vocab.pad_id, jnp.argmax(allowed, axis=-1).astype(jnp.int32))
        return step + 1, outputs.at[:, step].set(token), ended | (token == vocab.eos_id)

    start = (0, jnp.full((size, length), vocab.pad_id, jnp.int32), jnp.zeros(size, bool))
    return jax.lax.while_loop(running, extend, start)[1]
