"""Ablations from TOML, resolved to fully spelled-out runs.

    title = "Corruption rate"
    source = "Raffel et al. 2020, table 6"
    experiment = "ablation_mini"
    seeds = [0, 1, 2]

    [arms]
    "15%" = {objective.noise_density = 0.15}
    "50%" = {objective.noise_density = 0.50}

    [scales]
    smoke = {experiment = "ablation_smoke"}

    [published]
    measure = "GLUE"
    values = {"15%" = 83.28, "50%" = 81.27}

A config is data: it holds no logic and imports nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxdenoise.ablation.grid import Point, points
from jaxdenoise.errors import UserError, require, unknown
from jaxdenoise.experiment import Experiment, bundled, experiments, flatten, override

_KEYS = {
    "title": (str, "text"),
    "source": (str, "text"),
    "experiment": (str, "text"),
    "seeds": (list, "a list"),
    "budget": (str, "text"),
    "measure": (str, "text"),
    "overrides": (dict, "a table"),
    "arms": (dict, "a table"),
    "axes": ((dict, list), "a table, or several for a union"),
    "scales": (dict, "a table"),
    "held_out": (dict, "a table"),
    "infill": (dict, "a table"),
    "downstream": (dict, "a table"),
    "published": (dict, "a table"),
}
_OF_SCALES = ("experiment", "seeds", "downstream")
BUDGETS = ("steps", "source_tokens", "target_tokens", "flops")
"""What every arm of an ablation may have the same of."""


@dataclass(frozen=True)
class Run:
    """One run of an ablation.

    Attributes:
      arm: the name of what is compared, such as "noise_density=0.5".
      experiment: fully spelled out, with its seed.
    """

    arm: str
    experiment: Experiment

    @property
    def name(self) -> str:
        """Such as "noise_density=0.5,seed=0"; it names a folder."""
        return f"{self.arm.replace('/', '_')},seed={self.experiment.seed}"


@dataclass(frozen=True)
class Published:
    """What a paper found.

    Attributes:
      measure: what it measured.
      values: by arm.
      higher_is_better: of these.
    """

    measure: str
    values: Mapping[str, float]
    higher_is_better: bool = True


@dataclass(frozen=True)
class Ablation:
    """A resolved config: every run fully spelled out.

    Attributes:
      name: of the config.
      title: what is asked.
      source: paper and table.
      scale: one of the config's, or empty.
      runs: arm by arm, seeds last.
      budget: what all arms have the same of; where it is not "steps", the first arm's steps are
        those of its experiment and the others' follow.
      measure: what the arms are ranked by; None for the comparison's own choice.
      held_out: further objectives by name, under which every arm is evaluated.
      infill: the objective whose blanks every arm fills; None for its architecture's own.
      downstream: experiments on pairs by name, as which every run is fine-tuned at its end.
      published: what the paper found.
    """

    name: str
    title: str
    source: str
    scale: str
    runs: tuple[Run, ...]
    budget: str = "steps"
    measure: str | None = None
    held_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    infill: Mapping[str, Any] | None = None
    downstream: Mapping[str, Experiment] = field(default_factory=dict)
    published: Published | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    @property
    def folder(self) -> str:
        """Where its runs go by default."""
        return f"{self.name}-{self.scale}" if self.scale else self.name


def config_files() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    return {path.stem: path for path in sorted(bundled("configs").glob("*.toml"))}


def find_config(target: str) -> Path:
    """A config by name or path.

    Raises:
      UserError: a name that no config has.
    """
    known = config_files()
    if target.endswith(".toml"):
        return Path(target)
    if target not in known:
        raise unknown("config", target, known)
    return known[target]


def load_ablation(
    path: Path, changes: Mapping[str, Any] | None = None, scale: str | None = None
) -> Ablation:
    """Reads a config and resolves it.

    Args:
      path: of a .toml file.
      changes: fields by dotted name, overridden in every run; they win over the config's
        overrides, and `seed` over its seeds, but what an arm or an axis sets cannot be overridden.
      scale: one of the config's.

    Raises:
      UserError: not a file, not TOML, an unknown key, experiment, field or scale, axes that do not
        fit, or a run that is not valid.
    """
    return resolve(path.stem, read_config(path), changes, scale)


def read_config(path: Path) -> dict[str, Any]:
    """A config as it stands, its keys checked, its runs not.

    Raises:
      UserError: not a file, not TOML, or an unknown key.
    """
    require(path.is_file(), f"'{path}' is not a file; `jaxdenoise list` shows the known configs")
    try:
        plain = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    _check_keys(path.stem, plain)
    return plain


def resolve(
    name: str,
    plain: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    scale: str | None = None,
) -> Ablation:
    """The runs of a config: its arms along its axes, each with every seed.

    Args:
      name: of the config.
      plain: its content, as TOML gives it.
      changes: as in `load_ablation`.
      scale: likewise.
    """
    _check_keys(name, plain)
    try:
        return _resolve(name, _scaled(plain, scale), dict(changes or {}), scale or "")
    except UserError as error:
        raise UserError(f"config {name}: {error}") from error


def _resolve(name: str, plain: dict[str, Any], changes: Point, scale: str) -> Ablation:
    found = points(plain.get("axes", {}), plain.get("arms"))
    base = override(experiments[plain["experiment"]](), flatten(plain.get("overrides", {})))
    seeds = changes.pop("seed", plain.get("seeds", [base.seed]))
    seeds = seeds if isinstance(seeds, list) else [seeds]
    require(len(seeds) > 0, "seeds is empty; give at least one")
    twice = [seed for number, seed in enumerate(seeds) if seed in seeds[:number]]
    require(not twice, f"seeds has {twice} twice; give each seed once")
    own_seeds = any("seed" in point for point in found.values())
    runs, refused = [], {}
    for arm, point in found.items():
        for changed in point.keys() & changes.keys():
            raise UserError(
                f"{changed} is what run {arm} differs in and cannot be overridden; change the "
                f"config, or train {plain['experiment']} itself"
            )
        first = {} if own_seeds else {"seed": seeds[0]}
        called = arm or plain["experiment"]
        try:
            one = override(base, {**changes, **point, **first})
        except UserError as error:
            refused[called] = str(error)
            continue
        others = [] if own_seeds else [_reseeded(one, seed) for seed in seeds[1:]]
        runs += [Run(called, experiment) for experiment in (one, *others)]
    refuse_arms(refused, dict.fromkeys(run.arm for run in runs))
    budget = plain.get("budget", "steps")
    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    return Ablation(
        name=name,
        title=plain.get("title", name),
        source=plain.get("source", ""),
        scale=scale,
        runs=tuple(runs),
        budget=budget,
        measure=plain.get("measure"),
        held_out=plain.get("held_out", {}),
        infill=plain.get("infill"),
        downstream=_downstream(plain.get("downstream", {})),
        published=_published(plain.get("published"), list(found)),
    )


def _scaled(plain: Mapping[str, Any], scale: str | None) -> dict[str, Any]:
    """The config with the overrides of a scale in it."""
    if scale is None:
        return dict(plain)
    scales = plain.get("scales", {})
    if scale not in scales:
        raise unknown("scale", scale, scales)
    chosen = dict(scales[scale])
    own = {key: chosen.pop(key) for key in _OF_SCALES if key in chosen}
    return {**plain, **own, "overrides": {**flatten(plain.get("overrides", {})), **flatten(chosen)}}


def _check_keys(name: str, plain: Mapping[str, Any]) -> None:
    for key, value in plain.items():
        if key not in _KEYS:
            raise unknown(f"key of config {name}", key, _KEYS)
        kind, called = _KEYS[key]
        require(
            isinstance(value, kind), f"{key} of config {name} is {value!r}; it must be {called}"
        )
    for table in ("arms", "scales", "held_out", "downstream"):
        for key, value in plain.get(table, {}).items():
            require(
                isinstance(value, dict),
                f"{table}.{key} of config {name} is {value!r}; it must be a table of fields",
            )
    require("experiment" in plain, f'config {name} names no experiment; add experiment = "…"')


def _downstream(plain: Mapping[str, Any]) -> dict[str, Experiment]:
    found = {}
    for name, fields in plain.items():
        found[name] = override(experiments[name](), flatten(fields))
        require(
            found[name].data.pairs, f"downstream.{name} is not on pairs; name an experiment that is"
        )
    return found


def _published(plain: Mapping[str, Any] | None, arms: list[str]) -> Published | None:
    if plain is None:
        return None
    known = ("measure", "values", "higher_is_better")
    for key in plain:
        if key not in known:
            raise unknown("key of published", key, known)
    require({"measure", "values"} <= plain.keys(), "published needs a measure and values")
    for arm, value in plain["values"].items():
        if arm not in arms:
            raise unknown("arm in published", arm, arms)
        require(
            isinstance(value, (int, float)), f"published.values.{arm} is {value!r}; give a number"
        )
    return Published(**plain)


def _reseeded(experiment: Experiment, seed: Any) -> Experiment:
    if type(seed) is int:  # as configs have them; parsing the others takes longest of all
        return replace(experiment, seed=seed)
    return override(experiment, {"seed": seed})


def refuse_arms(refused: Mapping[str, str], others: Collection[str]) -> None:
    """Raises `UserError` if any arm is refused: which and why, and which are not.

    What all are refused for is said once.
    """
    every = {*refused.values()}
    if len(every) == 1 and len(refused) > 1 and not others:  # it is not the arms'
        raise UserError(every.pop())
    reasons = "; ".join(f"{arm}: {reason}" for arm, reason in refused.items())
    require(
        not refused,
        f"{len(refused)} of {len(refused) + len(others)} arms cannot be built, nothing was "
        f"started. {reasons}. The others can: {', '.join(others) or 'none'}",
    )
