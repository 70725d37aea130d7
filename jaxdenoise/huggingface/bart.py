"""BART."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jaxdenoise.config import ModelConfig
from jaxdenoise.huggingface.family import (
    Family,
    Place,
    Plain,
    activation,
    expect,
    layer_norm,
    linear,
    their_activation,
)
from jaxdenoise.presets import BART as SHAPE

DEFAULTS: Plain = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "init_std": 0.02,
    "dropout": 0.1,
}
BIAS = "final_logits_bias"


def read(plain: Plain, names: Collection[str]) -> ModelConfig:
    """Post-norm, learned positions from row 2 on, one embedding for everything."""
    other = {"scale_embedding": False, "tie_word_embeddings": True, "is_encoder_decoder": True}
    other |= {
        f"decoder_{name}": plain[f"encoder_{name}"] for name in ("attention_heads", "ffn_dim")
    }
    expect(plain, other)
    heads = plain["encoder_attention_heads"]
    function = activation(plain, "activation_function", plain["activation_function"])
    fields: dict[str, Any] = {
        **SHAPE,
        "width": plain["d_model"],
        "mlp_width": plain["encoder_ffn_dim"],
        "heads": heads,
        "head_width": plain["d_model"] // heads,
        "encoder_layers": plain["encoder_layers"],
        "decoder_layers": plain["decoder_layers"],
        "max_positions": plain["max_position_embeddings"],
        "activation": function,
        "prediction_bias": BIAS in names,
        "dropout_rate": plain["dropout"],
        "initial_scale": plain["init_std"] or None,
    }
    return ModelConfig(**fields)


def write(config: ModelConfig, rows: int) -> Plain:
    """Fields of a BartConfig."""
    plain: Plain = {
        "vocab_size": rows,
        "max_position_embeddings": config.max_positions,
        "d_model": config.width,
        "activation_function": their_activation(config),
        "dropout": config.dropout_rate,
        "activation_dropout": config.dropout_rate,
        "attention_dropout": 0.0,
        "init_std": config.initial_scale or DEFAULTS["init_std"],
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
    }
    for stack in ("encoder", "decoder"):
        plain[f"{stack}_layers"] = config.layers(stack)
        plain[f"{stack}_ffn_dim"] = config.mlp_width
        plain[f"{stack}_attention_heads"] = config.heads
    return plain


def places(config: ModelConfig) -> list[Place]:
    """Of all tensors."""
    found = [Place("model.shared.weight", "embedding")]
    if config.prediction_bias:
        found.append(Place(BIAS, "prediction_bias", "row"))
    for stack in ("encoder", "decoder"):
        theirs = f"model.{stack}"
        found.append(Place(f"{theirs}.embed_positions.weight", f"{stack}/positions/embedding"))
        found += layer_norm(f"{theirs}.layernorm_embedding", f"{stack}/embedding_norm")
        found += _layers(f"{theirs}.layers.{{}}", f"{stack}/layers", stack == "decoder")
    return found


def _layers(theirs: str, ours: str, crosses: bool) -> list[Place]:
    found = layer_norm(f"{theirs}.final_layer_norm", f"{ours}/mlp_norm")
    for name, part in (("fc1", "wi"), ("fc2", "wo")):
        found += linear(f"{theirs}.{name}", f"{ours}/mlp/{part}", f"{ours}/mlp/{part}_bias")
    attentions = [("self_attn", "self_attention")]
    attentions += [("encoder_attn", "cross_attention")] if crosses else []
    for name, part in attentions:
        found += layer_norm(f"{theirs}.{name}_layer_norm", f"{ours}/{part}_norm")
        for short, whole in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
            path = f"{ours}/{part}/{whole}"
            found += linear(f"{theirs}.{name}.{short}_proj", path, f"{path}_bias")
    return found


def class_of(config: ModelConfig) -> str:
    """With and without a bias of the logits."""
    del config
    return "BartForConditionalGeneration"


BART = Family(
    name="bart",
    defaults=DEFAULTS,
    read=read,
    write=write,
    places=places,
    class_of=class_of,
    headless="BartModel",
    prefix="model.",
    copies={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    },
    unused=(r"model\.(en|de)coder\.version",),
)
"""Lewis et al. 2020; transformers, models/bart."""
