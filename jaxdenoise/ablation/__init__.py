"""Ablations from TOML: one experiment, overridden by arms, axes, seeds and a scale."""

from jaxdenoise.ablation.config import (
    Ablation,
    Published,
    Run,
    config_files,
    find_config,
    load_ablation,
    read_config,
    refuse_arms,
    resolve,
)
from jaxdenoise.ablation.grid import points

__all__ = [
    "Ablation",
    "Published",
    "Run",
    "config_files",
    "find_config",
    "load_ablation",
    "points",
    "read_config",
    "refuse_arms",
    "resolve",
]
