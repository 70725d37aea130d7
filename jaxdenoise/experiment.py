"""Experiments: frozen, registered by name, overridden by field, resolved from config files.

An experiment's structure is Python (experiments/*.py), an ablation's numbers are data
(configs/*.toml). Neither needs JAX to be checked.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdenoise.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    check_gradients,
)
from jaxdenoise.errors import UserError, require
from jaxdenoise.objectives import ObjectiveConfig, configure, objectives
from jaxdenoise.presets import shaped_as
from jaxdenoise.registry import Registry

BUILT_IN = "jaxdenoise.experiments"
HOW = ("data.workers", "training.reading_threads", "training.bad_steps", "training.most_skipped")
"""Fields of how a run is made, which may be others when it is continued: no step depends on them,
but whether there is a next one."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that determines a run.

    Attributes:
      data: corpus, tokenizer, row length.
      objective: what is corrupted and what is predicted.
      model: the transformer's shape.
      optimizer: chain and schedule.
      training: steps, batch, devices, what is written when.
      seed: of initialisation, data order, corruption and dropout, each a stream of its own.
    """

    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = configure("span_corruption")
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    seed: int = 0

    def __post_init__(self):
        require(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be in [0, 2^32)")
        check_gradients(self.model.architecture, self.training.gradients)
        self._check_pairs()
        trained = self.data.tokenizer is None  # another tokenizer's sentinels are counted later
        # Pieces of packed rows are as long as the objective allows.
        raw_length = None if self.data.packing else self.data.raw_length
        self.objective.check(raw_length, self.data.sentinels if trained else None)

    def _check_pairs(self) -> None:
        name, pairs = self.objective.name, self.objective.recipe.pairs
        require(
            self.data.pairs or pairs != "only",
            f"the objective {name} reads pairs; set data.pairs, and give pairs as data.corpus or "
            "data.files",
        )
        require(
            not self.data.pairs or self.objective.options().get("context_length") is None,
            "data.pairs is set, whose sources end with a separator; leave "
            "objective.context_length out",
        )
        if self.data.pairs and pairs == "never":
            able = [n for n in objectives.names() if objectives[n].pairs != "never"]
            raise UserError(
                f"data.pairs is set, and the objective {name} reads no pairs; choose "
                + " or ".join(able)
            )


experiments: Registry[Callable[[], Experiment]] = Registry("experiment")


def experiment(function: Callable[[], Experiment]) -> Callable[[], Experiment]:
    """Registers a zero-argument function that returns an `Experiment`, by its name.

    Its docstring gives paper, table, expected result, cost and command.
    """
    experiments.add(function.__name__, function)
    return function


def load_experiments(modules: tuple[str, ...] = ()) -> None:
    """Imports the built-in experiments and the user's own, which register themselves.

    The user's are the named modules, an `experiments` package in the working directory, and the
    entry points of the group `jaxdenoise.experiments`.

    Raises:
      UserError: a named module or a local package that cannot be imported.
    """
    import_package(BUILT_IN, bundled("experiments"))
    local = Path.cwd() / "experiments"
    if (local / "__init__.py").exists() and local != bundled("experiments"):
        try:
            import_package("experiments", local)
        except Exception as error:  # the user's code may raise anything
            raise UserError(
                f"{local} cannot be imported ({type(error).__name__}: {error}); mend it, or work "
                "in another folder"
            ) from error
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a console script has only its own folder there
    for entry_point in importlib.metadata.entry_points(group=BUILT_IN):
        entry_point.load()
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # the user's code may raise anything
            raise UserError(
                f"--module {name} cannot be imported ({type(error).__name__}: {error}); give a "
                f"module that Python finds from {Path.cwd()}"
            ) from error


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain data, fully spelled out, the objective with its name."""
    plain = dataclasses.asdict(experiment)
    plain["objective"] = {"name": experiment.objective.name, **plain["objective"]}
    return json.loads(json.dumps(plain))


def from_dict(plain: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_dict`.

    Raises:
      UserError: a field that does not exist, or a value out of range.
    """
    return override(Experiment(), flatten(plain))


def digest(experiment: Experiment) -> str:
    """Eight hexadecimal digits that tell configurations apart.

    Fields at their default are left out, so that one that is added later changes no digest.
    """
    fields, defaults = determining(experiment), flatten(_defaults(experiment))
    chosen = {name: value for name, value in fields.items() if defaults.get(name) != value}
    canonical = json.dumps(chosen, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def determining(experiment: Experiment) -> dict[str, Any]:
    """The dotted fields that a run depends on: all but those of how it is made."""
    fields = flatten(to_dict(experiment))
    return {name: value for name, value in fields.items() if name not in HOW}


def _defaults(experiment: Experiment) -> dict[str, Any]:
    """The default of every field, the objective's options included, but not its name."""
    plain: dict[str, Any] = {"seed": Experiment.seed}
    for section in ("data", "objective", "model", "optimizer", "training"):
        plain[section] = dataclasses.asdict(type(getattr(experiment, section))())
    return json.loads(json.dumps(plain))


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted fields.

    Example:
      >>> flatten({"seed": 1, "data": {"files": ["a"]}})
      {'seed': 1, 'data.files': ['a']}
    """
    fields: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            fields.update(flatten(value, f"{prefix}{name}."))
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def override(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Replaces fields by dotted name; names of an objective or a model go first.

    Values are parsed as the command line's flags are, so that one rule holds for both. `objective`
    alone is short for `objective.name`, `model` for `model.name`: a preset's shape, in which the
    other fields are replaced.

    Raises:
      UserError: a field or a name that does not exist, or a value out of range.
    """
    from jaxdenoise.flags import parse_flags, to_flags

    changes, named = dict(changes), {}
    name = _take_name(changes, "objective")
    if name is not None and name != experiment.objective.name:
        named["objective"] = configure(name)
    name = _take_name(changes, "model")
    if name is not None:
        named["model"] = shaped_as(name, experiment.model)
    unchecked = copy.copy(experiment)  # only with the other fields are the sections a whole
    vars(unchecked).update(named)
    return parse_flags(unchecked, to_flags(changes))


def _take_name(changes: dict[str, Any], section: str) -> str | None:
    """Takes a section's name, given as `section` or `section.name`, out of `changes`, if any."""
    name = changes.pop(section, None) or changes.pop(f"{section}.name", None)
    if isinstance(name, list):
        require(len(name) == 1, f"--{section} takes one name, not {len(name)}")
        name = name[0]
    return None if name is None else str(name)


def bundled(name: str) -> Path:
    """A folder such as `configs`: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def import_package(name: str, folder: Path) -> None:
    """Imports the package in `folder` under `name`, wherever the folder stands, and its modules."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    for module in pkgutil.iter_modules([str(folder)]):
        importlib.import_module(f"{name}.{module.name}")
