"""SentencePiece's .model files as tokenizers of the tokenizers library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxdenoise.errors import UserError, require

SPACE = "▁"
UNIGRAM, BPE = 1, 2
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """A unigram or BPE model with the ids, the normalisation and the pieces of its file.

    Control symbols, such as `</s>`, and the unknown piece become special tokens.

    Raises:
      UserError: the extra is not installed, or the file is none of these.

    Source: Kudo and Richardson 2018.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2
    except Exception as error:  # none, or a protobuf older than what sentencepiece was made with
        raise UserError(
            f"'{path}' needs sentencepiece ({error}); pip install -U 'jaxdenoise[sentencepiece]', "
            "or give a tokenizer.json"
        ) from error
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's, which differs by its implementation
        raise UserError(f"'{path}' is no SentencePiece model: {error}") from error
    kind = model.trainer_spec.model_type
    require(
        len(model.pieces) > 0 and kind in (UNIGRAM, BPE),
        f"'{path}' is no unigram or BPE model of SentencePiece; give a tokenizer.json",
    )
    backend = tokenizers.Tokenizer(_unigram(model) if kind == UNIGRAM else _bpe(model))
    backend.normalizer = _normaliser(model.normalizer_spec)
    prepended = "always" if model.normalizer_spec.add_dummy_prefix else "never"
    names = [p.piece for p in model.pieces if p.type in (UNKNOWN, CONTROL)]
    parts: list[Any] = [pre_tokenizers.Metaspace(SPACE, prepend_scheme=prepended, split=False)]
    if inside := _inside(names):
        parts.append(pre_tokenizers.Split(tokenizers.Regex(inside), "merged_with_previous"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(" ", 1, 0)] if model.normalizer_spec.add_dummy_prefix else []
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(names)
    if kind == BPE:  # to a unigram they are its likeliest pieces
        backend.add_tokens([p.piece for p in model.pieces if p.type == USER_DEFINED])
    return backend


def _inside(names: list[str]) -> str:
    """The first border inside each of the names, where text that spells one is parted.

    A name of one character has none; "" where there are no others.
    """
    longer = [name for name in names if len(name) > 1]
    return "|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in longer)


def _unigram(model: Any) -> models.Unigram:
    spec = model.trainer_spec
    vocab = [(p.piece, p.score) for p in model.pieces]
    return models.Unigram(vocab, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)


def _bpe(model: Any) -> models.BPE:
    """Merges are all ways to part a piece into two others, those of the best pieces first."""
    ids = {p.piece: number for number, p in enumerate(model.pieces)}
    merges = []
    for piece in sorted(model.pieces, key=lambda p: -p.score):
        text = piece.piece
        parts = [(text[:n], text[n:]) for n in range(1, len(text))]
        known = [(left, right) for left, right in parts if left in ids and right in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    spec = model.trainer_spec
    unknown = model.pieces[spec.unk_id].piece
    return models.BPE(
        ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=spec.byte_fallback
    )


def _normaliser(spec: Any) -> normalizers.Normalizer:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(tokenizers.Regex(r"\A +| +\z"), ""),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    return normalizers.Sequence(steps)
