"""Ablations from TOML: one experiment, overridden by arms, axes, seeds and a scale."""

from jaxdenoise.ablation.config import (
    Ablation,
    Published,
    Run,
    config_files,
    load_ablation,
    resolve,
)
from jaxdenoise.ablation.grid import points

__all__ = [
    "Ablation",
    "Published",
    "Run",
    "config_files",
    "load_ablation",
    "points",
    "resolve",
]
