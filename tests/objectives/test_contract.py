"""What every registered objective must satisfy, a user's own too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdenoise.arrays import Example, Rows
from jaxdenoise.corruption import masks, restore, rewrite
from jaxdenoise.corruption.lengths import noise_counts
from jaxdenoise.errors import UserError
from jaxdenoise.objectives import objective, objectives
from jaxdenoise.vocabulary import Vocabulary

SIZE, BATCH = 64, 12
DETERMINISTIC = {"causal_lm", "identity", "subsequence", "text_to_text"}
LENGTHS = np.array([64, 64, 63, 40, 17, 9, 5, 3, 2, 1, 0, 64], np.int32)


def mask_a_third(key, tokens, length, *, vocab, density=0.3):
    """A user's own objective, as short as they come."""
    return rewrite.mask_tokens(tokens, masks.iid(key, tokens, length, density, vocab), vocab)


with objectives.scope():
    BUILT = {name: objectives[name] for name in objectives.names()}
    BUILT["mask_a_third"] = objective(mask_a_third)


@pytest.fixture(params=sorted(BUILT))
def built(request, vocab):
    return BUILT[request.param](vocab=vocab)


@pytest.fixture
def rows(make_rows):
    """Rows of sentences, of all lengths, some with a separator."""
    made = make_rows(BATCH, SIZE, lengths=LENGTHS)
    tokens = np.where(np.random.default_rng(1).random(made.tokens.shape) < 0.1, 20, made.tokens)
    tokens[1::2, 30] = 3
    return made.replace(tokens=tokens.astype(np.int32))


def assert_same(left: Example, right: Example) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


@functools.partial(jax.jit, static_argnums=0)
def corrupt(built, rows):
    return jax.vmap(built)(rows.keys, rows.tokens, rows.lengths)


def stacks(example: Example) -> list[str]:
    return [s for s in ("encoder", "decoder") if getattr(example, f"{s}_input_tokens") is not None]


@pytest.mark.slow
def test_jit_vmap_and_a_loop_agree(built, rows):
    batch = corrupt(built, rows)
    for row in range(0, BATCH, 4):
        alone = built(rows.keys[row], jnp.asarray(rows.tokens[row]), rows.lengths[row])
        assert_same(jax.tree.map(lambda x, row=row: x[row], batch), alone)


@pytest.mark.parametrize("name", ["mask_a_third", "sentence_permutation"])
def test_a_few_agree_in_the_fast_tier_too(name, rows, vocab):
    test_jit_vmap_and_a_loop_agree(BUILT[name](vocab=vocab), rows)


def test_the_order_of_the_batch_changes_nothing(built, rows):
    order = np.random.default_rng(0).permutation(BATCH)
    whole = corrupt(built, rows)
    mixed = corrupt(built, jax.tree.map(lambda x: x[order], rows))
    assert_same(jax.tree.map(lambda x: x[order], whole), mixed)


def test_shapes_are_known_beforehand(built, rows):
    expected = built.shapes(SIZE)
    batch = corrupt(built, rows)
    got = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    assert got == expected


def test_output_lengths_are_known_beforehand(built, rows):
    planned = jax.jit(lambda keys, lengths: built.output_lengths(keys, lengths, raw_length=SIZE))
    lengths = planned(rows.keys, rows.lengths)
    batch = corrupt(built, rows)
    for stack in stacks(batch):
        used = np.asarray(getattr(batch, f"{stack}_segment_ids") > 0).sum(axis=1)
        planned_for = np.asarray(getattr(lengths, stack))
        assert (used <= planned_for).all()
        assert built.config.recipe.longest is not None or (used == planned_for).all()


def test_what_lies_past_the_length_changes_nothing(built, rows):
    beyond = np.arange(SIZE) >= rows.lengths[:, None]
    garbage = rows.replace(tokens=np.where(beyond, 77, rows.tokens))
    before, after = corrupt(built, rows), corrupt(built, garbage)
    for stack in stacks(before):
        real = np.asarray(getattr(before, f"{stack}_segment_ids")) > 0
        for name in ("input_tokens", "target_tokens", "loss_weights", "segment_ids"):
            left, right = (getattr(b, f"{stack}_{name}") for b in (before, after))
            if left is not None:
                np.testing.assert_array_equal(np.where(real, left, 0), np.where(real, right, 0))
    np.testing.assert_array_equal(before.count, after.count)


def test_padding_weighs_nothing_and_ids_stay_inside(built, rows, vocab):
    batch = corrupt(built, rows)
    for stack in stacks(batch):
        real = np.asarray(getattr(batch, f"{stack}_segment_ids")) > 0
        weights = getattr(batch, f"{stack}_loss_weights")
        if weights is not None:
            assert (np.asarray(weights)[~real] == 0).all()
            assert (np.asarray(weights) >= 0).all()
        tokens = np.asarray(getattr(batch, f"{stack}_input_tokens"))
        assert ((tokens >= 0) & (tokens < vocab.size)).all()


def test_rows_too_short_pass_through_clean(built, rows):
    batch = corrupt(built, rows)
    empty = rows.lengths == 0
    assert (np.asarray(batch.count)[empty] == 0).all()
    for stack in stacks(batch):
        weights = getattr(batch, f"{stack}_loss_weights")
        if weights is not None:
            assert (np.asarray(weights)[empty] == 0).all()


def test_one_trace_serves_all_lengths(built, rows):
    corrupt(built, rows)
    compiled = corrupt._cache_size()
    corrupt(built, rows.replace(lengths=rows.lengths[::-1].copy()))
    assert corrupt._cache_size() == compiled


def test_epochs_and_ids_change_the_noise(built, rows):
    """They change nothing where nothing is random."""
    full = rows.replace(tokens=np.where(rows.tokens == 3, 10, rows.tokens))
    first = corrupt(built, full)
    for other in (
        full.replace(epochs=full.epochs + 1),
        full.replace(example_ids=full.example_ids + 1),
    ):
        changed = corrupt(built, other)
        same = jax.tree.all(jax.tree.map(np.array_equal, first, changed))
        assert same == (built.name in DETERMINISTIC)


@pytest.mark.slow
@settings(max_examples=10)  # each compiles
@given(
    size=st.sampled_from([2, 9, 33]),
    density=st.sampled_from([0.05, 0.15, 0.5, 0.85]),
    mean=st.sampled_from([1.0, 3.0, 6.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_span_corruption_loses_nothing_and_counts_right(size, density, mean, seed):
    """Corruption against the rows it came from, whatever the settings; every length of a row."""
    vocab = Vocabulary.with_sentinels(size=1000)
    built = objectives["span_corruption"](
        vocab=vocab, noise_density=density, mean_noise_span_length=mean
    )
    rng = np.random.default_rng(seed)
    rows = Rows(
        tokens=rng.integers(10, 900, (size + 1, size)).astype(np.int32),
        lengths=np.arange(size + 1, dtype=np.int32),
        example_ids=np.arange(size + 1, dtype=np.uint32),
        epochs=np.zeros(size + 1, np.uint32),
    ).seeded(seed)
    batch = jax.device_get(corrupt(built, rows))
    expected = built.output_lengths(rows.keys, rows.lengths, raw_length=size)
    for stack, lengths in zip(("encoder", "decoder"), expected, strict=True):
        ends = np.asarray(getattr(batch, f"{stack}_segment_ids")).sum(axis=1)
        np.testing.assert_array_equal(ends, lengths)
    for row, length in enumerate(rows.lengths):
        inputs, targets = batch.encoder_input_tokens[row], batch.decoder_target_tokens[row]
        assert restore.fill_sentinels(inputs, targets, vocab) == rows.tokens[row, :length].tolist()
        noise, spans = noise_counts(int(length), density, mean)
        order = list(vocab.sentinel_ids[:spans])
        assert [token for token in inputs if token in vocab.sentinel_ids] == order
        assert [token for token in targets if token in vocab.sentinel_ids] == order
        assert batch.count[row] == (noise + spans + 1 if spans else 0)


def test_a_stack_of_another_size_has_to_give_its_segments(vocab, rows):
    def first_five(key, tokens, length, *, vocab):
        return Example(encoder_input_tokens=tokens[:5])

    with objectives.scope(), pytest.raises(UserError, match="has to give encoder_segment_ids"):
        corrupt(objective(first_five)(vocab=vocab), rows)
