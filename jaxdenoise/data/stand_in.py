"""Text and vocabulary of the right sizes, to compile and to time where no corpus is at hand."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from jaxdenoise.config import DataConfig
from jaxdenoise.tokenizer import read_tokenizer
from jaxdenoise.vocabulary import Vocabulary

SEPARATOR = 3
SENTENCE_ENDS = (10, 11)
NAMES = ("[R]", "[S]", "[X]", "fim_prefix", "fim_middle", "fim_suffix")


def vocabulary_of(data: DataConfig) -> Vocabulary:
    """The vocabulary of a tokenizer that is given; one like that which would be trained otherwise.

    Raises:
      UserError: `data.tokenizer` cannot be read.
    """
    if data.tokenizer is not None:
        return read_tokenizer(
            data.tokenizer, sentinels=data.appended, decoder_start=data.decoder_start
        ).vocab
    vocab = stand_in_vocabulary(data.vocabulary_size, data.sentinels)
    if data.decoder_start == "pad":
        return vocab
    return dataclasses.replace(vocab, decoder_start_id=vocab.eos_id)


@functools.cache
def stand_in_vocabulary(size: int, sentinels: int) -> Vocabulary:
    """A vocabulary with every role that an objective asks for.

    Example:
      >>> vocab = stand_in_vocabulary(1000, 100)
      >>> vocab.size, len(vocab.sentinel_ids), vocab.mask_id, vocab.separator_id
      (1000, 100, 2, 3)
    """
    text = size - sentinels

    def spelling(token: int) -> tuple[int, ...]:
        """One to seven of thirty characters, which are tokens themselves."""
        if 30 <= token < 60:
            return (token,)
        length = token % 7 + 1 if 60 <= token < text else 0
        return tuple(30 + (token + place) % 30 for place in range(length))

    return Vocabulary.with_sentinels(
        size=size,
        sentinels=sentinels,
        mask_id=2,
        separator_id=SEPARATOR,
        named_ids=tuple(zip(NAMES, range(4, 10), strict=True)),
        sentence_end_ids=SENTENCE_ENDS,
        continuation_ids=tuple(range(13, text, 3)),
        spellings=tuple(map(spelling, range(size))),
    )


def stand_in_tokens(
    vocab: Vocabulary, documents: int, length: int, pairs: bool = False
) -> np.ndarray:
    """Int32[documents · length]: ordinary ids, a sentence end every twenty, and separators.

    Of pairs the target is an eighth.
    """
    rng = np.random.default_rng(0)
    tokens = rng.choice(vocab.ordinary_ids, (documents, length))
    if vocab.sentence_end_ids:
        tokens[rng.random(tokens.shape) < 1 / 20] = vocab.sentence_end_ids[0]
    if vocab.separator_id is not None:
        tokens[:, -1 - length // 8 if pairs else -1] = vocab.separator_id
    return tokens.astype(np.int32).reshape(-1)
