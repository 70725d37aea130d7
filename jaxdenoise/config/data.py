"""What to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdenoise.config.checks import positive
from jaxdenoise.errors import require

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


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
      corpus: an embedded corpus by name; not used when `files` are given.
      files: paths or globs of .txt, .jsonl and .parquet files.
      field: the text's field in .jsonl and .parquet records.
      documents: what a document is in a .txt file; paragraphs are parted by blank lines.
      bad_records: refuse a corpus with records that cannot be read, or skip and count them.
      held_out: share of the documents kept for evaluation, chosen by hash.
      tokenizer: path of a tokenizer.json; by default a byte-level BPE is trained.
      vocabulary_size: ids of that BPE, special ones included.
      sentinels: how many of them are sentinels.
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
    field: str = "text"
    documents: Literal["paragraph", "line", "file"] = "paragraph"
    bad_records: Literal["refuse", "skip"] = "refuse"
    held_out: float = 0.05
    tokenizer: str | None = None
    vocabulary_size: int = 1134
    sentinels: int = 100
    raw_length: int = 568
    packing: bool = False
    pieces: int = 16
    encoder_length: int | None = None
    decoder_length: int | None = None

    def __post_init__(self):
        positive("data", self, "vocabulary_size", "raw_length", "pieces")
        for name in ("encoder_length", "decoder_length"):
            length = getattr(self, name)
            require(
                length is None or (self.packing and length >= 1),
                f"data.{name} is {length}; it is of packed rows, and at least 1: set data.packing "
                "too, or leave it out",
            )
        require(self.sentinels >= 0, f"data.sentinels is {self.sentinels}; it cannot be negative")
        if self.tokenizer is None:
            check_vocabulary_size(self.vocabulary_size, self.sentinels)
        require(
            0 < self.held_out < 1,
            f"data.held_out is {self.held_out}; it must be inside (0, 1), such as 0.05",
        )
