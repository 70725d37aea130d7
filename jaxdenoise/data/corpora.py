"""Corpora: documents, in parts that can be read apart, with a fingerprint of their source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxdenoise.config import DataConfig
from jaxdenoise.data import files, huggingface, pydocs
from jaxdenoise.data.pairs import check_pairs
from jaxdenoise.data.records import OnBad
from jaxdenoise.registry import Registry


class Part(Protocol):
    """Some of the documents of a corpus; it can be pickled, so that another process reads it."""

    def read(self, on_bad: OnBad) -> Iterator[str]:
        """Yields its documents, always in the same order; see `records`."""
        ...


@dataclass(frozen=True)
class _Whole:
    """All documents of a corpus that is not cut, from a function for (name, text)."""

    documents: Callable[[], Iterable[tuple[str, str]]]

    def read(self, on_bad: OnBad) -> Iterator[str]:
        del on_bad
        return (text for _, text in self.documents())

    def __repr__(self) -> str:
        return "all documents"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents that can be read again and again, always in the same order.

    Attributes:
      name: for display and for the store's folder.
      fingerprint: what identifies the content; another fingerprint is another corpus.
      documents: yields (name, text); of a small corpus, which is one part.
      cut: of a larger one, gives its parts, which depend on nothing but the content.
      size: bytes of its files; 0 for what is small.
      pairs: whether it is of `Pair`s. Documents without one are looked at where a corpus is split,
        so that pairs are held out where their documents are, and then left out.
    """

    name: str
    fingerprint: Mapping[str, str]
    documents: Callable[[], Iterable[tuple[str, str]]] = tuple
    cut: Callable[[], Sequence[Part]] | None = None
    size: int = 0
    pairs: bool = False

    def parts(self) -> Sequence[Part]:
        """The corpus in parts, which workers share."""
        return [_Whole(self.documents)] if self.cut is None else self.cut()


corpora: Registry[Callable[[], Corpus]] = Registry("corpus")


def _pydocs() -> Corpus:
    """Docstrings of the Python standard library, numpy, scipy and jax: 10 MB of English."""
    return Corpus(name="pydocs", fingerprint=pydocs.fingerprint(), documents=pydocs.documents)


def _pydocs_names() -> Corpus:
    """Pairs: what a docstring says of a function without its name, and that name."""
    return _pairs_of_pydocs("pydocs_names", pydocs.names)


def _pydocs_modules() -> Corpus:
    """Pairs: a docstring, and the module of which it is."""
    return _pairs_of_pydocs("pydocs_modules", pydocs.modules)


def _pairs_of_pydocs(name: str, documents: Callable[[], Iterable[tuple[str, str]]]) -> Corpus:
    identity = {**pydocs.fingerprint(), "pairs": name, "of pairs": pydocs.PAIRS_VERSION}
    return Corpus(name=name, fingerprint=identity, documents=documents, pairs=True)


corpora.add("pydocs", _pydocs)
corpora.add("pydocs_names", _pydocs_names)
corpora.add("pydocs_modules", _pydocs_modules)


def open_corpus(config: DataConfig) -> Corpus:
    """The user's files if there are any, else a corpus by name.

    Raises:
      UserError: an unknown corpus, a pattern without files, or a kind of file without a reader.
    """
    if config.files:
        return _of_files(files.find_files(config.files), config)
    return _named(config.corpus, config)


def open_member(name: str, config: DataConfig) -> Corpus:
    """A corpus of a mixture: by name, or else the files of a path or glob.

    Raises:
      UserError: as `open_corpus`.
    """
    if name in corpora or name.startswith(huggingface.SCHEME):
        return _named(name, config)
    known = ", ".join(corpora.names())
    return _of_files(files.find_files((name,), f"data.mixture: no corpus ({known}) and"), config)


def _of_files(paths: list[Path], config: DataConfig) -> Corpus:
    kinds: dict[str, Any] = {
        "field": config.field,
        "unit": config.documents,
        "pairs": config.pairs,
    }
    return Corpus(
        name=paths[0].stem,
        fingerprint=files.fingerprint(paths, **kinds),
        cut=functools.partial(files.plan_parts, paths, **kinds),
        size=sum(path.stat().st_size for path in paths),
        pairs=config.pairs,
    )


def _named(name: str, config: DataConfig) -> Corpus:
    if not name.startswith(huggingface.SCHEME):
        corpus = corpora[name]()
        check_pairs(name, corpus.pairs, config.pairs)
        return corpus
    check_pairs(name, False, config.pairs)
    return Corpus(
        name=huggingface.short_name(name),
        fingerprint=huggingface.fingerprint(name, config.field),
        cut=functools.partial(huggingface.plan_parts, name, config.field),
        size=huggingface.open_dataset(name).data.nbytes,
    )
