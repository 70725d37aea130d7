"""Every objective against its plain NumPy version: what is drawn is handed to both."""

import math
from statistics import NormalDist
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.arrays import UNUSED, Example, NoiseSpans
from jaxdenoise.corruption import characters, masks, reorder, spans
from jaxdenoise.objectives import objectives
from tests.conftest import full_vocabulary
from tests.reference import bart, bert, common, diffusion, lm, t5
from tests.reference import characters as in_characters

VOCAB = full_vocabulary()
SIZE = 40
LENGTHS = (40, 39, 17, 5, 2, 1, 0)
CASES: dict[str, tuple[ModuleType, list[dict[str, Any]]]] = {
    "span_corruption": (t5, [{}, {"noise_density": 0.5}, {"unbiased": True, "noise_density": 0.4},
                             {"trailing_sentinel": True}]),
    "drop_spans": (t5, [{}, {"noise_density": 0.5, "mean_noise_span_length": 2.0}]),
    "iid_denoising": (t5, [{"noise_density": 0.3}]),
    "bert_style": (t5, [{"noise_density": 0.4}, {"noise_density": 0.0}]),
    "mass_style": (t5, [{}, {"noise_density": 1.0}]),
    "deshuffling": (t5, [{}, {"noise_density": 0.4}]),
    "prefix_lm": (t5, [{}, {"longest_output": 0.5}]),
    "identity": (t5, [{}]),
    "token_masking": (bart, [{}, {"mask_ratio": 0.5, "random_ratio": 0.5}, {"mask_ratio": 1.0}]),
    "token_deletion": (bart, [{}, {"mask_ratio": 0.0}, {"mask_ratio": 1.0}]),
    "text_infilling": (bart, [{}, {"replace_length": 0}, {"replace_length": -1},
                              {"mask_ratio": 0.6, "poisson_lambda": 1.0}]),
    "sentence_permutation": (bart, [{}, {"permute_sentence_ratio": 0.5}]),
    "document_rotation": (bart, [{}, {"rotate_ratio": 0.5}]),
    "token_insertion": (bart, [{}, {"insert_ratio": 1.0, "random_ratio": 0.5}]),
    "character_noise": (in_characters, [{}, {"noise_density": 0.3, "growth": 2.0},
                                        {"noise_density": 0.3, "growth": 0.4},
                                        {"noise_density": 0.5, "edits": (1.0, 0.0, 0.0, 2.0)}]),
    "masked_lm": (bert, [{}, {"unit": "word", "noise_density": 0.3}, {"unit": "span"},
                         {"count": "iid"}, {"noise_density": 0.4, "prediction_density": 0.15},
                         {"prediction_density": 0.4}]),
    "masked_next_token": (bert, [{}, {"noise_density": 0.5}]),
    "causal_lm": (lm, [{}]),
    "causal_prefix_lm": (lm, [{}, {"longest_output": 0.4}]),
    "fill_in_the_middle": (lm, [{"fim_rate": 1.0, "spm_rate": 0.0},
                                {"fim_rate": 1.0, "spm_rate": 1.0}, {}]),
    "masked_diffusion": (diffusion, [{}, {"form": "llada"}, {"schedule": "cosine"},
                                     {"weighting": "plain"}, {"time": "bell"}]),
    "any_order": (diffusion, [{}]),
    "block_diffusion": (diffusion, [{}, {"block_length": 1}, {"block_length": 64}]),
    "canvas": (diffusion, [{}, {"block_length": 8}]),
    "mass": (lm, [{}, {"noise_density": 1.0}, {"noise_density": 0.01}]),
    "subsequence": (lm, [{}, {"context_length": 3}, {"bidirectional_context": True}]),
    "text_to_text": (lm, [{}, {"longest_target": 6}, {"longest_target": 99}]),
}  # fmt: skip
TWO_COPIES = ("block_diffusion", "canvas")
ALL = [(name, options) for name, (_, sets) in CASES.items() for options in sets]


def label(value: Any) -> str:
    return str(value) if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items())


@pytest.mark.parametrize(("name", "options"), ALL, ids=label)
def test_what_is_drawn_gives_the_same_as_in_numpy(name, options, monkeypatch):
    module = CASES[name][0]
    built = objectives[name](vocab=VOCAB, **options)
    rng = np.random.default_rng(0)
    compared = 0
    for length in LENGTHS:
        tokens = some_tokens(rng, length)
        drawn = getattr(module, f"draw_{name}")(rng, tokens[:length], VOCAB, **options)
        expected = getattr(module, name)(tokens[:length], drawn, VOCAB, **options)
        with monkeypatch.context() as patch:
            inject(patch, drawn, length, **options)
            supplied = {"uniform": uniform_of(drawn, expected["count"], options)}
            example = built(jax.random.key(0), jnp.asarray(tokens), length, **supplied)
        compare(jax.device_get(example), expected, name)
        compared += 1
    assert compared == len(LENGTHS)


def uniform_of(drawn: dict[str, Any], size: float, options: dict[str, Any]) -> float:
    """The number in [0, 1) that a time, the first block's, or a size of a subset came from."""
    times = [drawn["time"]] if "time" in drawn else drawn.get("times", [])
    if times:
        share = (times[0] - 1e-3) / (1 - 1e-3)
        if options.get("time") == "bell":
            return NormalDist().cdf(math.log(share / (1 - share)))
        return share
    return (np.sum(drawn["noise"]) - 0.5) / size if size and "noise" in drawn else 0.0


def some_tokens(rng: np.random.Generator, length: int) -> np.ndarray:
    """Ordinary tokens with sentence ends and a separator, and padding that looks like text."""
    tokens = rng.integers(10, 900, SIZE)
    tokens[rng.random(SIZE) < 0.15] = 20
    if length > 4:
        tokens[length // 2] = VOCAB.separator_id
    return tokens.astype(np.int32)


def compare(example: Example, expected: dict[str, Any], name: str) -> None:
    """Every field of both, where positions are real, and the count."""
    for stack in ("encoder", "decoder"):
        inputs = expected.get(f"{stack}_inputs")
        fields = example.fields(stack)
        if inputs is None:
            assert fields["input_tokens"] is None
            continue
        real = fields["segment_ids"] > 0
        assert real.sum() == len(inputs)
        assert (np.flatnonzero(real) == np.arange(len(inputs))).all() or name in TWO_COPIES
        assert fields["input_tokens"][real].tolist() == list(inputs)
        weights = expected.get(f"{stack}_weights")
        if weights is not None:
            np.testing.assert_allclose(fields["loss_weights"][real], weights, rtol=1e-5)
            counts = np.asarray(weights) > 0 if name == "masked_next_token" else slice(None)
            targets = np.asarray(expected[f"{stack}_targets"])
            assert (fields["target_tokens"][real][counts] == targets[counts]).all()
        positions = expected.get(f"{stack}_positions")
        if positions is not None:
            assert fields["positions"][real].tolist() == list(positions)
        if "sees" in expected:
            assert (sees(fields, len(real))[np.ix_(real, real)] == expected["sees"]).all()
    assert float(example.count) == pytest.approx(expected["count"], rel=1e-5)


def sees(fields: dict[str, Any], size: int) -> np.ndarray:
    """Bool[T, T] of a stack's visibility integers; causal without."""
    seen = fields["visibility"]
    if seen is None:
        return np.tril(np.ones((size, size), bool))
    at, until = np.asarray(seen.visible_at), np.asarray(seen.sees_until)
    found = at[None, :] <= until[:, None]
    if seen.groups is not None:
        groups = np.asarray(seen.groups)
        found |= groups[None, :] == groups[:, None]
    return found


def inject(patch: pytest.MonkeyPatch, drawn: dict[str, Any], length: int, **options: Any) -> None:
    """Makes the random functions of the package return what NumPy has drawn."""

    def always(room: ModuleType, name: str, answer: Any) -> None:
        patch.setattr(room, name, lambda *args: answer)

    if "noise" in drawn:
        mask = jnp.asarray(padded(drawn["noise"], False))
        for name in ("iid", "exact", "words", "at_random"):
            always(masks, name, mask)
        patch.setattr(masks, "choose", Chooser(mask, drawn, options))
        for name in ("random_spans", "iid_spans", "rotate"):
            always(spans, name, as_spans(common.runs(drawn["noise"])))
    if "spans" in drawn:
        patch.setattr(spans, "budget_spans", lambda *args: as_spans(drawn["spans"], args[-1]))
    if "start" in drawn:
        patch.setattr(spans, "one_span", lambda key, n, size: as_spans([(drawn["start"], size)], 1))
    if "places" in drawn:
        places = np.zeros(2 * SIZE, bool)
        places[np.asarray(drawn["places"], int)] = True
        patch.setattr(masks, "choose", lambda _, among, n: jnp.asarray(places[: among.shape[0]]))
    if "order" in drawn:
        patch.setattr(reorder, "random_order", lambda _, moving: complete(drawn["order"], moving))
    for name, room in (("offset", "random_offset"), ("output_length", "output_length")):
        if name in drawn:
            always(reorder, room, jnp.asarray(drawn[name]))
    if "cuts" in drawn:
        answers = iter([drawn["fim"], drawn["spm"]])
        patch.setattr(reorder, "happens", lambda *args: jnp.asarray(next(answers)))
        always(reorder, "random_cuts", tuple(map(jnp.asarray, drawn["cuts"])))
    if "ids" in drawn:
        patch.setattr(masks, "ordinary_ids", lambda _, size, vocab: fitted(drawn["ids"], size))
        patch.setattr(characters, "random_characters", lambda _, row, n: fitted(drawn["ids"], n))
    if "edits" in drawn:
        patch.setattr(characters, "random_edits", lambda _, row, *how: as_edits(drawn, row.ids))
    if "share" in drawn:
        share = np.asarray(drawn["share"], np.float32)
        if options.get("unit") == "span":
            share = np.array([share[start] for start, _ in drawn["spans"]], np.float32)
        patch.setattr(jax.random, "uniform", lambda _, shape=(): fitted(share, shape[0]))


class Chooser:
    """`masks.choose`: the noise; where two sets are drawn, first the outer and then the inner."""

    def __init__(self, mask: jax.Array, drawn: dict[str, Any], options: dict[str, Any]):
        self._answers = [mask]
        if options.get("prediction_density") is not None:
            predicted = jnp.asarray(padded(drawn["predicted"], False))
            more = options.get("noise_density", 0.15) > options["prediction_density"]
            self._answers = [mask, predicted] if more else [predicted, mask]

    def __call__(self, *args: Any) -> jax.Array:
        return self._answers.pop(0)


def padded(values: Any, fill: Any) -> np.ndarray:
    values = np.asarray(values)
    return np.concatenate([values, np.full(SIZE - len(values), fill)])


def fitted(values: Any, size: int) -> jax.Array:
    values = np.asarray(values)
    return jnp.asarray(np.resize(values if len(values) else np.zeros(1, values.dtype), size))


def complete(order: list[int], moving: Any) -> jax.Array:
    return jnp.asarray([*order, *range(len(order), moving.shape[0])], jnp.int32)


def as_edits(drawn: dict[str, Any], ids: jax.Array) -> jax.Array:
    names, edits = (None, *in_characters.NAMES), np.zeros(ids.shape, np.int32)
    for place, token in enumerate(drawn["edits"]):
        edits[place, : len(token)] = [names.index(edit) for edit in token]
    return jnp.asarray(edits)


def as_spans(where: Any, slots: int = SIZE) -> NoiseSpans:
    starts, lengths = np.full(slots, UNUSED, np.int32), np.zeros(slots, np.int32)
    for slot, (start, length) in enumerate(where):
        starts[slot], lengths[slot] = start, length
    return NoiseSpans(jnp.asarray(starts), jnp.asarray(lengths))
