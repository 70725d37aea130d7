"""Blanks in a text: filled by an encoder-decoder, an encoder or a decoder."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Example, Params, Rows
from jaxdenoise.corruption.restore import split_at_sentinels, until_eos
from jaxdenoise.errors import UserError, require
from jaxdenoise.model.decoding import greedy
from jaxdenoise.model.model import Model
from jaxdenoise.model.predicting import predict
from jaxdenoise.model.unmasking import unmask
from jaxdenoise.objectives.registry import Objective
from jaxdenoise.tokenizer import MASK, Tokenizer
from jaxdenoise.training.parallel import fetch
from jaxdenoise.training.step import corrupted
from jaxdenoise.vocabulary import Vocabulary

_BLANK = re.compile(rf"{MASK}|<extra_id_\d+>")
_ROUND = 32  # inputs are padded to a multiple of it, so that few sizes are compiled
_FILL_LENGTH = 64  # tokens generated at most, for all blanks of a text together

generate = jax.jit(greedy, static_argnums=(0, 3, 4))
"""`greedy`, compiled once for each size."""

likeliest = jax.jit(
    predict, static_argnums=(0, 3), static_argnames=("top_k", "special", "everywhere")
)
"""`predict`, compiled once for each size."""

_unmask = jax.jit(
    unmask, static_argnums=(0, 4), static_argnames=("rounds", "block_length", "clean_copy")
)

Spans = dict[int, list[int]]
"""The tokens that stand for a sentinel, by its number."""

Pieces = list[dict[str, Any]]
"""A text in pieces: {"text": …}, or for a blank {"model": …} and, where known, {"truth": …} or
{"choices": [(text, probability), …]}."""


def fill_blanks(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    top_k: int | None = None,
    rounds: int = 1,
    blocks_of: int | None = None,
    middles: bool = False,
    anew: bool = False,
) -> list[Pieces]:
    """Fills the blanks of texts, `<mask>` each.

    An encoder-decoder that knows sentinels writes any number of tokens for each, greedily; one that
    writes whole texts anew, as BART does, gives all that it wrote otherwise. An encoder puts one
    token into each, all at once or in several rounds. A decoder goes on where the text ends,
    greedily: there the blank stands; one that has learnt to fill in the middle may have it
    anywhere.

    Args:
      model: of any architecture.
      params: of the model.
      tokenizer: of the run.
      texts: each with at least one `<mask>`; for an encoder-decoder it may also have
        `<extra_id_0>`, `<extra_id_1>`, … in order.
      top_k: of an encoder: give the likeliest so many tokens for each blank, with probabilities.
      rounds: of an encoder: in so many the masks are filled, the surest first; see `unmask`.
      blocks_of: of an encoder that `block_diffusion` trained: its block_length.
      middles: of a decoder: it was trained by `fill_in_the_middle`.
      anew: of an encoder-decoder: its targets were whole texts.

    Raises:
      UserError: a text without blanks, with more of them than there are sentinels, or with one
        where a decoder does not end; a tokenizer without a mask; top_k or rounds for another
        architecture, or both together.
    """
    architecture = model.config.architecture
    require(
        architecture == "encoder" or (top_k is None and rounds == 1),
        f"top-k and rounds are for an encoder's masks; this model's architecture is {architecture}",
    )
    require(top_k is None or top_k >= 1, f"top-k is {top_k}; it must be at least 1")
    require(rounds >= 1, f"rounds is {rounds}; it must be at least 1")
    require(
        top_k is None or (rounds == 1 and blocks_of is None),
        "top-k is of masks that are filled all at once, not in rounds or blocks; leave it out",
    )
    for text in texts:
        require(
            bool(_BLANK.search(text)),
            f"the text has no blank: write {MASK} where words are missing",
        )
    if architecture == "encoder":
        inputs = _masked(tokenizer, texts)
        if top_k is not None:
            return _choices(model, params, tokenizer, inputs, top_k)
        return _in_rounds(model, params, tokenizer, inputs, rounds, blocks_of)
    if architecture == "decoder":
        return _go_on(model, params, tokenizer, texts, middles)
    if anew:
        return _write_anew(model, params, tokenizer, texts)
    sentinels = len(tokenizer.vocab.sentinel_ids)
    require(
        sentinels > 0,
        "the tokenizer has no sentinels, <extra_id_0> and on, by which an encoder_decoder fills",
    )
    encoded = []
    for text in texts:
        blanks = len(_BLANK.findall(text))
        require(
            blanks <= sentinels, f"the text has {blanks} blanks; the tokenizer allows {sentinels}"
        )
        ids = tokenizer.encode(_number_blanks(text), specials=True).tolist()
        encoded.append([*ids, tokenizer.vocab.eos_id])
    return fill_sentinels(model, params, tokenizer, encoded, [{} for _ in encoded])


def writes_anew(objective: Objective, length: int) -> bool:
    """Whether an objective's targets are whole texts; tried on a few of so many tokens."""
    vocab, number = objective.vocab, 8
    tokens = np.resize(vocab.ordinary_ids, (number, length)).astype(np.int32)
    rows = Rows(
        tokens=tokens,
        lengths=np.full(number, length, np.int32),
        example_ids=np.arange(number, dtype=np.uint32),
        epochs=np.zeros(number, np.uint32),
    )
    try:
        targets = np.asarray(corrupted(objective, rows).decoder_target_tokens)[:, :length]
    except UserError:  # not of rows as long as that: there may be too few sentinels
        return False
    return bool(np.array_equal(targets, tokens))


def _masked(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The texts' ids, the mask's where a blank is."""
    mask = tokenizer.vocab.mask_id
    require(mask is not None, f"the tokenizer has no {MASK}, so the model fills none")
    name = tokenizer.name(mask or 0)
    return [
        tokenizer.encode(_BLANK.sub(lambda _: name, text), specials=True, framed=True).tolist()
        for text in texts
    ]


def _write_anew(
    model: Model, params: Params, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[Pieces]:
    """Whole texts as the model writes them; what stands otherwise in the given one is its own."""
    vocab = tokenizer.vocab
    inputs = [[*until_eos(ids, vocab), vocab.eos_id] for ids in _masked(tokenizer, texts)]
    tokens, segments = padded(model, inputs)
    batch = Example(encoder_input_tokens=tokens, encoder_segment_ids=segments)
    longest = most_behind(model, 1, tokens.shape[1] + _FILL_LENGTH)
    answers = fetch(generate(model, params, batch, longest, vocab))
    return [
        _in_places(tokenizer, _differing(tokenizer, given, until_eos(answer, vocab)))
        for given, answer in zip(inputs, answers, strict=True)
    ]


def _differing(
    tokenizer: Tokenizer, given: Sequence[int], answer: Sequence[int]
) -> list[int | dict[str, Any]]:
    """The answer: tokens that stand in the given ones too, and what is written between them."""
    vocab, parts = tokenizer.vocab, []
    given = [int(i) for i in given if i == vocab.mask_id or not vocab.is_special[i]]
    answer = [int(i) for i in answer if not vocab.is_special[i]]
    matcher = difflib.SequenceMatcher(None, given, answer, autojunk=False)
    for tag, _, _, begin, end in matcher.get_opcodes():
        written = answer[begin:end]
        parts += written if tag == "equal" else [{"model": tokenizer.decode_part(written)}]
    return parts


def _in_rounds(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    inputs: list[list[int]],
    rounds: int,
    blocks_of: int | None,
) -> list[Pieces]:
    """The masks filled, all at once or the surest first; those that follow each other as one."""
    tokens, segments = padded(model, inputs)
    options = {"rounds": rounds, "block_length": blocks_of, "clean_copy": blocks_of is not None}
    found = fetch(_unmask(model, params, tokens, segments.sum(1), tokenizer.vocab, **options))
    filled = []
    for ids, row in zip(inputs, found, strict=True):
        parts: list[int | dict[str, Any]] = []
        for masked, run in itertools.groupby(
            zip(ids, row.tolist(), strict=False), lambda pair: pair[0] == tokenizer.vocab.mask_id
        ):
            written = [token for _, token in run]
            parts += [{"model": tokenizer.decode_part(written)}] if masked else written
        filled.append(_in_places(tokenizer, parts))
    return filled


def _choices(
    model: Model, params: Params, tokenizer: Tokenizer, inputs: list[list[int]], top_k: int
) -> list[Pieces]:
    """The likeliest tokens at each mask, of all at once."""
    tokens, segments = padded(model, inputs)
    batch = Example(encoder_input_tokens=tokens, encoder_segment_ids=segments)
    vocab, number = tokenizer.vocab, min(top_k, len(tokenizer.vocab.ordinary_ids))
    shares, best = fetch(likeliest(model, params, batch, vocab, top_k=number, special=False))

    def fill(row: int, place: int) -> dict[str, Any]:
        found = zip(best[row, place], shares[row, place], strict=True)
        choices = [(tokenizer.decode_part([token]), float(share)) for token, share in found]
        return {"model": choices[0][0], "choices": choices}

    return [
        _in_places(
            tokenizer,
            [fill(row, n) if token == vocab.mask_id else token for n, token in enumerate(ids)],
        )
        for row, ids in enumerate(inputs)
    ]


def _go_on(
    model: Model, params: Params, tokenizer: Tokenizer, texts: Sequence[str], middles: bool
) -> list[Pieces]:
    """What a decoder writes behind each text, or between its two parts."""
    vocab, prompts, sides = tokenizer.vocab, [], []
    for text in texts:
        parts = _BLANK.split(text)
        require(
            len(parts) == 2 and (middles or parts[1] == ""),
            f"this decoder fills one blank of a text; write one {MASK}"
            if middles
            else f"a decoder goes on where a text ends: write one {MASK}, and at the end",
        )
        before, behind = (tokenizer.encode(part).tolist() for part in parts)
        sides.append((before, behind))
        prompts.append([vocab.start_id, *_around(before, behind, vocab)])  # as in training
    tokens, segments = padded(model, prompts)
    batch = Example(decoder_input_tokens=tokens, decoder_segment_ids=segments)
    longest = most_behind(model, tokens.shape[1])
    answers = fetch(generate(model, params, batch, longest, vocab))
    filled = []
    for (before, behind), answer in zip(sides, answers, strict=True):
        middle = {"model": tokenizer.decode_part(until_eos(answer, vocab))}
        filled.append(_in_places(tokenizer, [*before, middle, *behind]))
    return filled


def _around(before: list[int], behind: list[int], vocab: Vocabulary) -> list[int]:
    """What a middle is behind: prefix and suffix with their marks, where there is a suffix.

    Source: Bavarian et al. 2022, section 3 (PSM).
    """
    if not behind:
        return before
    prefix, suffix, middle = (vocab.named(f"fim_{part}") for part in ("prefix", "suffix", "middle"))
    return [prefix, *before, suffix, *behind, middle]


def most_behind(model: Model, prompt: int, wanted: int = _FILL_LENGTH) -> int:
    """Tokens to generate at most, behind so many: as many as wanted, or as have positions."""
    if model.config.positions != "learned":
        return wanted
    return max(1, min(wanted, model.config.max_positions - prompt + 1))


def padded(model: Model, rows: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
    """Tokens and segment ids, of a length that few others differ from."""
    longest = max(map(len, rows))
    length = -(-longest // _ROUND) * _ROUND
    if model.config.positions == "learned":
        most = model.config.max_positions
        require(longest <= most, f"the text has {longest} tokens, the model positions for {most}")
        length = min(length, most)
    tokens = [np.pad(np.array(ids, np.int32), (0, length - len(ids))) for ids in rows]
    real = [np.arange(length) < len(ids) for ids in rows]
    return jnp.asarray(np.stack(tokens)), jnp.asarray(np.stack(real), jnp.int32)


def _in_places(tokenizer: Tokenizer, parts: Sequence[int | dict[str, Any]]) -> Pieces:
    """Ordinary tokens joined to text, what is filled in between; special ones are left out."""
    pieces: Pieces = []
    for filled, run in itertools.groupby(parts, lambda part: isinstance(part, dict)):
        if filled:
            pieces += [part for part in run if isinstance(part, dict)]
        elif text := tokenizer.decode_part([part for part in run if isinstance(part, int)]):
            pieces.append({"text": text})
    return pieces


def fill_sentinels(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    inputs: list[list[int]],
    truth: list[Spans],
) -> list[Pieces]:
    """Decodes all inputs in one batch; returns each as text and filled blanks."""
    tokens, segments = padded(model, inputs)
    batch = Example(encoder_input_tokens=tokens, encoder_segment_ids=segments)
    answers = fetch(generate(model, params, batch, most_behind(model, 1), tokenizer.vocab))

    def fill(span: int, answer: Spans, known: Spans) -> dict[str, Any]:
        blank = {"model": tokenizer.decode_part(answer.get(span, []))}
        return {**blank, "truth": tokenizer.decode_part(known[span])} if span in known else blank

    vocab, filled = tokenizer.vocab, []
    for ids, answer, known in zip(inputs, answers, truth, strict=True):
        spans = split_at_sentinels(answer, vocab)
        marked = [(token, vocab.sentinel_number.get(token)) for token in until_eos(ids, vocab)]
        parts = [token if n is None else fill(n, spans, known) for token, n in marked]
        filled.append(_in_places(tokenizer, parts))
    return filled


def _number_blanks(text: str) -> str:
    """Writes the blanks of a text as `<extra_id_0>`, `<extra_id_1>` and so on."""
    numbers = itertools.count()
    return _BLANK.sub(lambda _: f"<extra_id_{next(numbers)}>", text)
