"""The token store: a corpus tokenised once, memory-mapped ever after.

A store is a folder with `train.tokens` and `held_out.tokens` (little-endian integers, a separator
after each document), `tokenizer.json`, and `manifest.json`. It is built beside its place and moved
there whole, so that an interrupted build leaves nothing that would be taken for a store.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
from rich.console import Console
from rich.progress import track

from jaxdenoise.config import DataConfig
from jaxdenoise.data.corpora import Corpus, open_corpus
from jaxdenoise.data.split import held_out_mask
from jaxdenoise.errors import require
from jaxdenoise.tokenizer import Tokenizer, read_tokenizer, train_tokenizer

FORMAT = 2
SPLITS = ("train", "held_out")
SplitName = Literal["train", "held_out"]
_CHUNK = 1000  # documents encoded at a time


@dataclass(frozen=True)
class TokenStore:
    """An opened store.

    Attributes:
      path: its folder.
      manifest: identity of corpus, tokenizer and split; documents, tokens and bytes of each split.
    """

    path: Path
    manifest: dict[str, Any]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return read_tokenizer(self.path / "tokenizer.json")

    def tokens(self, split: SplitName) -> np.ndarray:
        """The memory-mapped token stream of a split: Int[tokens]."""
        path = self.path / f"{split}.tokens"
        return np.memmap(path, dtype=self.manifest["dtype"], mode="r")

    @property
    def identity(self) -> str:
        """A digest of everything that determines the tokens."""
        return self.manifest["identity_digest"]


def cache_directory() -> Path:
    """Where stores live: $JAXDENOISE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("JAXDENOISE_CACHE") or platformdirs.user_cache_path("jaxdenoise"))


def prepare(
    config: DataConfig, *, cache: Path | None = None, console: Console | None = None
) -> TokenStore:
    """Opens the store of this corpus, building it first if there is none.

    Args:
      config: corpus, tokenizer and split; the raw length is not part of a store.
      cache: the folder of stores; `cache_directory()` by default.
      console: where to show progress; None for none.

    Raises:
      UserError: no file, a record that cannot be read, or an empty split.
    """
    corpus = open_corpus(config)
    identity = _identity(config, corpus)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    place = (cache or cache_directory()) / "stores" / f"{corpus.name}-{digest}"
    if not (place / "manifest.json").exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            _build(building, config, corpus, identity, digest, console or Console(quiet=True))
            building.chmod(0o755)  # a temporary folder is closed to others; a cache is shared
            os.rename(building, place)
        except OSError:
            if not (place / "manifest.json").exists():  # another process was faster: take its store
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return TokenStore(place, json.loads((place / "manifest.json").read_text()))


def load_tokenizer(source: str | Path, **fields: Any) -> Tokenizer:
    """A tokenizer by corpus, run or file.

    Args:
      source: the name of an embedded corpus, whose tokenizer is trained if it is not cached; a
        run's directory; or the path of a tokenizer.json.
      **fields: of `DataConfig`, with a corpus: `vocabulary_size`, `sentinels`.

    Raises:
      UserError: none of the three.

    Example:
      >>> load_tokenizer("pydocs").decode(load_tokenizer("pydocs").encode("Return the sum."))
      'Return the sum.'
    """
    path = Path(source)
    if path.is_dir():
        return read_tokenizer(path / "tokenizer.json")
    if path.is_file():
        return read_tokenizer(path)
    return prepare(DataConfig(corpus=str(source), **fields)).tokenizer


def _identity(config: DataConfig, corpus: Corpus) -> dict[str, Any]:
    if config.tokenizer is None:
        tokenizer = f"byte-level BPE, {config.vocabulary_size} ids, {config.sentinels} sentinels"
    else:
        content = read_tokenizer(config.tokenizer).to_json()
        tokenizer = hashlib.sha256(content.encode()).hexdigest()
    return {
        "format": FORMAT,
        "corpus": dict(corpus.fingerprint),
        "bad_records": config.bad_records,
        "held_out": config.held_out,
        "tokenizer": tokenizer,
    }


def _build(
    place: Path,
    config: DataConfig,
    corpus: Corpus,
    identity: dict[str, Any],
    digest: str,
    console: Console,
) -> None:
    with console.status(f"reading {corpus.name}"):
        held_out = held_out_mask((text for _, text in corpus.documents()), config.held_out)
        _check_split(corpus, held_out)
    tokenizer = _tokenizer(config, corpus, held_out, console)
    dtype = "<u2" if tokenizer.vocab.size <= 1 << 16 else "<u4"
    counts = _write_tokens(place, corpus, held_out, tokenizer, dtype, console)
    (place / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    manifest = {
        "identity": identity,
        "identity_digest": digest,
        "dtype": dtype,
        **counts,
        "bad_records": corpus.bad_records,
    }
    (place / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _check_split(corpus: Corpus, held_out: np.ndarray) -> None:
    require(
        len(held_out) > 0,
        f"the corpus '{corpus.name}' is empty: no document with any text; give other data.files",
    )
    for side, empty in (("training", held_out.all()), ("held-out", not held_out.any())):
        require(
            not empty,
            f"the corpus '{corpus.name}' has {len(held_out)} documents and its {side} part is "
            "empty; give more text, another data.held_out, or smaller documents (data.documents)",
        )


def _tokenizer(
    config: DataConfig, corpus: Corpus, held_out: np.ndarray, console: Console
) -> Tokenizer:
    if config.tokenizer is not None:
        return read_tokenizer(config.tokenizer)
    texts = (text for (_, text), out in zip(corpus.documents(), held_out, strict=True) if not out)
    with console.status("training the tokenizer"):
        return train_tokenizer(
            texts, vocabulary_size=config.vocabulary_size, sentinels=config.sentinels
        )


def _write_tokens(
    place: Path,
    corpus: Corpus,
    held_out: np.ndarray,
    tokenizer: Tokenizer,
    dtype: str,
    console: Console,
) -> dict[str, dict[str, int]]:
    """Encodes all documents into the two token files; returns the counts of each split."""
    ending = [tokenizer.separator_id]
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    chunks = _chunks(zip(corpus.documents(), held_out, strict=True), _CHUNK)
    number = -(-len(held_out) // _CHUNK)
    with (
        open(place / "train.tokens", "wb") as train,
        open(place / "held_out.tokens", "wb") as evaluation,
    ):
        for chunk in track(chunks, "tokenising", number, console=console, transient=True):
            encoded = tokenizer.encode_batch([text for (_, text), _ in chunk])
            for ((_, text), out), ids in zip(chunk, encoded, strict=True):
                split = counts[SPLITS[int(out)]]
                split["documents"] += 1
                split["tokens"] += len(ids) + 1
                split["bytes"] += len(text.encode("utf-8", "surrogatepass"))
                (evaluation if out else train).write(np.append(ids, ending).astype(dtype).tobytes())
    return counts


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
