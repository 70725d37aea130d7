"""The rows that `show` looks at: of a text, of a file, of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from jaxdenoise.errors import UserError, require

if TYPE_CHECKING:
    import numpy as np

    from jaxdenoise.arrays import Rows
    from jaxdenoise.tokenizer import Tokenizer

RAW_LENGTH = 64  # short enough to be looked at
MOST_ROWS = 256  # of a file or a corpus
GIVEN = ("text", "file", "corpus")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What to corrupt.

    Attributes:
      text: a text; by default a sentence, or several.
      file: a .txt, .jsonl or .parquet file in place of a text; its first 256 rows.
      field: the text's field in .jsonl and .parquet records.
      corpus: an embedded corpus in place of a text; 256 of its rows.
      split: of the corpus.
      raw_length: L, tokens of a row before corruption, 64 if not given; 568 is what training takes.
        A longer text gives several rows.
      tokenizer: the corpus that it was trained on, or the path of a tokenizer.json.
      seed: of the draws, and of a fresh model.
      module: Python modules that register objectives of your own.
    """

    text: str | None = None
    file: str | None = None
    field: str = "text"
    corpus: str | None = None
    split: Literal["held_out", "train"] = "held_out"
    raw_length: int | None = None
    tokenizer: str = "pydocs"
    seed: int = 0
    module: tuple[str, ...] = ()

    def __post_init__(self):
        given = [name for name in GIVEN if getattr(self, name) is not None]
        require(
            len(given) <= 1,
            f"{' and '.join(given)} are given; rows come from one of {', '.join(GIVEN)}",
        )
        require(self.text is None or bool(self.text.strip()), "text is empty; give some")
        require(
            self.raw_length is None or self.raw_length >= 1,
            f"raw_length is {self.raw_length}; it must be at least 1",
        )
        require(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be in [0, 2^32)")

    @property
    def given(self) -> bool:
        """Whether it says what to corrupt."""
        return any(getattr(self, name) is not None for name in GIVEN)

    def check_files(self) -> None:
        """Raises `UserError` for a file or corpus that is not there; needs no JAX."""
        from jaxdenoise.data.corpora import corpora
        from jaxdenoise.data.files import SUFFIXES

        if self.corpus is not None:
            corpora[self.corpus]
        if self.file is not None:
            require(Path(self.file).is_file(), f"'{self.file}' is not a file; give one to show")
            require(
                Path(self.file).suffix in SUFFIXES,
                f"'{self.file}' is not one of {', '.join(SUFFIXES)}; convert it or give another",
            )


def read_rows(
    options: SourceOptions, tokenizer: str | Path, default: str, console: Console
) -> tuple[Rows, Tokenizer]:
    """The rows, and the tokenizer that made them.

    Args:
      options: a text is cut into all of its rows.
      tokenizer: as for `load_tokenizer`.
      default: the text where nothing is given.
      console: where to show progress.
    """
    import numpy as np

    from jaxdenoise.config import DataConfig
    from jaxdenoise.data.rows import sample_rows, take_rows
    from jaxdenoise.data.store import load_tokenizer, prepare

    length = options.raw_length or RAW_LENGTH
    if options.corpus is not None:
        own = str(tokenizer) == options.corpus
        path = None if own else str(_tokenizer_file(tokenizer))
        start = "pad" if own else load_tokenizer(tokenizer).decoder_start
        data = DataConfig(corpus=options.corpus, tokenizer=path, decoder_start=start)
        store = prepare(data, console=console)
        rows = sample_rows(store.tokens(options.split), length, MOST_ROWS)
        return rows.seeded(options.seed), store.tokenizer
    opened = load_tokenizer(tokenizer)
    if options.file is not None:
        stream = _read_stream(options.file, options.field, opened, length * MOST_ROWS)
    else:
        stream = opened.encode(options.text or default)
    length = min(length, len(stream))
    index = np.arange(-(-len(stream) // length))
    epochs = np.zeros(len(index), np.uint32)
    return take_rows(stream, length, index, epochs, options.seed), opened


def _tokenizer_file(source: str | Path) -> Path:
    """The tokenizer.json of a run, of a corpus, or itself."""
    from jaxdenoise.config import DataConfig
    from jaxdenoise.data.store import prepare

    path = Path(source)
    if path.is_dir():
        return path / "tokenizer.json"
    return (
        path if path.is_file() else prepare(DataConfig(corpus=str(source))).path / "tokenizer.json"
    )


def _read_stream(path: str, field: str, tokenizer: Tokenizer, most: int) -> np.ndarray:
    """Int[n], n up to `most`: documents with a separator behind each, as in a token store."""
    import numpy as np

    from jaxdenoise.data.files import read_documents

    documents = read_documents([Path(path)], field=field, unit="paragraph", on_bad=_refuse)
    stream: list[int] = []
    for text in documents:
        stream += [*tokenizer.encode(text).tolist(), tokenizer.separator_id]
        if len(stream) >= most:
            break
    require(len(stream) > 0, f"'{path}' is empty: no document with any text; give another file")
    return np.array(stream[:most], np.int32)


def _refuse(error: UserError) -> None:
    """A record that cannot be read, with this command's way out."""
    reason, _, way_out = str(error).partition("; ")
    named = "--field" in way_out.replace("--data.", "--")
    raise UserError(f"{reason}; " + ("name it with --field" if named else "mend the file"))
