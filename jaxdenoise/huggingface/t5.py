"""T5, 1.0 and 1.1, and its encoder alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import require
from jaxdenoise.huggingface.family import (
    Family,
    Place,
    Plain,
    activation,
    linear,
    their_activation,
)

DEFAULTS: Plain = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": None,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "dropout_rate": 0.1,
}
EMBEDDING, PROJECTION = "shared.weight", "lm_head.weight"


def read(plain: Plain, names: Collection[str]) -> ModelConfig:
    """The projection is its own where the file has one that differs from the embedding."""
    both = any(name.startswith("decoder.") for name in names)
    gated, _, function = plain["feed_forward_proj"].rpartition("-")
    # "gated-gelu" has always been the approximation, as in Mesh TensorFlow.
    function = "gelu_new" if gated and function == "gelu" else function
    # Version 5 of transformers says by name what "not tied" has meant before; of the encoder alone
    # nothing is projected there.
    scaled = plain.get("scale_decoder_outputs", plain["tie_word_embeddings"] is not False)
    require(
        PROJECTION not in names or not scaled,
        f"{PROJECTION} differs from {EMBEDDING}, and config.json scales the projection as if they "
        "were one, which no model of ours does; if it was trained without, set "
        "tie_word_embeddings to false there",
    )
    whole = {"T5ForConditionalGeneration", "T5Model"} & set(plain.get("architectures") or [])
    require(
        both or not whole,
        "the file of weights lacks the decoder that config.json says; was it cut, or mixed up?",
    )
    fields: dict[str, Any] = {
        "architecture": "encoder_decoder" if both else "encoder",
        "width": plain["d_model"],
        "mlp_width": plain["d_ff"],
        "heads": plain["num_heads"],
        "head_width": plain["d_kv"],
        "encoder_layers": plain["num_layers"],
        "decoder_layers": plain["num_decoder_layers"] or plain["num_layers"],
        "activation": activation(plain, "feed_forward_proj", function),
        "gated": bool(gated),
        "norm_epsilon": plain["layer_norm_epsilon"],
        "relative_buckets": plain["relative_attention_num_buckets"],
        "relative_max_distance": plain["relative_attention_max_distance"],
        "dropout_rate": plain["dropout_rate"],
        "tied_embeddings": PROJECTION not in names,
        "scaled_projection": scaled,
    }
    return ModelConfig(**fields)


def write(config: ModelConfig, rows: int) -> Plain:
    """`tie_word_embeddings` says whether a projection is scaled; see transformers' T5Config."""
    scaled = config.tied_embeddings and config.scaled_projection
    theirs = their_activation(config)
    theirs = "gelu" if config.gated and theirs == "gelu_new" else theirs
    return {
        "vocab_size": rows,
        "d_model": config.width,
        "d_kv": config.head_width,
        "d_ff": config.mlp_width,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": "gated-" * config.gated + theirs,
        "tie_word_embeddings": scaled,
        "scale_decoder_outputs": scaled,
        "dropout_rate": config.dropout_rate,
        "is_encoder_decoder": config.architecture == "encoder_decoder",
        "initializer_factor": 1.0,
    }


def places(config: ModelConfig) -> list[Place]:
    """Of all tensors."""
    found = [Place(EMBEDDING, "embedding")]
    if not config.tied_embeddings:
        found += linear("lm_head", "projection")
    stacks = ("encoder", "decoder") if config.architecture == "encoder_decoder" else ("encoder",)
    for stack in stacks:
        found += _stack(stack, config)
    return found


def _stack(stack: str, config: ModelConfig) -> list[Place]:
    block, ours = f"{stack}.block.{{}}.layer", f"{stack}/layers"
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found = [
        Place(table, f"{stack}/relative_bias/table"),
        Place(f"{stack}.final_layer_norm.weight", f"{stack}/norm/scale"),
    ]
    parts = [("SelfAttention", "self_attention")]
    parts += [("EncDecAttention", "cross_attention")] if stack == "decoder" else []
    for number, (theirs, name) in enumerate(parts):
        found.append(Place(f"{block}.{number}.layer_norm.weight", f"{ours}/{name}_norm/scale"))
        for short, whole in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
            found += linear(f"{block}.{number}.{theirs}.{short}", f"{ours}/{name}/{whole}")
    last = f"{block}.{len(parts)}"
    found.append(Place(f"{last}.layer_norm.weight", f"{ours}/mlp_norm/scale"))
    for name in (*(("wi_0", "wi_1") if config.gated else ("wi",)), "wo"):
        found += linear(f"{last}.DenseReluDense.{name}", f"{ours}/mlp/{name}")
    return found


def repeated(config: ModelConfig) -> list[Place]:
    """Before version 5 transformers reads "not scaled" as "not tied", and wants a projection."""
    unscaled = config.tied_embeddings and not config.scaled_projection
    return [Place(PROJECTION, "embedding")] if unscaled else []


def class_of(config: ModelConfig) -> str:
    """The encoder alone has no projection there."""
    both = config.architecture == "encoder_decoder"
    return "T5ForConditionalGeneration" if both else "T5EncoderModel"


T5 = Family(
    name="t5",
    defaults=DEFAULTS,
    read=read,
    write=write,
    places=places,
    class_of=class_of,
    repeated=repeated,
    copies={
        "encoder.embed_tokens.weight": EMBEDDING,
        "decoder.embed_tokens.weight": EMBEDDING,
        PROJECTION: EMBEDDING,
    },
    # Of the first files; never used by any model.
    unused=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)
"""Raffel et al. 2020; transformers, models/t5."""
