"""Ablations from TOML: one experiment, overridden fields, axes and seeds, resolved to runs.

    title = "Corruption rate"
    source = "Raffel et al. 2020, table 6"
    experiment = "quickstart"
    seeds = [0]

    [overrides]
    training.steps = 1000

    [axes]
    objective.noise_density = [0.10, 0.15, 0.25, 0.50]

A config is data: it holds no logic and imports nothing.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.experiment import Experiment, bundled, experiments, flatten, override

_KEYS = {
    "title": (str, "text"),
    "source": (str, "text"),
    "experiment": (str, "text"),
    "seeds": (list, "a list"),
    "overrides": (dict, "a table"),
    "axes": (dict, "a table"),
}


@dataclass(frozen=True)
class Run:
    """One arm of an ablation: its name, such as "noise_density=0.5,seed=0", and its experiment."""

    name: str
    experiment: Experiment


@dataclass(frozen=True)
class Ablation:
    """A resolved config: every run fully spelled out."""

    name: str
    title: str
    source: str
    runs: tuple[Run, ...]


def config_files() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    return {path.stem: path for path in sorted(bundled("configs").glob("*.toml"))}


def load_ablation(path: Path, changes: Mapping[str, Any] | None = None) -> Ablation:
    """Reads a config and resolves it.

    Args:
      path: of a .toml file.
      changes: fields by dotted name, overridden in every run; they win over the config's
        overrides, and `seed` over its seeds, but an axis cannot be overridden.

    Raises:
      UserError: not a file, not TOML, an unknown key, experiment or field, an axis without
        values, or a run that is not valid.
    """
    require(path.is_file(), f"'{path}' is not a file; `jaxdenoise list` shows the known configs")
    try:
        plain = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    return resolve(path.stem, plain, changes)


def resolve(
    name: str, plain: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> Ablation:
    """The runs of a config: the product of its axes and seeds.

    Args:
      name: of the config.
      plain: its content, as TOML gives it.
      changes: as in `load_ablation`.
    """
    _check_keys(name, plain)
    changes = dict(changes or {})
    base = override(experiments[plain["experiment"]](), flatten(plain.get("overrides", {})))
    axes = flatten(plain.get("axes", {}))
    axes["seed"] = axes.get("seed", plain.get("seeds", [base.seed]))
    if "seed" in changes:
        seeds = changes.pop("seed")
        axes["seed"] = seeds if isinstance(seeds, list) else [seeds]
    for field, values in axes.items():
        require(
            isinstance(values, list) and len(values) > 0,
            f"axis {field} of config {name} is {values!r}; give a list of at least one value",
        )
    runs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        swept = flatten(point)
        for field in swept.keys() & changes.keys():
            raise UserError(
                f"{field} is an axis of config {name} and cannot be overridden; change the config, "
                f"or train {plain['experiment']} itself"
            )
        runs.append(Run(_label(point), _override(base, {**swept, **changes}, name, point)))
    return Ablation(name, plain.get("title", name), plain.get("source", ""), tuple(runs))


def _check_keys(name: str, plain: Mapping[str, Any]) -> None:
    for key, value in plain.items():
        if key not in _KEYS:
            raise unknown(f"key of config {name}", key, _KEYS)
        kind, called = _KEYS[key]
        require(
            isinstance(value, kind), f"{key} of config {name} is {value!r}; it must be {called}"
        )
    require("experiment" in plain, f'config {name} names no experiment; add experiment = "…"')


def _override(
    base: Experiment, fields: Mapping[str, Any], name: str, point: Mapping[str, Any]
) -> Experiment:
    try:
        return override(base, fields)
    except UserError as error:
        raise UserError(f"config {name}, run {_label(point)}: {error}") from error


def _label(point: Mapping[str, Any]) -> str:
    def value(v: Any) -> str:
        parts = v.values() if isinstance(v, Mapping) else v if isinstance(v, list) else [v]
        return "+".join(map(str, parts)).replace("/", "_")  # it names a folder

    return ",".join(f"{field.rpartition('.')[2]}={value(v)}" for field, v in point.items())
