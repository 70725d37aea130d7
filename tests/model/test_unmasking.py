"""Masks filled in rounds: against one row at a time in plain loops, and by models that know."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.arrays import Example
from jaxdenoise.errors import UserError
from jaxdenoise.model.model import Model, decoder, encoder
from jaxdenoise.model.unmasking import unmask
from jaxdenoise.objectives import objectives
from jaxdenoise.vocabulary import Vocabulary

VOCAB = Vocabulary(size=40, mask_id=2, sentinel_ids=(39, 38))
MASK, SIZE, LENGTHS = 2, 12, np.array([12, 9, 5])
ENCODER = encoder(vocab=VOCAB, width=16, layers=1)
PARAMS = jax.tree.map(lambda x: 1.5 * x, ENCODER.init(jax.random.key(5)))
scores_of = jax.jit(ENCODER.apply)
fill = jax.jit(
    unmask,
    static_argnums=(0, 4),
    static_argnames=("rounds", "block_length", "clean_copy", "temperature", "order"),
)


def rows() -> np.ndarray:
    """Three documents, about two thirds of each masked; the last has no mask."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 38, (3, SIZE))
    tokens = np.where(rng.random((3, SIZE)) < 0.65, MASK, tokens)
    tokens[2] = rng.integers(3, 38, SIZE)
    return np.where(np.arange(SIZE) < LENGTHS[:, None], tokens, 0)


def slowly(tokens, length, rounds, block_length, clean_copy):
    """One row in plain loops: sort what is proposed, keep the best."""
    tokens, span = list(tokens), block_length or SIZE
    objective = objectives["block_diffusion"](vocab=VOCAB, block_length=span)
    twice = jax.jit(functools.partial(objective, uniform=0.0)) if clean_copy else None
    for start in range(0, SIZE, span):
        for left_rounds in range(rounds, 0, -1):
            left = [i for i in range(start, min(start + span, SIZE)) if tokens[i] == MASK]
            if not left:
                continue
            row, real = np.array(tokens), (np.arange(SIZE) < length).astype(np.int32)
            if twice is None:
                batch = Example(encoder_input_tokens=row, encoder_segment_ids=real)
            else:
                batch = twice(jax.random.key(0), row, length)
                batch = batch.replace(
                    encoder_input_tokens=np.concatenate([row, row]), encoder_selected=None
                )
            logits = scores_of(PARAMS, jax.tree.map(lambda x: jnp.asarray(x)[None], batch))
            logits = np.array(logits[0, :SIZE, : VOCAB.size], np.float64)
            logits[:, VOCAB.is_special] = -np.inf
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            surest = sorted(left, key=lambda i: -shares[i].max())
            for i in surest[: int(np.ceil(len(left) / left_rounds))]:
                tokens[i] = int(shares[i].argmax())
    return tokens


@pytest.mark.parametrize(
    ("rounds", "block_length", "clean_copy"),
    [(1, None, False), (3, None, False), (50, None, False), (2, 5, False), (2, 5, True)],
)
def test_rows_are_filled_as_one_by_one_in_plain_loops(rounds, block_length, clean_copy):
    tokens, how = rows(), (rounds, block_length, clean_copy)
    options = dict(zip(("rounds", "block_length", "clean_copy"), how, strict=True))
    found = np.asarray(fill(ENCODER, PARAMS, tokens, LENGTHS, VOCAB, **options))
    wanted = [slowly(row, length, *how) for row, length in zip(tokens, LENGTHS, strict=True)]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found[tokens != MASK], tokens[tokens != MASK])
    assert not VOCAB.is_special[found[tokens == MASK]].any()


class Counting(Model):
    """Knows a token from the one before it, and is sure only where that one is known."""

    def forward(self, params, batch, *args, **options):
        before = jnp.pad(batch.encoder_input_tokens, ((0, 0), (1, 0)))[:, :-1]
        known, guess = before != MASK, jnp.full_like(before, 30)
        following = jnp.where(known, before + 1, guess)
        scores = jax.nn.one_hot(following, VOCAB.size) * jnp.where(known, 9.0, 3.0)[..., None]
        return scores, lambda scores: scores, None


def test_what_follows_from_what_was_filled_waits_for_it():
    counting = Counting(ENCODER.config, VOCAB.size)
    row = np.array([[5, *[MASK] * 6]])
    slow = unmask(counting, {}, row, np.array([7]), VOCAB, rounds=6)
    assert slow.tolist() == [[5, 6, 7, 8, 9, 10, 11]]
    at_once = unmask(counting, {}, row, np.array([7]), VOCAB, rounds=1)
    assert at_once.tolist() == [[5, 6, 30, 30, 30, 30, 30]]


class Pairs(Model):
    """Two tokens, each 10 or 11: the first is 10 in a quarter of the rows, the second follows."""

    def forward(self, params, batch, *args, **options):
        tokens = batch.encoder_input_tokens
        other = tokens[:, ::-1, None]
        ids = jnp.arange(VOCAB.size)
        free = jnp.where(ids == 10, jnp.log(0.25), jnp.where(ids == 11, jnp.log(0.75), -jnp.inf))
        scores = jnp.where(other == MASK, free, jnp.where(ids == other, 0.0, -jnp.inf))
        return scores, lambda scores: scores, None


def test_one_at_a_time_in_random_order_draws_from_the_models_distribution():
    number = 4000
    pairs, row = Pairs(ENCODER.config, VOCAB.size), np.full((number, 2), MASK)
    keys, both = jax.random.split(jax.random.key(0), number), np.full(number, 2)
    options = {"keys": keys, "order": "random"}
    drawn = np.asarray(unmask(pairs, {}, row, both, VOCAB, rounds=2, **options))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert abs((drawn[:, 0] == 10).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / number)
    at_once = np.asarray(unmask(pairs, {}, row, both, VOCAB, rounds=1, **options))
    apart = (at_once[:, 0] != at_once[:, 1]).mean()
    assert abs(apart - 2 * 0.25 * 0.75) < 4 * np.sqrt(0.375 * 0.625 / number)
    cold = unmask(pairs, {}, row, both, VOCAB, rounds=2, keys=keys, temperature=0.1)
    assert (np.asarray(cold) == 10).mean() < 0.01


def test_a_rows_draws_are_its_own():
    tokens, keys = rows(), jax.random.split(jax.random.key(1), 3)
    together = fill(ENCODER, PARAMS, tokens, LENGTHS, VOCAB, rounds=4, keys=keys)
    alone = fill(ENCODER, PARAMS, tokens[:1], LENGTHS[:1], VOCAB, rounds=4, keys=keys[:1])
    np.testing.assert_array_equal(together[:1], alone)
    others = jax.random.split(jax.random.key(2), 3)
    changed = fill(ENCODER, PARAMS, tokens, LENGTHS, VOCAB, rounds=4, keys=others)
    assert (changed[:2] != together[:2]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"block_length": 0}, "block_length is 0"),
        ({"clean_copy": True}, "set block_length to that of the model's training"),
        ({"order": "random"}, "which need keys, one for each row"),
        ({"temperature": 0.5}, "which need keys, one for each row"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"order": "left"}, "order is 'left'; confidence or random"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        unmask(ENCODER, PARAMS, rows(), LENGTHS, VOCAB, **options)


def test_only_an_encoder_with_a_mask_fills_masks():
    causal = decoder(vocab=VOCAB, width=16, layers=1)
    with pytest.raises(UserError, match="this model is a decoder"):
        unmask(causal, {}, rows(), LENGTHS, VOCAB)
    with pytest.raises(UserError, match="no mask token"):
        unmask(ENCODER, PARAMS, rows(), LENGTHS, Vocabulary(size=40))
