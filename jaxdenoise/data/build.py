"""Building a token store: every part of a corpus becomes a shard, by any number of workers.

What the parts are follows from the corpus alone, and a shard from its part and the tokenizer: the
number of workers changes nothing but speed. A shard is there when it is whole, so that a build
that was killed goes on with those that lack. Memory holds a part for each worker, whatever the
corpus.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from jaxdenoise.config import DataConfig
from jaxdenoise.data.corpora import Corpus, Part
from jaxdenoise.data.pairs import Pair
from jaxdenoise.data.shards import COUNTS, SPLITS, SplitName, read_header, shard_name, write_shard
from jaxdenoise.data.split import held_out_mask, is_held_out
from jaxdenoise.errors import UserError, require
from jaxdenoise.paths import write_whole
from jaxdenoise.tokenizer import Tokenizer, parse_tokenizer

LARGE = 1 << 30  # bytes of files from which on documents are split one by one
SAMPLE_BYTES = 1 << 29  # of text that a tokenizer of a large corpus is trained on
_CHARACTERS = 1 << 20  # encoded at a time


class WorkerDied(UserError):  # noqa: N818  # a build that can go on
    """A process of a build is gone; what is done is kept."""


@dataclass(frozen=True, kw_only=True)
class Divided:
    """A corpus, and which of its documents are held out.

    Near-duplicates stay together where the corpus is small enough to look for them. Of a large one
    each document is decided by itself, by hash, so that nobody reads all of it beforehand.
    """

    corpus: Corpus
    held_out: float
    skips: bool

    @property
    def large(self) -> bool:
        """Whether documents are decided one by one."""
        return self.corpus.size > LARGE

    @cached_property
    def parts(self) -> list[Part]:
        """Of the corpus, in order."""
        return list(self.corpus.parts())

    @cached_property
    def sides(self) -> Sequence[np.ndarray | float]:
        """For each part, Bool[documents], True if held out; of a large corpus the share."""
        if self.large:
            return [self.held_out] * len(self.parts)
        numbers = []

        def texts() -> Iterator[str]:
            for part in self.parts:
                numbers.append(0)
                for text in part.read(self.on_bad):
                    numbers[-1] += 1
                    yield text

        mask = held_out_mask(texts(), self.held_out)
        check_split(self.corpus.name, len(mask), int(mask.sum()))
        return np.split(mask, np.cumsum(numbers)[:-1])

    def training_texts(self, most: int | None = None) -> Iterator[str]:
        """Yields training documents.

        Args:
          most: bytes in all, about as many of each part, from its begin; all of a small corpus.
        """
        most = SAMPLE_BYTES if most is None and self.large else most
        for part, sides in zip(self.parts, self.sides, strict=True):
            left = None if most is None else most / len(self.parts)
            for text, out in _with_sides(part.read(self.on_bad), sides):
                if not out:
                    yield text
                    left = left if left is None else left - _bytes(text)
                if left is not None and left <= 0:
                    break

    def on_bad(self, error: UserError) -> None:
        """Refuses a record that cannot be read, or skips it."""
        if not self.skips:
            raise error


def divide(corpus: Corpus, config: DataConfig) -> Divided:
    """The corpus, split as the fields of `config` say."""
    return Divided(corpus=corpus, held_out=config.held_out, skips=config.bad_records == "skip")


def in_proportion(corpora: Sequence[Divided], rows: Sequence[int]) -> Iterator[str]:
    """Yields training documents of several corpora: of each its share of the bytes.

    All together are as many as the corpora have, up to `SAMPLE_BYTES`. One that has less than its
    share comes again.

    Args:
      corpora: at least one.
      rows: of each in a block.
    """
    sizes = [sum(map(_bytes, one.training_texts(SAMPLE_BYTES))) for one in corpora]
    total = min(sum(sizes), SAMPLE_BYTES)
    for one, size, number in zip(corpora, sizes, rows, strict=True):
        share = left = round(total * number / sum(rows))
        while left > 0 and size:
            for text in one.training_texts(share):
                yield text
                left -= _bytes(text)
                if left <= 0:
                    break


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def check_split(name: str, documents: int, held_out: int) -> None:
    """Raises `UserError` if a corpus is empty or one of its splits would be."""
    require(
        documents > 0,
        f"the corpus '{name}' is empty: no document with any text; give other data.files",
    )
    for side, number in (("training", documents - held_out), ("held-out", held_out)):
        require(
            number > 0,
            f"the corpus '{name}' has {documents} documents and its {side} part is "
            "empty; give more text, another data.held_out, or smaller documents (data.documents)",
        )


def build(
    place: Path,
    divided: Divided,
    make_tokenizer: Callable[[], Tokenizer],
    identity: dict[str, Any],
    workers: int,
    console: Console,
) -> None:
    """Fills a folder with a store, its manifest last; goes on where it was stopped.

    Args:
      place: a local folder, empty or of the same store.
      divided: the corpus.
      make_tokenizer: called where the folder has none yet.
      identity: for the manifest.
      workers: processes; 1 for this one alone, with threads that encode.
      console: where to show progress.

    Raises:
      UserError: a record that cannot be read, an empty split, or a worker that died.
    """
    place.mkdir(parents=True, exist_ok=True)
    name = divided.corpus.name
    with console.status(f"reading {name}"):
        sides = divided.sides
    file = place / "tokenizer.json"
    if not file.exists():
        with console.status(f"the tokenizer of {name}"):
            write_whole(file, make_tokenizer().to_json().encode())
    shards = [
        Shard(
            path=place / shard_name(number),
            part=part,
            sides=side,
            skips=divided.skips,
            pairs=divided.corpus.pairs,
        )
        for number, (part, side) in enumerate(zip(divided.parts, sides, strict=True))
    ]
    headers = [shard.header() for shard in shards]
    missing = [number for number, header in enumerate(headers) if header is None]
    if len(missing) < len(shards):
        console.print(f"{name}: going on with {len(missing)} of {len(shards)} shards")
    tokenizer = file.read_text("utf-8")
    made = write_shards([shards[number] for number in missing], tokenizer, workers)
    shown = track(made, f"tokenising {name}", len(missing), console=console, transient=True)
    for number, header in zip(missing, shown, strict=True):
        headers[number] = header
    _write_manifest(place, name, identity, [header for header in headers if header])


def _write_manifest(
    place: Path, name: str, identity: dict[str, Any], headers: list[dict[str, Any]]
) -> None:
    counts = {
        split: {count: sum(header[split][count] for header in headers) for count in COUNTS}
        for split in SPLITS
    }
    documents = [counts[split]["documents"] for split in SPLITS]
    check_split(name, sum(documents), documents[1])
    manifest = {
        **identity,
        "dtype": headers[0]["dtype"],
        **counts,
        "bad_records": [record for header in headers for record in header["bad_records"]],
    }
    kept = ("begin", "dtype", *SPLITS)
    shards = [{key: header[key] for key in kept} for header in headers]
    write_whole(place / "shards.json", json.dumps(shards).encode())
    write_whole(place / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard that is to be made.

    Attributes:
      path: where.
      part: what is in it.
      sides: of each of its documents, or the share that is held out.
      skips: whether records that cannot be read are skipped.
      pairs: whether the pairs among them are written, and nothing else.
    """

    path: Path
    part: Part
    sides: np.ndarray | float
    skips: bool
    pairs: bool = False

    def header(self) -> dict[str, Any] | None:
        """That of the file, if it is there and was made of the same part."""
        if not self.path.exists():
            return None
        header = read_header(self.path)
        return header if header["part"] == str(self.part) else None

    def write(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Encodes the documents and writes the file; returns its header."""
        bad: list[str] = []

        def on_bad(error: UserError) -> None:
            if not self.skips:
                raise error
            bad.append(str(error).split(";")[0])

        dtype = "<u2" if tokenizer.vocab.size <= 1 << 16 else "<u4"
        encode = _encode_pairs if self.pairs else _encode_texts
        documents: dict[SplitName, list[np.ndarray]] = {split: [] for split in SPLITS}
        sizes: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)
        for chunk in _chunks(_with_sides(self.part.read(on_bad), self.sides)):
            for out, size, ids in encode(tokenizer, chunk):
                split = SPLITS[int(out)]
                documents[split].append(ids.astype(dtype))
                sizes[split] += size
        more = {"bad_records": bad, "part": str(self.part)}
        write_shard(self.path, documents, sizes, dtype, more)
        return read_header(self.path)


_Encoded = Iterator[tuple[bool, int, np.ndarray]]
"""Of each document whether it is held out, its bytes, and its tokens."""


def _encode_texts(tokenizer: Tokenizer, chunk: list[tuple[str, bool]]) -> _Encoded:
    """Texts with a separator behind."""
    encoded = tokenizer.encode_batch([text for text, _ in chunk])
    for (text, out), ids in zip(chunk, encoded, strict=True):
        yield out, _bytes(text), np.append(ids, tokenizer.separator_id)


def _encode_pairs(tokenizer: Tokenizer, chunk: list[tuple[str, bool]]) -> _Encoded:
    """Sources and targets with a separator between and EOS behind; other documents are left out."""
    between, end = [tokenizer.separator_id], [tokenizer.vocab.eos_id]
    pairs = [(text, out) for text, out in chunk if isinstance(text, Pair)]
    sources = tokenizer.encode_batch([pair.source for pair, _ in pairs])
    targets = tokenizer.encode_batch([pair.target for pair, _ in pairs])
    for (pair, out), source, target in zip(pairs, sources, targets, strict=True):
        size = _bytes(pair.source) + _bytes(pair.target)
        yield out, size, np.concatenate([source, between, target, end])


def _with_sides(texts: Iterator[str], sides: np.ndarray | float) -> Iterator[tuple[str, bool]]:
    """Texts with whether each is held out."""
    if isinstance(sides, np.ndarray):
        return zip(texts, sides.tolist(), strict=True)
    return ((text, is_held_out(text, sides)) for text in texts)


def _chunks(items: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Items together whose texts have about `_CHARACTERS`."""
    chunk, size = [], 0
    for text, out in items:
        chunk.append((text, out))
        size += len(text)
        if size >= _CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def write_shards(shards: list[Shard], tokenizer: str, workers: int) -> Iterator[dict[str, Any]]:
    """Writes shards; yields their headers in order, or raises the first one's error.

    Args:
      shards: that are missing.
      tokenizer: as JSON.
      workers: processes of one thread each; 1 for this one alone, whose encoding has threads.
    """
    workers = min(workers, len(shards))
    if workers <= 1:
        opened = parse_tokenizer(tokenizer, "the store's")
        yield from (shard.write(opened) for shard in shards)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a fork of JAX's threads may hang
        initializer=_start_worker,
        initargs=(tokenizer,),
    )
    try:
        futures = [pool.submit(_write, shard) for shard in shards]
        yield from (future.result() for future in futures)
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a worker that tokenises died, perhaps killed for its memory; what is done is kept, "
            f"and the same command goes on, with fewer data.workers (now {workers}) if need be; a "
            'script needs if __name__ == "__main__": around what starts them'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(tokenizer: str) -> None:
    """In a worker: one thread, since there are other workers; it ends with its parent."""
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells it to stop
    threading.Thread(target=_follow_parent, daemon=True).start()
    _tokenizer = parse_tokenizer(tokenizer, "the store's")


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(shard: Shard) -> dict[str, Any]:
    return shard.write(_tokenizer)


_tokenizer: Tokenizer
