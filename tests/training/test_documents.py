"""Losses of documents against the model's own logits, piece by piece."""

import jax
import numpy as np
import pytest

from jaxdenoise.experiment import override
from jaxdenoise.training import documents, evaluation
from jaxdenoise.training.setup import build
from tests.model.test_transformer import spread


@pytest.fixture
def setup(tiny):
    fields = {"model.architecture": "decoder", "objective": "causal_lm", "data.raw_length": 16}
    return build(override(tiny, fields))


@pytest.mark.slow
def test_a_documents_loss_is_the_sum_of_its_pieces(setup, monkeypatch):
    params = spread(setup.initial_state().params)
    found = list(documents.document_losses(setup, params))
    stream, store = np.asarray(setup.store.tokens("held_out")), setup.store
    assert [one["document"] for one in found] == list(range(len(store.documents("held_out"))))
    special, sizes = store.tokenizer.vocab.is_special, store.tokenizer.token_bytes
    for one in found[:3]:
        start, size = store.documents("held_out")[one["document"]]
        ids = stream[start : start + size]
        assert size > 16  # it has several pieces
        nats = [_nats(setup, params, ids[n : n + 16]) for n in range(0, size, 16)]
        text = ~special[ids]
        assert one["source_tokens"] == size
        assert one["tokens"] == text.sum() == size - 1
        assert one["bytes"] == sizes[ids[text]].sum()
        assert one["nats"] == pytest.approx(np.concatenate(nats)[text].sum(), rel=1e-5)
    monkeypatch.setattr(documents, "TOGETHER", 17)  # documents lie across blocks
    monkeypatch.setattr(evaluation, "CHUNK", 5)  # and across what is computed together
    again = list(documents.document_losses(setup, params))
    assert [one["tokens"] for one in again] == [one["tokens"] for one in found]
    np.testing.assert_allclose([o["nats"] for o in again], [o["nats"] for o in found], rtol=1e-5)


@pytest.mark.slow
def test_pairs_are_documents_of_which_the_target_counts(tiny, pairs):
    fields = {"data.files": [str(pairs)], "data.pairs": True, "objective": "text_to_text"}
    setup = build(override(tiny, fields))
    found = list(documents.document_losses(setup, setup.initial_state().params))
    held_out = setup.store.pairs("held_out")
    assert [one["tokens"] for one in found] == [
        len(held_out.parts(number)[1]) for number in range(len(held_out))
    ]
    assert [one["document"] for one in found] == list(range(len(held_out)))


@pytest.mark.slow
def test_blocks_change_nothing_where_the_objective_is_random(tiny, monkeypatch):
    setup = build(override(tiny, {"objective": "prefix_lm", "data.raw_length": 16}))
    params = setup.initial_state().params
    found = [one["tokens"] for one in documents.document_losses(setup, params)]
    for together in (7, len(list(documents._pieces(setup))) - 1):
        monkeypatch.setattr(documents, "TOGETHER", together)
        assert [one["tokens"] for one in documents.document_losses(setup, params)] == found


def _nats(setup, params, ids):
    """Of each token, by the logits of a row of its own."""
    row = np.zeros((1, 16), np.int32)
    row[0, : len(ids)] = ids
    keys, length = jax.random.split(jax.random.key(0), 1), np.array([len(ids)])
    batch = jax.jit(jax.vmap(setup.objective))(keys, row, length)
    logits = np.asarray(jax.jit(setup.model.apply)(params, batch), np.float64)[0]
    shares = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -shares[np.arange(len(ids)), ids]
