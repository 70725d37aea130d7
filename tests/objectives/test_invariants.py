"""What every corruption keeps: on any tokens, at every length, at the limits of its options."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdenoise.arrays import Example
from jaxdenoise.corruption import reorder
from jaxdenoise.objectives import Objective, objectives
from tests.objectives import invariants
from tests.objectives.invariants import Made, clean
from tests.objectives.laws import VOCAB, Case, case
from tests.objectives.test_contract import DETERMINISTIC
from tests.reference.common import ceil

SIZE = 12
LENGTHS = np.arange(SIZE + 1, dtype=np.int32)  # all of them in every batch
# 0 is a word like others; separators and sentence ends are frequent.
IDS = np.array([0, 0, *range(11, 22), 20, 20, VOCAB.separator_id, VOCAB.separator_id], np.int32)
TOKENS = st.binary(min_size=LENGTHS.size * SIZE, max_size=LENGTHS.size * SIZE).map(
    lambda drawn: IDS[np.frombuffer(drawn, np.uint8) % IDS.size].reshape(-1, SIZE)
)
SEEDS = st.integers(0, 2**32 - 1)
UNIFORMS = st.sampled_from([0.0, 0.3, 0.7, 1 - 2.0**-24])
LEAST, MOST = 1e-3, 1 - 1e-3
MASKED = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0}
RANDOM = {"mask_replace_prob": 0.0, "random_replace_prob": 1.0}
KEPT = {"mask_replace_prob": 0.0, "random_replace_prob": 0.0}
CASES = {
    "span_corruption": [
        {"noise_density": 0.5, "mean_noise_span_length": 1.0, "unbiased": True},
        {"noise_density": 0.5, "mean_noise_span_length": 1.0, "trailing_sentinel": True},
        {"noise_density": LEAST, "unbiased": True, "trailing_sentinel": True},
        {"noise_density": MOST, "mean_noise_span_length": 1.0, "unbiased": True},
        {"noise_density": MOST, "mean_noise_span_length": 100.0},
    ],
    "drop_spans": [{"noise_density": 0.5, "mean_noise_span_length": 1.0},
                   {"noise_density": LEAST}, {"noise_density": MOST}],
    "iid_denoising": [{"noise_density": 0.5}, {"noise_density": LEAST}, {"noise_density": MOST}],
    "bert_style": [{"noise_density": 1.0, **MASKED}, {"noise_density": 1.0, **RANDOM},
                   {"noise_density": 0.0}],
    "mass_style": [{"noise_density": 1.0}, {"noise_density": 0.0}],
    "deshuffling": [{"noise_density": 1.0}, {"noise_density": 0.0}],
    "prefix_lm": [{"longest_output": 1.0}, {"longest_output": LEAST}],
    "token_masking": [{"mask_ratio": 0.3}, {"mask_ratio": 0.0},
                      {"mask_ratio": 1.0, "random_ratio": 1.0}, {"mask_ratio": 1.0}],
    "token_deletion": [{"mask_ratio": 0.3}, {"mask_ratio": 0.0}, {"mask_ratio": 1.0}],
    "text_infilling": [{"mask_ratio": 0.3, "poisson_lambda": 1.0},
                       {"mask_ratio": 0.0}, {"mask_ratio": 1.0, "poisson_lambda": 20.0},
                       {"mask_ratio": 1.0, "replace_length": 0},
                       {"mask_ratio": 0.5, "replace_length": -1}],
    "sentence_permutation": [{"permute_sentence_ratio": 1.0}, {"permute_sentence_ratio": 0.0}],
    "document_rotation": [{"rotate_ratio": 1.0}, {"rotate_ratio": 0.0}],
    "token_insertion": [{"insert_ratio": 0.3}, {"insert_ratio": 0.0}, {"insert_ratio": 1.0}],
    "bart": [
        {"insert_ratio": 0.3, "rotate_ratio": 1.0},
        {"mask_ratio": 0.0, "permute_sentence_ratio": 0.0},
        {"mask_ratio": 1.0, "insert_ratio": 1.0, "rotate_ratio": 1.0},
    ],
    "character_noise": [
        {"noise_density": 0.5},
        {"noise_density": 0.0},
        {"noise_density": 1.0, "growth": 0.0},
        {"noise_density": 1.0, "growth": 4.0},
        {"noise_density": 1.0, "edits": (0.0, 0.0, 0.0, 1.0), "growth": 0.5},
    ],
    "masked_lm": [
        {"noise_density": 0.3, **MASKED},
        {"noise_density": LEAST, **MASKED},
        {"noise_density": 1.0, **RANDOM},
        {"noise_density": 1.0, **KEPT},
        {"noise_density": 1.0, "count": "iid"},
        {"noise_density": LEAST, "unit": "word"},
        {"noise_density": 0.5, "unit": "word"},
        {"noise_density": 1.0, "unit": "span"},
        {"noise_density": 1.0, "prediction_density": LEAST, **MASKED},
        {"noise_density": LEAST, "prediction_density": 1.0, **MASKED},
    ],
    "masked_next_token": [{"noise_density": 0.3}, {"noise_density": LEAST}, {"noise_density": 1.0}],
    "causal_prefix_lm": [{"longest_output": 1.0}, {"longest_output": LEAST}],
    "fill_in_the_middle": [{"fim_rate": 1.0, "spm_rate": 0.0}, {"fim_rate": 1.0, "spm_rate": 1.0},
                           {"fim_rate": 0.0}],
    "mass": [{"noise_density": 0.5}, {"noise_density": LEAST}, {"noise_density": 1.0}],
    "masked_diffusion": [{}, {"form": "llada", "time": "bell"},
                         {"schedule": "cosine", "epsilon": LEAST / 100}],
    "any_order": [{}],
    "block_diffusion": [{"block_length": 5}, {"block_length": 1}, {"block_length": 100}],
    "canvas": [{"block_length": 5}, {}],
    "ul2": [{}, {"mode_tokens": False}],
    "ul2r": [{}],
}  # fmt: skip


def character_noise(
    text: list[int], made: Made, *, noise_density: float, edits: tuple[float, ...], growth: float
) -> None:
    """What has no spelling stays, in order; new is a character of the row; the row fits."""
    inputs = clean(text, made)
    assert len(inputs) <= len(text) + ceil(len(text) * growth)
    fixed = [[t for t in tokens if not VOCAB.spellings[t]] for tokens in (text, inputs)]
    assert fixed[0] == fixed[1]
    read, written = ([c for t in tokens for c in VOCAB.spellings[t]] for tokens in (text, inputs))
    assert set(written) <= set(read)
    if edits[:3] == (0, 0, 0):
        assert sorted(written) == sorted(read)
    if noise_density == 0:
        assert inputs == text


CHECKS = {**invariants.CHECKS, "character_noise": character_noise}


def parameters() -> list:
    """The first of every objective in the fast tier."""
    return [
        pytest.param(one, id=str(one), marks=[pytest.mark.slow] if number else [])
        for name, several in CASES.items()
        for number, one in enumerate(case(name, **options) for options in several)
    ]


@pytest.mark.parametrize("name", sorted(set(objectives.names()) - DETERMINISTIC))
def test_every_random_objective_is_checked(name):
    assert name in CASES
    assert name in CHECKS


@pytest.mark.parametrize("case", parameters())
@settings(max_examples=10)
@given(tokens=TOKENS, seed=SEEDS, uniform=UNIFORMS)
def test_what_is_made_of_a_row_keeps_what_it_should(case, tokens, seed, uniform):
    objective = build(case)
    batch = jax.device_get(corrupt(objective, np.uint32(seed), tokens, np.float32(uniform)))
    for length in LENGTHS.tolist():
        made = {**of_row(batch, length), "uniform": uniform}
        CHECKS[case.name](tokens[length, :length].tolist(), made, **objective.config.options())


@functools.cache
def build(case: Case) -> Objective:
    return objectives[case.name](vocab=VOCAB, **dict(case.options))


@functools.partial(jax.jit, static_argnums=0)
def corrupt(objective, seed, tokens, uniform):
    keys = jax.random.split(jax.random.key(seed), LENGTHS.size)
    return jax.vmap(functools.partial(objective, uniform=uniform))(keys, tokens, LENGTHS)


def of_row(batch: Example, row: int) -> Made:
    made: Made = {"count": np.asarray(batch.count)[row]}
    for stack in ("encoder", "decoder"):
        fields = batch.fields(stack)
        if fields["input_tokens"] is not None:
            real = fields["segment_ids"][row] > 0
            for name in ("input_tokens", "target_tokens", "loss_weights", "positions"):
                if fields[name] is not None:
                    made[f"{stack}_{name}"] = fields[name][row][real].tolist()
            if batch.architecture == "encoder_decoder":
                ended = fields["input_tokens" if stack == "encoder" else "target_tokens"][row]
                assert (ended[~real] == VOCAB.pad_id).all()
            if fields["selected"] is not None:
                made[f"{stack}_selected"] = fields["selected"][row].tolist()
    return made


rotate = jax.jit(jax.vmap(reorder.rotate))


@given(tokens=TOKENS, seed=SEEDS)
def test_a_rotation_is_undone_by_the_complementary_one(tokens, seed):
    offsets = np.random.default_rng(seed).integers(0, np.maximum(LENGTHS, 1)).astype(np.int32)
    turned = rotate(tokens, LENGTHS, offsets)
    np.testing.assert_array_equal(rotate(turned, LENGTHS, LENGTHS - offsets), tokens)
