"""Arms over seeds: means, spread, and which gaps are larger than the noise.

Runs of one seed share initialisation, data order and all randomness that their arms do not touch,
so that the test is of their differences, seed by seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

LEVEL = 0.05
"""Gaps are claimed below this chance of seeing them, or larger ones, where there are none."""

Values = Mapping[str, Mapping[int, float]]
"""By arm and seed."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one arm.

    Attributes:
      mean: over the seeds.
      deviation: standard deviation of a single run; None with one seed.
      seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Between two arms.

    Attributes:
      better: the arm with the better mean.
      worse: the other.
      difference: of the means, positive.
      seeds: that both have.
      chance: of such a gap without any difference (two-sided paired t-test, Holm's correction for
        all pairs); None with fewer than two seeds.
    """

    better: str
    worse: str
    difference: float
    seeds: int
    chance: float | None

    @property
    def claimed(self) -> bool:
        """Whether it is larger than the noise."""
        return self.chance is not None and self.chance < LEVEL


def spread(values: Mapping[int, float]) -> Spread:
    """Mean and spread of an arm's runs.

    Example:
      >>> spread({0: 1.0, 1: 2.0, 2: 3.0})
      Spread(mean=2.0, deviation=1.0, seeds=3)
    """
    found = list(values.values())
    deviation = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return Spread(mean=float(np.mean(found)), deviation=deviation, seeds=len(found))


def gaps(values: Values, *, higher_is_better: bool) -> list[Gap]:
    """All pairs of arms that share a seed, each tested on the seeds that both have.

    Source: Student's paired test; Holm 1979 for the number of pairs.

    Args:
      values: by arm and seed.
      higher_is_better: of the values.

    Example:
      >>> runs = {"a": {0: 0.50, 1: 0.52, 2: 0.51}, "b": {0: 0.40, 1: 0.42, 2: 0.412}}
      >>> [gap] = gaps(runs, higher_is_better=True)
      >>> gap.better, gap.seeds, gap.claimed
      ('a', 3, True)
    """
    found = []
    for one, other in itertools.combinations(values, 2):
        seeds = sorted(values[one].keys() & values[other].keys())
        if not seeds:
            continue
        differences = np.array([values[one][seed] - values[other][seed] for seed in seeds])
        mean = float(differences.mean())
        first = (mean > 0) == higher_is_better
        found.append(
            Gap(
                better=one if first else other,
                worse=other if first else one,
                difference=abs(mean),
                seeds=len(seeds),
                chance=_chance(differences),
            )
        )
    return _corrected(found)


def _chance(differences: np.ndarray) -> float | None:
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    if np.ptp(differences) == 0:  # as large for every seed: what is left is the signs' chance
        return 2.0 ** (1 - len(differences))
    found: Any = scipy.stats.ttest_1samp(differences, 0.0)
    return float(found.pvalue)


def _corrected(found: Sequence[Gap]) -> list[Gap]:
    """With Holm's correction over the gaps that were tested."""
    tested = sorted((gap for gap in found if gap.chance is not None), key=lambda g: g.chance or 0.0)
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, gap in enumerate(tested):
        largest = max(largest, min((gap.chance or 0.0) * (len(tested) - rank), 1.0))
        corrected[id(gap)] = largest
    return [
        Gap(**{**vars(gap), "chance": corrected.get(id(gap))}) if id(gap) in corrected else gap
        for gap in found
    ]


def ranking(values: Values, *, higher_is_better: bool) -> list[tuple[str, list[str]]]:
    """Arms from best to worst by mean, each with those that it is claimed to be better than."""
    means = {arm: spread(of_arm).mean for arm, of_arm in values.items()}
    order = sorted(means, key=lambda arm: means[arm], reverse=higher_is_better)
    claimed = [gap for gap in gaps(values, higher_is_better=higher_is_better) if gap.claimed]
    return [
        (arm, [other for other in order if (arm, other) in {(g.better, g.worse) for g in claimed}])
        for arm in order
    ]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of an order with a published one.

    Attributes:
      tau: Kendall's rank correlation of the means, from −1 to 1; None for fewer than two arms.
      arms: that both have.
      agreeing: claimed gaps whose order is the published one.
      disagreeing: claimed gaps whose order is the opposite.
    """

    tau: float | None
    arms: int
    agreeing: int
    disagreeing: int


def agreement(
    values: Values,
    published: Mapping[str, float],
    *,
    higher_is_better: bool,
    published_higher_is_better: bool = True,
) -> Agreement:
    """How far the order of the arms is the published one.

    Source: Kendall 1938 (tau-b, which allows ties).

    Example:
      >>> runs = {"a": {0: 3.0}, "b": {0: 2.0}, "c": {0: 1.0}}
      >>> agreement(runs, {"a": 9.0, "b": 7.0, "c": 8.0}, higher_is_better=True).arms
      3
    """
    arms = [arm for arm in values if arm in published]
    ours = {arm: spread(values[arm]).mean * (1 if higher_is_better else -1) for arm in arms}
    theirs = {arm: published[arm] * (1 if published_higher_is_better else -1) for arm in arms}
    tau = None
    if len(arms) > 1:
        found: Any = scipy.stats.kendalltau([ours[a] for a in arms], [theirs[a] for a in arms])
        tau = None if math.isnan(found.statistic) else float(found.statistic)
    claimed = [
        theirs[gap.better] - theirs[gap.worse]
        for gap in gaps({arm: values[arm] for arm in arms}, higher_is_better=higher_is_better)
        if gap.claimed
    ]
    return Agreement(
        tau=tau,
        arms=len(arms),
        agreeing=sum(difference > 0 for difference in claimed),
        disagreeing=sum(difference < 0 for difference in claimed),
    )
