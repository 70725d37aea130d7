"""Tokenizers: byte-level BPE trained on the spot, or any file's, with its vocabulary."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import tokenizers

from jaxdenoise.config import DecoderStart, check_vocabulary_size
from jaxdenoise.errors import UserError, require
from jaxdenoise.paths import as_path, sound
from jaxdenoise.sentencepiece_file import read_sentencepiece
from jaxdenoise.vocabulary import Vocabulary

PAD, EOS, MASK, SEPARATOR = "<pad>", "</s>", "<mask>", "<doc>"
NAMED = {
    "[R]": "[R]",
    "[S]": "[S]",
    "[X]": "[X]",
    "fim_prefix": "<fim_prefix>",
    "fim_middle": "<fim_middle>",
    "fim_suffix": "<fim_suffix>",
}
"""The vocabulary's named tokens and how they are written."""
WRITTEN = {
    PAD: (PAD, "[PAD]"),
    EOS: (EOS, "[SEP]", "<|endoftext|>"),
    MASK: (MASK, "[MASK]"),
    SEPARATOR: (SEPARATOR,),
    **{name: (name,) for name in NAMED.values()},
}
"""The special tokens but sentinels, and the names by which they are found."""
LONGEST_SPELLING = 16
"""Characters of the longest tokens that are spelled."""
MOST_UNUSED = 1 << 20
"""Ids that no token has, up to the largest; a table of all ids is made."""
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # of a text's bytes, where its characters are unknown


class Tokenizer:
    """Text to ids and back, and the `Vocabulary` that says which ids are special.

    Args:
      backend: a `tokenizers.Tokenizer`. Its special tokens are found by name: `<pad>`, `</s>`
        (or `[PAD]`, `[SEP]`), `<mask>` or `[MASK]`, `<extra_id_k>` as sentinel k, UL2's mode
        tokens `[R]`, `[S]`, `[X]` and `<fim_prefix>`, `<fim_middle>`, `<fim_suffix>`. The
        separator of documents, `<doc>`, is added where it lacks. Its settings for truncating and
        padding, which files of other libraries carry, are switched off. A word begins with a
        token that does not begin with a letter or a digit; a sentence ends with `.`, `!` or `?`.
        Tokens of up to 16 characters are spelled in those that are tokens too; where a token
        stands for a byte, these are the ASCII ones.
      separator: add the separator where it lacks, which a corpus needs and a trained model may
        have no room for.
      decoder_start: what a decoder reads first; see `DataConfig`.

    Raises:
      UserError: no padding or no end-of-sequence token, or sentinels that skip a number.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        separator: bool = True,
        decoder_start: DecoderStart = "pad",
    ):
        self._backend = backend
        # "<extra_id_0>" in a corpus is text; only `encode(…, specials=True)` takes it as an id.
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        if separator and backend.token_to_id(SEPARATOR) is None:
            backend.add_special_tokens([SEPARATOR])
        vocab = _vocabulary(backend)
        ends, continuations = _of_text(backend, vocab)
        self.vocab = dataclasses.replace(
            vocab,
            decoder_start_id=vocab.eos_id if decoder_start == "eos" else None,
            sentence_end_ids=ends,
            continuation_ids=continuations,
            spellings=_spellings(backend, vocab),
        )

    def encode(self, text: str, *, specials: bool = False, framed: bool = False) -> np.ndarray:
        """Returns Int32[n].

        Args:
          text: any.
          specials: names such as `<extra_id_0>` become their ids.
          framed: with what the tokenizer's file puts around a text, such as [CLS] and [SEP].
        """
        self._backend.encode_special_tokens = not specials
        try:
            ids = self._backend.encode(text, add_special_tokens=framed).ids
        finally:
            self._backend.encode_special_tokens = True
        return np.array(ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes many texts on all cores."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(e.ids, np.int32) for e in encoded]

    @property
    def decoder_start(self) -> DecoderStart:
        """What a decoder reads first."""
        return "pad" if self.vocab.decoder_start_id is None else "eos"

    @property
    def separator_id(self) -> int:
        """What stands behind each document of a token stream."""
        require(
            self.vocab.separator_id is not None,
            f"the tokenizer has no {SEPARATOR} to stand between documents, as an imported one may; "
            "give its file as --data.tokenizer, where it is added, and train --init-from the run",
        )
        return cast(int, self.vocab.separator_id)

    def decode(self, ids: Sequence[int] | np.ndarray, *, specials: bool = False) -> str:
        """Returns the text; special ids are left out, or written by name with `specials`."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=not specials)

    def decode_part(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens that stand inside a longer text: their first space is kept.

        Decoders of SentencePiece's kind drop it where a text begins.
        """
        anchor = int(self.vocab.ordinary_ids[-1])
        before = self.decode([anchor])
        whole = self.decode([anchor, *ids])
        return whole[len(before) :] if whole.startswith(before) else self.decode(ids)

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each token's own text, for display; bytes that are no whole character show as �."""
        return [self._piece(int(i)) for i in ids]

    def _piece(self, token: int) -> str:
        if self.vocab.is_special[token]:
            return self.name(token)
        return self.decode_part([token])

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Int[V]: how many bytes of text each id stands for, 0 for special ids."""
        sizes = np.zeros(self.vocab.size, np.int64)
        byte_level = _is_byte_level(self._backend)
        for token in self.vocab.ordinary_ids.tolist():
            name = self.name(token)
            if byte_level:  # one character stands for one byte
                sizes[token] = len(name)
            elif _BYTE.fullmatch(name):
                sizes[token] = 1
            else:
                sizes[token] = len(self._piece(token).encode())
        return sizes

    def name(self, token: int) -> str:
        """How a token is written in the tokenizer's file."""
        return self._backend.id_to_token(token) or f"<unused_{token}>"

    def known(self, *names: str) -> str | None:
        """The first of these names that is a token's."""
        return next((n for n in names if self._backend.token_to_id(n) is not None), None)

    def to_json(self, *, ended: bool = False) -> str:
        """The tokenizer as the text of a tokenizer.json, which other libraries load.

        Args:
          ended: let it end every text with EOS, for libraries that encode with special tokens,
            unless it does something of its own there.
        """
        content = self._backend.to_str(pretty=True)
        if not ended or self._backend.post_processor is not None:
            return content
        other, end = tokenizers.Tokenizer.from_str(content), self.name(self.vocab.eos_id)
        other.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, self.vocab.eos_id)]
        )
        return other.to_str(pretty=True)


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int, sentinels: int) -> Tokenizer:
    """Trains a byte-level BPE: no unknown tokens, and every text comes back as it was.

    Args:
      texts: the training split.
      vocabulary_size: V, with the 10 + `sentinels` special ids and the 256 bytes included.
      sentinels: how many; sentinel k is `V - 1 - k`.
    """
    check_vocabulary_size(vocabulary_size, sentinels)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size - sentinels,
        special_tokens=[PAD, EOS, MASK, SEPARATOR, *NAMED.values()],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # A small corpus may run out of pairs to merge: ids up to the sentinels stay unused.
    missing = vocabulary_size - sentinels - backend.get_vocab_size()
    backend.add_special_tokens([f"<unused_{i}>" for i in range(missing)])
    backend.add_special_tokens([f"<extra_id_{k}>" for k in reversed(range(sentinels))])
    return Tokenizer(backend)


def read_tokenizer(
    path: str | Path,
    *,
    separator: bool = True,
    sentinels: int | None = None,
    others: bool = True,
    decoder_start: DecoderStart = "pad",
) -> Tokenizer:
    """Reads a tokenizer.json, or a SentencePiece .model (extra `[sentencepiece]`).

    Args:
      path: of the file.
      separator: as for a `Tokenizer`.
      sentinels: append the special tokens that the file lacks, so many sentinels among them;
        None appends none.
      others: False appends sentinels alone, which T5's .model files lack.
      decoder_start: as for a `Tokenizer`.

    Raises:
      UserError: the file is missing or is neither.
    """
    path = as_path(path)
    require(
        path.is_file(),
        f"tokenizer '{path}' is not a file; give the path of a tokenizer.json, or of a "
        "SentencePiece .model",
    )
    if path.suffix == ".model":
        backend = read_sentencepiece(path)
    else:
        with sound(path, "; give a tokenizer.json"):
            content = path.read_text("utf-8")
        backend = _parse(content, str(path))
    if sentinels is not None:
        _complete(backend, sentinels, others)
    return Tokenizer(backend, separator=separator, decoder_start=decoder_start)


def parse_tokenizer(content: str, name: str, *, separator: bool = True) -> Tokenizer:
    """A tokenizer from the content of a tokenizer.json; `name` is for messages.

    Raises:
      UserError: it is none.
    """
    return Tokenizer(_parse(content, name), separator=separator)


def _parse(content: str, name: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"'{name}' is not a tokenizer.json: {error}") from error


def _complete(backend: tokenizers.Tokenizer, sentinels: int, others: bool) -> None:
    """Appends the special tokens that are found by none of their names; sentinel 0 comes last."""
    known = backend.get_vocab(with_added_tokens=True)
    lacking = [n for n, written in WRITTEN.items() if others and not known.keys() & {*written}]
    numbered = [f"<extra_id_{k}>" for k in reversed(range(sentinels))]
    backend.add_special_tokens([*lacking, *(name for name in numbered if name not in known)])


def _vocabulary(backend: tokenizers.Tokenizer) -> Vocabulary:
    names = backend.get_vocab(with_added_tokens=True)

    def find(name: str) -> int | None:
        return next((names[w] for w in WRITTEN[name] if w in names), None)

    pad, eos = find(PAD), find(EOS)
    if pad is None or eos is None:
        raise UserError(
            "the tokenizer needs a padding and an end token: <pad> and </s> by name; "
            "--data.add-special-tokens True appends what it lacks"
        )
    size = max(names.values()) + 1
    require(
        size <= len(names) + MOST_UNUSED,
        f"the tokenizer has {len(names)} tokens and an id of {size - 1}; ids must not leave out "
        f"more than {MOST_UNUSED} numbers",
    )
    numbered = {int(m[1]): i for name, i in names.items() if (m := _SENTINEL.fullmatch(name))}
    require(
        sorted(numbered) == list(range(len(numbered))),
        "the tokenizer's sentinels <extra_id_k> skip a number; add the missing ones",
    )
    mask, separator = find(MASK), find(SEPARATOR)
    named = [(role, names[name]) for role, name in NAMED.items() if name in names]
    known = {pad, eos, mask, separator, *numbered.values(), *(token for _, token in named)}
    added = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    return Vocabulary(
        size=size,
        pad_id=pad,
        eos_id=eos,
        mask_id=mask,
        separator_id=separator,
        sentinel_ids=tuple(numbered[k] for k in range(len(numbered))),
        named_ids=tuple(named),
        unused_ids=tuple(sorted(added - known)),
    )


def _of_text(
    backend: tokenizers.Tokenizer, vocab: Vocabulary
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a sentence may end with, and those that go on with a word.

    By the marks of the three kinds of tokenizers: "Ġ" or "▁" before a word, "##" inside one.
    """
    ends, continuations = [], []
    pieces = [(i, backend.id_to_token(i) or "") for i in vocab.ordinary_ids.tolist()]
    inside = any(piece.startswith("##") for _, piece in pieces)
    for token, piece in pieces:
        text = piece.rstrip("ĠĊč▁ ")
        if text.removeprefix("##").endswith((".", "!", "?")):
            ends.append(token)
        if piece.startswith("##") if inside else piece[:1].isalnum() and piece[0] not in "ĠĊčĉ":
            continuations.append(token)
    return tuple(ends), tuple(continuations)


def _spellings(backend: tokenizers.Tokenizer, vocab: Vocabulary) -> tuple[tuple[int, ...], ...]:
    """The single-character tokens that spell each id; none where there are not all."""
    pieces = {backend.id_to_token(i) or "": i for i in vocab.ordinary_ids.tolist()}
    # Where "##" marks what goes on with a word, only this can be taken apart and read together.
    mark = "##" if any(piece.startswith("##") for piece in pieces) else ""
    byte_level = _is_byte_level(backend)
    found: list[tuple[int, ...]] = [()] * vocab.size
    for piece, token in pieces.items():
        characters = piece.removeprefix(mark)
        ids = [pieces[mark + c] for c in characters if mark + c in pieces]
        spelled = piece.startswith(mark) and len(ids) == len(characters) <= LONGEST_SPELLING
        if spelled and (not byte_level or all(map(_is_ascii, characters))):
            found[token] = tuple(ids)
    return tuple(found)


def _is_ascii(character: str) -> bool:
    """Whether the byte that a character of a byte-level piece stands for is ASCII.

    Those that cannot be printed, 0 to 32 and then 127, are written as 256 and on.
    """
    return "!" <= character <= "~" or 256 <= ord(character) <= 256 + 33


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    return isinstance(backend.decoder, tokenizers.decoders.ByteLevel)
