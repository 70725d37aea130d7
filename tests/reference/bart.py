"""The BART family in NumPy: encoder-decoder, the target always the whole clean text.

Written from Lewis et al. 2020 and the definitions of this project. Where a mask may be written as
a random id, `share` and `ids` belong to the places of the corrupted text, not of the clean one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import (
    Drawn,
    Result,
    ceil,
    encoder_decoder,
    ordinary,
    place_spans,
    random_ids,
    subset,
    to_list,
)


def clean(inputs: list[int], tokens: np.ndarray, vocab: Any) -> Result:
    """Corrupted inputs, the text as target."""
    return encoder_decoder(inputs, to_list(tokens), vocab, len(tokens) > 0)


def written_mask(place: int, drawn: Drawn, vocab: Any, random_ratio: float) -> int:
    """The mask, or a random id, that stands at this place of the corrupted text."""
    return int(drawn["ids"][place]) if drawn["share"][place] < random_ratio else vocab.mask_id


def draw_token_masking(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    mask_ratio: float = 0.15,
    random_ratio: float = 0.0,
) -> Drawn:
    """`noise`: an exact share of the ordinary positions; `share` and `ids` of every position."""
    n, maskable = len(tokens), ordinary(tokens, vocab)
    return {
        "noise": subset(rng, maskable, ceil(int(maskable.sum()) * mask_ratio)),
        "share": rng.random(n),
        "ids": random_ids(rng, n, vocab),
    }


def token_masking(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    mask_ratio: float = 0.15,
    random_ratio: float = 0.0,
) -> Result:
    """`noise` becomes masks, or random ids where `share` is below the ratio."""
    inputs = to_list(tokens)
    for place in np.flatnonzero(drawn["noise"]):
        inputs[place] = written_mask(place, drawn, vocab, random_ratio)
    return clean(inputs, tokens, vocab)


def draw_token_deletion(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, mask_ratio: float = 0.15
) -> Drawn:
    """`noise`: ordinary positions, as many as the ratio of all positions says."""
    maskable = ordinary(tokens, vocab)
    size = min(ceil(len(tokens) * mask_ratio), int(maskable.sum()))
    return {"noise": subset(rng, maskable, size)}


def token_deletion(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, mask_ratio: float = 0.15
) -> Result:
    """`noise` is deleted."""
    x = to_list(tokens)
    inputs = [x[place] for place in range(len(x)) if not drawn["noise"][place]]
    return clean(inputs, tokens, vocab)


def poisson_lengths(rng: np.random.Generator, budget: int, poisson_lambda: float) -> list[int]:
    """Poisson lengths, zeros too, until they reach the budget; the last is cut to meet it."""
    lengths: list[int] = []
    while sum(lengths) < budget:
        lengths.append(min(int(rng.poisson(poisson_lambda)), budget - sum(lengths)))
    return lengths


def draw_text_infilling(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    replace_length: int = 1,
    random_ratio: float = 0.0,
) -> Drawn:
    """`spans`, zero lengths too; `share` and `ids`, at least one for each place of the inputs."""
    n = len(tokens)
    lengths = poisson_lengths(rng, min(ceil(n * mask_ratio), n), poisson_lambda)
    most = n + len(lengths)
    return {
        "spans": place_spans(rng, lengths, n),
        "share": rng.random(most),
        "ids": random_ids(rng, most, vocab),
    }


def infill(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, replace_length: int, random_ratio: float
) -> list[int]:
    """The text with `spans` written as one mask (1), deleted (0) or masked token by token (−1)."""
    x, end = to_list(tokens), 0
    result: list[int] = []
    for start, length in drawn["spans"]:
        result += x[end:start]
        masks = {1: 1, 0: 0, -1: length}[replace_length] if length > 0 else 1
        for _ in range(masks):
            result.append(written_mask(len(result), drawn, vocab, random_ratio))
        end = start + length
    return result + x[end:]


def text_infilling(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    replace_length: int = 1,
    random_ratio: float = 0.0,
) -> Result:
    """`spans` become masks; one of length zero inserts a mask."""
    return clean(infill(tokens, drawn, vocab, replace_length, random_ratio), tokens, vocab)


def sentences(tokens: np.ndarray, vocab: Any) -> list[list[int]]:
    """The text cut behind sentence ends; the last sentence may lack one."""
    ends = set(to_list(vocab.sentence_end_ids))
    x = to_list(tokens)
    found: list[list[int]] = []
    sentence: list[int] = []
    for place, token in enumerate(x):
        sentence.append(token)
        last = place + 1 == len(x)
        following = None if last else x[place + 1]
        begins = last or (following not in ends and vocab.word_starts[following])
        if last or (token in ends and begins):
            found.append(sentence)
            sentence = []
    return found


def draw_sentence_permutation(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    permute_sentence_ratio: float = 1.0,
) -> Drawn:
    """`order` of all sentences: some of them, drawn, exchange their places."""
    number = len(sentences(tokens, vocab))
    order = list(range(number))
    moved = rng.choice(number, ceil(number * permute_sentence_ratio), replace=False)
    for place, taken in zip(moved, rng.permutation(moved), strict=True):
        order[place] = int(taken)
    return {"order": order}


def permute_sentences(tokens: np.ndarray, drawn: Drawn, vocab: Any) -> list[int]:
    """Sentence `order`[0], then sentence `order`[1], and so on."""
    found = sentences(tokens, vocab)
    return [token for number in drawn["order"] for token in found[number]]


def sentence_permutation(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, permute_sentence_ratio: float = 1.0
) -> Result:
    """The sentences in another `order`."""
    return clean(permute_sentences(tokens, drawn, vocab), tokens, vocab)


def draw_document_rotation(
    rng: np.random.Generator, tokens: np.ndarray, vocab: Any, *, rotate_ratio: float = 1.0
) -> Drawn:
    """`offset`: the place of the token that comes first; 0 if the text stays as it is."""
    rotates = rng.random() < rotate_ratio
    if len(tokens) < 2 or not rotates:
        return {"offset": 0}
    return {"offset": int(rng.integers(1, len(tokens)))}


def rotate(tokens: np.ndarray, drawn: Drawn) -> list[int]:
    """The text from `offset` on, then what was before it."""
    x = to_list(tokens)
    return x[drawn["offset"] :] + x[: drawn["offset"]]


def document_rotation(
    tokens: np.ndarray, drawn: Drawn, vocab: Any, *, rotate_ratio: float = 1.0
) -> Result:
    """The text begins at `offset`."""
    return clean(rotate(tokens, drawn), tokens, vocab)


def draw_token_insertion(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    insert_ratio: float = 0.1,
    random_ratio: float = 0.0,
) -> Drawn:
    """`places` of the inputs that hold something new; `share` and `ids` of all places there."""
    inserted = ceil(len(tokens) * insert_ratio)
    size = len(tokens) + inserted
    return {
        "places": sorted(to_list(rng.choice(size, inserted, replace=False))),
        "share": rng.random(size),
        "ids": random_ids(rng, size, vocab),
    }


def insert(tokens: np.ndarray, drawn: Drawn, vocab: Any, random_ratio: float) -> list[int]:
    """Masks or random ids at `places` of the result, the text at the others."""
    x = to_list(tokens)
    result: list[int] = []
    for place in range(len(x) + len(drawn["places"])):
        if place in drawn["places"]:
            result.append(written_mask(place, drawn, vocab, random_ratio))
        else:
            result.append(x.pop(0))
    return result


def token_insertion(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    insert_ratio: float = 0.1,
    random_ratio: float = 0.0,
) -> Result:
    """Masks or random ids among the text."""
    return clean(insert(tokens, drawn, vocab, random_ratio), tokens, vocab)


def draw_bart(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    replace_length: int = 1,
    random_ratio: float = 0.0,
    permute_sentence_ratio: float = 1.0,
    insert_ratio: float = 0.0,
    rotate_ratio: float = 0.0,
) -> Drawn:
    """By the name of each step, what that step drew on the result of the steps before it."""
    x, drawn = tokens, {}
    drawn["sentence_permutation"] = step = draw_sentence_permutation(
        rng, x, vocab, permute_sentence_ratio=permute_sentence_ratio
    )
    x = np.array(permute_sentences(x, step, vocab), int)
    drawn["text_infilling"] = step = draw_text_infilling(
        rng, x, vocab, mask_ratio=mask_ratio, poisson_lambda=poisson_lambda
    )
    x = np.array(infill(x, step, vocab, replace_length, random_ratio), int)
    drawn["token_insertion"] = step = draw_token_insertion(rng, x, vocab, insert_ratio=insert_ratio)
    x = np.array(insert(x, step, vocab, random_ratio), int)
    drawn["document_rotation"] = draw_document_rotation(rng, x, vocab, rotate_ratio=rotate_ratio)
    return drawn


def bart(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    replace_length: int = 1,
    random_ratio: float = 0.0,
    permute_sentence_ratio: float = 1.0,
    insert_ratio: float = 0.0,
    rotate_ratio: float = 0.0,
) -> Result:
    """Sentence permutation, infilling, insertion and rotation, one after the other."""
    x = permute_sentences(tokens, drawn["sentence_permutation"], vocab)
    x = infill(np.array(x, int), drawn["text_infilling"], vocab, replace_length, random_ratio)
    x = insert(np.array(x, int), drawn["token_insertion"], vocab, random_ratio)
    x = rotate(np.array(x, int), drawn["document_rotation"])
    return clean(x, tokens, vocab)
