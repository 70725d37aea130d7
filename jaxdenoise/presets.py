"""Models of published shapes, by name: `--model bert_base --model.width 64`. No JAX in here.

A preset is only a way to fill the fields of a `ModelConfig`; no run stores its name. Its parameters
are counted with the published vocabulary; a run has its own tokenizer's, padded to a multiple of
128 by `build_model`. Dropout is 0. `initial_scale` is theirs, for a plain normal: BERT truncates
it, ModernBERT too, and makes it smaller where a sublayer ends.

What differs from the published models, counted against Transformers 5.23:

T5          nothing; but Transformers ties T5 1.1's projection, which has parameters of its own.
BART        nothing.
BERT        no pooler, and every token is of the first type. GELU is exact, as in Transformers;
            Google's own code has the approximation with tanh.
ModernBERT  every norm of ours has a bias, and the first block norms before attention; there none
            has, and it does not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxdenoise.config import ModelConfig
from jaxdenoise.registry import Registry

NOT_SHAPE = ("dropout_rate", "compute_dtype", "remat", "scan_unroll")
"""Fields that a preset leaves as they are."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model that somebody described.

    Attributes:
      config: its shape.
      vocabulary_size: ids of its tokenizer, as the embedding counts them.
      parameters: with that vocabulary, in our parameterisation.
      source: where the shape comes from.
    """

    config: ModelConfig
    vocabulary_size: int
    parameters: int
    source: str


presets: Registry[Preset] = Registry("model")
"""The presets, by name."""


def shaped_as(name: str, config: ModelConfig) -> ModelConfig:
    """The preset's model, with what is no shape, such as the compute dtype, from `config`.

    Example:
      >>> shaped_as("bert_base", ModelConfig(compute_dtype="bfloat16")).compute_dtype
      'bfloat16'

    Raises:
      UserError: no preset has that name.
    """
    kept = {field: getattr(config, field) for field in NOT_SHAPE}
    return dataclasses.replace(presets[name].config, **kept)


def _stacks(width: int, mlp_width: int, heads: int, layers: int, **fields: Any) -> ModelConfig:
    """An encoder-decoder with as many layers in both stacks; heads are 64 wide by default."""
    return ModelConfig(
        width=width,
        mlp_width=mlp_width,
        heads=heads,
        encoder_layers=layers,
        decoder_layers=layers,
        **fields,
    )


T5_1_0: dict[str, Any] = {"activation": "relu", "gated": False, "tied_embeddings": True}

POST_NORM: dict[str, Any] = {
    "activation": "gelu",
    "gated": False,
    "norm": "layer",
    "norm_place": "post",
    "biases": True,
    "positions": "learned",
    "scaled_attention": True,
    "tied_embeddings": True,
    "scaled_projection": False,
    "embedding_norm": True,
    "initial_scale": 0.02,
}
"""What BERT and BART share."""

BART: dict[str, Any] = {
    **POST_NORM,
    "norm_epsilon": 1e-5,
    "max_positions": 1024,
    "position_offset": 2,
}


def _bert(width: int, heads: int, layers: int) -> ModelConfig:
    return ModelConfig(
        architecture="encoder",
        width=width,
        mlp_width=4 * width,
        heads=heads,
        encoder_layers=layers,
        norm_epsilon=1e-12,
        max_positions=512,
        token_types=2,
        prediction_head=True,
        prediction_bias=True,
        **POST_NORM,
    )


_MODERN_BASE = ModelConfig(
    architecture="decoder",
    width=768,
    mlp_width=2048,
    heads=12,
    key_value_heads=4,
    decoder_layers=16,
    activation="silu",
    positions="rotary",
    scaled_attention=True,
    qk_norm=True,
    tied_embeddings=True,
    scaled_projection=False,
    initial_scale=0.02,
)

_MODERN_ENCODER_BASE = ModelConfig(
    architecture="encoder",
    width=768,
    mlp_width=1152,
    heads=12,
    encoder_layers=22,
    activation="gelu",
    norm="layer",
    norm_epsilon=1e-5,
    positions="rotary",
    rotary_base=160_000.0,
    local_rotary_base=10_000.0,
    scaled_attention=True,
    local_window=128,
    global_every=3,
    tied_embeddings=True,
    scaled_projection=False,
    embedding_norm=True,
    prediction_head=True,
    prediction_bias=True,
    initial_scale=0.02,
)


def _add(source: str, vocabulary_size: int, models: dict[str, tuple[int, ModelConfig]]) -> None:
    for name, (parameters, config) in models.items():
        preset = Preset(
            config=config, vocabulary_size=vocabulary_size, parameters=parameters, source=source
        )
        presets.add(name, preset)


_add(
    "Raffel et al. 2020; t5x/examples/t5/t5_1_0",
    32_128,
    {
        "t5_1_0_small": (60_506_624, _stacks(512, 2048, 8, 6, **T5_1_0)),
        "t5_1_0_base": (222_903_552, _stacks(768, 3072, 12, 12, **T5_1_0)),
        "t5_1_0_large": (737_668_096, _stacks(1024, 4096, 16, 24, **T5_1_0)),
        "t5_1_0_3b": (2_851_598_336, _stacks(1024, 16_384, 32, 24, head_width=128, **T5_1_0)),
        "t5_1_0_11b": (11_307_321_344, _stacks(1024, 65_536, 128, 24, head_width=128, **T5_1_0)),
    },
)
_add(
    "T5 1.1: t5x/examples/t5/t5_1_1",
    32_128,
    {
        "t5_1_1_small": (76_961_152, _stacks(512, 1024, 6, 8)),
        "t5_1_1_base": (247_577_856, _stacks(768, 2048, 12, 12)),
        "t5_1_1_large": (783_150_080, _stacks(1024, 2816, 16, 24)),
        "t5_1_1_xl": (2_849_757_184, _stacks(2048, 5120, 32, 24)),
        "t5_1_1_xxl": (11_135_332_352, _stacks(4096, 10_240, 64, 24)),
    },
)
_add(
    "Lewis et al. 2020; fairseq/models/bart/model.py",
    50_265,
    {
        "bart_base": (139_420_416, _stacks(768, 3072, 12, 6, **BART)),
        "bart_large": (406_291_456, _stacks(1024, 4096, 16, 12, **BART)),
    },
)
_add(
    "Devlin et al. 2019; google-research/bert, the uncased vocabulary",
    30_522,
    {
        "bert_base": (109_514_298, _bert(768, 12, 12)),
        "bert_large": (335_174_458, _bert(1024, 16, 24)),
    },
)
_add(
    "Warner et al. 2024, ModernBERT-base",
    50_368,
    {"modern_encoder_base": (149_692_096, _MODERN_ENCODER_BASE)},
)
_add(
    "a size of ours in the style of Qwen3 (Yang et al. 2025)",
    32_768,
    {"modern_base": (125_856_512, _MODERN_BASE)},
)
