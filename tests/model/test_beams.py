"""Beam search against the best of all continuations, and its laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.arrays import Example
from jaxdenoise.config import ModelConfig
from jaxdenoise.errors import UserError
from jaxdenoise.model import beams
from jaxdenoise.model.beams import NONE, beam_search
from jaxdenoise.model.decoding import greedy
from jaxdenoise.model.model import Model
from jaxdenoise.vocabulary import Vocabulary

IDS, LONGEST, ROWS = 6, 3, 2
VOCAB = Vocabulary(size=IDS)
MODEL = Model(
    ModelConfig(width=16, mlp_width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=1),
    8,  # two rows of the embedding are no id
)
PARAMS = jax.tree.map(lambda x: 2 * x, MODEL.init(jax.random.key(3)))
INPUTS = np.array([[2, 3, 4, 5], [5, 3, 0, 0]], np.int32)
BATCH = Example(encoder_input_tokens=INPUTS, encoder_segment_ids=(INPUTS > 0).astype(np.int32))
OPTIONS = ("beams", "length_penalty", "penalty")
search = jax.jit(beam_search, static_argnums=(0, 3, 4), static_argnames=OPTIONS)


def continuations():
    """All that can be generated: to EOS, or of the last length without."""
    others = [i for i in range(IDS) if i != VOCAB.eos_id]
    for size in range(1, LONGEST + 1):
        for body in itertools.product(others, repeat=size - 1):
            yield (*body, VOCAB.eos_id)
    yield from itertools.product(others, repeat=LONGEST)


def log_probabilities():
    """Of all continuations, for each row: by the model at all positions at once."""
    found = list(continuations())
    padded = np.array([list(one) + [0] * (LONGEST - len(one)) for one in found], np.int32)
    scores = np.zeros((ROWS, len(found)))
    logs_of = jax.jit(lambda batch: jax.nn.log_softmax(MODEL.apply(PARAMS, batch)[..., :IDS]))
    for row in range(ROWS):
        side = jax.tree.map(lambda x, row=row: np.stack([x[row]] * len(found)), BATCH)
        batch = side.replace(
            decoder_input_tokens=np.pad(padded[:, :-1], ((0, 0), (1, 0))),
            decoder_segment_ids=np.ones_like(padded),
        )
        logs = np.asarray(logs_of(batch))
        at = np.take_along_axis(logs, padded[..., None], axis=2)[..., 0]
        real = np.arange(LONGEST) < np.array([len(one) for one in found])[:, None]
        scores[row] = (at * real).sum(axis=1)
    return found, padded, scores


@pytest.fixture(scope="module")
def all_of_them():
    return log_probabilities()


@pytest.mark.parametrize(
    ("beams", "length_penalty", "penalty"),
    [
        (3, 2.0, "bart"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product((3, 36), (0.0, 0.6, 2.0), ("bart", "t5"))
        ),
    ],
)
def test_it_finds_the_best_of_all_where_the_beams_hold_them(
    beams, length_penalty, penalty, all_of_them
):
    """36 hold all that two tokens can be; 3 give what they find at its worth."""
    found, padded, logs = all_of_them
    sizes = np.array([len(one) for one in found], float)
    worth = logs / ((5 + sizes) / 6 if penalty == "t5" else sizes) ** length_penalty
    options = {"beams": beams, "length_penalty": length_penalty, "penalty": penalty}
    tokens, scores = search(MODEL, PARAMS, BATCH, LONGEST, VOCAB, **options)
    for row, ours in enumerate(np.asarray(tokens)):
        places = [int(np.flatnonzero((padded == one).all(axis=1))[0]) for one in ours]
        assert len(set(places)) == beams
        np.testing.assert_allclose(scores[row], worth[row][places], rtol=1e-4)
        assert (np.diff(scores[row]) <= 0).all()
        if beams == 36:
            best = np.sort(worth[row])[::-1][:36]
            np.testing.assert_allclose(scores[row], best, rtol=1e-4)


def test_beams_that_are_not_there_have_no_score():
    """Of one token there are 6, whatever is asked for."""
    _, scores = search(MODEL, PARAMS, BATCH, 1, VOCAB, beams=8, length_penalty=2.0)
    assert (np.asarray(scores)[:, :6] > NONE / 2).all()
    assert (np.asarray(scores)[:, 6:] == NONE).all()
    with pytest.raises(UserError, match="beams is 0; it must be at least 1"):
        beam_search(MODEL, PARAMS, BATCH, LONGEST, VOCAB, beams=0)


def test_a_cache_that_grows_changes_no_beam(monkeypatch):
    wanted, scores = search(MODEL, PARAMS, BATCH, LONGEST, VOCAB, beams=3)
    monkeypatch.setattr(beams, "STRETCH", 1)
    grown = jax.jit(lambda: beam_search(MODEL, PARAMS, BATCH, LONGEST, VOCAB, beams=3))
    assert str(jax.make_jaxpr(grown)()).count(" while[") == 3
    np.testing.assert_array_equal(grown()[0], wanted)
    np.testing.assert_allclose(grown()[1], scores, atol=2e-5)  # float32, summed otherwise


def test_one_beam_is_greedy():
    one, _ = search(MODEL, PARAMS, BATCH, LONGEST, VOCAB, beams=1, length_penalty=0.0)
    best = jax.jit(greedy, static_argnums=(0, 3, 4))(MODEL, PARAMS, BATCH, LONGEST, VOCAB)
    np.testing.assert_array_equal(one[:, 0], best)


@pytest.mark.slow
def test_it_stops_when_nothing_can_get_better_and_pads():
    """A model that always ends: one token, whatever the length allows; the second beam is worse."""
    params = {**PARAMS, "projection": jnp.zeros_like(PARAMS["projection"])}
    params["decoder"] = {**params["decoder"], "norm": {"scale": jnp.ones(16)}}
    bias = jnp.where(jnp.arange(8) == VOCAB.eos_id, 40.0, 0.0)
    model = Model(ModelConfig(**{**vars(MODEL.config), "prediction_bias": True}), 8)
    params["prediction_bias"] = bias
    tokens, scores = search(model, params, BATCH, 12, VOCAB, beams=2, length_penalty=0.0)
    np.testing.assert_array_equal(tokens[:, 0], [[1] + [0] * 11] * ROWS)
    np.testing.assert_allclose(scores[:, 0], 0, atol=1e-6)
    assert (np.asarray(scores[:, 1]) < -39).all()
    assert (np.asarray(scores[:, 1]) > NONE).all()


def of_fixed_chances(chances):
    """A model that says the same at every step."""
    model = Model(ModelConfig(**{**vars(MODEL.config), "prediction_bias": True}), 8)
    bias = jnp.full(8, -40.0)
    for token, chance in chances.items():
        bias = bias.at[token].set(np.log(chance))
    zeros = jnp.zeros_like(PARAMS["projection"])
    return model, {**PARAMS, "projection": zeros, "prediction_bias": bias}


def test_it_goes_on_while_a_longer_one_may_be_worth_more():
    model, params = of_fixed_chances({VOCAB.eos_id: 0.65, 4: 0.35})
    tokens, scores = search(model, params, BATCH, 6, VOCAB, beams=2, length_penalty=2.0)
    assert tokens[:, 0].tolist() == [[4] * 5 + [VOCAB.eos_id]] * 2
    np.testing.assert_allclose(scores[:, 0], (5 * np.log(0.35) + np.log(0.65)) / 36, rtol=1e-5)
