"""The held-out split: by hash, near-duplicates together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.data import split

WORDS = [f"word{i}" for i in range(200)]


def document(seed: int, words: int = 60) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def test_near_duplicates_stay_on_one_side():
    originals = [document(seed) for seed in range(200)]
    copies = [text.replace(text.split()[30], "CHANGED", 1) + " end" for text in originals]
    held_out = split.held_out_mask(originals + copies, 0.3)
    np.testing.assert_array_equal(held_out[:200], held_out[200:])
    assert 0.2 < held_out.mean() < 0.4


def test_order_of_the_documents_changes_nothing():
    texts = [document(seed) for seed in range(100)]
    order = np.random.default_rng(0).permutation(100)
    turned = split.held_out_mask([texts[i] for i in order], 0.2)
    np.testing.assert_array_equal(split.held_out_mask(texts, 0.2)[order], turned)


def test_a_document_does_not_move_because_others_come():
    texts = [document(seed) for seed in range(100)]
    more = texts + [document(seed) for seed in range(1000, 1100)]
    np.testing.assert_array_equal(
        split.held_out_mask(texts, 0.2), split.held_out_mask(more, 0.2)[:100]
    )


def test_texts_without_much_in_common_are_groups_of_their_own():
    shingles = [split._shingles(document(seed)) for seed in range(50)]
    number, group = split.near_duplicate_groups(shingles)
    assert number == 50
    assert len(set(group)) == 50


def test_links_are_transitive():
    a, b = document(1, 40), document(2, 40)
    number, group = split.near_duplicate_groups([split._shingles(t) for t in (a, a + " " + b, b)])
    assert number == 1
    assert len(set(group)) == 1


def test_large_corpora_are_grouped_by_exact_text(monkeypatch):
    monkeypatch.setattr(split, "MAX_WORDS", 100)
    texts = [document(seed) for seed in range(100)]
    held_out = split.held_out_mask(texts + texts, 0.3)
    np.testing.assert_array_equal(held_out[:100], held_out[100:])


@given(st.lists(st.text(), max_size=20))
def test_any_texts_can_be_split(texts):
    assert split.held_out_mask(texts, 0.5).shape == (len(texts),)
