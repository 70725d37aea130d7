"""Two things timed in turn: medians and ratios, never a bare time."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

SPAN = 0.2  # seconds of either function before it is the other's turn
STEADY = 0.1  # how far the quartiles of a ratio may stand from its median
PATIENCE = 5  # times as many rounds, until they do, where a figure is held against a promise


def machine() -> str:
    """Versions and devices, on a line."""
    return (
        f"Python {platform.python_version()}, jax {jax.__version__}, {jax.device_count()} × "
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
    )


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two functions timed in turn: A, B, A, B, ….

    Attributes:
      first: seconds of each call of the first.
      second: seconds of each call of the second.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        """Median seconds of either."""
        return statistics.median(self.first), statistics.median(self.second)

    @property
    def ratio(self) -> float:
        """Median of first / second, pair by pair: what the machine does to both cancels."""
        return statistics.median(a / b for a, b in zip(self.first, self.second, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the ratios."""
        ratios = [a / b for a, b in zip(self.first, self.second, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        return low, high

    @property
    def steady(self) -> bool:
        """Whether the machine let it be measured: the quartiles are near the median."""
        return all(abs(quartile / self.ratio - 1) <= STEADY for quartile in self.spread)

    def summary(self) -> dict[str, Any]:
        """Medians, ratio and its quartiles, as plain data."""
        return {"seconds": self.medians, "ratio": self.ratio, "quartiles": self.spread}


def time_in_turn(
    first: Callable[[], Any],
    second: Callable[[], Any],
    rounds: int,
    *,
    spans: float = 1,
    patience: int = 1,
) -> Paired:
    """Times both `rounds` times, each time for about `spans` · `SPAN` seconds of calls in a row.

    On a machine that has other things to do, up to `patience` times as often, until it is steady.

    Equal spans, so that neither is measured on a machine that the other one has just warmed or
    put to sleep: a call of two milliseconds between two of fifteen would look half as fast.
    """
    functions = (first, second)
    for function in functions:
        _seconds(function, 1)  # compiles
    calls = [max(1, round(spans * SPAN / _seconds(function, 3))) for function in functions]
    times: list[list[float]] = []
    while True:
        times += [
            [_seconds(function, number) for function, number in zip(functions, calls, strict=True)]
            for _ in range(rounds)
        ]
        ones, others = zip(*times, strict=True)
        found = Paired(first=ones, second=others)
        if len(times) >= patience * rounds or found.steady:
            return found


def _seconds(function: Callable[[], Any], calls: int) -> float:
    """Seconds of one call, from several in a row, each waited for."""
    begin = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - begin) / calls


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two programs that compute the same thing: time in pairs, and memory as compiled.

    Attributes:
      times: of both.
      memory: bytes of temporaries of either, as the compiler planned them.
    """

    times: Paired
    memory: tuple[int, int]

    def summary(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {**self.times.summary(), "memory": list(self.memory)}


def temporaries(compiled: Any) -> int:
    """Bytes of them, as the compiler planned."""
    return int(compiled.memory_analysis().temp_size_in_bytes)
