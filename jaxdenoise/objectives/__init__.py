"""Objectives: recipes of a few lines over masks, rewriting and reordering, by name."""

from jaxdenoise.objectives import t5 as t5
from jaxdenoise.objectives.registry import Objective as Objective
from jaxdenoise.objectives.registry import ObjectiveConfig as ObjectiveConfig
from jaxdenoise.objectives.registry import configure as configure
from jaxdenoise.objectives.registry import objective as objective
from jaxdenoise.objectives.registry import objectives as objectives
