"""Batch k is a pure function of (seed, k)."""

import jax
import numpy as np
import pytest

from jaxdenoise.data.rows import Batches, check_ids, iterate, rows, sample_rows
from jaxdenoise.errors import UserError
from jaxdenoise.tokenizer import train_tokenizer

TOKENS = np.arange(1000, dtype=np.uint16)


def batches(**fields) -> Batches:
    fields = {"raw_length": 30, "batch_size": 8, "steps": 20, "seed": 0, **fields}
    return Batches(tokens=TOKENS, **fields)


def same(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_an_epoch_visits_every_token_once():
    source = batches(batch_size=34, steps=3)  # 34 rows: one batch an epoch
    assert source.rows_per_epoch == 34
    seen = []
    for step in range(3):
        batch = source[step]
        assert set(batch.epochs) == {step}
        seen.append(batch.example_ids)
        parts = [row[:length] for row, length in zip(batch.tokens, batch.lengths, strict=True)]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), TOKENS)
    assert not np.array_equal(seen[0], seen[1])


def test_a_batch_may_straddle_two_epochs():
    batch = batches()[4]  # rows 32 … 39 of 34
    assert batch.epochs.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_the_last_row_is_short_and_padded():
    source = batches(batch_size=34)
    batch = source[0]
    short = np.flatnonzero(batch.lengths < 30)
    assert batch.lengths[short].tolist() == [10]
    assert (batch.tokens[short, 10:] == 0).all()
    assert batch.example_ids[short].tolist() == [33]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 7])
def test_reading_gives_the_batches_in_order_from_any_step(threads, start):
    source = batches()
    read = list(iterate(source, start=start, threads=threads))
    assert len(read) == 20 - start
    for step, batch in enumerate(read, start):
        assert same(batch, source[step])
        assert batch.seeds.tolist() == [0] * len(batch.lengths)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_process_can_take_its_rows_of_a_batch(processes):
    for step in (0, 4):  # of one epoch, and of two
        numbers = range(step * 8, step * 8 + 8)
        for process in range(processes):
            part = batches().take(numbers[process::processes])
            whole = jax.tree.map(lambda x, p=process: x[p::processes], batches()[step])
            assert same(part, whole)


def test_batch_size_does_not_change_the_order_of_rows():
    small, large = batches(batch_size=4, steps=10), batches(batch_size=20, steps=2)
    order = np.concatenate([small[step].example_ids for step in range(10)])
    np.testing.assert_array_equal(
        order, np.concatenate([large[0].example_ids, large[1].example_ids])
    )


def test_seeds_change_the_order_and_nothing_else_does():
    assert not np.array_equal(batches(seed=1)[0].example_ids, batches(seed=2)[0].example_ids)
    assert same(batches(seed=1, steps=5)[0], batches(seed=1, steps=50)[0])


@pytest.mark.parametrize("train_tokens", [30, 300, 329])
def test_fewer_tokens_are_whole_rows_the_same_for_every_seed(train_tokens):
    rows = train_tokens // 30
    source = batches(train_tokens=train_tokens, batch_size=rows, steps=3)
    assert source.rows_per_epoch == rows
    used = set(source[0].example_ids.tolist())
    assert len(used) == rows
    for step in range(3):  # each epoch visits them once, in an order of its own
        for seed in (0, 1):
            batch = batches(train_tokens=train_tokens, batch_size=rows, steps=3, seed=seed)[step]
            assert set(batch.example_ids.tolist()) == used
            assert set(batch.epochs.tolist()) == {step}
    batch = source[2]
    for row, tokens, length in zip(batch.example_ids, batch.tokens, batch.lengths, strict=True):
        np.testing.assert_array_equal(tokens[:length], TOKENS[row * 30 : row * 30 + 30])


def test_fewer_tokens_are_among_more_and_lie_all_over_the_stream():
    def used(train_tokens):
        source = batches(train_tokens=train_tokens, batch_size=100, steps=1)
        return set(source[0].example_ids.tolist())

    few, more = used(150), used(600)
    assert len(few) == 5
    assert len(more) == 20
    assert few < more
    assert max(more) - min(more) > 20
    assert used(1000) < used(10_000) == set(range(34))  # the last one makes 1000


def test_all_tokens_are_the_rule():
    assert same(batches()[3], batches(train_tokens=None)[3])
    assert not same(batches()[0], batches(train_tokens=300)[0])


def test_a_step_that_is_not_there_is_an_index_error():
    with pytest.raises(IndexError):
        batches()[20]


def test_a_corpus_shorter_than_one_row_is_refused():
    with pytest.raises(UserError, match="1000 tokens, less than one row of 2000"):
        batches(raw_length=2000)


def test_the_evaluation_sample_is_fixed_and_spread():
    sample = sample_rows(TOKENS, 10, 20)
    assert len(sample.lengths) == 20
    assert same(sample, sample_rows(TOKENS, 10, 20))
    assert sample.example_ids.max() > 60
    assert len(sample_rows(TOKENS, 10, 500).lengths) == 100


def test_texts_become_rows_and_none_is_lost():
    texts = ["one two three " * 5, "four five"]
    tokenizer = train_tokenizer(texts, vocabulary_size=300, sentinels=10)
    made = rows(tokenizer, texts, length=8)
    tokens = [r[:n] for r, n in zip(made.tokens, made.lengths, strict=True)]
    text = tokenizer.decode(np.concatenate(tokens), specials=True)
    assert text == texts[0] + "<doc>" + texts[1] + "<doc>"
    with pytest.raises(UserError, match="texts are empty"):
        rows(tokenizer, [], length=8)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_id_outside_the_vocabulary_never_leaves_the_host(threads):
    source = batches()  # ids 0 … 999
    assert len(list(iterate(source, threads=threads, vocabulary_size=1000))) == 20
    with pytest.raises(UserError, match=r"\(example 33\) has the id 999 at place 9, and .* 998"):
        list(iterate(source, threads=threads, vocabulary_size=999))


def test_negative_ids_are_outside_too_and_nothing_is_inside():
    negative = sample_rows(np.array([1, 2, -1, 3]), 2, 2)
    with pytest.raises(UserError, match=r"row 1 .*example 1\) has the id -1 at place 0"):
        check_ids(negative, 10)
    assert check_ids(sample_rows(np.zeros(0, int), 2, 2), 10).tokens.shape == (0, 2)
