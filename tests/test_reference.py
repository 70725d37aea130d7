"""The references by themselves: golden cases, cases made by hand, and counts of their draws."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from tests.reference import bart, bert, common, diffusion, lm, t5, ul2

NAMED = {"[R]": 4, "[X]": 5, "[S]": 6, "fim_prefix": 7, "fim_middle": 8, "fim_suffix": 9}
TEXT = np.array([10, 11, 12, 13, 14, 15])
NOISE = np.array([1, 1, 0, 0, 1, 0], bool)
PAD, EOS, MASK, SEPARATOR, STOP = 0, 1, 2, 3, 20


@dataclasses.dataclass(frozen=True)
class Words:
    """V = 1000: ten special ids, ordinary ones, a hundred sentinels from the top."""

    size: int = 1000
    pad_id: int = PAD
    start_id: int = PAD
    eos_id: int = EOS
    mask_id: int = MASK
    separator_id: int = SEPARATOR
    sentinel_ids: tuple = tuple(range(999, 899, -1))
    sentence_end_ids: tuple = (STOP, 21)

    @property
    def ordinary_ids(self):
        return np.arange(10, 900)

    @property
    def is_special(self):
        return np.array([token < 10 or token >= 900 for token in range(self.size)])

    @property
    def word_starts(self):
        return np.arange(self.size) % 2 == 0

    def named(self, name):
        return NAMED[name]


VOCAB = Words()
ONE_SENTINEL = dataclasses.replace(VOCAB, mask_id=999)
PLAIN = {
    t5: "span_corruption drop_spans iid_denoising bert_style mass_style deshuffling "
    "prefix_lm identity",
    bart: "text_infilling token_deletion sentence_permutation document_rotation bart",
    bert: "masked_lm masked_next_token",
    lm: "causal_lm causal_prefix_lm fill_in_the_middle mass subsequence text_to_text",
    diffusion: "masked_diffusion any_order block_diffusion canvas",
    ul2: "ul2 ul2r",
}
OBJECTIVES = [
    *((module, name, {}) for module, names in PLAIN.items() for name in names.split()),
    (t5, "span_corruption", {"unbiased": True, "trailing_sentinel": True}),
    (bart, "token_masking", {"random_ratio": 0.5}),
    (bart, "text_infilling", {"replace_length": 0}),
    (bart, "text_infilling", {"replace_length": -1, "random_ratio": 0.5}),
    (bart, "token_insertion", {"random_ratio": 0.5}),
    (bart, "bart", {"insert_ratio": 0.2, "rotate_ratio": 0.5, "random_ratio": 0.1}),
    (bert, "masked_lm", {"count": "iid"}),
    (bert, "masked_lm", {"unit": "word"}),
    (bert, "masked_lm", {"unit": "span"}),
    (bert, "masked_lm", {"prediction_density": 0.4}),
    (bert, "masked_lm", {"prediction_density": 0.05}),
    (lm, "subsequence", {"context_length": 5, "bidirectional_context": True}),
    (lm, "text_to_text", {"longest_target": 4}),
    (diffusion, "masked_diffusion", {"schedule": "cosine", "time": "bell"}),
    (diffusion, "masked_diffusion", {"form": "llada", "weighting": "plain"}),
    (diffusion, "block_diffusion", {"block_length": 3}),
    (diffusion, "canvas", {"block_length": 3}),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("module", "name", "options"), OBJECTIVES)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 17, 40])
def test_everything_runs_and_fits_together(rng, module, name, options, length):
    draw, objective = getattr(module, f"draw_{name}"), getattr(module, name)
    for _ in range(5):
        tokens = rng.integers(10, 30, length)
        tokens[rng.random(length) < 0.1] = SEPARATOR
        before = tokens.copy()
        drawn = draw(rng, tokens, VOCAB, **options)
        result = objective(tokens, drawn, VOCAB, **options)
        np.testing.assert_array_equal(tokens, before)
        for stack in ("encoder", "decoder"):
            if f"{stack}_targets" not in result:
                continue
            targets, weights = result[f"{stack}_targets"], result[f"{stack}_weights"]
            assert len(targets) == len(weights) == len(result[f"{stack}_inputs"])
            if module is not diffusion:
                assert result["count"] == sum(weight > 0 for weight in weights)
        if length == 0:
            assert result["count"] == 0
        if module is bart:
            assert result["decoder_targets"] == [*before, EOS]


def test_token_to_sentinel():
    result = t5.mass_style(TEXT, {"noise": NOISE}, ONE_SENTINEL)
    assert result["encoder_inputs"] == [999, 999, 12, 13, 999, 15, EOS]
    assert result["decoder_targets"] == [10, 11, 12, 13, 14, 15, EOS]


def test_span_to_one_sentinel():
    drawn = {"spans": common.runs(NOISE), "share": np.ones(8), "ids": np.zeros(8, int)}
    result = bart.text_infilling(TEXT, drawn, ONE_SENTINEL)
    assert result["encoder_inputs"] == [999, 12, 13, 999, 15, EOS]


def test_span_to_unique_sentinel():
    assert t5.span_corruption(TEXT, {"noise": NOISE}, VOCAB) == {
        "encoder_inputs": [999, 12, 13, 998, 15, EOS],
        "decoder_inputs": [PAD, 999, 10, 11, 998, 14],
        "decoder_targets": [999, 10, 11, 998, 14, EOS],
        "decoder_weights": [1.0] * 6,
        "count": 6,
    }
    result = t5.span_corruption(TEXT, {"noise": NOISE}, VOCAB, trailing_sentinel=True)
    assert result["decoder_targets"] == [999, 10, 11, 998, 14, 997, EOS]


def test_drop():
    result = t5.drop_spans(TEXT, {"noise": NOISE}, VOCAB)
    assert result["encoder_inputs"] == [12, 13, 15, EOS]
    assert result["decoder_targets"] == [10, 11, 14, EOS]


def test_runs_and_counts():
    assert common.runs(NOISE) == [(0, 2), (4, 1)]
    assert common.runs(np.zeros(0, bool)) == []
    assert common.noise_counts(3, 0.5, 1.0) == (2, 1)
    assert common.noise_counts(190, 0.15, 3.0) == (28, 9)
    assert common.noise_counts(568, 0.15, 3.0) == (85, 28)
    assert common.noise_counts(10, 1.0, 1.0) == (9, 1)
    assert common.ceil(0.3 * 10) == 3
    assert common.ceil(0.31 * 10) == 4


def test_every_t5_mask_is_as_likely(rng):
    masks = Counter(tuple(t5.t5_mask(rng, 10, 0.4, 2.0)) for _ in range(3000))
    assert len(masks) == 15
    assert sum((number - 200) ** 2 / 200 for number in masks.values()) < 36  # p = .001
    assert all(not mask[0] and mask[-1] and sum(mask) == 4 for mask in masks)


def test_an_unbiased_mask_reaches_every_place(rng):
    drawn = [t5.draw_span_corruption(rng, TEXT, VOCAB, unbiased=True)["noise"] for _ in range(200)]
    assert np.all(np.any(drawn, axis=0))
    assert {int(noise.sum()) for noise in drawn} == {1}


def test_nothing_to_predict():
    result = t5.span_corruption(TEXT[:1], {"noise": np.zeros(1, bool)}, VOCAB)
    assert result["encoder_inputs"] == [10, EOS]
    assert result["decoder_targets"] == [EOS]
    assert result["decoder_weights"] == [0.0]
    assert result["count"] == 0


def test_bert_style_masks_replaces_and_keeps():
    drawn = {"noise": NOISE, "share": np.array([0.1, 0.85, 0.1, 0.9, 0.95, 0.1]), "ids": TEXT + 90}
    options = {"mask_replace_prob": 0.8, "random_replace_prob": 0.1}
    result = t5.bert_style(TEXT, drawn, VOCAB, **options)
    assert result["encoder_inputs"] == [MASK, 101, 12, 13, 14, 15, EOS]


def test_deshuffling_and_prefix(rng):
    drawn = {"noise": NOISE, "order": [4, 0, 2, 3, 1, 5]}
    result = t5.deshuffling(TEXT, drawn, VOCAB)
    assert result["encoder_inputs"] == [14, 10, 12, 13, 11, 15, EOS]
    order = t5.draw_deshuffling(rng, np.array([10, 3, 11]), VOCAB)["order"]
    assert sorted(order) == [0, 1, 2] and order[1] == 1
    result = t5.prefix_lm(TEXT, {"output_length": 2}, VOCAB)
    assert result["encoder_inputs"] == [10, 11, 12, 13, EOS]
    assert result["decoder_targets"] == [14, 15, EOS]
    drawn = Counter(t5.draw_prefix_lm(rng, TEXT, VOCAB)["output_length"] for _ in range(200))
    assert sorted(drawn) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("replace_length", "inputs"),
    [(1, [2, 10, 100, 13, 14, 2, 15]), (0, [2, 10, 13, 14, 15]), (-1, [2, 10, 100, 2, 13, 14, 15])],
)
def test_infilling(replace_length, inputs):
    drawn = {"spans": [(0, 0), (1, 2)], "share": np.ones(9), "ids": np.full(9, 100)}
    drawn["share"][2] = 0.0
    if replace_length == 1:
        drawn["spans"].append((5, 0))
    result = bart.text_infilling(
        TEXT, drawn, VOCAB, replace_length=replace_length, random_ratio=0.5
    )
    assert result["encoder_inputs"] == [*inputs, EOS]


def test_infilling_meets_its_budget_anywhere(rng):
    seen = Counter()
    for _ in range(300):
        spans = bart.draw_text_infilling(rng, TEXT, VOCAB)["spans"]
        assert sum(length for _, length in spans) == 2
        ends = [0, *(start + length for start, length in spans)]
        assert all(end <= start for end, (start, _) in zip(ends[:-1], spans, strict=True))
        assert ends[-1] <= 6
        seen.update(place for start, length in spans for place in range(start, start + length))
    assert len(seen) == 6


def test_gaps_are_uniform(rng):
    drawn = Counter(tuple(common.gaps(rng, 2, 3)) for _ in range(1200))
    assert len(drawn) == 6
    assert sum((number - 200) ** 2 / 200 for number in drawn.values()) < 20.5  # p = .001


def test_sentences_stay_whole():
    text = np.array([10, 20, 12, 20, 13, 21, 20, 12, 13])  # 13 goes on with a word
    assert bart.sentences(text, VOCAB) == [[10, 20], [12, 20, 13, 21, 20], [12, 13]]
    result = bart.sentence_permutation(text, {"order": [2, 0, 1]}, VOCAB)
    assert result["encoder_inputs"] == [12, 13, 10, 20, 12, 20, 13, 21, 20, EOS]


def test_part_of_the_sentences_moves(rng):
    text = np.array([10, 20] * 4)
    for _ in range(50):
        drawn = bart.draw_sentence_permutation(rng, text, VOCAB, permute_sentence_ratio=0.5)
        assert sum(place != number for place, number in enumerate(drawn["order"])) in (0, 2)


def test_rotation_insertion_deletion():
    result = bart.document_rotation(TEXT, {"offset": 2}, VOCAB)
    assert result["encoder_inputs"] == [12, 13, 14, 15, 10, 11, EOS]
    drawn = {"places": [0, 3], "share": np.ones(8), "ids": np.zeros(8, int)}
    result = bart.token_insertion(TEXT, drawn, VOCAB)
    assert result["encoder_inputs"] == [MASK, 10, 11, MASK, 12, 13, 14, 15, EOS]
    result = bart.token_deletion(TEXT, {"noise": NOISE}, VOCAB)
    assert result["encoder_inputs"] == [12, 13, 15, EOS]


def test_words_begin_where_they_should():
    text = np.array([11, 13, 10, 11, 3, 15, 17, 12])
    assert bert.words(text, VOCAB) == [[0, 1], [2, 3], [5, 6], [7]]


def test_words_are_taken_whole(rng):
    text = np.array([10, 11, 11, 12, 14, 15])
    for _ in range(50):
        drawn = bert.draw_masked_lm(rng, text, VOCAB, noise_density=0.5, unit="word")
        runs = "".join("x" if hidden else "." for hidden in drawn["noise"])
        assert runs in ("xxx...", "...xxx", "...x..", "....xx")


def test_spans_share_their_fate(rng):
    text = np.arange(10, 60)
    for _ in range(20):
        drawn = bert.draw_masked_lm(rng, text, VOCAB, noise_density=0.3, unit="span")
        assert drawn["noise"].sum() == 15
        assert all(1 <= length <= 10 for _, length in drawn["spans"])
        for start, length in drawn["spans"]:
            assert len(set(drawn["share"][start : start + length])) == 1


def test_corruption_and_prediction_apart(rng):
    text = np.arange(10, 30)
    for rate, noise, predicted in [(0.1, 8, 2), (0.4, 8, 8), (0.8, 8, 16), (None, 8, 8)]:
        options = {"noise_density": 0.4, "prediction_density": rate}
        drawn = bert.draw_masked_lm(rng, text, VOCAB, **options)
        assert (drawn["noise"].sum(), drawn["predicted"].sum()) == (noise, predicted)
        assert np.sum(drawn["noise"] & drawn["predicted"]) == min(noise, predicted)
        assert bert.masked_lm(text, drawn, VOCAB, **options)["count"] == predicted
    options = {"evaluation_noise_density": 0.5, "evaluation": True}
    assert bert.draw_masked_lm(rng, text, VOCAB, **options)["noise"].sum() == 10


def test_next_token_is_predicted_one_place_earlier():
    drawn = {"noise": np.array([0, 1, 0, 0, 0, 1], bool), "share": np.zeros(6), "ids": TEXT}
    assert bert.masked_next_token(TEXT, drawn, VOCAB) == {
        "encoder_inputs": [10, MASK, 12, 13, 14, MASK],
        "encoder_targets": [11, 12, 13, 14, 15, PAD],
        "encoder_weights": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "count": 2,
    }


def test_causal_and_prefix():
    causal = lm.causal_lm(TEXT, {}, VOCAB)
    assert causal["decoder_inputs"] == [PAD, 10, 11, 12, 13, 14]
    assert causal["decoder_targets"] == TEXT.tolist()
    result = lm.causal_prefix_lm(TEXT[:4], {"output_length": 2}, VOCAB)
    assert result["decoder_weights"] == [0.0, 0.0, 1.0, 1.0]
    expected = [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(result["sees"], np.array(expected, bool))


@pytest.mark.parametrize(
    ("drawn", "targets"),
    [
        ({"fim": False, "spm": True}, [10, 11, 12, 13, 14, 15, EOS]),
        ({"fim": True, "spm": False}, [7, 10, 9, 13, 14, 15, 8, 11, 12, EOS]),
        ({"fim": True, "spm": True}, [7, 9, 13, 14, 15, 8, 10, 11, 12, EOS]),
    ],
)
def test_fill_in_the_middle(drawn, targets):
    result = lm.fill_in_the_middle(TEXT, {**drawn, "cuts": (1, 3)}, VOCAB)
    assert result["decoder_targets"] == targets
    assert result["decoder_weights"] == [float(token not in (7, 8, 9)) for token in targets]
    assert result["count"] == 7


def test_mass():
    assert lm.mass(TEXT, {"start": 2}, VOCAB) == {
        "encoder_inputs": [10, 11, MASK, MASK, MASK, 15, EOS],
        "decoder_inputs": [11, 12, 13],
        "decoder_targets": [12, 13, 14],
        "decoder_weights": [1.0, 1.0, 1.0],
        "decoder_positions": [2, 3, 4],
        "count": 3,
    }
    whole = lm.mass(TEXT, {"start": 0}, VOCAB, noise_density=1.0)
    assert whole["decoder_inputs"] == lm.causal_lm(TEXT, {}, VOCAB)["decoder_inputs"]


def test_subsequence():
    text = np.array([10, SEPARATOR, 11, SEPARATOR, 12])
    result = lm.subsequence(text, {}, VOCAB, bidirectional_context=True)
    assert result["decoder_weights"] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert result["sees"].sum(axis=1).tolist() == [3, 3, 3, 4, 5]
    assert lm.subsequence(TEXT, {}, VOCAB)["count"] == 6
    assert lm.subsequence(TEXT, {}, VOCAB, context_length=9)["count"] == 0


def test_text_to_text():
    pair = np.array([10, 11, SEPARATOR, 12, 13, VOCAB.eos_id])
    result = lm.text_to_text(pair, {}, VOCAB)
    assert result["encoder_inputs"] == [10, 11, VOCAB.eos_id]
    assert result["decoder_targets"] == [12, 13, VOCAB.eos_id]
    assert lm.text_to_text(pair[:5], {}, VOCAB) == result
    assert lm.text_to_text(pair, {}, VOCAB, longest_target=1)["count"] == 2
    assert lm.text_to_text(pair[:3], {}, VOCAB)["count"] == 0


def test_times_and_weights():
    assert diffusion.time_of(0.5, 0.0, "bell") == 0.5
    assert diffusion.time_density(0.5, 0.0, "bell") == pytest.approx(4 / math.sqrt(2 * math.pi))
    for schedule in ("linear", "cosine"):
        at, step = 0.3, 1e-6
        hidden = diffusion.masking_probability(at, schedule)
        slope = (diffusion.masking_probability(at + step, schedule) - hidden) / step
        assert diffusion.masked_weight(at, schedule) == pytest.approx(slope / hidden, rel=1e-4)
    grid = (np.arange(10_000) + 0.5) / 10_000
    area = np.mean([diffusion.time_density(s, 0.0, "bell") for s in grid])
    assert area == pytest.approx(1, abs=1e-4)


def test_masked_diffusion():
    text = np.array([10, SEPARATOR, 11, 12])
    drawn = {"time": 0.25, "noise": np.array([1, 0, 0, 1], bool)}
    assert diffusion.masked_diffusion(text, drawn, VOCAB) == {
        "encoder_inputs": [MASK, SEPARATOR, 11, MASK],
        "encoder_targets": [10, SEPARATOR, 11, 12],
        "encoder_weights": [4.0, 0.0, 0.0, 4.0],
        "count": 3,
    }
    assert diffusion.any_order(text, drawn, VOCAB)["encoder_weights"] == [1.5, 0.0, 0.0, 1.5]


def test_block_diffusion():
    text, drawn = TEXT[:3], {"times": [0.5, 0.25], "noise": np.array([0, 1, 1], bool)}
    result = diffusion.block_diffusion(text, drawn, VOCAB, block_length=2)
    assert result["encoder_inputs"] == [10, MASK, MASK, 10, 11, 12]
    assert result["encoder_weights"] == [0.0, 2.0, 4.0, 0.0, 0.0, 0.0]
    assert result["encoder_positions"] == [0, 1, 2, 0, 1, 2]
    noisy = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0]]
    clean = [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(result["sees"], np.array(noisy + clean, bool))
    drawn["ids"] = np.array([100, 101, 102])
    result = diffusion.canvas(text, drawn, VOCAB)
    assert result["encoder_inputs"] == [10, 101, 102]
    assert result["encoder_weights"] == [1.0, 1.0, 1.0]


def test_mixture(rng):
    drawn = Counter(ul2.draw_mixture(rng, ul2.UL2R, ul2.UL2R_RATES) for _ in range(2000))
    for number, rate in enumerate(ul2.UL2R_RATES):
        assert drawn[number] / 2000 == pytest.approx(rate, abs=0.04)
    result = ul2.ul2(TEXT, {"member": 6, "drawn": {"output_length": 2}}, VOCAB)
    assert result["encoder_inputs"] == [NAMED["[S]"], 10, 11, 12, 13, EOS]
    assert result["decoder_targets"] == [14, 15, EOS]
