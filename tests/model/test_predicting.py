"""The likeliest tokens of selected positions, against sorting all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.model.model import Model, encoder
from jaxdenoise.model.predicting import predict
from jaxdenoise.objectives import objectives
from jaxdenoise.vocabulary import Vocabulary

VOCAB = Vocabulary(size=40, mask_id=2, sentinel_ids=(39, 38))
MODEL = Model(encoder(vocab=VOCAB, width=16, layers=1).config, 48)  # eight rows that are no id
PARAMS = jax.tree.map(lambda x: 1.5 * x, MODEL.init(jax.random.key(5)))
predicted = jax.jit(
    predict, static_argnums=(0, 3), static_argnames=("top_k", "special", "everywhere")
)
logits_of = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def batch():
    """Two rows, of which the objective selects the masked positions."""
    tokens = np.random.default_rng(0).integers(3, 38, (2, 16))
    corrupt = objectives["masked_lm"](vocab=VOCAB, noise_density=0.3)
    keys = jax.random.split(jax.random.key(0), 2)
    examples = jax.jit(jax.vmap(corrupt))(keys, jnp.asarray(tokens), jnp.array([16, 16]))
    return examples.replace(encoder_segment_ids=jnp.ones((2, 16), jnp.int32))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("everywhere", [True, False])
def test_probabilities_and_tokens_are_those_of_sorting(batch, special, everywhere):
    options = {"top_k": 4, "special": special, "everywhere": everywhere}
    found = predicted(MODEL, PARAMS, batch, VOCAB, **options)
    logits = np.asarray(logits_of(PARAMS, batch))[..., : VOCAB.size].astype(np.float64)
    if not special:
        logits[..., VOCAB.is_special] = -np.inf
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    if not everywhere:
        selected = np.asarray(batch.encoder_selected)
        assert selected.shape[1] < 16
        shares = np.take_along_axis(shares, selected[..., None], axis=1)
    best = np.argsort(-shares, axis=-1)[..., :4]
    np.testing.assert_array_equal(found.tokens, best)
    wanted = np.take_along_axis(shares, best, axis=-1)
    np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-4)


def test_a_number_that_there_is_not_is_refused(batch):
    for top_k, special, most in ((0, True, 40), (41, True, 40), (36, False, 35)):
        with pytest.raises(UserError, match=f"top_k is {top_k}; it must be in 1 to {most}"):
            predict(MODEL, PARAMS, batch, VOCAB, top_k=top_k, special=special)
