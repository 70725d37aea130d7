"""Every objective on the same rows: an example of each, and its statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxdenoise.arrays import Rows
from jaxdenoise.errors import UserError
from jaxdenoise.objectives import objectives
from jaxdenoise.report.marked import Line, marked_lines, weights_line
from jaxdenoise.report.statistics import CorruptionStatistics, corrupt_rows, count
from jaxdenoise.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One objective with its default options.

    Attributes:
      name: registered.
      description: the first line of its docstring.
      lines: the first row as marked tokens.
      weights: of that row.
      statistics: of all rows.
    """

    name: str
    description: str
    lines: Sequence[Line]
    weights: str
    statistics: CorruptionStatistics


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An objective that cannot corrupt these rows.

    Attributes:
      name: registered.
      description: the first line of its docstring.
      reason: such as a token that the tokenizer lacks.
    """

    name: str
    description: str
    reason: str


def gallery(rows: Rows, tokenizer: Tokenizer) -> Iterator[Entry | Refused]:
    """Every registered objective, by name.

    Args:
      rows: to corrupt; the first one is the example.
      tokenizer: that made the tokens.
    """
    for name in objectives.names():
        recipe = objectives[name]
        description = (recipe.__doc__ or "").strip().split("\n")[0]
        try:
            batch = corrupt_rows(recipe(vocab=tokenizer.vocab), rows)
        except UserError as error:
            yield Refused(name=name, description=description, reason=str(error))
            continue
        first = jax.tree.map(lambda x: x[0], batch)
        source = np.asarray(rows.tokens[0])[: int(rows.lengths[0])]
        yield Entry(
            name=name,
            description=description,
            lines=marked_lines(first, tokenizer, source),
            weights=weights_line(first),
            statistics=count(batch, rows, tokenizer.vocab),
        )
