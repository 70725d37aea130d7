"""Packed rows: documents cut into pieces, planned epoch by epoch, gathered on the device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.config import DataConfig
from jaxdenoise.data.pieces import (
    PackedBatches,
    Packing,
    find_documents,
    plan_epoch,
    sample_packed_rows,
    some_documents,
)
from jaxdenoise.data.rows import iterate
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import UserError
from jaxdenoise.objectives import configure, objectives
from jaxdenoise.objectives.mixture import Member, mixture
from jaxdenoise.objectives.packed import row_sizes, within
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.training.step import corrupt
from tests.conftest import full_vocabulary

VOCAB = full_vocabulary()
SEPARATOR = VOCAB.separator_id


def a_stream(documents: int = 60, seed: int = 0) -> np.ndarray:
    """Documents of one token to 150, the longest of many pieces."""
    rng = np.random.default_rng(seed)
    parts = []
    for length in rng.permutation(np.geomspace(1, 150, documents).astype(int)):
        parts += [rng.integers(10, 900, length), [SEPARATOR]]
    return np.concatenate(parts).astype(np.uint16)


TOKENS = a_stream()
DOCUMENTS = find_documents(TOKENS, SEPARATOR)
CASES = {  # the most tokens of a document, the sizes of a row's stacks, the most pieces of a row
    "span_corruption": (60, (54, 16), 6),
    "causal_lm": (40, (0, 40), 4),
    "ul2": (80, (96, 60), 8),
    "prefix_lm": (40, (41, 41), 6),
}


@functools.cache
def case(name: str) -> tuple[Objective, Packing]:
    """The objective for packed rows, and what these have room for."""
    longest, sizes, most = CASES[name]
    return within(objectives[name](vocab=VOCAB), longest, sizes), Packing(sizes=sizes, most=most)


def batches(name: str, **fields) -> PackedBatches:
    objective, packing = case(name)
    given = {"seed": 3, "batch_size": 4, "steps": 60, "tokens": TOKENS, "documents": DOCUMENTS}
    return PackedBatches(objective=objective, packing=packing, **{**given, **fields})


def same(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def plan(name, seed=3, epoch=0):
    objective, packing = case(name)
    return plan_epoch(objective, DOCUMENTS, packing, seed=seed, epoch=epoch)


@given(st.lists(st.integers(0, 5), max_size=20))
def test_documents_are_the_stream_in_parts(tokens):
    found = find_documents(np.array(tokens, np.uint16), separator_id=3)
    assert [t for start, length in found for t in tokens[start : start + length]] == tokens
    assert all(3 not in tokens[start : start + length - 1] for start, length in found)
    assert (found[:, 1] > 0).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("epoch", [0, 1])
def test_pieces_are_the_stream_and_each_is_in_one_row(name, epoch):
    made = plan(name, epoch=epoch)
    order = np.argsort(made.starts)
    ends = made.starts + made.lengths
    np.testing.assert_array_equal(made.starts[order], np.append(0, ends[order][:-1]))
    assert ends.max() == len(TOKENS)
    inside = np.searchsorted(DOCUMENTS[:, 0], made.starts, "right") - 1
    assert (ends <= DOCUMENTS[inside].sum(axis=1)).all()  # none goes on into the next document
    placed = made.rows[made.rows >= 0]
    np.testing.assert_array_equal(np.sort(placed), np.arange(len(made.starts)))
    assert len(np.unique(made.example_ids)) == len(made.example_ids)


def test_members_of_a_mixture_get_pieces_of_their_own_lengths():
    objective, _ = case("ul2")
    assert len(set(objective.raw_lengths)) > 3
    made = plan("ul2")
    full = set(made.lengths.tolist()) & set(objective.raw_lengths)
    assert len(full) > 2


@pytest.mark.parametrize("name", CASES)
def test_a_batch_holds_what_was_planned(name):
    """As many positions as were foreseen: every piece is there, whole, and nothing is lost."""
    run = batches(name)

    @jax.jit
    def both(rows):
        alone, size = rows.unpacked(), rows.pieces.raw_length
        lengths = run.objective.output_lengths(alone.keys, alone.lengths, raw_length=size)
        return corrupt(run.objective, rows), tuple(lengths)

    for step in (0, 3):
        rows = run[step]
        batch, lengths = jax.device_get(both(rows))
        assert (rows.pieces.lengths > 0).sum() > 4
        for stack, planned in zip(("encoder", "decoder"), lengths, strict=True):
            segments = getattr(batch, f"{stack}_segment_ids")
            if segments is None:
                continue
            used = rows.pieces.lengths > 0
            expected = np.asarray(planned).reshape(used.shape) * used
            got = [np.bincount(row, minlength=used.shape[1] + 1)[1:] for row in segments]
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["span_corruption", "ul2"])
def test_any_batch_can_be_had_by_itself(name):
    """By another process, in any order, from any number of threads; across epochs too."""
    run = batches(name)
    rows = len(run._plan(0).rows)
    steps = [0, rows // 4, rows // 4 + 1, 2 * rows // 4 + 1]
    expected = [run[step] for step in steps]
    assert {int(epoch) for batch in expected for epoch in batch.epochs} >= {0, 1, 2}
    for step, batch in reversed(list(zip(steps, expected, strict=True))):
        assert same(batch, batches(name)[step])
    for threads in (0, 1, 3):
        read = list(iterate(batches(name, steps=8), threads=threads))
        assert all(same(batch, run[step]) for step, batch in enumerate(read))
    for processes in (2, 4):
        for process in range(processes):
            part = batches(name).take(range(8, 12)[process::processes])
            whole = jax.tree.map(lambda x, p=process, n=processes: x[p::n], run[2])
            assert same(part, whole)


def test_places_count_the_pieces_of_the_run():
    run = batches("span_corruption")
    places = []
    for step in range(30):
        rows = run[step]
        places += rows.pieces.places[rows.pieces.lengths > 0].tolist()
    assert places == list(range(len(places)))


def test_epochs_and_seeds_are_cut_and_ordered_anew():
    first = plan("ul2")
    for other in (plan("ul2", epoch=1), plan("ul2", seed=4)):
        assert not np.array_equal(first.rows, other.rows)
        assert not np.array_equal(first.starts, other.starts)
    assert same(first, plan("ul2"))


def test_held_out_rows_are_the_same_for_every_run():
    objective, packing = case("span_corruption")
    one = sample_packed_rows(TOKENS, DOCUMENTS, objective, packing, 5)
    assert same(one, sample_packed_rows(TOKENS, DOCUMENTS, objective, packing, 5))
    assert len(one.lengths) == 5
    everything = sample_packed_rows(TOKENS, DOCUMENTS, objective, packing, 10**6)
    assert everything.lengths.sum() == len(TOKENS)


@given(seed=st.integers(0, 2**32 - 1))
def test_rows_of_many_short_documents_are_full(seed):
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.lognormal(3, 1, 400), 300).astype(int) + 2
    ends = np.cumsum(lengths)
    objective, _ = case("causal_lm")
    packing = Packing(sizes=(0, 128), most=16)
    objective = dataclasses.replace(objective, raw_lengths=(128,))
    documents = np.stack([ends - lengths, lengths], axis=1)
    made = plan_epoch(objective, documents, packing, seed=seed, epoch=0)
    assert lengths.sum() >= 0.97 * 128 * (len(made.rows) - 1)
    assert made.filled == (0, lengths.sum() / (128 * len(made.rows)))


def test_some_documents_have_so_many_tokens_and_are_from_all_over():
    few, more = some_documents(DOCUMENTS, 300), some_documents(DOCUMENTS, 900)
    assert few[:, 1].sum() == 300
    assert more[:, 1].sum() == 900
    whole = {tuple(document) for document in DOCUMENTS.tolist()}
    assert {tuple(document) for document in more[:-1].tolist()} < whole  # only the last one is cut
    np.testing.assert_array_equal(few[:-1], more[: len(few) - 1])
    assert few[-1, 0] == more[len(few) - 1, 0]
    assert np.ptp(more[:, 0]) > len(TOKENS) / 2
    everything = some_documents(DOCUMENTS, 10**6)
    np.testing.assert_array_equal(everything[np.argsort(everything[:, 0])], DOCUMENTS)


def test_packed_rows_of_some_documents_have_no_other_tokens():
    documents = some_documents(DOCUMENTS, 300)
    allowed = np.concatenate([TOKENS[start : start + length] for start, length in documents])
    packed = batches("causal_lm", documents=documents, steps=30)
    seen = {int(epoch): [] for step in range(30) for epoch in packed[step].epochs}
    assert len(seen) > 2
    for step in range(30):
        for tokens, length, epoch in zip(
            packed[step].tokens, packed[step].lengths, packed[step].epochs, strict=True
        ):
            seen[int(epoch)].append(tokens[:length])
    for epoch in range(len(seen) - 1):  # the last one may be cut short
        np.testing.assert_array_equal(np.sort(np.concatenate(seen[epoch])), np.sort(allowed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "least"),
    [
        ("span_corruption", (512, 114), (0.98, 0.98)),
        ("causal_lm", (0, 512), (0, 0.98)),
        ("masked_lm", (512, 0), (0.98, 0)),
        ("ul2", (2048, 960), (0.95, 0.95)),
    ],
)
def test_rows_of_pydocs_are_full(name, sizes, least):
    """Over as many epochs as a thousand batches of 8 rows have."""
    store = prepare(DataConfig())
    objective = within(objectives[name](vocab=store.tokenizer.vocab), 1200, sizes)
    documents = find_documents(store.tokens("train"), store.tokenizer.separator_id)
    packing, rows, filled, epoch = Packing(sizes=sizes, most=16), 0, np.zeros(2), 0
    while rows < 8000:
        made = plan_epoch(objective, documents, packing, seed=0, epoch=epoch)
        filled += np.array(made.filled) * len(made.rows)
        rows, epoch = rows + len(made.rows), epoch + 1
    assert (filled / rows >= least).all(), filled / rows


def test_objectives_without_short_rows_are_packed_too():
    built = objectives["subsequence"](vocab=VOCAB, context_length=60)
    assert row_sizes(built, 100, None, 70) == (0, 70)
    assert within(built, 568, (0, 70)).raw_lengths == (70,)


@pytest.mark.slow
def test_a_bound_on_the_lengths_of_one_member_is_not_that_of_another():
    members = (configure("span_corruption"), configure("character_noise"))
    with objectives.scope():
        mixed = mixture("mixed", *(Member(objective=m) for m in members), doc="Two.")
        objective = within(mixed(vocab=VOCAB), 60, (120, 90))
    keys = jax.random.split(jax.random.key(0), 64)
    lengths = np.full(64, 40, np.int32)
    encoder, _ = objective.output_lengths(keys, lengths, raw_length=60)
    assert set(np.asarray(encoder).tolist()) == {37, 81}  # 40 − 6 + 2 + 1, and 2 · 40 + 1


def test_the_bound_of_token_deletion_is_exact_for_text():
    built = objectives["token_deletion"](vocab=VOCAB)
    lengths = np.arange(2, 41)
    keys = jax.random.split(jax.random.key(0), len(lengths))
    planned = built.output_lengths(keys, lengths, raw_length=40)
    np.testing.assert_array_equal(planned.encoder, lengths - np.ceil(lengths * 0.15 - 1e-9) + 1)


def test_a_document_of_one_separator_fits_where_it_was_planned():
    built = within(objectives["token_deletion"](vocab=VOCAB, mask_ratio=1.0), 8, (9, 9))
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 900, 60).astype(np.uint16)
    tokens[::4] = SEPARATOR
    packing = Packing(sizes=(9, 9), most=4)
    rows = sample_packed_rows(tokens, find_documents(tokens, SEPARATOR), built, packing, 100)
    batch = jax.jit(lambda rows: corrupt(built, rows))(rows)
    ends = (np.asarray(batch.encoder_input_tokens) == VOCAB.eos_id).sum()
    assert ends == (rows.pieces.lengths > 0).sum()


def test_what_cannot_be_packed_is_refused():
    scheduled = objectives["span_corruption"](vocab=VOCAB, noise_density=((0, 0.3), (1, 0.15)))
    with pytest.raises(UserError, match="noise_density of span_corruption follows a schedule"):
        within(scheduled, 40, (40, 40))
    inside = Member(objective=scheduled.config), Member(objective=configure("prefix_lm"))
    falling = Member(objective=configure("identity"), rate=((0, 1), (1, 0)))
    with objectives.scope():
        for name, members, found in (
            ("one", inside, "objective.span_corruption.noise_density of one follows"),
            ("two", (falling, inside[1]), "objective.rates of two follows"),
        ):
            with pytest.raises(UserError, match=found):
                within(mixture(name, *members, doc="One.")(vocab=VOCAB), 40, (90, 90))
    with pytest.raises(UserError, match="no room for a piece of 2 to 40 tokens .* in 1 positions"):
        within(objectives["masked_lm"](vocab=VOCAB), 40, (1, 0))
    with pytest.raises(UserError, match=r"data.encoder_length is needed to pack .* a mixture, ul2"):
        row_sizes(objectives["ul2"](vocab=VOCAB), 40, None, None)
    with pytest.raises(UserError, match="data.decoder_length is 9, and masked_lm has no decoder"):
        row_sizes(objectives["masked_lm"](vocab=VOCAB), 40, None, 9)
