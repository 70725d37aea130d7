"""The published lengths, and the arithmetic behind them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.corruption import checks, lengths
from jaxdenoise.errors import UserError

DENSITIES = st.floats(0.01, 0.99)
MEANS = st.floats(1, 64)


@pytest.mark.parametrize(
    ("inputs", "density", "mean", "raw", "targets"),
    [
        (512, 0.15, 3, 568, 114),
        (512, 0.15, 2, 552, 126),
        (512, 0.15, 10, 591, 99),
        (512, 0.25, 3, 614, 206),
        (512, 0.5, 3, 766, 512),
        (512, 0.15, 8, 588, 100),
        (512, 0.5, 64, 1006, 512),
        (1024, 0.15, 3, 1137, 229),
    ],
)
def test_raw_and_target_lengths_are_the_published_ones(inputs, density, mean, raw, targets):
    assert lengths.raw_length_for(inputs, density, mean) == (raw, targets)


def test_rounding_is_half_to_even_in_float64():
    assert lengths.noise_counts(190, 0.15, 3)[0] == 28  # 28.5; float32 gives 29
    assert lengths.noise_counts(10, 0.25, 3)[0] == 2  # 2.5
    assert lengths.noise_counts(568, 0.15, 3) == (85, 28)


def test_where_t5_is_undefined_spans_are_clamped_to_the_text():
    # Two noise tokens of three, spans of one: T5 wants two spans and has one text token.
    assert lengths.noise_counts(3, 0.5, 1) == (2, 1)


@given(st.integers(2, 2000), DENSITIES, MEANS)
def test_counts_leave_a_text_token_before_every_span(length, density, mean):
    noise, spans = lengths.noise_counts(length, density, mean)
    assert 1 <= spans <= noise <= length - 1
    assert spans <= length - noise


@given(st.integers(2, 400), DENSITIES, MEANS)
def test_the_table_is_the_counts_and_the_longest_outputs_cover_every_length(raw, density, mean):
    table = lengths.noise_count_table(raw, density, mean)
    assert table.shape == (raw + 1, 2)
    longest = lengths.span_lengths(raw, density, mean)
    for length in range(raw + 1):
        noise, spans = lengths.noise_counts(length, density, mean)
        assert tuple(table[length]) == (noise, spans)
        assert length - noise + spans + 1 <= longest.encoder
        assert noise + spans + 1 <= longest.decoder
        assert spans <= lengths.max_spans(raw, density, mean)


@given(st.integers(8, 600), DENSITIES, MEANS)
def test_no_longer_row_fits_the_inputs(inputs, density, mean):
    raw, targets = lengths.raw_length_for(inputs, density, mean)
    noise, spans = lengths.noise_counts(raw, density, mean)
    assert raw - noise + spans + 1 <= inputs
    if density != 0.5:
        assert targets == noise + spans + 1
        noise, spans = lengths.noise_counts(raw + 1, density, mean)
        assert raw + 1 - noise + spans + 1 > inputs


def test_table_cannot_be_changed_by_accident():
    table = lengths.noise_count_table(20, 0.15, 3)
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1
    assert table.dtype == np.int32


@pytest.mark.parametrize("density", [0, 1, -0.1, 1.5, float("nan")])
def test_density_outside_the_open_interval_is_refused_with_its_value(density):
    with pytest.raises(UserError, match=f"noise_density is {density}"):
        checks.check_spans(density, 3)


def test_mean_below_one_is_refused_with_its_value():
    with pytest.raises(UserError, match="mean_noise_span_length is 0.5"):
        checks.check_spans(0.15, 0.5)


def test_more_spans_than_sentinels_names_both_numbers():
    with pytest.raises(UserError, match=r"128 noise spans.*100 sentinels"):
        checks.check_sentinels(128, 100)
