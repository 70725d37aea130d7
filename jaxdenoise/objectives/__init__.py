"""Objectives: recipes of a few lines over masks, rewriting and reordering, by name.

Every module in this folder is loaded and registers its own.
"""

import importlib
import pkgutil

from jaxdenoise.objectives.registry import Objective as Objective
from jaxdenoise.objectives.registry import ObjectiveConfig as ObjectiveConfig
from jaxdenoise.objectives.registry import configure as configure
from jaxdenoise.objectives.registry import objective as objective
from jaxdenoise.objectives.registry import objectives as objectives

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
