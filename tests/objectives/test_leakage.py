"""No target is seen by what predicts it: every registered objective in a model that fits it."""

import jax
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.model.model import Model
from jaxdenoise.objectives import objectives
from jaxdenoise.training.step import corrupt
from tests.model.test_transformer import spread

SIZE = 24
# These show the encoder every token, elsewhere or among others.
SHOWN = {
    "character_noise",
    "deshuffling",
    "document_rotation",
    "identity",
    "sentence_permutation",
    "token_insertion",
}


def model_for(batch) -> Model:
    """A small model of the architecture that the batch is made for."""
    if batch.decoder_input_tokens is None:
        architecture = "encoder"
    else:
        architecture = "decoder" if batch.encoder_input_tokens is None else "encoder_decoder"
    shape = {"width": 16, "mlp_width": 24, "heads": 2, "head_width": 8}
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    return Model(jd.ModelConfig(architecture=architecture, **shape, **layers), 1024)


BORDER = 2


def as_read(name, rows):
    """The rows, with a separator where an objective reads pairs alone."""
    if objectives[name].pairs != "only":
        return rows
    tokens = np.array(rows.tokens)
    tokens[:, BORDER] = 3
    return rows.replace(tokens=tokens)


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.names())
def test_a_target_never_reaches_the_logits_that_predict_it_or_earlier_ones(name, vocab, make_rows):
    """Changes one raw token after another; where it is predicted, it must come as a surprise."""
    objective = objectives[name](vocab=vocab)
    rows = as_read(name, make_rows(2, SIZE, lengths=[SIZE, SIZE - 5]))
    corrupted = jax.jit(corrupt, static_argnums=0)
    batch = corrupted(objective, rows)
    model = model_for(batch)
    stack, apply = model.stack, jax.jit(model.apply)
    params = spread(model.init(jax.random.key(0)))
    before, surprises, informed = np.asarray(apply(params, batch)), 0, 0
    for place in range(SIZE):
        if objectives[name].pairs == "only" and place == BORDER:
            continue  # without it there is no pair
        tokens = np.array(rows.tokens)
        tokens[:, place] = np.where(tokens[:, place] == 500, 501, 500)
        changed = corrupted(objective, rows.replace(tokens=tokens))
        after = np.asarray(apply(params, changed))
        for row in range(2):
            places = differing(batch, changed, f"{stack}_target_tokens", row)
            places = places[np.asarray(batch.targets(stack)[1])[row][places] > 0]
            if not len(places) or (kept(batch, changed, row) and name != "block_diffusion"):
                continue
            first = places[0]
            surprises += 1
            real = np.asarray(batch.inputs(stack)[1])[row] > 0
            blind = real & ((np.arange(len(real)) <= first) | (stack == "encoder"))
            if batch.encoder_visibility is not None:
                blind = real & ~reached(batch, changed, row)
                assert blind[first]
            np.testing.assert_array_equal(before[row][blind], after[row][blind])
            seen = real & ~blind
            informed += bool((before[row][seen] != after[row][seen]).any())
    if name in SHOWN:
        assert surprises == 0
        return
    assert surprises > 1
    assert informed > 0 or stack == "encoder"  # a decoder's later positions read the token


def differing(batch, changed, field, row) -> np.ndarray:
    """The places where a field of a row is not the same."""
    one, other = (np.asarray(getattr(b, field))[row] for b in (batch, changed))
    return np.flatnonzero(one != other)


def reached(batch, changed, row) -> np.ndarray:
    """The encoder's positions that see a changed one, themselves or through others."""
    sight = batch.encoder_visibility
    at, until, groups = (
        np.asarray(x)[row] for x in (sight.visible_at, sight.sees_until, sight.groups)
    )
    sees = (at <= until[:, None]) | (groups == groups[:, None])
    found = np.zeros(len(at), bool)
    found[differing(batch, changed, "encoder_input_tokens", row)] = True
    for _ in range(len(at)):
        found |= sees @ found
    return found


def kept(batch, changed, row) -> bool:
    """Whether the encoder reads the token: BERT keeps some of its noise as it is."""
    if batch.encoder_input_tokens is None:
        return False
    return len(differing(batch, changed, "encoder_input_tokens", row)) > 0
