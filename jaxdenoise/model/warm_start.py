"""Parameters to start from, made of trained ones of another architecture."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdenoise.arrays import AnyArray, Params
from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import require
from jaxdenoise.model.positions import relative_bucket


def both_stacks(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """An encoder-decoder whose stacks both begin as the one stack of another model.

    Attention on the encoder's output begins as self-attention. A table of relative biases is read
    again by distance, since an encoder parts its buckets between what is before and behind.

    Args:
      config: of an encoder alone or a decoder alone.
      params: of such a model.

    Returns:
      The shape of the encoder-decoder, and its parameters.

    Raises:
      UserError: the model is an encoder-decoder.

    Source: Zhang et al. 2025, "Encoder-Decoder Gemma", section 3.
    """
    require(
        config.architecture != "encoder_decoder",
        "model.architecture is encoder_decoder, which has both stacks; give an encoder or a "
        "decoder alone",
    )
    source = config.architecture
    count, stack = config.layers(source), params[source]
    layers = stack["layers"]
    crossing = {
        "cross_attention": layers["self_attention"],
        "cross_attention_norm": layers["self_attention_norm"],
    }
    stacks = {"encoder": stack, "decoder": {**stack, "layers": {**layers, **crossing}}}
    if config.positions == "relative":
        for name in stacks.keys() - {source}:
            table = _by_distance(stack["relative_bias"]["table"], config, name == "encoder")
            stacks[name] = {**stacks[name], "relative_bias": {"table": table}}
    grown = dataclasses.replace(
        config,
        architecture="encoder_decoder",
        encoder_layers=count,
        decoder_layers=count,
        shared_embedding=True,
    )
    return grown, {**{k: v for k, v in params.items() if k != source}, **stacks}


def _by_distance(
    table: Float[AnyArray, "buckets heads"], config: ModelConfig, bidirectional: bool
) -> Float[AnyArray, "buckets heads"]:
    """The table of the other kind of stack: each bucket as its nearest distance was.

    What is behind a position a decoder has never seen; to an encoder it begins as what is before.
    """
    sizes = {"buckets": config.relative_buckets, "max_distance": config.relative_max_distance}
    reach = np.arange(config.relative_max_distance, -1, -1)  # the nearest is written last
    source = np.zeros(config.relative_buckets, np.int32)
    for distance in (reach, -reach) if bidirectional else (-reach,):
        bucket = relative_bucket(distance, bidirectional=bidirectional, **sizes)
        # Before or behind: the past is what both kinds of stack know.
        was = relative_bucket(-np.abs(distance), bidirectional=not bidirectional, **sizes)
        source[np.asarray(bucket)] = np.asarray(was)
    return jnp.asarray(table)[source]
