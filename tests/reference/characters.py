"""Noise in the characters, in NumPy: encoder-decoder, the target always the whole clean text.

Written from the definitions of this project. `edits`: for each token, what happens to each of its
characters, by name or None. `ids`: a character for every place of the corrupted text. `order`: in
which the tokens get room.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import Drawn, Result, ceil, encoder_decoder, to_list

NAMES = ("insert", "delete", "substitute", "transpose")


def spell(token: int, vocab: Any) -> list[int]:
    """The characters of a token; none if it has no spelling."""
    return list(vocab.spellings[token])


def draw_character_noise(
    rng: np.random.Generator,
    tokens: np.ndarray,
    vocab: Any,
    *,
    noise_density: float = 0.03,
    edits: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    growth: float = 1.0,
) -> Drawn:
    """Edits of every character, an order of the tokens, and characters of the row."""
    every = [draw_edits(rng, len(spell(t, vocab)), noise_density, edits) for t in to_list(tokens)]
    characters = [c for token in to_list(tokens) for c in spell(token, vocab)]
    most = len(tokens) + ceil(len(tokens) * growth)
    return {
        "edits": every,
        "order": to_list(rng.permutation(len(tokens))),
        "ids": rng.choice(characters or [0], most),
    }


def draw_edits(
    rng: np.random.Generator, number: int, noise_density: float, weights: tuple[float, ...]
) -> list[str | None]:
    """Edits of the characters of a token, from left to right."""
    edits: list[str | None] = []
    for place in range(number):
        moved = place > 0 and edits[-1] == "transpose"  # by the one before it
        possible = list(weights if place + 1 < number else (*weights[:3], 0.0))
        if moved or sum(possible) == 0 or rng.random() >= noise_density:
            edits.append(None)
        else:
            edits.append(str(rng.choice(NAMES, p=np.array(possible) / sum(possible))))
    return edits


def edited(token: int, edits: list[str | None], vocab: Any) -> list[int | None]:
    """What a token becomes; None where a new character stands."""
    if not any(edits):
        return [token]
    characters, written, place = spell(token, vocab), [], 0
    while place < len(characters):
        character, edit = characters[place], edits[place]
        place += 1
        if edit == "insert":
            written += [None, character]
        elif edit == "substitute":
            written.append(None)
        elif edit == "transpose":
            written += [characters[place], character]
            place += 1
        elif edit is None:
            written.append(character)
    return written


def character_noise(
    tokens: np.ndarray,
    drawn: Drawn,
    vocab: Any,
    *,
    noise_density: float = 0.03,
    edits: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    growth: float = 1.0,
) -> Result:
    """Tokens with an edit in characters, as long as there is room; the others as they are."""
    x, left, full = to_list(tokens), ceil(len(tokens) * growth), False
    written: dict[int, list[int | None]] = {}
    for place in drawn["order"]:
        becomes = edited(x[place], drawn["edits"][place], vocab)
        left -= max(len(becomes) - 1, 0)
        full = full or left < 0
        written[place] = [x[place]] if full else becomes
    inputs = [token for place in range(len(x)) for token in written[place]]
    inputs = [int(drawn["ids"][p]) if token is None else token for p, token in enumerate(inputs)]
    return encoder_decoder(inputs, x, vocab, len(x) > 0)
