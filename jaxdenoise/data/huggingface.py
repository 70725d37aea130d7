"""Datasets of Hugging Face by name, through `datasets`: hf:NAME?config=…&split=…&revision=…."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jaxdenoise.data.records import OnBad, bad_row, text_of
from jaxdenoise.errors import UserError, require

SCHEME = "hf:"
PART_ROWS = 50_000  # what becomes one shard
_OPTIONS = ("config", "revision", "split")
_TOGETHER = 1000  # rows that are read at a time


@dataclass(frozen=True)
class HuggingFacePart:
    """Rows `begin` to `end` of a dataset.

    Attributes:
      address: as in `open_dataset`.
      begin: the first row.
      end: behind the last.
      field: the text's column.
    """

    address: str
    begin: int
    end: int
    field: str

    def read(self, on_bad: OnBad) -> Iterator[str]:
        """Yields the documents that are not blank; see `records`."""
        rows = open_dataset(self.address).select_columns([self.field])
        for begin in range(self.begin, self.end, _TOGETHER):
            column = rows[begin : min(begin + _TOGETHER, self.end)][self.field]
            for number, value in enumerate(column, begin + 1):
                text, problem = text_of(lambda value=value: value)
                if problem:
                    on_bad(bad_row(self.address, number, problem, self.field))
                elif text.strip():
                    yield text


@functools.lru_cache(maxsize=4)
def open_dataset(address: str) -> Any:
    """The `datasets.Dataset` of an address, downloaded if it is not in the library's own cache.

    Args:
      address: `hf:NAME`, or `hf:` and a folder: one that `save_to_disk` wrote, or one of data
        files. Behind it, as in `hf:allenai/c4?config=en&split=train`, what `load_dataset` takes:
        `config`, `split` (train by default) and `revision`.

    Raises:
      UserError: `datasets` is not installed, or it cannot open this.
    """
    name, options = _parse(address)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f"data.corpus {address!r} needs the package datasets; pip install 'jaxdenoise[hf]'"
        ) from error
    split = options.pop("split", "train")
    folder = Path(name)
    try:
        if (folder / "state.json").exists():
            return datasets.load_from_disk(name)
        if (folder / "dataset_dict.json").exists():
            return datasets.load_from_disk(name)[split]
        return datasets.load_dataset(name, options.pop("config", None), split=split, **options)
    except Exception as error:  # the library, its builders and the network raise many
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data.corpus {address!r} cannot be opened ({reason}); give a dataset's name or "
            "folder, and ?config=…&split=… behind it if it has several"
        ) from error


def fingerprint(address: str, field: str) -> dict[str, str]:
    """What identifies the rows: the address, and the library's own fingerprint.

    Raises:
      UserError: there is no such dataset, or it has no such column of text.
    """
    dataset = open_dataset(address)
    known = [name for name, kind in dataset.features.items() if _is_text(kind)]
    require(
        field in known,
        f"{address}: has no text column '{field}' (text columns: {', '.join(known) or 'none'}); "
        "name it with --data.field",
    )
    own = {"rows": str(len(dataset)), "fingerprint": dataset._fingerprint}
    return {"corpus": address, "field": field, **own}


def plan_parts(address: str, field: str) -> list[HuggingFacePart]:
    """Cuts a dataset into parts of `PART_ROWS` rows."""
    number = len(open_dataset(address))
    return [
        HuggingFacePart(address, begin, min(begin + PART_ROWS, number), field)
        for begin in range(0, number, PART_ROWS)
    ]


def short_name(address: str) -> str:
    """The last part of a dataset's name.

    Example:
      >>> short_name("hf:allenai/c4?config=en")
      'c4'
    """
    return Path(_parse(address)[0]).name


def _is_text(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in ("string", "large_string")


def _parse(address: str) -> tuple[str, dict[str, str]]:
    name, _, query = address.removeprefix(SCHEME).partition("?")
    options = dict(parse_qsl(query))
    for option in options.keys() - set(_OPTIONS):
        raise UserError(
            f"data.corpus {address!r} has the option '{option}'; it takes {', '.join(_OPTIONS)}"
        )
    require(bool(name), f"data.corpus {address!r} names no dataset; give such as hf:allenai/c4")
    return name, options
