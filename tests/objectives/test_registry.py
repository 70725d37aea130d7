"""The decorator, options, and errors at construction."""

import subprocess
import sys

import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.objectives import configure, objective, objectives
from jaxdenoise.vocabulary import Vocabulary


def test_options_become_fields_with_their_types():
    config = configure("span_corruption", noise_density=0.25)
    assert config.options() == {
        "noise_density": 0.25,
        "mean_noise_span_length": 3.0,
        "unbiased": False,
        "trailing_sentinel": False,
    }
    assert config.name == "span_corruption"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_density": 1.0}, "noise_density is 1.0"),
        ({"mean_noise_span_length": 0.9}, "mean_noise_span_length is 0.9"),
        ({"noise_densty": 0.2}, "did you mean 'noise_density'"),
    ],
)
def test_wrong_options_are_refused_when_built(options, message):
    with pytest.raises(UserError, match=message):
        configure("span_corruption", **options)


def test_unknown_objective_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'span_corruption'"):
        configure("span_coruption")


def test_too_few_sentinels_for_the_row_are_refused_before_tracing():
    vocab = Vocabulary.with_sentinels(size=1000, sentinels=10)
    built = configure("span_corruption").build(vocab)
    with pytest.raises(UserError, match=r"28 noise spans.*only 10 sentinels"):
        built.shapes(568)


def test_a_second_owner_of_a_name_is_refused_but_a_notebook_cell_may_run_twice():
    def own(key, tokens, length, *, vocab):
        raise AssertionError

    with objectives.scope():
        objective(own)
        objective(own)
        own.__qualname__ = "another"
        with pytest.raises(UserError, match="already registered"):
            objective(own)
    assert "own" not in objectives


def test_an_option_needs_a_default():
    def greedy_one(key, tokens, length, *, vocab, rate):
        raise AssertionError

    with pytest.raises(UserError, match="'rate' needs a default"):
        objective(greedy_one)


def test_checking_a_config_does_not_load_jax():
    code = (
        "import sys, jaxdenoise.experiment as e; e.load_experiments(); "
        "e.override(e.experiments['quickstart'](), {'objective.noise_density': 0.3}); "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
