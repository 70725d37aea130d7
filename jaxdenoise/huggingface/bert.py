"""BERT, with or without its prediction head."""

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
from jaxdenoise.presets import POST_NORM

DEFAULTS: Plain = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
}
WORDS, HEAD = "bert.embeddings.word_embeddings.weight", "cls.predictions"


def read(plain: Plain, names: Collection[str]) -> ModelConfig:
    """Post-norm, learned positions; the head where the file has one."""
    expect(
        plain,
        {
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        },
    )
    heads = plain["num_attention_heads"]
    has_head = any(name.startswith(HEAD) for name in names)
    fields: dict[str, Any] = {
        **POST_NORM,
        "architecture": "encoder",
        "width": plain["hidden_size"],
        "mlp_width": plain["intermediate_size"],
        "heads": heads,
        "head_width": plain["hidden_size"] // heads,
        "encoder_layers": plain["num_hidden_layers"],
        "max_positions": plain["max_position_embeddings"],
        "token_types": plain["type_vocab_size"],
        "activation": activation(plain, "hidden_act", plain["hidden_act"]),
        "norm_epsilon": plain["layer_norm_eps"],
        "prediction_head": has_head,
        "prediction_bias": has_head,
        "dropout_rate": plain["hidden_dropout_prob"],
        "initial_scale": plain["initializer_range"] or None,
    }
    return ModelConfig(**fields)


def write(config: ModelConfig, rows: int) -> Plain:
    """Fields of a BertConfig."""
    return {
        "vocab_size": rows,
        "hidden_size": config.width,
        "num_hidden_layers": config.encoder_layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": their_activation(config),
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.token_types,
        "initializer_range": config.initial_scale or DEFAULTS["initializer_range"],
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": 0.0,
        "tie_word_embeddings": True,
        "is_decoder": False,
    }


def places(config: ModelConfig) -> list[Place]:
    """Of all tensors."""
    embeddings = "bert.embeddings"
    found = [
        Place(WORDS, "embedding"),
        Place(f"{embeddings}.position_embeddings.weight", "encoder/positions/embedding"),
        Place(f"{embeddings}.token_type_embeddings.weight", "encoder/token_types/embedding"),
        *layer_norm(f"{embeddings}.LayerNorm", "encoder/embedding_norm"),
        *_layers("bert.encoder.layer.{}", "encoder/layers"),
    ]
    if config.prediction_bias:
        found.append(Place(f"{HEAD}.bias", "prediction_bias"))
    if config.prediction_head:
        found += linear(f"{HEAD}.transform.dense", "prediction/kernel", "prediction/bias")
        found += layer_norm(f"{HEAD}.transform.LayerNorm", "prediction/norm")
    return found


def _layers(theirs: str, ours: str) -> list[Place]:
    products = {f"attention.self.{name}": name for name in ("query", "key", "value")}
    products = {name: f"self_attention/{part}" for name, part in products.items()}
    products |= {"attention.output.dense": "self_attention/out"}
    products |= {"intermediate.dense": "mlp/wi", "output.dense": "mlp/wo"}
    found = layer_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/self_attention_norm")
    found += layer_norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm")
    for name, part in products.items():
        found += linear(f"{theirs}.{name}", f"{ours}/{part}", f"{ours}/{part}_bias")
    return found


def class_of(config: ModelConfig) -> str:
    """A model without a head predicts nothing there."""
    return "BertForMaskedLM" if config.prediction_head else "BertModel"


BERT = Family(
    name="bert",
    defaults=DEFAULTS,
    read=read,
    write=write,
    places=places,
    class_of=class_of,
    headless="BertModel",
    prefix="bert.",
    spelling=((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
    copies={f"{HEAD}.decoder.weight": WORDS, f"{HEAD}.decoder.bias": f"{HEAD}.bias"},
    unused=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*", r"bert\.embeddings\.position_ids"),
)
"""Devlin et al. 2019; transformers, models/bert."""
