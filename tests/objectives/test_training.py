"""Every registered objective trains: twenty steps on a tiny model, and the loss falls."""

import jax
import numpy as np
import optax
import pytest

from jaxdenoise.objectives import objectives
from jaxdenoise.training.step import corrupt, init, make_step
from tests.objectives.test_leakage import as_read, model_for

STEPS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.names())
def test_the_loss_falls(name, vocab, make_rows):
    objective = objectives[name](vocab=vocab)
    rows = as_read(name, make_rows(8, 32, lengths=[32, 32, 31, 20, 12, 7, 2, 0]))
    model, tx = model_for(corrupt(objective, rows)), optax.adam(1e-2)
    step, losses = jax.jit(make_step(objective, model, tx, steps=STEPS)), []
    state = init(jax.random.key(0), model, tx)
    for _ in range(STEPS):
        state, metrics = step(state, rows)
        losses.append(float(metrics["loss"]))
        assert np.isfinite(losses[-1])
        assert metrics["clean_rows"] >= 1  # the empty one
        assert metrics["lost_targets"] == 0
    assert losses[-1] < 0.8 * losses[0], losses
