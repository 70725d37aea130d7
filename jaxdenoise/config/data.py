"""What to train on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from jaxdenoise.config.checks import positive
from jaxdenoise.errors import require

DecoderStart = Literal["pad", "eos"]

SPECIAL_IDS = 10
BYTES = 256


def check_vocabulary_size(vocabulary_size: int, sentinels: int) -> None:
    """Raises `UserError` if a byte-level BPE of this size has no room for what it must hold."""
    least = SPECIAL_IDS + BYTES + sentinels
    require(
        vocabulary_size >= least,
        f"data.vocabulary_size is {vocabulary_size}; it must be at least {least}, for "
        f"{SPECIAL_IDS} special tokens, {BYTES} bytes and {sentinels} sentinels (data.sentinels)",
    )


BLOCK = 1000
"""The most rows of a block in which the corpora of a mixture have their exact shares."""
MAX_CORPORA = 128


def rows_of_block(weights: Sequence[float]) -> tuple[int, ...]:
    """How many rows of each corpus are in every block of a mixture's rows.

    The smallest whole numbers that are to each other as the weights, or the nearest that add up to
    `BLOCK`.

    Example:
      >>> rows_of_block([0.7, 0.2, 0.1]), rows_of_block([2.0, 1.0])
      ((7, 2, 1), (2, 1))
    """
    exact = [Fraction(str(weight)) for weight in weights]
    smallest = [int(w * math.lcm(*(f.denominator for f in exact))) for w in exact]
    rows = [number // math.gcd(*smallest) for number in smallest]
    if sum(rows) > BLOCK:
        shares = [weight * BLOCK / sum(exact) for weight in exact]
        rows = [int(share) for share in shares]
        for place in sorted(range(len(rows)), key=lambda k: rows[k] - shares[k])[
            : BLOCK - sum(rows)
        ]:
            rows[place] += 1
    require(
        min(rows) >= 1,
        f"data.mixture has weights {', '.join(map(str, weights))}, of which one is less than "
        f"1/{BLOCK} of all; leave that corpus out, or give it more",
    )
    return tuple(rows)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
      corpus: an embedded corpus by name, or a Hugging Face dataset, such as
        `hf:allenai/c4?config=en&split=train`; not used when `files` are given.
      files: paths, globs or addresses (gs://…) of .txt, .jsonl, .parquet and .array_record files.
      mixture: instead of the two, several corpora, each a name, path or glob with its weight: its
        share of the rows, in every block of rows exactly. Each has epochs of its own.
      field: the text's field in records.
      documents: what a document is in a .txt file; paragraphs are parted by blank lines.
      pairs: records are pairs of a source and a target (`source` and `target`, or `prompt` and
        `completion`, in .jsonl files), to fine-tune on; each is a row. Not packed.
      bad_records: refuse a corpus with records that cannot be read, or skip and count them.
      held_out: share of the documents kept for evaluation, chosen by hash.
      train_tokens: train on so many tokens of the rest, again and again: whole rows (documents,
        where rows are packed) from all over the corpus, the same for every seed, those of a
        smaller number among those of a larger; None for all. The tokenizer has seen all.
      workers: processes that tokenise, of which the result does not depend; 1 for threads alone.
      tokenizer: path of a tokenizer.json, or of a SentencePiece .model; by default a byte-level BPE
        is trained.
      add_special_tokens: append those that the given tokenizer lacks: sentinels, mask, mode tokens,
        the marks of fill_in_the_middle, padding and end.
      decoder_start: what a decoder reads first: padding as in T5, or the end token as in BART.
      vocabulary_size: ids of that BPE, special ones included.
      sentinels: how many of them are sentinels; of a given tokenizer, up to how many are appended.
      raw_length: L, tokens of a row before corruption; of a piece, where rows are packed.
      packing: put several documents into a row, each corrupted by itself and unseen by the others;
        longer ones are cut into pieces. Without it rows are cut from the stream of all documents.
      pieces: the most in a packed row; corrupting a batch takes time in proportion.
      encoder_length: positions of the encoder in a packed row; by default what an example of
        `raw_length` takes.
      decoder_length: of the decoder. Both stacks are full where their lengths are to each other as
        what the objective puts into them on average; mixtures have no default.
    """

    corpus: str = "pydocs"
    files: tuple[str, ...] = ()
    mixture: tuple[tuple[str, float], ...] = ()
    field: str = "text"
    documents: Literal["paragraph", "line", "file"] = "paragraph"
    pairs: bool = False
    bad_records: Literal["refuse", "skip"] = "refuse"
    held_out: float = 0.05
    train_tokens: int | None = None
    workers: int = 1
    tokenizer: str | None = None
    add_special_tokens: bool = False
    decoder_start: DecoderStart = "pad"
    vocabulary_size: int = 1134
    sentinels: int = 100
    raw_length: int = 568
    packing: bool = False
    pieces: int = 16
    encoder_length: int | None = None
    decoder_length: int | None = None

    def __post_init__(self):
        positive("data", self, "vocabulary_size", "raw_length", "pieces", "workers")
        self._check_mixture()
        self._check_train_tokens()
        for name in ("packing", "mixture", "train_tokens") if self.pairs else ():
            require(
                not getattr(self, name),
                f"data.{name} is {getattr(self, name)}, and data.pairs is set, whose rows have a "
                "pair each; leave one of the two out",
            )
        for name in ("encoder_length", "decoder_length"):
            length = getattr(self, name)
            require(
                length is None or (self.packing and length >= 1),
                f"data.{name} is {length}; it is of packed rows, and at least 1: set data.packing "
                "too, or leave it out",
            )
        require(
            self.decoder_start in get_args(DecoderStart),
            f"data.decoder_start is '{self.decoder_start}'; it must be pad or eos",
        )
        require(self.sentinels >= 0, f"data.sentinels is {self.sentinels}; it cannot be negative")
        if self.tokenizer is None:
            check_vocabulary_size(self.vocabulary_size, self.sentinels)
        require(
            0 < self.held_out < 1,
            f"data.held_out is {self.held_out}; it must be inside (0, 1), such as 0.05",
        )

    @property
    def appended(self) -> int | None:
        """Sentinels that a given tokenizer has at least; None if nothing is appended."""
        return self.sentinels if self.add_special_tokens else None

    @property
    def block(self) -> tuple[int, ...]:
        """How many rows of each corpus there are in every block of rows."""
        return rows_of_block([weight for _, weight in self.mixture]) if self.mixture else (1,)

    def _check_train_tokens(self) -> None:
        least = 1 if self.packing else self.raw_length
        require(
            self.train_tokens is None or self.train_tokens >= least,
            f"data.train_tokens is {self.train_tokens}; it must be at least {least}, "
            + ("one token" if self.packing else "one row (data.raw_length)"),
        )
        require(
            self.train_tokens is None or not self.mixture,
            f"data.train_tokens is {self.train_tokens}, and data.mixture has several corpora, each "
            "with epochs of its own; leave one of the two out",
        )

    def _check_mixture(self) -> None:
        names = [name for name, _ in self.mixture]
        require(
            not (names and self.files),
            "data.mixture and data.files are both given; name the files in the mixture",
        )
        for name, weight in self.mixture:
            require(
                0 < weight < math.inf and names.count(name) == 1,
                f"data.mixture has '{name}' {names.count(name)} times, with the weight {weight}; "
                "give each corpus once, with a weight above 0",
            )
        require(len(self.block) <= MAX_CORPORA, f"data.mixture has more than {MAX_CORPORA} corpora")
