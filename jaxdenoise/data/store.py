"""The token store: a corpus tokenised once, memory-mapped ever after.

A store is a folder of shards (`shards`), with `tokenizer.json`, `shards.json` (what is in each) and
`manifest.json`. It is built beside its place and moved there whole (`build`). A mixture has a
store for each corpus, all by one tokenizer. The folder of stores may be elsewhere, such as on
gs://: then a store is built on this machine and copied there, and a shard that is read comes to
this machine when it is first touched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from jaxtyping import Int
from rich.console import Console

from jaxdenoise.config import DataConfig, DecoderStart
from jaxdenoise.data.build import Divided, WorkerDied, build, divide, in_proportion
from jaxdenoise.data.corpora import Corpus, open_corpus, open_member
from jaxdenoise.data.pairs import Pairs
from jaxdenoise.data.shards import (
    COUNTS,
    SPLITS,
    Part,
    SplitName,
    Stream,
    documents_of,
    parts_of,
    shard_name,
)
from jaxdenoise.errors import UserError
from jaxdenoise.paths import (
    as_path,
    is_local,
    local_cache,
    reaching,
    sound,
    upload,
    write_whole,
)
from jaxdenoise.tokenizer import Tokenizer, read_tokenizer, train_tokenizer

FORMAT = 3


@dataclass(frozen=True)
class TokenStore:
    """An opened store, or those of a mixture.

    Attributes:
      path: its folder; of a mixture the first one's.
      manifest: identity of corpus, tokenizer and split; documents, tokens and bytes of each split.
      mixed: the stores of a mixture, of which the streams are one behind another.
      rows: of a mixture, how many rows of each there are in a block of rows.
      decoder_start: as the tokenizer is opened; see `DataConfig`.
    """

    path: Path
    manifest: dict[str, Any]
    mixed: tuple[TokenStore, ...] = ()
    rows: tuple[int, ...] = (1,)
    decoder_start: DecoderStart = "pad"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return read_tokenizer(self.path / "tokenizer.json", decoder_start=self.decoder_start)

    def tokens(self, split: SplitName) -> Stream:
        """The token stream of a split: a view whose slices are arrays, memory-mapped."""
        return Stream(self._parts(split), self.manifest["dtype"])

    def documents(self, split: SplitName) -> Int[np.ndarray, "D 2"]:
        """Where each document of the stream starts, and its tokens, its separator included."""
        return documents_of(self._parts(split))

    def pairs(self, split: SplitName) -> Pairs:
        """The pairs of a split, where the corpus is of pairs."""
        return Pairs(self.tokens(split), self.documents(split), self.tokenizer.separator_id)

    def lines(self, split: SplitName, *, pairs: bool) -> Stream | Pairs:
        """What rows that are not packed are made of: the stream, or its pairs."""
        return self.pairs(split) if pairs else self.tokens(split)

    def sample(self, number: int) -> np.ndarray:
        """Int[up to `number`]: the first training tokens, of a mixture in its proportions."""
        if not self.mixed:
            return self.tokens("train")[:number]
        from jaxdenoise.data.mixing import interleave

        return interleave([store.tokens("train") for store in self.mixed], self.rows, number)

    @property
    def members(self) -> tuple[TokenStore, ...]:
        """The stores of all corpora."""
        return self.mixed or (self,)

    @property
    def identity(self) -> str:
        """A digest of everything that determines the tokens."""
        return self.manifest["identity_digest"]

    def _parts(self, split: SplitName) -> list[Part]:
        return [shard[split] for store in self.members for shard in store._shards]

    @cached_property
    def _shards(self) -> list[dict[SplitName, Part]]:
        file = self.path / "shards.json"
        with sound(file, _anew(self.path)):
            headers = json.loads(file.read_text("utf-8"))
            parts = [parts_of(self.path / shard_name(k), each) for k, each in enumerate(headers)]
            for split, name in itertools.product(SPLITS, COUNTS):
                known = self.manifest.get(split, {}).get(name)
                found = sum(header[split][name] for header in headers)
                if known not in (None, found):
                    raise ValueError(f"{found} {name} of {known}")
        return parts


def cache_directory() -> Path:
    """Where stores live: $JAXDENOISE_CACHE, which may be an address, or the user's cache folder."""
    named = os.environ.get("JAXDENOISE_CACHE")
    return as_path(named) if named else platformdirs.user_cache_path("jaxdenoise")


def prepare(
    config: DataConfig, *, cache: Path | None = None, console: Console | None = None
) -> TokenStore:
    """Opens the store of this corpus, or those of this mixture; builds what lacks.

    Args:
      config: corpus, tokenizer and split. The raw length is not part of a store, nor how many
        workers build it.
      cache: the folder of stores; `cache_directory()` by default.
      console: where to show progress; None for none.

    Raises:
      UserError: no file, a record that cannot be read, an empty split, or a worker that died.
    """
    cache, console = cache or cache_directory(), console or Console(quiet=True)
    if not config.mixture:
        return _prepare(divide(open_corpus(config), config), config, cache, console)
    divided = [divide(open_member(name, config), config) for name, _ in config.mixture]
    if config.tokenizer is None:
        with console.status("the tokenizer of the mixture"):
            file = _mixed_tokenizer(config, divided, cache)
        config = dataclasses.replace(config, tokenizer=str(file))
    stores = tuple(_prepare(one, config, cache, console) for one in divided)
    mixed = _mixed_manifest(stores)
    return TokenStore(stores[0].path, mixed, stores, config.block, config.decoder_start)


def load_tokenizer(source: str | Path, **fields: Any) -> Tokenizer:
    """A tokenizer by corpus, run or file.

    Args:
      source: the name of an embedded corpus, whose tokenizer is trained if it is not cached; a
        run's directory; or the path of a tokenizer.json.
      **fields: of `DataConfig`, with a corpus: `vocabulary_size`, `sentinels`.

    Raises:
      UserError: none of the three.

    Example:
      >>> import tempfile
      >>> from jaxdenoise.tokenizer import train_tokenizer
      >>> file = Path(tempfile.mkdtemp(), "tokenizer.json")
      >>> trained = train_tokenizer(["Return the sum."], vocabulary_size=300, sentinels=9)
      >>> _ = file.write_text(trained.to_json())
      >>> load_tokenizer(file).decode(trained.encode("Return the sum."))
      'Return the sum.'
    """
    path = as_path(source)
    if path.is_dir():
        return read_tokenizer(
            path / "tokenizer.json", separator=False, decoder_start=_start_of_run(path)
        )
    if path.is_file():
        return read_tokenizer(path)
    return prepare(DataConfig(corpus=str(source), **fields)).tokenizer


def _start_of_run(path: Path) -> DecoderStart:
    """What the decoder of a run reads first; padding, where the folder is no run."""
    config = path / "config.json"
    with sound(config):
        saved = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        return saved.get("experiment", {}).get("data", {}).get("decoder_start", "pad")


def _prepare(divided: Divided, config: DataConfig, cache: Path, console: Console) -> TokenStore:
    """The store of one corpus."""
    identity = _identity(config, divided.corpus)
    named = {"identity": identity, "identity_digest": _digest(identity)}
    place = cache / "stores" / f"{divided.corpus.name}-{named['identity_digest']}"
    manifest = place / "manifest.json"
    with reaching(manifest):
        there = manifest.exists()
    if not there:
        _build(place, divided, config, named, console)
    with sound(manifest, _anew(place)):
        found = _checked(json.loads(manifest.read_text("utf-8")), named)
    return TokenStore(place, found, decoder_start=config.decoder_start)


def _anew(place: Path) -> str:
    return f"; remove '{place}', and the next run builds it anew"


def _checked(manifest: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """A manifest that is of this store and has what is asked of one; `ValueError` otherwise."""
    numbers = [manifest[split][name] for split in SPLITS for name in COUNTS]
    wanted = json.loads(json.dumps(named))
    fits = {
        "identity": {name: manifest[name] for name in wanted} == wanted,
        "dtype": manifest["dtype"] in ("<u2", "<u4"),
        "counts": all(type(number) is int and number >= 0 for number in numbers),
        "bad_records": isinstance(manifest["bad_records"], list),
    }
    for name, holds in fits.items():
        if not holds:
            raise ValueError(f"its {name} cannot be")
    return manifest


def _build(
    place: Path, divided: Divided, config: DataConfig, named: dict[str, Any], console: Console
) -> None:
    """Builds a store beside its place, or on this machine, and moves it there."""
    local = place if is_local(place) else local_cache() / "stores" / place.name
    building = local.with_name(f".{place.name}")

    def make_tokenizer() -> Tokenizer:
        if config.tokenizer is not None:
            return read_tokenizer(config.tokenizer, sentinels=config.appended)
        return _trained(config, divided.training_texts())

    try:
        build(building, divided, make_tokenizer, named, config.workers, console)
        _move(building, place)
    except (UserError, OSError) as error:
        there = (place / "manifest.json").exists()  # another process was faster: take its store
        if there or (isinstance(error, UserError) and not isinstance(error, WorkerDied)):
            shutil.rmtree(building, ignore_errors=True)
        if not there:
            raise
    for leftover in place.glob(".*"):  # of a build that was killed, or of another's
        leftover.unlink(missing_ok=True)


def _move(building: Path, place: Path) -> None:
    """Puts a store that is whole into its place."""
    if is_local(place):
        os.rename(building, place)
    else:
        place.mkdir(parents=True, exist_ok=True)
        for file in sorted(building.glob("[!.]*"), key=lambda f: f.name == "manifest.json"):
            upload(file, place / file.name)
        shutil.rmtree(building)


def _identity(config: DataConfig, corpus: Corpus) -> dict[str, Any]:
    if config.tokenizer is None:
        tokenizer = f"byte-level BPE, {config.vocabulary_size} ids, {config.sentinels} sentinels"
    else:
        content = read_tokenizer(config.tokenizer, sentinels=config.appended).to_json()
        tokenizer = hashlib.sha256(content.encode()).hexdigest()
    return {
        "format": FORMAT,
        "corpus": dict(corpus.fingerprint),
        "bad_records": config.bad_records,
        "held_out": config.held_out,
        "tokenizer": tokenizer,
    }


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _trained(config: DataConfig, texts: Iterable[str]) -> Tokenizer:
    sizes = {"vocabulary_size": config.vocabulary_size, "sentinels": config.sentinels}
    return train_tokenizer(texts, **sizes)


def _mixed_tokenizer(config: DataConfig, divided: Sequence[Divided], cache: Path) -> Path:
    """The file of a mixture's tokenizer, trained on all corpora in proportion if it lacks."""
    identities = [_identity(config, one.corpus) for one in divided]
    file = cache / "tokenizers" / f"mixture-{_digest([identities, config.block])}.json"
    if not file.exists():
        tokenizer = _trained(config, in_proportion(divided, config.block))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, tokenizer.to_json().encode())
    return file


def _mixed_manifest(stores: Sequence[TokenStore]) -> dict[str, Any]:
    manifests = [store.manifest for store in stores]
    counts = {
        split: {name: sum(one[split][name] for one in manifests) for name in COUNTS}
        for split in SPLITS
    }
    return {
        "identity_digest": _digest([store.identity for store in stores]),
        "dtype": manifests[0]["dtype"],
        **counts,
        "bad_records": [record for one in manifests for record in one["bad_records"]],
        "corpora": {store.path.name: store.manifest for store in stores},
    }
