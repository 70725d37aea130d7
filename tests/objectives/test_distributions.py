"""The law of what is drawn: against exact laws, and against what NumPy draws."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from jaxdenoise.arrays import Example, Rows
from jaxdenoise.corruption import masks
from jaxdenoise.objectives import objectives
from jaxdenoise.vocabulary import Vocabulary
from tests.objectives.laws import EXACT, FIVE, FOUR, ORDINARY, TEN, TEXT, THREE, VOCAB, Case, case
from tests.objectives.test_contract import DETERMINISTIC
from tests.reference import bart, bert, characters, diffusion, lm, t5, ul2

BEYOND = 3  # places of a row past its length, full of text
DRAWS, NUMPY_DRAWS = 10_000, 2_000
SURE = 1e-4
CASES: dict[ModuleType, list[Case]] = {
    t5: [
        case("span_corruption", TEN, noise_density=0.4, mean_noise_span_length=2.0),
        case("span_corruption", TEN, noise_density=0.4, mean_noise_span_length=2.0, unbiased=True),
        case("span_corruption", TEN, noise_density=0.6, trailing_sentinel=True),
        case("drop_spans", TEN, noise_density=0.4, mean_noise_span_length=2.0),
        case("drop_spans", TEN, noise_density=0.5, mean_noise_span_length=1.5),
        case("iid_denoising", noise_density=0.3),
        case("iid_denoising", noise_density=0.7),
        case("bert_style", noise_density=0.4, mask_replace_prob=0.6, random_replace_prob=0.3),
        case("mass_style", noise_density=0.4),
        case("deshuffling", FIVE),
        case("deshuffling", FIVE, noise_density=0.5),
        case("prefix_lm"),
        case("prefix_lm", longest_output=0.5),
    ],
    bart: [
        case("token_masking", mask_ratio=0.3),
        case("token_masking", mask_ratio=0.4, random_ratio=0.5),
        case("token_deletion", mask_ratio=0.4),
        case("text_infilling", mask_ratio=0.5, poisson_lambda=1.5),
        case("text_infilling", mask_ratio=0.5, poisson_lambda=1.5, replace_length=0),
        case("text_infilling", mask_ratio=0.5, poisson_lambda=1.5, replace_length=-1),
        case("text_infilling", random_ratio=0.5),
        case("sentence_permutation", FOUR),
        case("sentence_permutation", FOUR, permute_sentence_ratio=0.5),
        case("document_rotation"),
        case("document_rotation", rotate_ratio=0.5),
        case("token_insertion", insert_ratio=0.3),
        case("token_insertion", insert_ratio=0.3, random_ratio=0.5),
        case("bart", THREE, poisson_lambda=2.0, insert_ratio=0.1, rotate_ratio=0.5),
        case("bart", THREE),
        case(
            "bart",
            FIVE,
            mask_ratio=0.0,
            permute_sentence_ratio=0.0,
            insert_ratio=0.3,
            rotate_ratio=0.5,
        ),
    ],
    bert: [
        case("masked_lm", noise_density=0.35),
        case("masked_lm", noise_density=0.4, count="iid"),
        case("masked_lm", noise_density=0.5, unit="word"),
        case("masked_lm", noise_density=0.5, unit="span"),
        case("masked_lm", noise_density=0.5, prediction_density=0.2),
        case("masked_lm", noise_density=0.2, prediction_density=0.5),
        case("masked_lm", noise_density=0.4, mask_replace_prob=0.5, random_replace_prob=0.5),
        case("masked_next_token", noise_density=0.4),
        case("masked_next_token", noise_density=0.2, mask_replace_prob=0.5),
    ],
    lm: [
        case("causal_prefix_lm"),
        case("causal_prefix_lm", longest_output=0.5),
        case("fill_in_the_middle"),
        case("fill_in_the_middle", fim_rate=1.0, spm_rate=0.2),
        case("mass"),
        case("mass", noise_density=0.3),
    ],
    diffusion: [
        case("masked_diffusion"),
        case("masked_diffusion", form="llada"),
        case("masked_diffusion", schedule="cosine"),
        case("masked_diffusion", weighting="plain"),
        case("masked_diffusion", time="bell"),
        case("masked_diffusion", epsilon=0.3),
        case("any_order"),
        case("block_diffusion", block_length=3),
        case("block_diffusion", epsilon=0.3),
        case("canvas", FIVE),
        case("canvas", block_length=2),
    ],
    characters: [
        case("character_noise", FIVE, noise_density=0.4, growth=2.0),
        case("character_noise", TEN, noise_density=0.2, growth=0.2, edits=(2.0, 1.0, 1.0, 3.0)),
    ],
    ul2: [
        case("ul2"),
        case("ul2", rates=(3.0, 0.0, 1.0, 0.0, 0.0, 2.0, 4.0)),
        case("ul2r"),
    ],
}
TIMED = "masked_diffusion", "block_diffusion"


def parameters() -> Iterator[Any]:
    """The first of every objective in the fast tier, unless another test holds its exact law."""
    seen = {one.name for one in EXACT if one.name not in TIMED}
    for module, cases in CASES.items():
        for one in cases:
            marks = [pytest.mark.slow] if one.name in seen else []
            yield pytest.param(module, one, id=str(one), marks=marks)
            seen.add(one.name)


@pytest.mark.parametrize("name", sorted(set(objectives.names()) - DETERMINISTIC))
def test_every_random_objective_has_a_case(name):
    assert name in {one.name for cases in CASES.values() for one in cases}


@pytest.mark.parametrize(("module", "case"), list(parameters()))
def test_draws_have_the_law_of_numpys(module, case):
    """By chi-square: whole outcomes, places, pairs of places, numbers; weights by their size."""
    ours, rng = draw(case), np.random.default_rng(0)
    tokens, options = np.array(case.text), dict(case.options)
    made = []
    for _ in range(NUMPY_DRAWS):
        drawn = getattr(module, f"draw_{case.name}")(rng, tokens, VOCAB, **options)
        made.append(getattr(module, case.name)(tokens, drawn, VOCAB, **options))
    theirs = {name: padded([one[name] for one in made], x.shape[1]) for name, x in ours.items()}
    chances = {**compare_outcomes(ours, theirs), **compare_weights(ours, theirs)}
    least = min(chances, key=lambda view: chances[view])
    assert chances[least] * len(chances) > SURE, f"{least}, of {len(chances)} views"


@functools.cache
def draw(case: Case) -> dict[str, np.ndarray]:
    """Inputs, targets and weights of the stacks, [DRAWS, T] each, −1 past what is real."""
    rows = Rows(
        tokens=np.array([*case.text, *[19] * BEYOND], np.int32),
        lengths=np.array(len(case.text), np.int32),
        example_ids=np.arange(DRAWS, dtype=np.uint32),
        epochs=np.zeros(DRAWS, np.uint32),
        seeds=np.ones(DRAWS, np.uint32),
    )
    built = objectives[case.name](vocab=VOCAB, **dict(case.options))
    corrupt = jax.jit(jax.vmap(built, in_axes=(0, None, None)))
    return columns(jax.device_get(corrupt(rows.keys, rows.tokens, rows.lengths)))


def columns(example: Example) -> dict[str, np.ndarray]:
    found = {}
    fields = {"encoder_inputs": "encoder_input_tokens", "encoder_weights": "encoder_loss_weights"}
    fields |= {
        "decoder_targets": "decoder_target_tokens",
        "decoder_weights": "decoder_loss_weights",
    }
    for name, field in fields.items():
        values = getattr(example, field)
        if values is not None:
            real = np.asarray(getattr(example, f"{name[:7]}_segment_ids")) > 0
            order = np.argsort(~real, axis=1, kind="stable")
            found[name] = np.take_along_axis(np.where(real, values, -1), order, axis=1)
    return found


def padded(rows: list[list[float]], size: int) -> np.ndarray:
    return np.array([[*row, *[-1] * (size - len(row))] for row in rows], np.float32)


def compare_outcomes(ours: dict, theirs: dict) -> dict[str, float]:
    """How likely so different counts are under one law: of whole outcomes, places and pairs."""
    both = np.concatenate([discrete(ours), discrete(theirs)])
    second = np.arange(len(both)) >= DRAWS
    changing = both[:, (both != both[0]).any(axis=0)]
    base = both.max() + 2
    hashing = np.random.default_rng(0).integers(2**62, size=both.shape[1])
    views = {"outcomes": both @ hashing, "ids of all places": np.sort(both) @ hashing}
    for token in (-1, VOCAB.mask_id):
        views[f"number of {token}"] = (both == token).sum(axis=1)
    for place, (one, following) in enumerate(zip(changing.T, changing.T[1:], strict=False)):
        views[f"place {place}"] = one + 1
        views[f"pair {place}"] = (one + 1) * base + following + 1
    return {view: same_law(codes, second) for view, codes in views.items()}


def discrete(outcomes: dict[str, np.ndarray]) -> np.ndarray:
    """Int[N, W]: of weights whether there are any."""
    parts = [np.where(x > 0, 1, x) if "weights" in name else x for name, x in outcomes.items()]
    return np.concatenate(parts, axis=1).astype(np.int64)


def same_law(values: np.ndarray, second: np.ndarray) -> float:
    """By the counts of every value in the two samples, the rare ones together."""
    codes = np.unique(values, return_inverse=True)[1]
    most = codes.max() + 1
    table = np.stack([np.bincount(codes[part], minlength=most) for part in (~second, second)])
    few = table.sum(axis=0) * second.mean() < 5
    table = np.column_stack([table[:, ~few], table[:, few].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    return scipy.stats.chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1


def compare_weights(ours: dict, theirs: dict) -> dict[str, float]:
    """Of weights that are more than 0 or 1, and of their differences: Kolmogorov and Smirnov."""
    chances = {}
    if (weights := ours.get("encoder_weights")) is not None and len(np.unique(weights)) > 3:
        pair = weights, theirs["encoder_weights"]
        for what, views in (("weight", pair), ("step", [np.diff(w, axis=1) for w in pair])):
            for place, (a, b) in enumerate(zip(views[0].T, views[1].T, strict=True)):
                chances[f"{what} {place}"] = scipy.stats.ks_2samp(a, b, method="asymp").pvalue
    return chances


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_outcomes_are_as_likely_as_they_should_be(case):
    """All that can be drawn is rewritten by NumPy; what is drawn is counted."""
    ours, tokens, options = draw(case), np.array(case.text), dict(case.options)
    module = next(m for m, cases in CASES.items() if case.name in {one.name for one in cases})
    rest = {"share": np.zeros(20), "ids": np.zeros(20, int)}
    expected: dict[bytes, float] = defaultdict(float)
    for drawn, probability in EXACT[case]:
        made = getattr(module, case.name)(tokens, {**rest, **drawn}, VOCAB, **options)
        outcome = discrete({name: padded([made[name]], x.shape[1]) for name, x in ours.items()})
        expected[outcome.tobytes()] += DRAWS * probability
    assert sum(expected.values()) == pytest.approx(DRAWS)
    found = Counter(row.tobytes() for row in discrete(ours))
    assert set(found) <= set(expected)
    if len(expected) > 1:
        assert fits([found[outcome] for outcome in expected], list(expected.values())) > SURE


def fits(counts: Any, expected: Any) -> float:
    """How likely counts so far from what is expected are, the rare ones together."""
    table = np.array([counts, expected])
    few = table[1] < 5
    table = np.column_stack([table[:, ~few], table[:, few].sum(axis=1)])
    return scipy.stats.chisquare(*table[:, table[1] > 0]).pvalue


REPLACED = [one for one in CASES[t5] if one.name == "bert_style"] + [
    pytest.param(one, marks=[pytest.mark.slow] if len(one.options) > 1 else [])
    for one in CASES[bert]
    if dict(one.options).get("prediction_density", 0) < 0.5  # else not all of it is noise
]


@pytest.mark.parametrize("case", REPLACED, ids=str)
def test_noise_becomes_the_mask_a_random_id_or_stays(case):
    """By default 80%, 10% and 10%, at every place."""
    ours, options = draw(case), {"random_replace_prob": 0.1, **dict(case.options)}
    changed = np.array([options.get("mask_replace_prob", 0.8), options["random_replace_prob"]])
    if case.name == "bert_style":  # does not say what is noise
        noise, changed = np.ones((DRAWS, len(TEXT)), bool), changed * options["noise_density"]
    else:
        noise = np.roll(ours["encoder_weights"], case.name == "masked_next_token", axis=1) > 0
    for place in np.flatnonzero(ORDINARY & np.any(noise, axis=0)[: len(TEXT)]):
        inputs = ours["encoder_inputs"][noise[:, place], place].astype(int)
        shares = np.zeros(VOCAB.size)
        shares[VOCAB.ordinary_ids] = changed[1] / len(VOCAB.ordinary_ids)
        shares[VOCAB.mask_id] = changed[0]
        shares[TEXT[place]] += 1 - changed.sum()
        counts = np.bincount(inputs, minlength=VOCAB.size)
        assert not counts[shares == 0].any()
        assert fits(counts, len(inputs) * shares) * len(TEXT) > SURE


@pytest.mark.parametrize("special", [(1, 5), (0, 1)], ids=["with a gap", "without"])
def test_random_ids_are_all_ordinary_ones_equally_often(special):
    vocab = Vocabulary(size=12, pad_id=special[0], eos_id=special[1])
    drawn = np.bincount(masks.ordinary_ids(jax.random.key(0), DRAWS, vocab), minlength=12)
    assert not drawn[list(special)].any()
    assert scipy.stats.chisquare(np.delete(drawn, special)).pvalue > SURE
