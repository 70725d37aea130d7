"""Decoding position by position, with keys and values kept, against all positions at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.arrays import Example, Visibility
from jaxdenoise.errors import UserError
from jaxdenoise.model import decoding
from jaxdenoise.model.decoding import _likely, begin, extend, greedy, sample
from jaxdenoise.model.model import Model
from jaxdenoise.vocabulary import Vocabulary
from tests.model.test_variations import CASES, PREFIX, VOCAB, made

MORE, PROMPT, INPUTS = 5, 7, 9
LENGTHS = (PROMPT, 5, 6)  # of the prompts, or of the encoder's inputs; the prefix has 5 positions
IDS = Vocabulary(size=VOCAB)
RNG = np.random.default_rng(2)
FORCED = RNG.integers(2, VOCAB, (3, MORE)).astype(np.int32)
NAMES = [
    name
    for name, case in CASES.items()
    if case.fields["architecture"] != "encoder" and case.decoder != "blocks"
]


def row(size):
    tokens = RNG.integers(2, VOCAB, (3, size)).astype(np.int32)
    return tokens, (np.arange(size) < np.array(LENGTHS)[:, None]).astype(np.int32)


INPUT_TOKENS, INPUT_SEGMENTS = row(INPUTS)
PROMPT_TOKENS, PROMPT_SEGMENTS = row(PROMPT)


def prompts(name) -> Example:
    """What is given: the encoder's side, or rows of several lengths to go on with."""
    if CASES[name].fields["architecture"] == "encoder_decoder":
        return Example(encoder_input_tokens=INPUT_TOKENS, encoder_segment_ids=INPUT_SEGMENTS)
    return Example(
        decoder_input_tokens=PROMPT_TOKENS,
        decoder_segment_ids=PROMPT_SEGMENTS,
        decoder_visibility=visibility(name, PROMPT),
    )


def visibility(name, size):
    if CASES[name].decoder != "prefix":
        return None
    one = Visibility.prefix(size, PREFIX)
    return jax.tree.map(lambda x: np.stack([x] * 3).astype(np.int32), one)


def whole(name) -> tuple[Example, list[int]]:
    """All positions in one row without a gap, and where in it the prompts end."""
    given = prompts(name)
    if given.encoder_input_tokens is not None:
        inputs = np.pad(FORCED, ((0, 0), (1, 0)))
        ones = np.ones_like(inputs)
        return given.replace(decoder_input_tokens=inputs, decoder_segment_ids=ones), [0, 0, 0]
    rows = [
        np.concatenate([tokens[:n], more, np.zeros(PROMPT - n, np.int32)])
        for tokens, n, more in zip(PROMPT_TOKENS, LENGTHS, FORCED, strict=True)
    ]
    size = PROMPT + MORE
    real = np.arange(size) < np.array(LENGTHS)[:, None] + MORE
    return Example(
        decoder_input_tokens=np.stack(rows),
        decoder_segment_ids=real.astype(np.int32),
        decoder_visibility=visibility(name, size),
    ), [n - 1 for n in LENGTHS]


@pytest.mark.parametrize(
    "name",
    [n if n in ("t5_1_0", "prefix_lm") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_the_logits_are_those_of_all_positions_at_once(name):
    model, params, apply = made(name)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        begun = jax.jit(begin, static_argnums=(0, 3, 4))
        further = jax.jit(extend, static_argnums=0)
        hidden, cache = begun(model, params, prompts(name), MORE + 1, IDS)
        found = [hidden]
        for step in range(MORE):
            hidden, cache = further(model, params, cache, FORCED[:, step], step)
            found.append(hidden)
        ours = np.stack([model.projection(params)(h) for h in found], axis=1)
        batch, ends = whole(name)
        wanted = np.asarray(apply(params, batch))
    for number, end in enumerate(ends):
        expected = wanted[number, end : end + MORE + 1]
        np.testing.assert_allclose(ours[number], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", [n if n == "prefix_lm" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_a_cache_that_grows_changes_no_token(name, monkeypatch):
    """From room for two tokens to 4 and 8; drawn, so that tokens depend on all that is kept."""
    model, params = in_float32(name)
    keys = jax.random.split(jax.random.key(0), 3)
    found, rooms = [], []
    for room in (8, 2):
        monkeypatch.setattr(decoding, "STRETCH", room)
        draw = jax.jit(sample, static_argnums=(1, 4, 5))
        draw.clear_cache()
        shapes = jax.make_jaxpr(draw, static_argnums=(1, 4, 5))
        rooms.append(str(shapes(keys, model, params, prompts(name), 8, IDS)).count(" while["))
        found.append(np.asarray(draw(keys, model, params, prompts(name), 8, IDS)))
    assert rooms[1] == rooms[0] + 2
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) > 8


@pytest.mark.parametrize("size", [1, 7, 127, 128, 129, 300])
def test_the_likeliest_of_equals_is_the_first(size):
    rng = np.random.default_rng(size)
    logits = rng.integers(0, 4, (50, size)).astype(np.float32)
    logits[0] = -np.inf
    np.testing.assert_array_equal(decoding._first_largest(logits), jnp.argmax(logits, axis=-1))


def test_keys_and_values_are_kept_once_for_the_queries_that_share_them():
    model, params = in_float32("gemma3")
    assert model.config.key_value_heads == 1 < model.config.heads
    cache = jax.eval_shape(lambda p: begin(model, p, prompts("gemma3"), 4, IDS)[1], params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(cache.layers)}
    assert shapes == {(3, 1, PROMPT + 3, model.config.head_width)}


drawn = jax.jit(sample, static_argnums=(1, 4, 5), static_argnames=("temperature", "top_k", "top_p"))


def in_float32(name):
    model, params, _ = made(name)
    config = dataclasses.replace(model.config, compute_dtype="float32")
    return Model(config, VOCAB), jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def draw(name, keys, **options):
    model, params = in_float32(name)
    return np.asarray(drawn(keys, model, params, prompts(name), 8, IDS, **options))


@pytest.mark.slow
def test_a_row_is_drawn_by_its_own_key_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    first = draw("t5_1_0", keys)
    np.testing.assert_array_equal(first, draw("t5_1_0", keys))
    other = draw("t5_1_0", keys.at[1].set(jax.random.key(9)))
    np.testing.assert_array_equal(first[[0, 2]], other[[0, 2]])
    assert (first[1] != other[1]).any()


@pytest.mark.slow
def test_one_of_the_likeliest_is_greedy():
    model, params = in_float32("t5_1_0")
    best = jax.jit(greedy, static_argnums=(0, 3, 4))(model, params, prompts("t5_1_0"), 8, IDS)
    keys = jax.random.split(jax.random.key(0), 3)
    for options in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        np.testing.assert_array_equal(draw("t5_1_0", keys, **options), best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"top_k": 0}, "top_k is 0; it must be at least 1, or None"),
        ({"top_p": 1.5}, "top_p is 1.5; it must be in"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        draw("t5_1_0", jax.random.split(jax.random.key(0), 3), **options)


def test_the_shares_of_what_is_drawn_are_those_of_the_likeliest():
    """By enumeration: softmax of the logits over what top-k and top-p leave."""
    logits = np.log(np.array([[0.4, 0.1, 0.3, 0.2]], np.float32))
    for options, left in (
        ((None, None), [0, 1, 2, 3]),
        ((2, None), [0, 2]),
        ((9, None), [0, 1, 2, 3]),
        ((None, 0.69), [0, 2]),
        ((None, 0.71), [0, 2, 3]),
        ((None, 1.0), [0, 1, 2, 3]),
        ((3, 0.5), [0, 2]),
        ((None, 0.01), [0]),
    ):
        found = np.flatnonzero(np.isfinite(np.asarray(_likely(logits, *options))[0]))
        assert found.tolist() == left, options


def test_more_positions_than_were_learned_are_refused():
    model, params = in_float32("bart")
    with pytest.raises(UserError, match="max_positions is 40, and 41 positions would be decoded"):
        begin(model, params, prompts("bart"), 41, IDS)


def test_an_encoder_generates_nothing():
    model, params = in_float32("bert")
    batch = Example(encoder_input_tokens=INPUT_TOKENS, encoder_segment_ids=INPUT_SEGMENTS)
    with pytest.raises(UserError, match="an encoder alone has no decoder"):
        begin(model, params, batch, 4, IDS)
