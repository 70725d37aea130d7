"""Edits of characters: how often, where, and that nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdenoise.corruption import characters
from jaxdenoise.objectives import objectives
from tests.conftest import full_vocabulary, spelling

VOCAB = full_vocabulary()
TOKENS, LENGTH = jnp.array([107, 3, 31, 113, 20, 119, 118, 55, 2, 125]), 9
SIZES = np.array([5, 0, 1, 5, 0, 5, 4, 1, 0, 0])  # the last is padding


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draw_edits(draws, density, edits):
    """Int[draws, L, C]."""
    spelled = characters.spell(TOKENS, LENGTH, VOCAB)
    keys = jax.random.split(jax.random.key(5), draws)
    return jax.vmap(lambda key: characters.random_edits(key, spelled, density, edits))(keys)


def expected_shares(size: int, density: float, edits: tuple[float, ...]) -> np.ndarray:
    """Float[size, 5]: how often each thing happens to each character, nothing first."""
    weights, moved, shares = np.array(edits) / sum(edits), 0.0, []
    for place in range(size):
        own = weights if place + 1 < size else np.append(weights[:3], 0) / weights[:3].sum()
        happens = (1 - moved) * density * own
        shares.append([1 - happens.sum(), *happens])
        moved = happens[3]
    return np.array(shares)


@pytest.mark.parametrize("edits", [(1.0, 1.0, 1.0, 1.0), (4.0, 1.0, 2.0, 3.0)])
def test_edits_are_drawn_as_often_as_asked_in_every_place(edits):
    draws, density = 20_000, 0.3
    drawn = np.asarray(draw_edits(draws, density, edits))
    for token, size in enumerate(SIZES):
        assert not drawn[:, token, size:].any()
        for place, shares in enumerate(expected_shares(size, density, edits)):
            counts = np.bincount(drawn[:, token, place], minlength=5)
            wanted = shares > 0
            assert not counts[~wanted].any()  # the last has no next
            found = scipy.stats.chisquare(counts[wanted], draws * shares[wanted])
            assert found.pvalue > 1e-4, (token, place)


def test_new_characters_are_any_of_the_row():
    spelled = characters.spell(TOKENS, LENGTH, VOCAB)
    drawn = characters.random_characters(jax.random.key(0), spelled, 21_000)
    row = [c for token in TOKENS[:LENGTH].tolist() for c in spelling(token)]
    found, counts = np.unique(np.asarray(drawn), return_counts=True)
    ids, times = np.unique(row, return_counts=True)
    np.testing.assert_array_equal(found, ids)
    assert scipy.stats.chisquare(counts, 21_000 * times / len(row)).pvalue > 1e-3


def test_every_token_is_as_likely_to_get_room():
    tokens = jnp.full(9, 107)  # of five characters: each grows by four
    spelled = characters.spell(tokens, 8, VOCAB)
    edits = jnp.zeros_like(spelled.ids).at[:, 2].set(characters.SUBSTITUTE)

    def touched(key):
        return characters.fit(key, spelled, edits, 8, 14).any(axis=1)

    kept = np.asarray(jax.jit(jax.vmap(touched))(jax.random.split(jax.random.key(0), 4000)))
    assert (kept[:, :8].sum(axis=1) == 3).all()
    assert scipy.stats.chisquare(kept[:, :8].sum(axis=0)).pvalue > 1e-3


def read(ids) -> list[int]:
    """What has characters in characters, the rest as it is."""
    return [c for token in ids for c in spelling(int(token)) or [int(token)]]


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_transposition_moves_characters_and_loses_none(growth):
    built = objectives["character_noise"](
        vocab=VOCAB, noise_density=0.8, edits=(0.0, 0.0, 0.0, 1.0), growth=growth
    )
    batch = jax.jit(jax.vmap(lambda key: built(key, TOKENS, LENGTH)))(
        jax.random.split(jax.random.key(1), 200)
    )
    ends = np.asarray(batch.encoder_segment_ids).sum(axis=1) - 1
    assert (ends <= LENGTH + np.ceil(LENGTH * growth)).all()
    clean, texts = read(TOKENS[:LENGTH].tolist()), set()
    for ids, end in zip(np.asarray(batch.encoder_input_tokens), ends, strict=True):
        text = read(ids[:end])
        assert sorted(text) == sorted(clean)
        assert [c for c in text if c < 30] == [3, 20, 2]
        texts.add(tuple(text))
    assert (texts == {tuple(clean)}) == (growth == 0)  # these are all too long for no room


def test_without_noise_it_is_the_identity():
    built = objectives["character_noise"](vocab=VOCAB, noise_density=0.0, growth=0.0)
    clean = objectives["identity"](vocab=VOCAB)
    both = [jax.jit(corrupt)(jax.random.key(0), TOKENS, LENGTH) for corrupt in (built, clean)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *both))


def test_the_density_may_follow_the_progress():
    built = objectives["character_noise"](vocab=VOCAB, noise_density=((0, 0.0), (1, 1.0)))
    corrupt = jax.jit(lambda progress: built(jax.random.key(0), TOKENS, LENGTH, progress=progress))
    lengths = [int(corrupt(progress).encoder_segment_ids.sum()) for progress in (0.0, 1.0)]
    assert lengths[0] == LENGTH + 1 < lengths[1]
