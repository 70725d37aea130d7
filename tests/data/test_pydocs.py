"""The embedded corpus: real, deduplicated, and split without leaks."""

import numpy as np
import pytest

from jaxdenoise.data import pydocs, split


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


def test_the_fingerprint_names_the_versions():
    assert {"python", "numpy", "scipy", "jax"} <= pydocs.fingerprint().keys()
