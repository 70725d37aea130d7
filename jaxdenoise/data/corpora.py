"""Corpora: streams of named documents, with a fingerprint of where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from jaxdenoise.config import DataConfig
from jaxdenoise.data import files, pydocs
from jaxdenoise.errors import UserError
from jaxdenoise.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents that can be read again and again, always in the same order.

    Attributes:
      name: for display and for the store's folder.
      fingerprint: what identifies the content; another fingerprint is another corpus.
      documents: yields (name, text).
      bad_records: where records were skipped, filled while reading.
    """

    name: str
    fingerprint: Mapping[str, str]
    documents: Callable[[], Iterator[tuple[str, str]]]
    bad_records: list[str] = field(default_factory=list)


corpora: Registry[Callable[[], Corpus]] = Registry("corpus")


def _pydocs() -> Corpus:
    """Docstrings of the Python standard library, numpy, scipy and jax: 10 MB of English."""
    return Corpus(
        name="pydocs",
        fingerprint=pydocs.fingerprint(),
        documents=lambda: iter(pydocs.documents()),
    )


corpora.add("pydocs", _pydocs)


def open_corpus(config: DataConfig) -> Corpus:
    """The user's files if there are any, else the embedded corpus.

    Raises:
      UserError: an unknown corpus, a pattern without files, or a kind of file without a reader.
    """
    if not config.files:
        return corpora[config.corpus]()
    paths = files.find_files(config.files)
    bad: dict[str, None] = {}  # a set in order: the corpus is read more than once

    def on_bad(error: UserError) -> None:
        if config.bad_records == "refuse":
            raise error
        bad[str(error).split(";")[0]] = None

    def documents() -> Iterator[tuple[str, str]]:
        yield from files.read_documents(
            paths, field=config.field, unit=config.documents, on_bad=on_bad
        )
        corpus.bad_records[:] = bad

    fingerprint = files.fingerprint(paths, config.field, config.documents)
    corpus = Corpus(name=paths[0].stem, fingerprint=fingerprint, documents=documents)
    return corpus
