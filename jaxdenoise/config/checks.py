"""Checks that several sections share."""

from __future__ import annotations

from jaxdenoise.errors import require


def positive(section: str, config: object, *names: str) -> None:
    """Raises `UserError` unless the fields of these names are at least 1."""
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{section}.{name} is {value}; it must be at least 1")


def in_range(section: str, config: object, low: float, high: float, *names: str) -> None:
    """Raises `UserError` unless the fields of these names are in [low, high)."""
    for name in names:
        value = getattr(config, name)
        require(
            low <= value < high, f"{section}.{name} is {value}; it must be in [{low:g}, {high:g})"
        )
