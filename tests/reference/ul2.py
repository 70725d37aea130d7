"""UL2's mixtures of denoisers in NumPy (Tay et al. 2022), composed from the T5 family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import t5
from .common import Drawn, Result


class Member(NamedTuple):
    """An objective of the T5 family with its options and its mode token."""

    name: str
    options: dict[str, Any]
    mode: str


def _spans(density: float, mean: float, mode: str) -> Member:
    options = {"noise_density": density, "mean_noise_span_length": mean}
    return Member("span_corruption", options, mode)


UL2 = (
    _spans(0.15, 3.0, "[R]"),
    _spans(0.15, 8.0, "[R]"),
    _spans(0.5, 3.0, "[X]"),
    _spans(0.5, 8.0, "[X]"),
    _spans(0.15, 64.0, "[X]"),
    _spans(0.5, 64.0, "[X]"),
    Member("prefix_lm", {"longest_output": 0.5}, "[S]"),
)
UL2_RATES = (1 / 7,) * 7

UL2R = (
    _spans(0.15, 3.0, "[R]"),
    _spans(0.15, 32.0, "[X]"),
    _spans(0.5, 3.0, "[X]"),
    Member("prefix_lm", {"longest_output": 0.5}, "[S]"),
)
UL2R_RATES = (0.25, 0.125, 0.125, 0.5)


def draw_mixture(rng: np.random.Generator, members: Sequence[Any], rates: Sequence[float]) -> int:
    """The index of a member, each as likely as its rate says."""
    shares = np.array(rates, float)
    return int(rng.choice(len(members), p=shares / shares.sum()))


def draw_ul2(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    members: Sequence[Member] = UL2,
    rates: Sequence[float] = UL2_RATES,
) -> Drawn:
    """`member`, an index; `drawn`, that member's own decisions."""
    number = draw_mixture(rng, members, rates)
    draw = getattr(t5, f"draw_{members[number].name}")
    return {"member": number, "drawn": draw(rng, tokens, vocab, **members[number].options)}


def ul2(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    members: Sequence[Member] = UL2,
    rates: Sequence[float] = UL2_RATES,
) -> Result:
    """What the member makes of the text, its mode token in front of the encoder inputs."""
    member = members[drawn["member"]]
    result = getattr(t5, member.name)(tokens, drawn["drawn"], vocab, **member.options)
    result["encoder_inputs"] = [vocab.named(member.mode), *result["encoder_inputs"]]
    return result


def draw_ul2r(rng: np.random.Generator, tokens: np.ndarray, vocab: Any) -> Drawn:
    """As `draw_ul2`, of UL2R's members."""
    return draw_ul2(rng, tokens, vocab, members=UL2R, rates=UL2R_RATES)


def ul2r(tokens: np.ndarray, drawn: Drawn, vocab: Any) -> Result:
    """As `ul2`, of UL2R's members."""
    return ul2(tokens, drawn, vocab, members=UL2R, rates=UL2R_RATES)
