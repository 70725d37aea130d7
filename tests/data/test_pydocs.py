"""The embedded corpus: real, deduplicated, and split without leaks."""

import re

import numpy as np
import pytest

from jaxdenoise.data import pydocs, split
from jaxdenoise.data.pairs import Pair
from jaxdenoise.data.split import held_out_mask


@pytest.fixture(scope="module")
def documents():
    return pydocs.documents()


def grams(text: str) -> set[int]:
    return set(split._shingles(text).tolist())


def test_there_are_ten_megabytes_of_named_docstrings(documents):
    names = [name for name, _ in documents]
    assert sum(len(text) for _, text in documents) > 7_000_000
    assert "json.decoder:JSONDecoder" in names
    assert any(name.startswith("scipy.stats.") for name in names)
    assert any(name.startswith("jax.") for name in names)


def test_no_text_comes_twice_and_none_is_short(documents):
    texts = [text for _, text in documents]
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= pydocs.MIN_CHARACTERS


@pytest.mark.slow
def test_no_held_out_document_is_half_known(documents):
    """16% of documents would be, were they split one by one."""
    texts = [text for _, text in documents]
    held_out = split.held_out_mask(texts, 0.05)
    known = {gram for t, h in zip(texts, held_out, strict=True) if not h for gram in grams(t)}
    overlaps = [
        len(known & grams(t)) / len(grams(t)) for t, h in zip(texts, held_out, strict=True) if h
    ]
    assert 0.03 < held_out.mean() < 0.07
    assert np.mean(np.array(overlaps) > 0.5) < 0.01


LAID_OUT = [
    "name : a field of which nobody knows what it is good for\nanother : one",
    "- an entry of a list that goes on for more than fifty signs\n- another one",
    "one column of a table with fifty signs     another column\nthe    second row",
    ">>> print('a line of code that is longer than fifty signs')\n>>> print()",
    "short lines\nof a poem",
    "a long line of text that ends at the right margin, but\n  what follows is indented",
]


@pytest.mark.parametrize("text", LAID_OUT)
def test_what_is_laid_out_on_purpose_stays(text):
    assert pydocs.unwrapped(text) == text


def test_paragraphs_are_joined_each_by_itself():
    line = "  Words and words and words and words and words and words."
    text = f"Title\n\n{line}\n{line}\n\n{line}\n  End."
    assert pydocs.unwrapped(text).split("\n") == [
        "Title",
        "",
        f"{line} {line.strip()}",
        "",
        f"{line} End.",
    ]


def test_the_fingerprint_names_the_versions():
    assert {"python", "numpy", "scipy", "jax"} <= pydocs.fingerprint().keys()


@pytest.mark.slow
@pytest.mark.parametrize("made", [pydocs.names, pydocs.modules])
def test_pairs_of_docstrings_are_held_out_where_their_documents_are(made):
    documents, plain = list(made()), pydocs.documents()
    assert [str(text) for _, text in documents] == [text for _, text in plain]
    some = slice(None, None, 20)
    texts, pairs = ([text for _, text in of[some]] for of in (plain, documents))
    assert np.array_equal(held_out_mask(texts, 0.05), held_out_mask(pairs, 0.05))


def test_a_name_does_not_stand_in_what_is_said_of_it():
    found = {name: text for name, text in pydocs.names() if isinstance(text, Pair)}
    assert len(found) > 3000
    for pair in found.values():
        assert pair.target not in pair.source.split()
        assert not re.search(r"^\s*>>>", pair.source, re.MULTILINE)
        assert pair.target.isidentifier()
        assert not pair.target.startswith("__")


def test_a_module_is_as_one_imports_it():
    found = {name: text.target for name, text in pydocs.modules() if isinstance(text, Pair)}
    assert len(found) > 5000
    assert found["json.decoder:JSONDecoder"] == "json.decoder"
    assert {target for name, target in found.items() if name.startswith("scipy.stats._")} == {
        "scipy.stats"
    }
    assert not any(part.startswith("_") for target in found.values() for part in target.split("."))
    assert not any(name.startswith("topics:") for name in found)
