"""Rates: schedules in stages, tables for every value, values that go together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdenoise.corruption import lengths, masks, rates, spans
from jaxdenoise.corruption.rates import Choice
from jaxdenoise.errors import UserError
from jaxdenoise.vocabulary import Vocabulary

VOCAB = Vocabulary(size=100)
FALLING = ((0.0, 0.5), (1.0, 0.1))
SWITCHED = ((0.0, 1.0), (0.6, 1.0), (0.6, 0.0), (1.0, 0.0))


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (FALLING, 0.0, 0.498),
        (FALLING, 0.5, 0.298),
        (FALLING, 1.0, 0.102),
        (FALLING, 7.0, 0.102),
        (SWITCHED, 0.599, 1.0),
        (SWITCHED, 0.6001, 0.0),
    ],
)
def test_a_schedule_is_worth_its_stage(schedule, progress, expected):
    at = jax.jit(lambda p: rates.value(rates.at_progress(schedule, p)))(progress)
    assert float(at) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [((0.0, 0.1), (0.5, 0.2)), ((0.1, 0.1), (1.0, 0.2)), ((0.0, 0.1), (1.0, 0.2), (0.9, 0.3))],
)
def test_a_schedule_that_leaves_a_gap_is_refused(schedule):
    with pytest.raises(UserError, match=r"objective.rate is a schedule at progress .* from 0 to 1"):
        rates.check_schedule("rate", schedule)


def test_choices_of_one_thing_go_together_and_others_do_not():
    density = Choice((0.1, 0.5), jnp.asarray(1), "member")
    mean = Choice((3.0, 8.0), jnp.asarray(1), "member")
    assert list(rates.combinations(density, mean, 7.0)) == [(0.1, 3.0, 7.0), (0.5, 8.0, 7.0)]
    stage = Choice((1.0, 2.0, 4.0), jnp.asarray(2), "stage")
    assert len(list(rates.combinations(density, stage))) == 6
    got = rates.table(lambda d, s: np.array([d, s]), density, stage)
    np.testing.assert_allclose(got, [0.5, 4.0])


def test_counts_are_those_of_the_value_that_is_chosen():
    def drawn(index):
        density = Choice((0.15, 0.5), index, "member")
        mean = Choice((3.0, 1.0), index, "member")
        found = spans.random_spans(jax.random.key(0), 64, 50, density, mean)
        noise = masks.exact(jax.random.key(0), jnp.full(64, 30), 50, density, VOCAB)
        return found.noise, found.used, noise.sum()

    for index, values in enumerate([(0.15, 3.0), (0.5, 1.0)]):
        noise, used, marked = jax.jit(drawn)(index)
        assert (int(noise), int(used)) == lengths.noise_counts(50, *values)
        assert int(marked) == round(50 * values[0])


def test_a_schedule_has_to_be_taken_at_some_progress():
    with pytest.raises(UserError, match="take it at some progress"):
        list(rates.combinations(FALLING))
