"""Objectives that are others in disguise, and what the diffusion losses expect."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.arrays import Rows
from jaxdenoise.corruption import masks, reorder
from jaxdenoise.objectives import objectives
from tests.objectives.test_oracles import sees

KEY, TOKENS, LENGTH = jax.random.key(3), jnp.arange(30, 46), 13
REAL = slice(0, LENGTH)


def make(name, vocab, **options):
    built = objectives[name](vocab=vocab, **options)
    return lambda key=KEY, **supplied: built(key, TOKENS, LENGTH, **supplied)


def test_mass_of_one_token_is_masked_lm_of_one_token(vocab):
    example = make("mass", vocab, noise_density=0.01)()
    [place] = np.flatnonzero(example.encoder_input_tokens[REAL] == vocab.mask_id)
    assert example.decoder_target_tokens.tolist() == [TOKENS[place]]
    masked = make(
        "masked_lm", vocab, noise_density=0.01, mask_replace_prob=1, random_replace_prob=0
    )
    for key in jax.random.split(KEY, 200):
        other = masked(key)
        if other.encoder_loss_weights[place] > 0:  # the same place is drawn
            break
    np.testing.assert_array_equal(
        example.encoder_input_tokens[REAL], other.encoder_input_tokens[REAL]
    )
    assert float(other.count) == float(example.count) == 1


def test_mass_of_all_tokens_is_a_language_model(vocab):
    example, lm = make("mass", vocab, noise_density=1.0)(), make("causal_lm", vocab)()
    assert (np.asarray(example.encoder_input_tokens[REAL]) == vocab.mask_id).all()
    for name in ("input_tokens", "target_tokens", "loss_weights", "segment_ids"):
        mine, theirs = example.fields("decoder")[name], lm.fields("decoder")[name]
        np.testing.assert_array_equal(mine[REAL], theirs[REAL])
    assert example.decoder_positions[REAL].tolist() == list(range(LENGTH))


def test_a_prefix_of_nothing_makes_a_language_model(vocab, monkeypatch):
    monkeypatch.setattr(reorder, "output_length", lambda *args: jnp.asarray(LENGTH))
    example, lm = make("causal_prefix_lm", vocab)(), make("causal_lm", vocab)()
    for name in ("input_tokens", "target_tokens", "loss_weights", "segment_ids"):
        np.testing.assert_array_equal(example.fields("decoder")[name], lm.fields("decoder")[name])
    size = len(TOKENS)
    np.testing.assert_array_equal(
        sees(example.fields("decoder"), size), sees(lm.fields("decoder"), size)
    )


def test_deleting_nothing_is_the_identity(vocab):
    one, other = make("token_deletion", vocab, mask_ratio=0.0)(), make("identity", vocab)()
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_one_block_is_masked_diffusion(vocab):
    blocks = make("block_diffusion", vocab, block_length=len(TOKENS))(uniform=0.4)
    whole = make("masked_diffusion", vocab)(uniform=0.4)
    size = len(TOKENS)
    assert (np.asarray(whole.encoder_loss_weights) > 0).any()
    for name in ("input_tokens", "target_tokens", "loss_weights"):
        np.testing.assert_array_equal(
            blocks.fields("encoder")[name][:size], whole.fields("encoder")[name]
        )
    assert sees(blocks.fields("encoder"), 2 * size)[:size, :size].all()  # bidirectional
    assert not sees(blocks.fields("encoder"), 2 * size)[:size, size:].any()  # and nothing else
    assert float(blocks.count) == float(whole.count)


def test_blocks_of_one_token_are_a_language_model_in_expectation(vocab):
    built, size = objectives["block_diffusion"](vocab=vocab, block_length=1), len(TOKENS)
    seen = sees(built(KEY, TOKENS, LENGTH).fields("encoder"), 2 * size)
    np.testing.assert_array_equal(seen[:size, :size], np.eye(size, dtype=bool))  # a mask: itself
    np.testing.assert_array_equal(seen[:size, size:], np.tri(size, k=-1, dtype=bool))
    number = 1 << 14
    weights = jax.jit(
        jax.vmap(lambda k, u: built(k, TOKENS, LENGTH, uniform=u).encoder_loss_weights)
    )(jax.random.split(KEY, number), (jnp.arange(number) + 0.5) / number)
    # Weight 1/t with probability t: mean 1, variance about ln 1000.
    spread = math.sqrt(math.log(1000) / number)
    np.testing.assert_allclose(weights[:, REAL].mean(axis=0), 1, atol=5 * spread)
    assert not weights[:, LENGTH:].any()


def test_any_order_is_the_likelihood(vocab, monkeypatch):
    """Σ over masked sets of their probability · loss = −log p(x), for a joint of any kind."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        joint = rng.dirichlet(np.ones(3**4)).reshape((3,) * 4)
        built, text = objectives["any_order"](vocab=vocab), (2, 0, 1, 1)
        total = 0.0
        for size in range(1, 5):
            for masked in itertools.combinations(range(4), size):
                noise = np.isin(np.arange(6), masked)
                monkeypatch.setattr(masks, "choose", lambda *args, n=noise: jnp.asarray(n))
                example = built(
                    jax.random.key(0), jnp.arange(30, 36), 4, uniform=jnp.float64((size - 0.5) / 4)
                )
                known = tuple(slice(None) if i in masked else text[i] for i in range(4))
                rest = joint[known]
                loss = 0.0
                for number, place in enumerate(masked):
                    axes = tuple(a for a in range(size) if a != number)
                    chances = rest.sum(axis=axes) / rest.sum()
                    weight = float(example.encoder_loss_weights[place])
                    loss -= weight * math.log(chances[text[place]])
                total += loss / (4 * math.comb(4, size))  # sizes, and sets of a size, are as likely
                assert float(example.count) == 4
        assert abs(total - -math.log(joint[text])) < 1e-10


@pytest.mark.parametrize("uniform", [0.0, 0.2, 0.49999, 0.999999])
def test_any_order_draws_every_size_and_set_alike(vocab, uniform):
    built = objectives["any_order"](vocab=vocab)
    draw = jax.jit(
        jax.vmap(lambda k: built(k, TOKENS, LENGTH, uniform=uniform).encoder_loss_weights)
    )
    weights = np.asarray(draw(jax.random.split(KEY, 2000)))
    size = 1 + math.floor(uniform * LENGTH)
    assert ((weights > 0).sum(axis=1) == size).all()
    np.testing.assert_allclose(weights[weights > 0], LENGTH / size, rtol=1e-6)
    counts = (weights[:, REAL] > 0).sum(axis=0)
    expected = 2000 * size / LENGTH
    spread = math.sqrt(expected * (1 - size / LENGTH)) + 1
    assert (abs(counts - expected) < 5 * spread).all()


def test_times_spread_over_a_batch_lower_the_variance(vocab):
    """Of the number of masked tokens in a batch; the mean is the same."""
    built, number = objectives["masked_diffusion"](vocab=vocab), 64
    rows = Rows(
        tokens=np.tile(np.arange(30, 62), (number, 1)),
        lengths=np.full(number, 32, np.int32),
        example_ids=np.arange(number, dtype=np.uint32),
        epochs=np.zeros(number, np.uint32),
    )

    @jax.jit
    def masked(keys, uniforms):
        def one(key, uniform):
            return built(key, jnp.arange(30, 62), 32, uniform=uniform).encoder_loss_weights > 0

        return jax.vmap(one)(keys, uniforms).sum()

    even, drawn = [], []
    for seed in range(100):
        now = rows.seeded(seed)
        even.append(int(masked(now.keys, now.uniforms)))
        chances = jax.random.uniform(jax.random.key(seed), (number,))
        drawn.append(int(masked(now.keys, chances)))
    assert abs(np.mean(even) - np.mean(drawn)) < 4 * np.std(drawn) / 10
    assert np.var(even) < np.var(drawn) / 3
