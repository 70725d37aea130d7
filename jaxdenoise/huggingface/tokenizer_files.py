"""The files that let transformers read one of our tokenizers."""

from __future__ import annotations

import json
from typing import Any

from jaxdenoise.config import ModelConfig
from jaxdenoise.huggingface import files
from jaxdenoise.tokenizer import Tokenizer

OTHERS = {
    "unk_token": ("<unk>", "[UNK]"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]",),
    "bos_token": ("<s>",),
}
"""Special tokens that our models have no use for, by the names that they go by."""


def tokenizer_files(
    tokenizer: Tokenizer, config: ModelConfig
) -> tuple[dict[str, Any], dict[str, str]]:
    """The special ids by the names of config.json, and the files by name.

    Where the model has an encoder its inputs end with EOS, so the tokenizer adds it there.
    """
    vocab = tokenizer.vocab
    ids: dict[str, Any] = {"pad_token_id": vocab.pad_id, "eos_token_id": vocab.eos_id}
    if config.architecture == "encoder_decoder":
        ids["decoder_start_token_id"] = vocab.pad_id
    named = {"pad_token": vocab.pad_id, "eos_token": vocab.eos_id, "mask_token": vocab.mask_id}
    others = {kind: tokenizer.known(*names) for kind, names in OTHERS.items()}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokenizer.name(token) for name, token in named.items() if token is not None},
        **{kind: name for kind, name in others.items() if name is not None},
        "model_input_names": inputs if config.token_types else inputs[::2],
        "clean_up_tokenization_spaces": False,
    }
    if config.positions == "learned":
        settings["model_max_length"] = config.max_positions
    return ids, {
        files.TOKENIZER: tokenizer.to_json(ended=config.architecture == "encoder_decoder"),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
    }
