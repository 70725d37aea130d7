"""Statistics of a corruption: right for every architecture, exact where the counts are known."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdenoise as jd
from jaxdenoise.arrays import Example, Rows
from jaxdenoise.objectives import objective, objectives
from jaxdenoise.report.alignment import align, kept_places, real_places
from jaxdenoise.report.statistics import (
    CorruptionStatistics,
    Lengths,
    corruption_statistics,
    repeat,
)
from jaxdenoise.vocabulary import Vocabulary

SIZE = 40
VOCAB = Vocabulary.with_sentinels(size=1000, sentinels=100, mask_id=2)


def rows_of(*lengths: int, largest_id: int = 900) -> Rows:
    rng = np.random.default_rng(0)
    return Rows(
        tokens=rng.integers(10, largest_id, (len(lengths), SIZE)).astype(np.int32),
        lengths=np.array(lengths, np.int32),
        example_ids=np.arange(len(lengths), dtype=np.uint32),
        epochs=np.zeros(len(lengths), np.uint32),
    )


def measured(name: str, rows: Rows | None = None, **options) -> CorruptionStatistics:
    rows = rows_of(SIZE) if rows is None else rows
    return corruption_statistics(objectives[name](vocab=VOCAB, **options), rows)


def longest_common(a, b) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = max(best, table[i, j] + (x == y))
    return table[-1, -1]


ids = st.lists(st.integers(0, 4), max_size=12).map(lambda x: np.array(x, np.int32))


@given(ids, ids)
def test_what_is_kept_is_a_longest_common_subsequence(source, read):
    places = kept_places(source, read)
    kept = places >= 0
    assert (np.diff(places[kept]) > 0).all()
    np.testing.assert_array_equal(source[kept], read[places[kept]])
    assert kept.sum() == longest_common(source, read)


def test_a_span_that_may_stand_in_two_places_stays_whole():
    source = np.array([10, 11, 12, 11, 14, 11, 16])
    assert kept_places(source, np.array([10, 11, 11, 16])).tolist() == [0, 1, -1, -1, -1, 2, 3]
    in_place = kept_places(np.array([11, 11, 12]), np.array([2, 11, 2]))
    assert in_place.tolist() == [-1, 1, -1]  # and not the first 11


def test_sentinels_say_where_the_spans_were():
    first, second = VOCAB.sentinel_ids[:2]
    source = np.array([10, 11, 10, 11, 10, 11])
    example = Example(
        encoder_input_tokens=np.array([5, 10, first, 10, second, 1, 0]),  # 5 is a mode token
        encoder_segment_ids=np.array([1, 1, 1, 1, 1, 1, 0]),
        decoder_input_tokens=np.array([0, first, 11, second, 11, 10, 11]),
        decoder_target_tokens=np.array([first, 11, second, 11, 10, 11, 1]),
        decoder_segment_ids=np.ones(7, int),
    )
    read, places = align(example, source, VOCAB)
    assert read.tolist() == [5, 10, first, 10, second, 1]
    assert places.tolist() == [1, -1, 3, -1, -1, -1]


@pytest.mark.parametrize("alike", [900, 12])  # two ids alone: an alignment by tokens would err
def test_span_corruption_is_counted_exactly(alike):
    found = measured("span_corruption", rows_of(SIZE, largest_id=alike))
    built = objectives["span_corruption"](vocab=VOCAB)
    shapes = built.shapes(SIZE)
    assert found.draws == 256
    assert found.corrupted == 6 / 40  # round(40 · .15) in round(6 / 3) spans
    assert found.spans == 2
    assert found.mean_span_length == 3
    assert {length for length, _ in found.span_lengths} == {1, 2, 3, 4, 5}
    assert found.targets == (6 + 2 + 1) / 40
    assert found.source == Lengths(mean=40, largest=40, bound=40)
    bound = shapes.size("encoder")
    assert found.encoder == Lengths(mean=34 + 2 + 1, largest=37, bound=bound)
    assert found.decoder == Lengths(mean=9, largest=9, bound=shapes.size("decoder"))
    assert found.padding == 1 - (37 + 9) / (bound + shapes.size("decoder"))


def test_short_rows_are_padding():
    found = measured("causal_lm", rows_of(SIZE, 20))
    assert found.source == found.decoder == Lengths(mean=30, largest=40, bound=40)
    assert found.padding == 0.25
    assert found.targets == 1


@pytest.mark.parametrize(
    ("name", "corrupted", "targets", "spans"),
    [
        ("drop_spans", 6 / 40, 7 / 40, 2.0),
        ("token_masking", 6 / 40, 41 / 40, None),
        ("token_deletion", 6 / 40, 41 / 40, None),
        ("token_insertion", 0, 41 / 40, 0.0),
        ("identity", 0, 41 / 40, 0.0),
        ("mass", 0.5, 0.5, 1.0),
    ],
)
def test_an_encoder_decoder_is_not_given_what_is_missing(name, corrupted, targets, spans):
    found = measured(name)
    assert found.corrupted == corrupted
    assert found.targets == targets
    if spans is not None:
        assert found.spans == spans
    assert (found.mean_span_length is None) == (spans == 0)


def test_rates_of_what_is_random_are_near_their_means():
    """256 rows of 40: three standard errors of a share are below .01, of a uniform split .06."""
    masked = measured("masked_lm")
    assert masked.targets == 6 / 40
    assert abs(masked.corrupted - 0.9 * 6 / 40) < 0.01  # a tenth of the noise stays as it is
    assert masked.decoder is None
    prefix = measured("prefix_lm")
    assert abs(prefix.corrupted - 0.5) < 0.06
    assert prefix.targets == pytest.approx(prefix.corrupted + 1 / 40)
    assert prefix.spans == 1
    changed = measured("canvas")
    assert abs(changed.corrupted - 0.5) < 0.02  # its times are spread evenly
    assert changed.targets == 1
    blocks = measured("block_diffusion")
    assert blocks.corrupted == blocks.targets
    assert blocks.encoder == Lengths(mean=80, largest=80, bound=80)


def test_a_lone_decoder_is_not_given_what_it_predicts():
    found = measured("causal_prefix_lm", longest_output=0.5)
    assert 0.2 < found.corrupted < 0.3
    assert found.corrupted == found.targets
    assert found.spans is found.span_lengths is found.encoder is found.mean_span_length is None
    assert found.histogram() == []


def test_a_users_objective_of_another_size_is_aligned():
    with objectives.scope():

        @objective
        def without_the_third(key, tokens, length, *, vocab):
            kept = jax.numpy.delete(tokens, 2, assume_unique_indices=True)
            real = jax.numpy.arange(SIZE - 1) < length - 1
            return Example(
                encoder_input_tokens=kept,
                encoder_target_tokens=kept,
                encoder_loss_weights=real.astype(float),
                encoder_segment_ids=real.astype(int),
            )

        found = corruption_statistics(without_the_third(vocab=VOCAB), rows_of(SIZE), draws=1)
    assert found.draws == 1
    assert found.corrupted == 1 / 40
    assert found.span_lengths == ((1, 1),)
    assert found.encoder.bound == 39


def test_a_histogram_has_all_spans_in_its_bars():
    none = Lengths(mean=1, largest=1, bound=1)
    fields = {"draws": 1, "corrupted": 0, "targets": 0, "spans": 1.0, "decoder": None}
    lengths = ((1, 4), (3, 1), (5, 1), (9, 1), (33, 1))
    found = CorruptionStatistics(source=none, encoder=none, span_lengths=lengths, **fields)
    expected = {"1": 4, "2": 0, "3": 1, "4-5": 1, "6-8": 0, "9-16": 1, "17-32": 0, "33-64": 1}
    assert found.histogram() == [(label, count / 8) for label, count in expected.items()]
    assert found.mean_span_length == (4 + 3 + 5 + 9 + 33) / 8


def test_rows_come_again_in_further_epochs():
    rows = repeat(rows_of(SIZE, 20, 30), 7)
    assert rows.lengths.tolist() == [40, 20, 30] * 3
    assert rows.epochs.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows.places.tolist() == list(range(9))
    data = jax.random.key_data(rows.keys)
    assert len({tuple(key) for key in data.tolist()}) == 9


def test_of_two_copies_the_noisy_one_is_read():
    example = Example(
        encoder_input_tokens=np.array([10, 2, 0, 10, 11, 0]),
        encoder_segment_ids=np.array([1, 1, 0, 1, 1, 0]),
        encoder_positions=np.array([0, 1, 2, 0, 1, 2]),
    )
    assert real_places(example, "encoder").tolist() == [0, 1]
    other = example.replace(encoder_positions=np.array([0, 1, 2, 3, 4, 5]))
    assert real_places(other, "encoder").tolist() == [0, 1, 3, 4]


def test_it_is_public():
    assert jd.corruption_statistics is corruption_statistics
