"""Packing: which pieces share a row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdenoise.data import packing
from jaxdenoise.data.packing import pack_pieces
from jaxdenoise.errors import UserError

# ---- pack_pieces: its laws, on any lengths ----


@st.composite
def problems(draw):
    """Lengths, capacity, most: small, so that rows are tight, and zeros may occur."""
    capacity = draw(st.lists(st.integers(1, 30), min_size=1, max_size=2))
    piece = st.tuples(*(st.integers(0, limit) for limit in capacity))
    pieces = draw(st.lists(piece, max_size=60))
    lengths = np.array(pieces, draw(st.sampled_from([np.int32, np.uint8, np.int64])))
    return lengths.reshape(len(pieces), len(capacity)), capacity, draw(st.integers(1, 8))


def taken(lengths, packed) -> np.ndarray:
    """Int[R, S]: positions that the pieces of each row take; slot −1 takes none."""
    padded = np.concatenate([lengths, np.zeros((1, lengths.shape[1]), int)])
    return padded[packed].sum(axis=1)


@pytest.mark.parametrize("window", [packing.WINDOW, 7])
@given(problem=problems())
def test_every_piece_is_in_one_row_and_no_row_is_overfull(window, problem):
    lengths, capacity, most = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        packed = pack_pieces(lengths, capacity, most)
        np.testing.assert_array_equal(packed, pack_pieces(lengths.copy(), tuple(capacity), most))
    assert packed.shape[1] == most
    np.testing.assert_array_equal(np.sort(packed[packed >= 0]), np.arange(len(lengths)))
    assert (taken(lengths, packed) <= capacity).all()
    assert (packed >= 0).any(axis=1).all()  # no row is empty
    for row in packed:
        number = (row >= 0).sum()
        assert (row[number:] == -1).all() and (np.diff(row[:number]) > 0).all()


@given(problem=problems())
def test_a_piece_larger_than_a_row_is_refused(problem):
    lengths, capacity, most = problem
    large = np.concatenate([lengths.astype(int), [[c + 1 for c in capacity]]])
    message = f"piece {len(lengths)} takes {capacity[0] + 1} positions of stack 0, .* {capacity[0]}"
    with pytest.raises(UserError, match=message):
        pack_pieces(large, capacity, most)


@pytest.mark.parametrize(
    ("lengths", "capacity", "most", "message"),
    [
        (np.ones((3, 1), int), [4, 4], 2, "shape"),
        (np.ones(3, int), [4], 2, "shape"),
        (np.ones((3, 3), int), [4, 4, 4], 2, "shape"),
        (np.ones((3, 1), int), [4], 0, "at most 0 pieces"),
        (-np.ones((3, 1), int), [4], 2, "negative"),
        (np.array([[1, 1], [1, 5]]), [4, 4], 2, "piece 1 takes 5 positions of stack 1"),
    ],
)
def test_what_cannot_be_packed_is_refused(lengths, capacity, most, message):
    with pytest.raises(UserError, match=message):
        pack_pieces(lengths, capacity, most)


# ---- pack_pieces: how full the rows are ----


def cut(documents: np.ndarray, longest: int) -> np.ndarray:
    """Int[N]: lengths of the pieces of documents, whole ones and what remains."""
    whole = np.full((documents // longest).sum(), longest)
    return np.concatenate([whole, (documents % longest)[documents % longest > 0]])


def lognormal(number: int, mean: float, sigma: float = 1.0) -> np.ndarray:
    draws = np.random.default_rng(0).lognormal(np.log(mean) - sigma**2 / 2, sigma, number)
    return np.maximum(np.round(draws).astype(int), 2)


def span(length: np.ndarray, density: float, mean: int) -> np.ndarray:
    """Int[N, 2]: encoder and decoder of T5's span corruption."""
    noise = np.clip(np.round(length * density), 1, length - 1).astype(int)
    spans = np.clip(np.round(noise / mean).astype(int), 1, np.minimum(noise, length - noise))
    return np.stack([length - noise + spans + 1, noise + spans + 1], axis=1)


def fill(lengths, capacity, most) -> np.ndarray:
    """Float[S]: share of all positions that is taken."""
    return (taken(lengths, pack_pieces(lengths, capacity, most)) / np.array(capacity)).mean(axis=0)


@pytest.mark.parametrize("most", [16, 32, 64])
@pytest.mark.parametrize("mean", [60, 300])  # ten pieces a row, where slots are scarce, and two
def test_rows_of_one_stack_are_full(mean, most):
    lengths = cut(lognormal(2000, mean), 512)[:, None]
    assert fill(lengths, [512], most)[0] > 0.985


@pytest.mark.parametrize("most", [16, 32])
@pytest.mark.parametrize("mean", [60, 300])
def test_rows_of_span_corruption_are_full_where_positions_are_scarce(mean, most):
    pieces = cut(lognormal(2000, mean), 568)
    assert fill(span(pieces[pieces > 1], 0.15, 3), [512, 114], most)[1] > 0.985


def test_a_mixture_of_denoisers_fills_the_scarce_decoder():
    rng = np.random.default_rng(1)
    pieces = cut(lognormal(3000, 300), 568)
    pieces = pieces[pieces > 1]
    members = [span(pieces, d, m) for d in (0.15, 0.5) for m in (3, 8, 64)]
    prefix = np.minimum(pieces, 512)
    shown = prefix - rng.integers(1, prefix // 2 + 1)
    members.append(np.stack([shown + 1, prefix - shown + 1], axis=1))
    lengths = np.stack(members)[rng.integers(7, size=len(pieces)), np.arange(len(pieces))]
    encoder, decoder = fill(lengths, [2048, 1024], 32)
    assert decoder > 0.96
    bound = lengths[:, 0].sum() / 2048 / (lengths[:, 1].sum() / 1024)
    assert encoder > 0.96 * bound


def test_tiny_pieces_fill_slots_where_slots_are_scarce():
    lengths = np.random.default_rng(0).integers(1, 21, (1000, 1))
    assert len(pack_pieces(lengths, [512], 16)) == 63  # 1000 / 16, rounded up


def test_any_stretch_of_rows_is_about_as_full_as_another():
    lengths = cut(lognormal(2000, 60), 512)[:, None]
    packed = pack_pieces(lengths, [512], 16)
    pieces = (packed >= 0).sum(axis=1)
    for part, number in zip(
        np.array_split(taken(lengths, packed), 5), np.array_split(pieces, 5), strict=True
    ):
        assert part.mean() > 0.95 * 512
        assert 0.8 < number.mean() / pieces.mean() < 1.25


def test_windows_cost_little(monkeypatch):
    lengths = span(np.maximum(cut(lognormal(2000, 300), 568), 2), 0.15, 3)
    monkeypatch.setattr(packing, "WINDOW", 600)
    assert fill(lengths, [512, 114], 32)[1] > 0.985
