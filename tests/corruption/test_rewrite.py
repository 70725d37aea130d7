"""Golden cases of rewriting, and equality with the NumPy version on any mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.corruption import examples, restore, rewrite, spans
from jaxdenoise.errors import UserError
from jaxdenoise.vocabulary import Vocabulary
from tests.reference import span_corruption as reference

TOKENS = jnp.arange(10, 16)
NOISE = jnp.array([1, 1, 0, 0, 1, 0], bool)
SPANS = spans.to_spans(NOISE, 3)
VOCAB = Vocabulary.with_sentinels(size=1000)


def test_token_to_sentinel():
    assert rewrite.tokens_to_mask(TOKENS, NOISE, 999).tolist() == [999, 999, 12, 13, 999, 15]


def test_span_to_one_sentinel():
    assert rewrite.spans_to_mask(TOKENS, SPANS, 999, 5).tolist()[:5] == [999, 12, 13, 999, 15]


def test_span_to_unique_sentinel():
    assert rewrite.spans_to_sentinels(TOKENS, SPANS, VOCAB, 5).tolist() == [999, 12, 13, 998, 15]


def test_drop_noise():
    assert rewrite.drop_spans(TOKENS, SPANS, 3).tolist() == [12, 13, 15]


def test_drop_text():
    assert rewrite.keep_spans(TOKENS, SPANS, 3).tolist() == [10, 11, 14]


def test_targets_number_their_sentinels_as_the_inputs_do():
    # Token 0 is noise: T5's inverted mask would begin with another sentinel.
    targets = rewrite.spans_after_sentinels(TOKENS, SPANS, VOCAB, 5)
    assert targets.tolist() == [999, 10, 11, 998, 14]


def test_sentinel_order_is_the_vocabularys():
    ascending = Vocabulary(size=1000, sentinel_ids=(500, 501, 502))
    assert rewrite.spans_to_sentinels(TOKENS, SPANS, ascending, 5).tolist() == [
        500,
        12,
        13,
        501,
        15,
    ]


def test_token_zero_may_be_text():
    vocab = Vocabulary.with_sentinels(size=100, sentinels=10, pad_id=7, eos_id=8)
    tokens = jnp.array([0, 0, 5, 0])
    noise = spans.to_spans(jnp.array([0, 1, 0, 0], bool), 1)
    assert rewrite.spans_to_sentinels(tokens, noise, vocab, 4).tolist() == [0, 99, 5, 0]


@jax.jit
def rewrite_all(tokens, noise):
    """Every rewriting of whole spans, in outputs that are large enough for anything."""
    size = 2 * len(tokens) + 2
    found = spans.to_spans(noise, len(tokens) // 2 + 1)
    example = examples.encoder_decoder(
        rewrite.spans_to_sentinels(tokens, found, VOCAB, size),
        len(tokens) - found.noise + found.used,
        rewrite.spans_after_sentinels(tokens, found, VOCAB, size),
        found.noise + found.used,
        VOCAB,
    )
    dropped = rewrite.drop_spans(tokens, found, len(tokens))
    return example, dropped, rewrite.keep_spans(tokens, found, len(tokens))


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 9, 40]), st.sampled_from([0.0, 0.1, 0.5, 0.9])
)
def test_rewriting_equals_the_numpy_version_on_any_mask(seed, length, density):
    rng = np.random.default_rng(seed)
    noise = rng.random(length) < density
    noise[rng.integers(length)] = True
    tokens = rng.integers(10, 800, length).astype(np.int32)
    ours, dropped, kept = jax.device_get(rewrite_all(tokens, noise))
    size = 2 * length + 2
    expected = reference.rewrite(tokens, noise, np.array(VOCAB.sentinel_ids), 1, 0, size, size)
    np.testing.assert_array_equal(ours.encoder_input_tokens, expected.inputs)
    np.testing.assert_array_equal(ours.encoder_segment_ids, expected.inputs_segments)
    np.testing.assert_array_equal(ours.decoder_input_tokens, expected.decoder_inputs)
    np.testing.assert_array_equal(ours.decoder_target_tokens, expected.targets)
    np.testing.assert_array_equal(ours.decoder_loss_weights, expected.weights)
    np.testing.assert_array_equal(dropped[: (~noise).sum()], tokens[~noise])
    np.testing.assert_array_equal(kept[: noise.sum()], tokens[noise])
    merged = restore.fill_sentinels(ours.encoder_input_tokens, ours.decoder_target_tokens, VOCAB)
    assert merged == tokens.tolist()


def test_too_few_sentinels_are_an_error_never_a_wrong_id():
    few = Vocabulary.with_sentinels(size=1000, sentinels=2)
    with pytest.raises(UserError, match=r"3 noise spans.*only 2 sentinels"):
        rewrite.spans_to_sentinels(TOKENS, SPANS, few, 5)


def test_masking_needs_a_mask_token():
    with pytest.raises(UserError, match="no mask token"):
        rewrite.mask_tokens(TOKENS, NOISE, VOCAB)


def test_nothing_to_predict_weighs_nothing():
    example = examples.encoder_decoder(TOKENS, 5, jnp.zeros(3, int), 0, VOCAB)
    assert example.decoder_loss_weights.tolist() == [0, 0, 0]
    assert float(example.count) == 0


def test_a_models_answer_may_lack_sentinels():
    inputs, answer = [5, 999, 6, 998, 7, 1], [998, 20, 21, 1, 30]
    assert restore.fill_sentinels(inputs, answer, VOCAB) == [5, 6, 20, 21, 7]
    assert restore.trace_sentinels(inputs, answer, VOCAB)[2] == (20, 1)
