"""Sentences for people: found in any corpus, with blanks inside."""

import numpy as np
import pytest

from jaxdenoise.tokenizer import train_tokenizer
from jaxdenoise.training import samples

SENTENCES = [
    f"Return the number {n} of the elements that are different from zero, along the given axis, "
    "or of all elements if none is given." for n in ("one", "two", "three", "four", "five", "six")
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, vocabulary_size=330, sentinels=20)


@pytest.fixture(scope="module")
def stream(tokenizer):
    ending = tokenizer.separator_id
    return np.concatenate([np.append(tokenizer.encode(s), ending) for s in SENTENCES])


@pytest.mark.parametrize("longest", [70, 568, 10_000])
def test_sentences_are_found_whatever_the_rows_length(tokenizer, stream, longest):
    found = samples.find_sentences(stream, tokenizer, 5, longest)
    assert len(found) == 5
    assert set(found) <= set(SENTENCES)
    assert found == samples.find_sentences(stream, tokenizer, 5, longest)


def test_sentences_longer_than_a_row_are_left_out(tokenizer, stream):
    assert samples.find_sentences(stream, tokenizer, 5, 8) == []
