"""Small rows, objectives on them, and the exact laws of what they draw, by enumeration.

A law is all that can be drawn, by the names of the NumPy versions, with its probability.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxdenoise.vocabulary import Vocabulary
from tests.reference import bert, common, diffusion, ul2

# Characters, and tokens of two and three.
SPELLED = {11: (11,), 12: (12,), 13: (13,), 14: (11, 12), 16: (13, 11, 12), 18: (12, 13)}
NAMES = ("[R]", "[S]", "[X]", "fim_prefix", "fim_middle", "fim_suffix")
VOCAB = Vocabulary(
    size=32,
    pad_id=4,
    eos_id=1,
    mask_id=2,
    decoder_start_id=1,
    separator_id=3,
    sentinel_ids=tuple(range(31, 21, -1)),
    named_ids=tuple(zip(NAMES, range(5, 11), strict=True)),
    sentence_end_ids=(20, 21),
    continuation_ids=(13, 15, 17),
    spellings=tuple(SPELLED.get(token, ()) for token in range(32)),
)  # ordinary ids: 0, and 11 to 21
TEXT = (12, 13, 20, 14, 3, 16, 17, 0)  # words of 2, 1 and 1, a separator, words of 2 and 1
TEN = (12, 13, 20, 14, 3, 16, 17, 0, 18, 19)
FIVE = (12, 0, 3, 14, 16)
THREE = (12, 20, 13, 20, 14, 15, 16, 21, 18)  # sentences, of 4, 4 and 1
FOUR = (12, 20, 0, 11, 20, 20, 14, 21, 18)  # of 2, 4, 2 and 1
ORDINARY = common.ordinary(np.array(TEXT), VOCAB)

Drawn = dict[str, Any]
Law = Iterable[tuple[Drawn, float]]


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective with options, on a row."""

    name: str
    text: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{name}={value}" for name, value in self.options)])


def case(name: str, text: tuple[int, ...] = TEXT, **options: Any) -> Case:
    return Case(name, text, tuple(options.items()))


def evenly(drawn: Iterable[Drawn]) -> list[tuple[Drawn, float]]:
    several = list(drawn)
    return [(one, 1 / len(several)) for one in several]


def masks(candidates: np.ndarray) -> Iterator[np.ndarray]:
    """Every mask that marks candidates alone."""
    for marks in itertools.product((False, True), repeat=int(candidates.sum())):
        noise = np.zeros(len(candidates), bool)
        noise[candidates] = marks
        yield noise


def subsets(candidates: np.ndarray, size: int) -> list[Drawn]:
    return [{"noise": noise} for noise in masks(candidates) if noise.sum() == size]


def t5(text: Sequence[int], noise: int, spans: int, unbiased: bool = False) -> Law:
    """Masks that begin with text and end with noise, of these numbers; rolled if unbiased."""
    found = [
        mask
        for mask in masks(np.ones(len(text), bool))
        if not mask[0] and mask[-1] and mask.sum() == noise and len(common.runs(mask)) == spans
    ]
    turns = range(len(text) if unbiased else 1)
    return evenly({"noise": np.roll(mask, turn)} for mask in found for turn in turns)


def at_chances(candidates: np.ndarray, chances: Any) -> Law:
    """Chances Float[U, L] that depend on a number whose U values are equally likely."""
    for noise in masks(candidates):
        likely = np.where(noise, chances, 1 - chances)[:, candidates].prod(axis=1).mean()
        yield {"noise": noise, "time": 0.5, "times": [0.5] * len(noise)}, likely


def words(budget: float) -> Law:
    """Words of TEXT in any order, as long as they fit."""
    text = np.array(TEXT)
    for order in itertools.permutations(range(5)):
        taken: Any = SimpleNamespace(permutation=lambda number, order=order: order)
        noise = bert.word_noise(taken, text, VOCAB, budget)
        yield {"noise": noise, "predicted": noise}, 1 / math.factorial(5)


def geometric(budget: int) -> Law:
    """SpanBERT's spans that use up a budget, anywhere in TEXT."""
    for lengths, likely in geometric_lengths(budget):
        places = list(
            itertools.combinations(range(len(TEXT) - budget + len(lengths)), len(lengths))
        )
        for chosen in places:
            noise, before = np.zeros(len(TEXT), bool), 0
            for number, (place, length) in enumerate(zip(chosen, lengths, strict=True)):
                start = place - number + before
                noise[start : start + length] = True
                before += length
            noise &= ORDINARY
            yield {"noise": noise, "predicted": noise}, likely / len(places)


def geometric_lengths(budget: int) -> Iterator[tuple[tuple[int, ...], float]]:
    if budget == 0:
        yield (), 1.0
        return
    whole = 1 - 0.8**10
    for length in range(1, 11):
        cut, likely = min(length, budget), 0.2 * 0.8 ** (length - 1) / whole
        yield from (((cut, *more), likely * p) for more, p in geometric_lengths(budget - cut))


def mixed(members: Sequence[ul2.Member], rates: Sequence[float]) -> Law:
    for number, (member, rate) in enumerate(zip(members, rates, strict=True)):
        law: Law = evenly({"output_length": n} for n in range(1, len(TEXT) // 2 + 1))
        if member.name == "span_corruption":
            law = t5(TEXT, *common.noise_counts(len(TEXT), *member.options.values()))
        yield from (({"member": number, "drawn": drawn}, rate * p) for drawn, p in law)


UNIFORM = (np.arange(4096)[:, None] + 0.5) / 4096
TIMES = 1e-3 + (1 - 1e-3) * UNIFORM
BLOCKS = 1e-3 + (1 - 1e-3) * ((UNIFORM + np.arange(8) // 3 * diffusion.GOLDEN) % 1)
SPANS: dict[str, Any] = {"noise_density": 0.4, "mean_noise_span_length": 2.0}
SHORT: dict[str, Any] = {"noise_density": 0.5, "mean_noise_span_length": 1.3}
MASKED: dict[str, Any] = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0}
CUTS = [tuple(sorted(pair)) for pair in itertools.product(range(9), repeat=2)]
MOVED = itertools.product((False, True), (False, True), CUTS)
EXACT: dict[Case, Law] = {
    case("span_corruption", TEN, **SPANS): t5(TEN, 4, 2),  # 15 masks
    case("span_corruption", **SHORT, unbiased=True): t5(TEXT, 4, 3, unbiased=True),
    case("drop_spans", TEN, **SPANS): t5(TEN, 4, 2),
    case("iid_denoising", noise_density=0.3): at_chances(np.ones(8, bool), np.full((1, 8), 0.3)),
    case("mass_style", noise_density=0.4): at_chances(ORDINARY, np.full((1, 8), 0.4)),
    case("deshuffling", FIVE): evenly(
        {"order": [a, b, 2, c, d]} for a, b, c, d in itertools.permutations((0, 1, 3, 4))
    ),
    case("prefix_lm"): evenly({"output_length": n} for n in range(1, 8)),
    case("token_masking", mask_ratio=0.3): evenly(subsets(ORDINARY, 3)),
    case("token_deletion", mask_ratio=0.4): evenly(subsets(ORDINARY, 4)),
    case("sentence_permutation", FOUR): evenly(
        {"order": order} for order in itertools.permutations(range(4))
    ),
    case("document_rotation"): evenly({"offset": n} for n in range(1, 8)),
    case("token_insertion", insert_ratio=0.3): evenly(
        {"places": places} for places in itertools.combinations(range(11), 3)
    ),
    case("masked_lm", noise_density=0.4, **MASKED): evenly(
        {**one, "predicted": one["noise"]} for one in subsets(ORDINARY, 3)
    ),
    case("masked_lm", noise_density=0.5, unit="word", **MASKED): words(0.5),
    case("masked_lm", noise_density=0.5, unit="span", **MASKED): geometric(4),
    case("masked_lm", noise_density=0.5, prediction_density=0.2, **MASKED): evenly(
        {**outer, "predicted": inner["noise"]}
        for outer in subsets(ORDINARY, 4)
        for inner in subsets(outer["noise"], 1)
    ),
    case("masked_next_token", noise_density=0.4, **MASKED): evenly(
        subsets(ORDINARY & (np.arange(8) > 0), 2)
    ),
    case("causal_prefix_lm"): evenly({"output_length": n} for n in range(1, 8)),
    case("fill_in_the_middle"): evenly({"fim": f, "spm": s, "cuts": cuts} for f, s, cuts in MOVED),
    case("mass"): evenly({"start": n} for n in range(5)),
    case("masked_diffusion"): at_chances(ORDINARY, TIMES),
    case("masked_diffusion", schedule="cosine"): at_chances(
        ORDINARY, 1 - np.cos(np.pi / 2 * TIMES)
    ),
    case("any_order"): (
        (one, 1 / 7 / math.comb(7, size)) for size in range(1, 8) for one in subsets(ORDINARY, size)
    ),
    case("block_diffusion", block_length=3): at_chances(ORDINARY, BLOCKS),
    case("ul2"): mixed(ul2.UL2, ul2.UL2_RATES),
    case("ul2r"): mixed(ul2.UL2R, ul2.UL2R_RATES),
}
EXACT = {one: list(law) for one, law in EXACT.items()}
