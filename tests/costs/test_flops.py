"""FLOPs by a model's shape against the products of its traced gradient."""

import jax
import pytest

from jaxdenoise.arrays import Example
from jaxdenoise.config import ModelConfig
from jaxdenoise.costs.flops import Positions, matrix_parameters, model_flops, text_flops
from jaxdenoise.model.model import Model
from tests.costs.counting import (
    DECODER,
    ENCODER,
    IDS,
    PREDICTED,
    ROWS,
    SHAPE,
    batch_of,
    gradient_of,
    traced_flops,
)

VARIATIONS = {
    "t5": {},
    "plain MLP": {"gated": False},
    "grouped queries": {"key_value_heads": 2, "qk_norm": True},
    "merged attention": {"merged_attention": True},
    "local window": {"local_window": 4},
    "prediction head": {"prediction_head": True, "prediction_bias": True, "biases": True},
    "tied": {"tied_embeddings": True, "shared_embedding": False},
    "encoder": {"architecture": "encoder"},
    "decoder": {"architecture": "decoder", "key_value_heads": 1},
}


def traced(config: ModelConfig, batch: Example) -> float:
    gradient, params = gradient_of(config, batch)
    return traced_flops(jax.make_jaxpr(gradient)(params).jaxpr)


def positions_of(architecture: str, predicted: int | None) -> Positions:
    encoder = ENCODER * (architecture != "decoder")
    decoder = DECODER * (architecture != "encoder")
    everything = encoder if architecture == "encoder" else decoder
    return Positions(encoder=encoder, decoder=decoder, predicted=predicted or everything)


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_models_flops_are_the_products_of_its_traced_gradient(name):
    config = ModelConfig(**{**SHAPE, **VARIATIONS[name]})
    batch = batch_of(config.architecture, PREDICTED)
    counted = model_flops(config, IDS, positions_of(config.architecture, PREDICTED))
    assert traced(config, batch) == ROWS * counted.total


def test_all_positions_are_projected_where_none_are_selected():
    config = ModelConfig(**SHAPE)
    counted = model_flops(config, IDS, positions_of("encoder_decoder", None))
    assert traced(config, batch_of("encoder_decoder", None)) == ROWS * counted.total
    assert counted.projection == 6 * DECODER * SHAPE["width"] * IDS


def test_the_relative_bias_adds_the_sum_of_its_gradient():
    config = ModelConfig(**{**SHAPE, "positions": "relative"})
    counted = model_flops(config, IDS, positions_of("encoder_decoder", PREDICTED)).total
    sums = 2 * SHAPE["heads"] * (2 * ENCODER**2 + 3 * DECODER**2)
    assert traced(config, batch_of("encoder_decoder", PREDICTED)) == ROWS * (counted + sums)


def test_remat_is_no_work_of_the_model():
    """By "dots" attention is computed again, and nothing else; by "full" the products too."""
    batch, positions = (
        batch_of("encoder_decoder", PREDICTED),
        positions_of("encoder_decoder", PREDICTED),
    )
    counted = model_flops(ModelConfig(**SHAPE), IDS, positions)
    again = {
        remat: traced(ModelConfig(**SHAPE, remat=remat), batch) - ROWS * counted.total
        for remat in ("none", "dots", "full")
    }
    assert again["none"] == 0
    assert 0 < again["dots"] <= ROWS * counted.attention / 3
    forward = (counted.encoder + counted.decoder + counted.attention) / 3
    assert 0.5 * ROWS * forward < again["full"] <= ROWS * forward


def test_text_counts_parameters_times_tokens():
    config = ModelConfig(**SHAPE)
    text = Positions(encoder=10, decoder=6, predicted=6)
    encoder, decoder = (matrix_parameters(config, stack) for stack in ("encoder", "decoder"))
    inner = SHAPE["heads"] * SHAPE["head_width"]
    attention = 2 * inner * (2 * 10 * 10 + 3 * 6 * (6 + 10))
    products = 10 * encoder + 6 * decoder + 6 * SHAPE["width"] * IDS
    assert text_flops(config, IDS, text) == 6 * (products + attention)


def test_matrices_are_all_parameters_of_the_blocks_but_the_norms():
    config = ModelConfig(**SHAPE)
    params = jax.eval_shape(Model(config, IDS).init, jax.random.key(0))
    for stack in ("encoder", "decoder"):
        leaves = jax.tree.leaves(params[stack]["layers"])
        matrices = sum(leaf.size for leaf in leaves if leaf.ndim == 3)
        assert matrices == matrix_parameters(config, stack)
