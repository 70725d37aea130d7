"""From arms and axes to points: products, fields that move together, unions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdenoise.errors import require
from jaxdenoise.experiment import flatten

Point = dict[str, Any]
"""Values by dotted field."""


def points(
    axes: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    arms: Mapping[str, Any] | None = None,
) -> dict[str, Point]:
    """The points of an ablation by name, in order.

    Args:
      axes: a list of values for each field: their product. A key of several fields, "a, b", gives
        a list of values for each point, and they move together. Several such tables are a union.
      arms: fields of named points, each of which goes along all axes.

    Raises:
      UserError: an axis without values, values that do not fit their fields, a field on two axes
        or on an axis and in an arm, two points of one name.

    Example:
      >>> list(points({"objective.noise_density": [0.15, 0.5]}, {"short": {}, "long": {}}))
      ['short,noise_density=0.15', 'short,noise_density=0.5', 'long,noise_density=0.15',
       'long,noise_density=0.5']
      >>> points({"training.steps, seed": [[10, 0], [20, 1]]})
      {'steps=10,seed=0': {'training.steps': 10, 'seed': 0},
       'steps=20,seed=1': {'training.steps': 20, 'seed': 1}}
      >>> list(points([{"seed": [1]}, {"training.steps": [5, 6]}]))
      ['seed=1', 'steps=5', 'steps=6']
    """
    tables = [axes] if isinstance(axes, Mapping) else list(axes)
    found: dict[str, Point] = {}
    for name, fields in (arms or {"": {}}).items():
        for swept in itertools.chain.from_iterable(map(_product, tables or [{}])):
            label = ",".join(part for part in (name, *map(label_of, swept)) if part)
            require(
                label not in found,
                f"two points are called '{label}'; give the arms other names, or take one out",
            )
            found[label] = _merged(label, [fields, *swept])
    return found


def _product(table: Mapping[str, Any]) -> Iterator[tuple[Point, ...]]:
    """The points of one table, a part for each of its axes."""
    axes = [
        ([field.strip() for field in key.split(",")], values)
        for key, values in flatten(table).items()
    ]
    for fields, values in axes:
        _check(fields, values)
    return itertools.product(*(_moved(*axis) for axis in axes))


def _merged(label: str, parts: Sequence[Point]) -> Point:
    merged: Point = {}
    for part in parts:
        for field, value in flatten(part).items():
            require(
                field not in merged,
                f"{field} is given twice in {label}, by two axes or by an axis and the arm; take "
                "one of them out",
            )
            merged[field] = value
    return merged


def _check(fields: list[str], values: Any) -> None:
    axis = ", ".join(fields)
    require(
        isinstance(values, list) and len(values) > 0,
        f"axis {axis} is {values!r}; give a list of at least one value",
    )
    require(
        len({*fields}) == len(fields),
        f"axis {axis} has a field twice; give it once, and each point a value for it",
    )
    for value in values if len(fields) > 1 else ():
        require(
            isinstance(value, list) and len(value) == len(fields),
            f"axis {axis} moves {len(fields)} fields together, but has {value!r}; give a list of "
            f"{len(fields)} values for each point",
        )


def _moved(fields: list[str], values: list[Any]) -> list[Point]:
    if len(fields) == 1:
        return [{fields[0]: value} for value in values]
    return [dict(zip(fields, value, strict=True)) for value in values]


def label_of(point: Mapping[str, Any]) -> str:
    """Such as "noise_density=0.5,seed=0"; it names a folder."""

    def value(v: Any) -> str:
        parts = v.values() if isinstance(v, Mapping) else v if isinstance(v, list) else [v]
        return "+".join(map(str, parts)).replace("/", "_")

    return ",".join(f"{field.rpartition('.')[2]}={value(v)}" for field, v in point.items())
