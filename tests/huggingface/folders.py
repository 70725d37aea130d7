"""Small models of every family, and folders of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.config import ModelConfig
from jaxdenoise.huggingface.pretrained import write_pretrained
from jaxdenoise.model.model import Model
from jaxdenoise.presets import BART, POST_NORM, T5_1_0
from jaxdenoise.tokenizer import train_tokenizer

TEXTS = ["Return the sum of the array.", "Return the product of the arrays.", "naïve façade ☃"] * 20
SIZE = {"width": 16, "mlp_width": 24, "heads": 2, "head_width": 8}
SIZE |= {"encoder_layers": 2, "decoder_layers": 1}
BERT = {**POST_NORM, "architecture": "encoder", "norm_epsilon": 1e-12, "token_types": 2}
BERT |= {"prediction_head": True, "prediction_bias": True}
SMALL = {
    "t5": ModelConfig(**SIZE, **T5_1_0),
    "bart": ModelConfig(**SIZE, **{**BART, "max_positions": 32, "prediction_bias": True}),
    "bert": ModelConfig(**SIZE, **BERT, max_positions=32),
}


@functools.cache
def params_of(family, rows=128):
    """A shape with that many rows, its model, and parameters of which none is 0."""
    config = SMALL[family]
    model = Model(config, rows)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), shapes)
    return config, model, params


@functools.cache
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary_size=400, sentinels=20)


def folder_of(family, path, *, rows=400, **options):
    """Writes the small model of a family; gives what was written."""
    config, _, params = params_of(family, rows)
    write_pretrained(path, config, params, tokenizer(), **options)
    return config, params
