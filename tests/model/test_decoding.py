"""Greedy decoding against a plain loop, and reading a model's answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.errors import UserError
from jaxdenoise.model.decoding import _generate, greedy, sample
from jaxdenoise.tokenizer import train_tokenizer
from jaxdenoise.training import blanks
from jaxdenoise.training.step import corrupt
from tests.model.test_beams import BATCH, MODEL, PARAMS, VOCAB, of_fixed_chances
from tests.model.test_transformer import initial, logits_of, make_model, spread

jitted_greedy = jax.jit(greedy, static_argnums=(0, 3, 4))


@pytest.fixture
def batch(vocab, make_rows):
    objective = jd.configure("span_corruption").build(vocab)
    return jax.jit(corrupt, static_argnums=0)(objective, make_rows(3, 30))


def test_greedy_is_the_argmax_step_by_step(batch, vocab):
    model = make_model()
    params = spread(initial(model))
    ours = np.asarray(jitted_greedy(model, params, batch, 6, vocab))
    outputs = np.zeros((3, 6), np.int32)
    ended = np.zeros(3, bool)
    for step in range(6):
        inputs = np.pad(outputs[:, :-1], ((0, 0), (1, 0)))
        example = batch.replace(
            decoder_input_tokens=jnp.asarray(inputs),
            decoder_segment_ids=jnp.ones((3, 6), jnp.int32),
        )
        logits = logits_of(model, params, example)[:, step, : vocab.size]
        outputs[:, step] = np.where(ended, 0, logits.argmax(axis=-1))
        ended |= outputs[:, step] == 1
    np.testing.assert_array_equal(ours, outputs)


def test_decoding_stops_at_eos_and_never_writes_ids_outside_the_vocabulary(batch, vocab):
    model = make_model()
    params = jax.tree.map(jnp.zeros_like, initial(model))
    params["decoder"]["norm"]["scale"] = jnp.ones(16)
    params["embedding"] = jnp.ones_like(params["embedding"])
    params["projection"] = params["projection"].at[:, 1].set(1).at[:, 1020].set(9)
    outputs = np.asarray(jitted_greedy(model, params, batch, 5, vocab))
    np.testing.assert_array_equal(outputs, [[1, 0, 0, 0, 0]] * 3)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Return the sum of the array. " * 3], vocabulary_size=400, sentinels=9)


@pytest.mark.parametrize("text", ["Return the <mask> of <mask>.", "A <extra_id_0> b <extra_id_1>"])
def test_blanks_are_filled_in_their_places(text, tokenizer):
    model = make_model()
    [pieces] = blanks.fill_blanks(model, initial(model), tokenizer, [text])
    assert len([piece for piece in pieces if "model" in piece]) == 2
    expected = text.replace("<mask>", "|").replace("<extra_id_0>", "|").replace("<extra_id_1>", "|")
    joined = "".join(piece.get("text", "|") for piece in pieces)
    assert joined == expected


def test_a_text_without_a_blank_or_with_too_many_is_refused(tokenizer):
    model = make_model()
    with pytest.raises(UserError, match="no blank: write <mask>"):
        blanks.fill_blanks(model, initial(model), tokenizer, ["nothing missing"])
    with pytest.raises(UserError, match="10 blanks; the tokenizer allows 9"):
        blanks.fill_blanks(model, initial(model), tokenizer, ["<mask> " * 10])


def test_each_row_is_written_to_its_own_end_and_no_step_more():
    steps, script = [], jnp.array([[1, 5, 5, 5], [4, 4, 1, 5]], jnp.int32)

    def choose(step, _):
        jax.debug.callback(lambda step: steps.append(int(step)), step)
        return script[:, step]

    found = jax.jit(_generate, static_argnums=(0, 3, 4, 5))(MODEL, PARAMS, BATCH, 4, VOCAB, choose)
    assert found.tolist() == [[1, 0, 0, 0], [4, 4, 1, 0]]
    jax.effects_barrier()
    assert steps == [0, 1, 2]


def test_steps_are_drawn_apart():
    model, params = of_fixed_chances({2: 0.5, 3: 0.5})
    keys = jax.random.split(jax.random.key(0), 2)
    found = np.asarray(sample(keys, model, params, BATCH, 16, VOCAB))
    assert all(set(row) == {2, 3} for row in found.tolist())
