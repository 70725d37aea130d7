"""Shards: files of documents' tokens in both splits, and the stream that many of them make.

A shard is one file, written whole: a header of JSON (what is in it), then for either split where
its documents end (64-bit integers), then for either split the tokens, a separator behind each
document. All integers are little-endian.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from jaxdenoise.errors import UserError
from jaxdenoise.paths import local_copy, write_whole

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")
COUNTS = ("documents", "tokens", "bytes")
_ALIGNED = 64
_OPEN = 256  # files that a stream keeps mapped; each takes a descriptor
_END = np.dtype("<u8")


def write_shard(
    path: Path,
    documents: dict[SplitName, list[np.ndarray]],
    sizes: dict[SplitName, int],
    dtype: str,
    more: dict[str, Any],
) -> None:
    """Writes a shard.

    Args:
      path: where to.
      documents: of each split, the tokens of every document, its separator included.
      sizes: bytes of text in each split.
      dtype: of the tokens, "<u2" or "<u4".
      more: for the header.
    """
    ends = {split: np.cumsum([len(d) for d in documents[split]], dtype=_END) for split in SPLITS}
    tokens = {
        split: np.concatenate([np.zeros(0, dtype), *documents[split]]).astype(dtype, copy=False)
        for split in SPLITS
    }
    header: dict[str, Any] = {
        split: dict(zip(COUNTS, (len(ends[split]), len(tokens[split]), sizes[split]), strict=True))
        for split in SPLITS
    }
    header |= {"dtype": dtype, **more}
    text = json.dumps(header).encode()
    head = text + b" " * (-(len(text) + 1) % _ALIGNED) + b"\n"
    arrays = [*(ends[split] for split in SPLITS), *(tokens[split] for split in SPLITS)]
    write_whole(path, b"".join([head, *(array.tobytes() for array in arrays)]))


def read_header(path: Path) -> dict[str, Any]:
    """What a shard says of itself, and as "begin" where its arrays begin."""
    with path.open("rb") as file:
        line = file.readline()
    return {**json.loads(line), "begin": len(line)}


@dataclass(frozen=True)
class Part:
    """The tokens of one split in one shard.

    Attributes:
      path: of the file.
      ends: byte where the ends of the documents are.
      documents: how many.
      begin: byte where the tokens are.
      tokens: how many.
      size: bytes of the whole file.
    """

    path: Path
    ends: int
    documents: int
    begin: int
    tokens: int
    size: int


def parts_of(path: Path, header: dict[str, Any]) -> dict[SplitName, Part]:
    """Where things are in a shard, from its header."""
    width, place, found = np.dtype(header["dtype"]).itemsize, header["begin"], {}
    for split in SPLITS:
        if any(type(n) is not int or n < 0 for n in header[split].values()):
            raise ValueError(f"{path.name} has {header[split]}")
        found[split] = [path, place, header[split]["documents"]]
        place += header[split]["documents"] * _END.itemsize
    for split in SPLITS:
        found[split] += [place, header[split]["tokens"]]
        place += header[split]["tokens"] * width
    return {split: Part(*fields, size=place) for split, fields in found.items()}


class Stream(Sequence[int]):
    """The tokens of a split, one shard behind the other: a view that maps a file when it is used.

    It has a length and a dtype; `stream[a:b]` is an array, also across files; `np.asarray` reads
    everything.

    Args:
      parts: in order.
      dtype: of the tokens.
    """

    def __init__(self, parts: Sequence[Part], dtype: str):
        self.dtype = np.dtype(dtype)
        self._parts = [part for part in parts if part.tokens]
        self._ends = np.cumsum([part.tokens for part in self._parts], dtype=np.int64)
        self._map = functools.lru_cache(_OPEN)(self._open)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int | slice) -> Any:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self._read(place, place + 1)[0]
        start, stop, step = index.indices(len(self))
        return self._read(start, stop) if step == 1 else np.asarray(self)[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what is read from several files is a copy already
        return np.asarray(self[:], dtype)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """A view where one file has it all, else a copy."""
        found, number = [], int(np.searchsorted(self._ends, start, "right"))
        while start < stop:
            end = int(self._ends[number])
            first = end - self._parts[number].tokens
            found.append(self._map(number)[start - first : min(stop, end) - first])
            start, number = end, number + 1
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.zeros(0, self.dtype)

    def _open(self, number: int) -> np.ndarray:
        part = self._parts[number]
        return _mapped(part, self.dtype, part.begin, part.tokens)

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self._parts, "dtype": self.dtype.str}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def documents_of(parts: Sequence[Part]) -> Int[np.ndarray, "D 2"]:
    """Where each document of a stream starts, and its tokens, from the shards' indices."""
    before, ends = 0, [np.zeros(1, np.int64)]
    for part in parts:
        if part.documents:
            own = _mapped(part, _END, part.ends, part.documents)
            ends.append(own.astype(np.int64) + before)
        before += part.tokens
    bounds = np.concatenate(ends)
    return np.stack([bounds[:-1], np.diff(bounds)], axis=1)


def _mapped(part: Part, dtype: np.dtype, offset: int, number: int) -> np.ndarray:
    try:
        file = local_copy(part.path)
        if file.stat().st_size != part.size:
            raise ValueError(f"it has {file.stat().st_size} bytes of {part.size}")
        mapped = np.memmap(file, dtype, "r", offset, (number,))
    except (ValueError, OverflowError, FileNotFoundError) as error:
        raise UserError(
            f"'{part.path}' is missing, or not as long as its store says; remove "
            f"'{part.path.parent}', and the next run builds it anew"
        ) from error
    return mapped.view(np.ndarray)  # whose slices cost half as much to make


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"{number:06d}.shard"
