"""An encoder-decoder from one stack: what is copied, and what each stack computes at first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.arrays import Example
from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import UserError
from jaxdenoise.model.model import Model
from jaxdenoise.model.positions import relative_bucket
from jaxdenoise.model.warm_start import both_stacks

ROWS = 64
SIZE = {"width": 16, "mlp_width": 24, "heads": 2, "head_width": 8}
SIZE |= {"encoder_layers": 2, "decoder_layers": 3, "relative_buckets": 8}
SIZE |= {"relative_max_distance": 12}
ids = np.random.default_rng(0).integers(2, ROWS, (2, 9)).astype(np.int32)
ONES = np.ones_like(ids)


def made(architecture, **fields):
    model = Model(ModelConfig(architecture=architecture, **SIZE, **fields), ROWS)
    return model, model.init(jax.random.key(0))


@pytest.mark.parametrize(
    "positions",
    ["relative", *(pytest.param(name, marks=pytest.mark.slow) for name in ("learned", "rotary"))],
)
@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_the_parameters_are_those_of_an_encoder_decoder(architecture, positions):
    idle = {"shared_embedding": False}  # where there is one stack it says nothing
    model, params = made(architecture, positions=positions, tied_embeddings=True, **idle)
    config, grown = both_stacks(model.config, params)
    assert config.encoder_layers == config.decoder_layers == model.config.layers(architecture)
    assert config.architecture == "encoder_decoder"
    shapes = jax.eval_shape(Model(config, ROWS).init, jax.random.key(0))
    assert jax.tree.structure(grown) == jax.tree.structure(shapes)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, grown, shapes))
    decoder, source = grown["decoder"]["layers"], params[architecture]["layers"]
    for name in ("self_attention", "cross_attention"):
        jax.tree.map(np.testing.assert_array_equal, decoder[name], source["self_attention"])


@pytest.mark.slow
def test_the_encoder_computes_what_it_did():
    model, params = made("encoder")
    config, grown = both_stacks(model.config, params)
    example = Example(encoder_input_tokens=ids, encoder_segment_ids=ONES)
    before = model.encode(params, example)
    np.testing.assert_array_equal(Model(config, ROWS).encode(grown, example), before)


@pytest.mark.slow
def test_the_decoder_computes_what_it_did_where_nothing_comes_from_the_encoder():
    model, params = made("decoder")
    config, grown = both_stacks(model.config, params)
    layers = grown["decoder"]["layers"]
    layers["cross_attention"] = jax.tree.map(jnp.zeros_like, layers["cross_attention"])
    own = {"decoder_input_tokens": ids, "decoder_segment_ids": ONES}
    both = Example(**own, encoder_input_tokens=ids, encoder_segment_ids=ONES)
    after = Model(config, ROWS).apply(grown, both)
    np.testing.assert_allclose(after, model.apply(params, Example(**own)), atol=1e-5)


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_a_relative_bias_is_read_again_by_distance(architecture):
    model, params = made(architecture)
    _, grown = both_stacks(model.config, params)
    sizes = {"buckets": 8, "max_distance": 12}
    tables = {name: grown[name]["relative_bias"]["table"] for name in ("encoder", "decoder")}
    met = set()
    for distance in map(jnp.array, range(13)):  # the nearest of each bucket is the one that counts
        place = {
            name: int(relative_bucket(-distance, bidirectional=name == "encoder", **sizes))
            for name in tables
        }
        new = place["encoder" if architecture == "decoder" else "decoder"]
        if new not in met:
            met.add(new)
            encoder, decoder = (tables[name][place[name]] for name in ("encoder", "decoder"))
            np.testing.assert_array_equal(encoder, decoder)
    assert len(met) == (4 if architecture == "decoder" else 8)
    if architecture == "decoder":  # what is behind begins as what is as far before
        ahead = tables["encoder"][relative_bucket(jnp.array(3), bidirectional=True, **sizes)]
        back = tables["encoder"][relative_bucket(jnp.array(-3), bidirectional=True, **sizes)]
        np.testing.assert_array_equal(ahead, back)


def test_an_encoder_decoder_is_refused():
    model, params = made("encoder_decoder")
    with pytest.raises(UserError, match="has both stacks"):
        both_stacks(model.config, params)
