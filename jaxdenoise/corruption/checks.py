"""What options may be: each check raises `UserError` with the field, its value and the way out."""

from __future__ import annotations

import math
import numbers
import types
import typing
from typing import Any

from jaxdenoise.errors import require


def check_spans(noise_density: float, mean_noise_span_length: float) -> None:
    """Raises `UserError` unless both are in the range for which span masks are defined."""
    require(
        0 < noise_density < 1,
        f"objective.noise_density is {noise_density}; a span mask needs a density inside (0, 1), "
        "such as 0.15",
    )
    require(
        1 <= mean_noise_span_length < math.inf,
        f"objective.mean_noise_span_length is {mean_noise_span_length}; a span has at least 1 "
        "token, T5's default is 3",
    )


def check_sentinels(spans: int, sentinels: int) -> None:
    """Raises `UserError` if a row may have more noise spans than the vocabulary has sentinels."""
    require(
        spans <= sentinels,
        f"a row has up to {spans} noise spans but the vocabulary has only {sentinels} sentinels; "
        "raise data.sentinels (of a tokenizer that is given: set data.add_special_tokens too) or "
        "objective.mean_noise_span_length, or lower objective.noise_density or data.raw_length",
    )


def check_shares(**shares: float) -> None:
    """Raises `UserError` unless each is in [0, 1]."""
    for name, share in shares.items():
        require(
            0 <= share <= 1,
            f"objective.{name} is {share}; it is a share, in [0, 1], such as 0.15",
        )


def check_some(**shares: float) -> None:
    """Raises `UserError` unless each is in (0, 1]."""
    for name, share in shares.items():
        require(
            0 < share <= 1,
            f"objective.{name} is {share}; it is a share, in (0, 1], such as 0.15",
        )


def check_inside(**shares: float) -> None:
    """Raises `UserError` unless each is in (0, 1)."""
    for name, share in shares.items():
        require(
            0 < share < 1,
            f"objective.{name} is {share}; it is a share, inside (0, 1), such as 0.15",
        )


def check_replacement(mask_replace_prob: float, random_replace_prob: float) -> None:
    """Raises `UserError` unless both are shares, of one whole together."""
    least, both = (
        min(mask_replace_prob, random_replace_prob),
        mask_replace_prob + random_replace_prob,
    )
    require(
        least >= 0 and both <= 1 + 1e-9,
        f"objective.mask_replace_prob is {mask_replace_prob} and objective.random_replace_prob "
        f"{random_replace_prob}; neither can be negative, nor their sum above 1",
    )


def check_replace_length(replace_length: int) -> None:
    """Raises `UserError` unless it is 1, 0 or -1."""
    require(
        replace_length in (1, 0, -1),
        f"objective.replace_length is {replace_length}; a span becomes 1 mask, nothing (0), or a "
        "mask for each token (-1)",
    )


def check_row(raw_length: int | None, least: int, why: str) -> None:
    """Raises `UserError` if rows are known to be shorter than an objective needs."""
    require(
        raw_length is None or raw_length >= least,
        f"data.raw_length is {raw_length}; {why}: give at least {least}",
    )


def check_positive(**values: float) -> None:
    """Raises `UserError` unless each is above 0, and finite."""
    for name, value in values.items():
        require(0 < value < math.inf, f"objective.{name} is {value}; it must be above 0, finite")


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raises `UserError` unless an option is of its annotation's kind: a number where it says so.

    Example:
      >>> check_kind("noise_density", "high", float)
      Traceback (most recent call last):
      jaxdenoise.errors.UserError: objective.noise_density is 'high'; it must be a number
    """
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = typing.get_args(kind) if union else (kind,)
    if value is None and type(None) in kinds:
        return
    wanted = f"objective.{name} is {value!r}; it must be"
    words = [w for one in (kind, *kinds) for w in typing.get_args(one) if isinstance(w, str)]
    if words and not isinstance(value, numbers.Real):
        require(value in words, f"{wanted} {', '.join(words)}")
    elif float in kinds:
        require(isinstance(value, numbers.Real), f"{wanted} a number")
    elif int in kinds:
        require(isinstance(value, numbers.Integral), f"{wanted} a whole number")
    elif any(typing.get_origin(one) is tuple for one in kinds):
        several = isinstance(value, (tuple, list))
        require(
            several and all(isinstance(one, numbers.Real) for one in value),
            f"{wanted} numbers, such as (1.0, 1.0)",
        )
