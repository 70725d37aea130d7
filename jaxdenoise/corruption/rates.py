"""Rates: numbers that may follow a schedule, or differ between the members of a mixture.

No JAX here: options are checked before it is loaded. What depends on a rate and needs Python's
rounding (counts, lengths) is computed on the host for every value that the rate can have, and
looked up on the device.
"""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from jaxdenoise.errors import UserError, require

Schedule = tuple[tuple[float, float], ...]
"""Points (progress, value), joined by straight lines; two points at one progress are a jump."""
Rate = float | Schedule
"""A number, or a schedule of the share of the training that is done, from 0 to 1."""
STAGES = 100


class Choice(NamedTuple):
    """One of several values.

    Attributes:
      values: all that it can be.
      index: which one it is; may be traced.
      of: what the index counts. Choices of the same thing go together.
      raw_lengths: the most tokens of the rows that get each value; None for any row.
    """

    values: tuple[float, ...]
    index: Any
    of: str
    raw_lengths: tuple[int, ...] | None = None


Chosen = Rate | Choice
"""What a recipe gets for a rate: a number or, in place of a schedule, a choice of its values."""


def is_schedule(option: Any) -> TypeGuard[Schedule]:
    """Whether an option is a schedule."""
    if isinstance(option, Choice) or not isinstance(option, tuple):
        return False
    return bool(option) and isinstance(option[0], (tuple, list))


def stages(schedule: Schedule) -> tuple[float, ...]:
    """What a schedule is worth in each of a hundred stages: the value at their middle."""
    at, values = np.array(schedule, float).T
    middles = (np.arange(STAGES) + 0.5) / STAGES
    return tuple(round(float(v), 12) for v in np.interp(middles, at, values))


def points(rate: Any) -> tuple[float, ...]:
    """The values that a rate passes through: of a schedule its points, else the rate itself."""
    return tuple(value for _, value in rate) if is_schedule(rate) else (rate,)


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raises `UserError` unless the points go from progress 0 to 1 in order."""
    pairs = all(isinstance(point, (tuple, list)) and len(point) == 2 for point in schedule)
    require(
        pairs and all(isinstance(x, numbers.Real) for point in schedule for x in point),
        f"objective.{name} is {schedule}; a schedule has points (progress, value), two numbers "
        "each, such as ((0, 0.3), (1, 0.15))",
    )
    progress = [at for at, _ in schedule]
    require(
        progress == sorted(progress) and progress[0] == 0 and progress[-1] == 1,
        f"objective.{name} is a schedule at progress {progress}; its points (progress, value) go "
        "from 0 to 1 in order, such as ((0, 0.3), (1, 0.15))",
    )


def at_progress(schedule: Schedule, progress: Any) -> Choice:
    """What a schedule is worth at `progress`, of its stages.

    Example:
      >>> at_progress(((0, 0.3), (1, 0.1)), 0.5).values[::33]
      (0.299, 0.233, 0.167, 0.101)
    """
    import jax.numpy as jnp

    stage = jnp.clip(jnp.floor(jnp.asarray(progress) * STAGES).astype(jnp.int32), 0, STAGES - 1)
    return Choice(stages(schedule), stage, "stage")


def value(rate: Chosen) -> Any:
    """The rate as a number, traced where its index is."""
    return table(lambda x: np.float32(x), rate)


def table(make: Callable[..., Any], *rates: Chosen) -> Any:
    """`make(*rates)`, an array of one shape for all values, for the values that are chosen."""
    kinds = _kinds(rates)
    made = [make(*values) for values in combinations(*rates)]
    if not kinds:
        return made[0]
    import jax.numpy as jnp

    sizes = [len(choice.values) for choice in kinds.values()]
    stacked = jnp.asarray(np.stack(made).reshape(*sizes, *np.shape(made[0])))
    return stacked[tuple(choice.index for choice in kinds.values())]


def combinations(*rates: Chosen) -> Iterator[tuple[float, ...]]:
    """Every set of values that the rates can have together."""
    return (values for _, values in sized_combinations(0, *rates))


def sized_combinations(raw_length: int, *rates: Chosen) -> Iterator[tuple[int, tuple[float, ...]]]:
    """The same, each with the most tokens that a row of `raw_length` then has."""
    kinds = _kinds(rates)
    for index in itertools.product(*(range(len(choice.values)) for choice in kinds.values())):
        at = dict(zip(kinds, index, strict=True))
        own = [c.raw_lengths[at[of]] for of, c in kinds.items() if c.raw_lengths is not None]
        yield min([raw_length, *own]), tuple(_settled(rate, at) for rate in rates)


def _settled(rate: Chosen, at: dict[str, int]) -> float:
    if isinstance(rate, Choice):
        return rate.values[at[rate.of]]
    if isinstance(rate, tuple):
        raise UserError(
            f"a rate is the schedule {rate}; give a number, or take it at some progress "
            "(`rates.at_progress`)"
        )
    return rate


def _kinds(rates: tuple[Chosen, ...]) -> dict[str, Choice]:
    return {rate.of: rate for rate in rates if isinstance(rate, Choice)}
