"""Sentences for people: found in any corpus, with blanks inside."""

import jax
import numpy as np
import pytest

import jaxdenoise as jd
from jaxdenoise.data.rows import sample_rows
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


@pytest.mark.parametrize("name", ["masked_lm", "causal_lm"])
def test_a_gallery_of_a_fresh_lone_stack_shows_ids_of_the_tokenizer_alone(name, tokenizer, stream):
    """The model's embedding has more rows than that, up to a multiple of 128."""
    build = {"masked_lm": jd.encoder, "causal_lm": jd.decoder}[name]
    model = build(vocab=tokenizer.vocab, width=8, layers=1, tied_embeddings=True)
    params = model.init(jax.random.key(0))
    params["embedding"] = params["embedding"].at[tokenizer.vocab.size :].mul(100.0)
    rows = sample_rows(stream, 24, 3)
    objective = jd.configure(name).build(tokenizer.vocab)
    shown = samples.gallery(objective, model, params, tokenizer, rows)
    assert len(shown) == 3
    for row in shown:
        assert len(row["prediction"]) == len(row["targets"]) > 0
        assert all(token["loss"] > 0 for token in row["targets"])
