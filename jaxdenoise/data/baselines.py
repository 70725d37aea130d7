"""Unigram and bigram models of a token stream: what a trained model has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

MAX_TOKENS = 50_000_000  # counts of more tokens change nothing that one could see
_FITTED_ON = 0.05  # the last part of the training stream, on which the interpolation is fitted


@dataclass(frozen=True)
class Baselines:
    """A unigram model, and a bigram model interpolated with it.

    p(y | x) = λ · count(x, y) / count(x) + (1 − λ) · p(y), with one λ, fitted by expectation
    maximisation on training tokens that were not counted for it, smoothed by one token of each, so
    that no pair is impossible.

    Source: Jelinek and Mercer 1980.

    Attributes:
      unigram: Float[V], smoothed by one count an id.
      bigram: Float[V, V], sparse; row x is count(x, ·) / count(x).
      weight: λ.
    """

    unigram: np.ndarray
    bigram: scipy.sparse.csr_matrix
    weight: float

    def losses(self, previous: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """−log p of each target in nats, by model: {"unigram": Float[n], "bigram": Float[n]}."""
        unigram = self.unigram[targets]
        pair = np.asarray(self.bigram[previous, targets]).ravel()
        mixed = self.weight * pair + (1 - self.weight) * unigram
        return {"unigram": -np.log(unigram), "bigram": -np.log(mixed)}

    def predictions(self, previous: np.ndarray) -> dict[str, np.ndarray]:
        """The likeliest next token of each model: {"unigram": Int[n], "bigram": Int[n]}."""
        best = int(np.argmax(self.unigram))
        after = {x: self._likeliest_after(x, best) for x in np.unique(previous)}
        return {
            "unigram": np.full(len(previous), best),
            "bigram": np.array([after[x] for x in previous], int),
        }

    def _likeliest_after(self, token: int, best: int) -> int:
        row = self.bigram[[token]]
        if row.nnz == 0:
            return best
        score = self.weight * row.data + (1 - self.weight) * self.unigram[row.indices]
        top = int(np.argmax(score))
        unseen = (1 - self.weight) * self.unigram[best]
        return int(row.indices[top]) if score[top] > unseen else best


def fit_baselines(tokens: np.ndarray, size: int) -> Baselines:
    """Counts a training stream.

    Args:
      tokens: Int[tokens].
      size: V.
    """
    tokens = np.asarray(tokens[:MAX_TOKENS], np.int64)
    cut = max(int(len(tokens) * (1 - _FITTED_ON)), 1)
    unigram, bigram = _count(tokens[:cut], size)
    weight = _fit_weight(unigram, bigram, tokens[cut - 1 :])
    return Baselines(*_count(tokens, size), weight)


def _count(tokens: np.ndarray, size: int) -> tuple[np.ndarray, scipy.sparse.csr_matrix]:
    unigram = np.bincount(tokens, minlength=size) + 1.0
    ones = np.ones(len(tokens) - 1)
    pairs = scipy.sparse.coo_matrix((ones, (tokens[:-1], tokens[1:])), shape=(size, size)).tocsr()
    total = np.asarray(pairs.sum(axis=1)).ravel()
    return unigram / unigram.sum(), scipy.sparse.diags(1 / np.maximum(total, 1)) @ pairs


def _fit_weight(unigram: np.ndarray, bigram: scipy.sparse.csr_matrix, tokens: np.ndarray) -> float:
    pair = np.asarray(bigram[tokens[:-1], tokens[1:]]).ravel()
    single = unigram[tokens[1:]]
    weight = 0.5
    for _ in range(50):
        of_pairs = np.sum(weight * pair / (weight * pair + (1 - weight) * single))
        weight = float((of_pairs + 1) / (len(single) + 2))
    return weight
