"""Scores of answers against counts by hand and against the longest common subsequence."""

import collections
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.errors import UserError
from jaxdenoise.training import scoring

WORDS = st.lists(st.sampled_from(["read", "text", "a", "sum", "ß7"]), max_size=6)


def in_common(left, right):
    shared = collections.Counter(left) & collections.Counter(right)
    return sum(shared.values())


def in_order(left, right):
    @functools.cache
    def longest(a, b):
        if a == len(left) or b == len(right):
            return 0
        if left[a] == right[b]:
            return 1 + longest(a + 1, b + 1)
        return max(longest(a + 1, b), longest(a, b + 1))

    return longest(0, 0)


def f_measure(shared, left, right):
    return 2 * shared / (len(left) + len(right)) if shared else 0.0


@given(WORDS, WORDS)
def test_a_score_is_the_f_measure_of_words_that_both_have(answer, target):
    found = scoring.score(["_".join(answer)], [" ".join(target).upper()])
    folded = [word.upper().lower() for word in target]  # "ß" is written SS
    assert found["token_f1"] == pytest.approx(
        f_measure(in_common(answer, folded), answer, folded), abs=1e-4
    )
    assert found["rouge_l"] == pytest.approx(
        f_measure(in_order(answer, folded), answer, folded), abs=1e-4
    )


def test_a_match_is_exact_but_for_the_space_around_it():
    found = scoring.score(["sum", " sum\n", "Sum", "sums"], ["sum"] * 4)
    assert found["exact_match"] == 0.5
    assert found["token_f1"] == 0.75


def test_the_nearest_source_answers_and_the_commonest_target():
    known = [
        ("Sort the rows of a matrix by their sums.", "sort_rows"),
        ("Write the matrix to a file.", "save"),
        ("Write the array to a file.", "save"),
    ]
    asked = ["Sorted rows of a matrix", "Writes to a file"]
    found = scoring.baseline_answers(known, asked)
    assert found["majority"] == ["save", "save"]
    assert found["nearest (TF-IDF)"] == ["sort_rows", "save"]


def test_sources_without_a_word_have_a_nearest_too():
    found = scoring.baseline_answers([("2 + 2", "4"), ("2 - 2", "0")], ["- 2", ""])
    assert found["nearest (TF-IDF)"] == ["0", "4"]


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rouge_score and sklearn .* 'jaxdenoise\[score\]'"):
        scoring.check_installed()


def test_more_sources_than_are_looked_for_together():
    words = [f"word{n}" for n in range(200)]
    found = scoring.baseline_answers([(w, w.upper()) for w in words], words[::-1])
    assert found["nearest (TF-IDF)"] == [w.upper() for w in words[::-1]]


def test_rare_words_count_more():
    common = [(f"the {word} of it", word) for word in ("sum", "read", "rest")]
    found = scoring.baseline_answers([*common, ("a file", "file")], ["file of it"])
    assert found["nearest (TF-IDF)"] == ["file"]
