"""Every registered objective packs: a piece in a packed row is what it is alone, and costs that."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxdenoise.arrays import STACK_FIELDS, Pieces, Rows
from jaxdenoise.losses import projected_terms
from jaxdenoise.objectives import objectives
from jaxdenoise.objectives.packed import within
from jaxdenoise.training.step import corrupt, init, make_step
from tests.model.test_transformer import spread
from tests.objectives.test_leakage import model_for

LENGTHS = np.array([[9, 14, 2, 1, 6], [24, 3, 0, 0, 0]], np.int32)
SIZES = (96, 96)  # room for every piece of every objective
FAST = ("span_corruption", "masked_lm", "causal_prefix_lm", "block_diffusion")
NAMES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in objectives.names()
]


@pytest.fixture
def rows():
    """Two packed rows, one with empty slots."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 900, (2, 40)).astype(np.int32)
    tokens[rng.random(tokens.shape) < 0.15] = 20
    ids = np.arange(10, dtype=np.uint32).reshape(2, 5)
    pieces = Pieces(lengths=LENGTHS, example_ids=ids, places=ids, raw_length=24, sizes=SIZES)
    return Rows(
        tokens=tokens,
        lengths=LENGTHS.sum(axis=1),
        example_ids=ids[:, 0],
        epochs=np.ones(2, np.uint32),
        places=ids[:, 0],
        pieces=pieces,
    )


def built(name, vocab):
    return within(objectives[name](vocab=vocab), 24, SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_row_is_made_of_its_pieces(name, vocab, rows):
    objective = built(name, vocab)
    packed, alone = jax.device_get(
        jax.jit(lambda rows: (corrupt(objective, rows), corrupt(objective, rows.unpacked())))(rows)
    )
    used = (LENGTHS > 0).reshape(-1)
    np.testing.assert_allclose(
        packed.count, np.where(used, alone.count, 0).reshape(2, 5).sum(axis=1), rtol=1e-6
    )
    for stack in ("encoder", "decoder"):
        if packed.fields(stack)["input_tokens"] is not None:
            assert packed.size(stack) == 96
            compare(packed.fields(stack), alone.fields(stack))


def compare(packed, alone):
    """Position by position, by segment; selections by where they lead."""
    for row, slot in np.argwhere(LENGTHS > 0):
        real = alone["segment_ids"][5 * row + slot] > 0
        mine = packed["segment_ids"][row] == slot + 1
        assert mine.sum() == real.sum() > 0
        for name in set(STACK_FIELDS) - {"segment_ids", "selected", "visibility", "positions"}:
            if alone[name] is not None:
                np.testing.assert_array_equal(
                    packed[name][row][mine], alone[name][5 * row + slot][real]
                )
        positions = np.arange(len(real))
        if alone["positions"] is not None:
            positions = alone["positions"][5 * row + slot]
        np.testing.assert_array_equal(packed["positions"][row][mine], positions[real])
        for left, right in zip(
            jax.tree.leaves(packed["visibility"]), jax.tree.leaves(alone["visibility"]), strict=True
        ):
            np.testing.assert_array_equal(left[row][mine], right[5 * row + slot][real])
    assert ((packed["segment_ids"] > 0).sum(axis=1) < 96).all()
    if packed["selected"] is not None:
        for row in range(2):
            chosen = np.flatnonzero(packed["loss_weights"][row] != 0)
            assert set(chosen) <= set(packed["selected"][row].tolist())


def test_targets_that_packing_cuts_off_are_counted(vocab, rows):
    """A plan leaves room for all; an objective that breaks its word is not silent."""
    objective, tx = built("causal_lm", vocab), optax.sgd(0.1)
    model = model_for(objective.shapes(24))
    state = init(jax.random.key(0), model, tx)
    step = jax.jit(make_step(objective, model, tx))
    cut = rows.replace(pieces=rows.pieces.replace(sizes=(0, 20)))
    for given, lost in ((rows, 0), (cut, (32 - 20) + (27 - 20))):
        metrics = step(state, given)[1]
        assert metrics["lost_targets"] == lost
        assert metrics["targets"] == 32 + 27 - lost


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.names())
def test_packed_and_unpacked_rows_cost_the_same(name, vocab, rows):
    objective = built(name, vocab)
    if objectives[name].pairs == "only":  # a separator in each piece
        tokens, starts = np.array(rows.tokens), np.cumsum(LENGTHS, axis=1) - LENGTHS
        for row, places in enumerate(starts):
            tokens[row, places[LENGTHS[row] > 2] + 1] = 3
        rows = rows.replace(tokens=tokens)

    @jax.jit
    def loss(params, rows):
        batch = corrupt(objective, rows)
        hidden, projection, _ = model.forward(params, batch)
        values = batch.selected_targets(model.stack)
        return projected_terms(hidden, projection, *values, count=batch.count)

    alone = rows.unpacked()
    alone = dataclasses.replace(alone, lengths=np.asarray(alone.lengths))
    alone = jax.tree.map(lambda x: np.asarray(x)[LENGTHS.reshape(-1) > 0], alone)
    model = model_for(corrupt(objective, alone))
    params = spread(model.init(jax.random.key(0)))
    packed, unpacked = loss(params, rows), loss(params, alone)
    assert unpacked.targets > 0
    for field in ("loss", "targets", "weight", "count", "correct"):
        np.testing.assert_allclose(
            getattr(packed, field), getattr(unpacked, field), rtol=2e-5, err_msg=field
        )
