"""The notebook cell that the framework is for, as a user would write it."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdenoise as jd
from jaxdenoise.objectives import objectives

TEXTS = ["Return the sum of the array elements over a given axis, all of them by default."] * 4


@pytest.mark.slow
def test_a_new_corruption_and_a_new_loss_in_ten_lines(capsys):
    with objectives.scope():
        tok = jd.load_tokenizer("pydocs")
        rows = jd.rows(tok, TEXTS, length=32)

        @jd.objective
        def half_mask(key, tokens, length, *, vocab, density=0.5):
            noise = jd.masks.iid(key, tokens, length, density, vocab)  # True = noise
            return jd.rewrite.mask_tokens(tokens, noise, vocab)

        def focal(logits, target):
            nll = jd.cross_entropy(logits, target)
            return nll * (1 - jnp.exp(-nll))

        objective = half_mask(vocab=tok.vocab, density=0.3)
        batch = jax.vmap(objective)(rows.keys, rows.tokens, rows.lengths)
        model, tx = jd.encoder(vocab=tok.vocab, width=32, layers=2), optax.adamw(1e-3)
        state = jd.init(jax.random.key(0), model, tx, batch)
        state, metrics = jax.jit(jd.make_step(objective, model, tx, loss=focal))(state, rows)
        nll = jd.token_losses(model, state.params, batch, focal)  # Float[B, T]
        jd.show(batch, tok, nll)
        jd.show_gradients(model, state.params, batch, focal, tok)

    weights = np.asarray(batch.encoder_loss_weights)
    assert nll.shape == rows.tokens.shape
    assert (np.asarray(nll)[weights == 0] == 0).all()
    mask = np.asarray(batch.encoder_input_tokens) == tok.vocab.mask_id
    np.testing.assert_array_equal(mask, weights > 0)
    np.testing.assert_allclose(metrics["targets"], weights.sum())
    printed = capsys.readouterr().out
    assert "<mask>" in printed
    assert "gradient of each target's loss" in printed


@pytest.mark.slow
def test_gradients_stay_inside_their_segment():
    """The heat map is zero exactly where nothing can flow."""
    tok = jd.load_tokenizer("pydocs")
    rows = jd.rows(tok, TEXTS[:1], length=32)
    objective = jd.span_corruption(vocab=tok.vocab)
    batch = jax.vmap(objective)(rows.keys, rows.tokens, rows.lengths)
    model = jd.encoder_decoder(vocab=tok.vocab, width=32, layers=1)
    params = model.init(jax.random.key(0))
    short = jax.tree.map(lambda x: x[-1], batch)  # the last row is not full
    strength = jd.gradient_flow(model, params, short).positions["encoder"]
    real = np.asarray(short.encoder_segment_ids) > 0
    assert len(strength) == (np.asarray(short.decoder_loss_weights) > 0).sum()
    assert not real.all()
    assert (strength[..., ~real] == 0).all()
    assert (strength[..., real] > 0).all()


@pytest.mark.slow
def test_the_readmes_python_runs_as_printed(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    with objectives.scope():
        exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert "gradients output_only" in capsys.readouterr().out
