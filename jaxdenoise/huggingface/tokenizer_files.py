"""Tokenizers of transformers' folders, and the files that let it read one of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import require
from jaxdenoise.huggingface import files
from jaxdenoise.tokenizer import Tokenizer, read_tokenizer

OTHERS = {
    "unk_token": ("<unk>", "[UNK]"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]",),
    "bos_token": ("<s>",),
}
"""Special tokens that our models have no use for, by the names that they go by."""
SENTINELS, MOST_SENTINELS = 100, 100_000
"""That T5's SentencePiece files lack, where nothing is said; and the most that can be said."""


def read_theirs(path: Path, family: str, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a folder of theirs.

    T5's .model files lack the sentinels: as there, they are appended, the first one last.

    Args:
      path: of a tokenizer.json, or of a SentencePiece .model.
      family: of the model.
      settings: the special ids of the model, which say what its decoder starts from.

    Raises:
      UserError: it is neither.
    """
    options: dict[str, Any] = {"separator": False}
    if path.suffix == ".model" and family == "t5":
        beside = path.parent / files.TOKENIZER_CONFIG
        said = files.read_plain(beside) if beside.is_file() else {}
        number = said.get("extra_ids", SENTINELS)
        known = type(number) is int and 0 <= number <= MOST_SENTINELS
        require(
            known,
            f"'{beside}': extra_ids is {number!r}; it must be a number of sentinels, 0 to "
            f"{MOST_SENTINELS}",
        )
        options |= {"sentinels": number, "others": False}
    tokenizer = read_tokenizer(path, **options)
    if settings.get("decoder_start_token_id") == tokenizer.vocab.eos_id:
        tokenizer = read_tokenizer(path, **options, decoder_start="eos")
    return tokenizer


def tokenizer_files(
    tokenizer: Tokenizer, config: ModelConfig
) -> tuple[dict[str, Any], dict[str, str]]:
    """The special ids by the names of config.json, and the files by name.

    Where the model has an encoder its inputs end with EOS, so the tokenizer adds it there.
    """
    vocab = tokenizer.vocab
    ids: dict[str, Any] = {"pad_token_id": vocab.pad_id, "eos_token_id": vocab.eos_id}
    if config.architecture == "encoder_decoder":
        ids["decoder_start_token_id"] = vocab.start_id
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
        files.TOKENIZER_CONFIG: json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
    }
