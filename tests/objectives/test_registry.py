"""The decorator, options, and errors at construction."""

import json
import math
import re
import subprocess
import sys

import pytest

from jaxdenoise.errors import UserError
from jaxdenoise.experiment import Experiment, from_dict, override, to_dict
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


def test_a_schedule_is_checked_at_all_its_points():
    configure("masked_lm", noise_density=((0, 0.3), (1, 0.15)))
    with pytest.raises(UserError, match=r"noise_density is 1\.5"):
        configure("masked_lm", noise_density=((0, 0.3), (1, 1.5)))
    with pytest.raises(UserError, match="noise_density is a schedule at progress"):
        configure("masked_lm", noise_density=((0, 0.3), (0.5, 0.15)))


def test_held_out_rows_may_have_options_of_their_own():
    config = configure("masked_lm", noise_density=0.3, evaluation_noise_density=0.15)
    assert config.for_evaluation().noise_density == 0.15
    assert configure("masked_lm", noise_density=0.3).for_evaluation().noise_density == 0.3


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("masked_lm", "no mask token"),
        ("mass", "no mask token"),
        ("fill_in_the_middle", "no token named 'fim_prefix'"),
        ("sentence_permutation", "no sentence ends"),
        ("bart", "no mask token"),
        ("character_noise", "does not say how its tokens are spelled"),
    ],
)
def test_special_ids_that_are_missing_are_named_when_built(name, missing):
    with pytest.raises(UserError, match=missing):
        configure(name).build(Vocabulary(size=100))


def test_bart_needs_sentences_only_to_permute_them():
    configure("bart", permute_sentence_ratio=0.0).build(Vocabulary(size=100, mask_id=2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("text_infilling", {"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ("text_infilling", {"poisson_lambda": 0.0}, "poisson_lambda is 0.0"),
        ("text_infilling", {"replace_length": 2}, "replace_length is 2"),
        ("prefix_lm", {"longest_output": 0.0}, "longest_output is 0.0"),
        ("fill_in_the_middle", {"spm_rate": -0.1}, "spm_rate is -0.1"),
        ("subsequence", {"context_length": -1}, "context_length is -1"),
        ("masked_lm", {"unit": "word", "count": "iid"}, "with objective.unit word it can be exact"),
        ("masked_lm", {"unit": "span", "prediction_density": 0.1}, "needs objective.count exact"),
        ("bert_style", {"mask_replace_prob": 0.9, "random_replace_prob": 0.2}, "nor their sum"),
    ],
)
def test_values_outside_their_range_are_named_when_built(name, options, message):
    with pytest.raises(UserError, match=message):
        configure(name, **options)


def test_rows_that_are_too_short_are_refused_when_the_length_is_known():
    with pytest.raises(UserError, match="raw_length is 1; a prefix and an output"):
        configure("prefix_lm").check(1, 100)
    with pytest.raises(UserError, match="raw_length is 1; one token is noise and one is not"):
        configure("span_corruption").check(1, 100)
    with pytest.raises(UserError, match="raw_length is 8"):
        configure("subsequence", context_length=8).check(8, 100)


@pytest.mark.parametrize("name", objectives.names())
def test_what_is_no_number_or_out_of_range_is_refused_by_every_objective(name):
    tried = 0
    for option, default in configure(name).options().items():
        if isinstance(default, (bool, str)):
            continue
        schedule, tuples = ((0, 0.5), (1, "x")), isinstance(default, tuple) or option == "rates"
        wrong = ("x", -2.0, math.nan, math.inf, schedule)
        for value in [(one, *(default or (1,))[1:]) for one in wrong[1:4]] if tuples else wrong:
            with pytest.raises(UserError, match=f"objective.{option}"):
                configure(name, **{option: value})
            tried += 1
    assert tried >= 3 or name in ("causal_lm", "identity", "any_order", "masked_diffusion")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("block_diffusion", {"block_length": 1.5}, "block_length is 1.5; it must be a whole"),
        ("character_noise", {"edits": 1.0}, r"edits is 1\.0; it must be numbers"),
        ("character_noise", {"edits": (1, 1, 1)}, "edits is .*four numbers"),
        ("character_noise", {"edits": (0, 0, 0, 0)}, "one above 0"),
        ("character_noise", {"growth": -0.1}, "growth is -0.1; it is a share of the row"),
        ("masked_lm", {"noise_density": ((0, 0.3, 1),)}, "has points .progress, value."),
    ],
)
def test_values_of_another_kind_are_named_when_built(name, options, message):
    with pytest.raises(UserError, match=message):
        configure(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("masked_lm", {"unit": "words"}, "objective.unit is 'words'; it must be token, word, span"),
        ("masked_diffusion", {"form": "MDLM"}, "objective.form is 'MDLM'; it must be mdlm, llada"),
        ("prefix_lm", {"longest_output": ((0, 1.0), (1, 0.5))}, "it cannot follow a schedule"),
    ],
)
def test_words_and_schedules_where_there_are_none_are_refused(name, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        configure(name, **options)


def test_a_schedule_is_checked_between_its_points_too(vocab):
    """Most spans are neither at the lowest density nor at the highest."""
    config = configure("span_corruption", noise_density=((0, 0.1), (1, 0.95)))
    config.check(100, sentinels=34)
    with pytest.raises(UserError, match="noise spans but the vocabulary has only 100 sentinels"):
        config.check(568, sentinels=100)


def test_schedules_survive_a_file():
    config = configure("masked_lm", noise_density=((0, 0.3), (1, 0.15)))
    experiment = Experiment(objective=config)
    assert from_dict(json.loads(json.dumps(to_dict(experiment)))) == experiment
    changed = override(experiment, {"objective.noise_density": [[0, 0.4], [0.5, 0.2], [1, 0.1]]})
    assert changed.objective.noise_density == ((0, 0.4), (0.5, 0.2), (1, 0.1))
