"""Corruption by the jitted objectives against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxdenoise.arrays import Rows
from jaxdenoise.bench.pairs import PATIENCE, Paired, time_in_turn
from jaxdenoise.data.stand_in import SEPARATOR, stand_in_vocabulary
from jaxdenoise.objectives import Objective, configure
from jaxdenoise.training.step import corrupt
from jaxdenoise.vocabulary import Vocabulary

BATCH, RAW_LENGTH = 256, 568  # inputs of 512 at T5's density and span length
PLAIN_ROWS = 8  # of the plain NumPy versions, which are slow and have no batch


def corruption_against_numpy(reference: Any, rounds: int = 15) -> Paired:
    """A careful per-example NumPy version (first) against the jitted objective (second).

    Both corrupt the same 256 × 568 tokens into inputs, segments, shifted targets, targets and
    weights, from a fresh generator or key for each example.

    Args:
      reference: the module `span_corruption` of the reference versions.
      rounds: pairs that are timed.
    """
    vocab = Vocabulary.with_sentinels(size=32_100)
    built = configure("span_corruption").build(vocab)
    shapes = built.shapes(RAW_LENGTH)
    sizes = [shapes.inputs("encoder")[0].shape[0], shapes.targets("decoder")[0].shape[0]]
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 32_000, (BATCH, RAW_LENGTH)).astype(np.int32)
    sentinels = np.array(vocab.sentinel_ids)

    def with_numpy() -> list[np.ndarray]:
        examples = [
            reference.corrupt(rng, row, 0.15, 3.0, sentinels, vocab.eos_id, vocab.pad_id, *sizes)
            for row in tokens
        ]
        return [np.stack(field) for field in zip(*examples, strict=True)]

    return time_in_turn(with_numpy, _compiled(built, tokens), rounds)


def objective_against_numpy(name: str, plain: Mapping[str, ModuleType], rounds: int = 5) -> Paired:
    """A plain NumPy version (first) against the jitted objective (second), seconds a token.

    Both have the same text of 568 tokens a row, NumPy `PLAIN_ROWS` of it and JAX 256. The plain
    versions walk over tokens one by one and pad nothing; they draw, then rewrite.

    Args:
      name: of an objective, with its default options.
      plain: the modules of the reference versions, by name.
      rounds: pairs that are timed.
    """
    module = next(m for m in plain.values() if hasattr(m, f"draw_{name}"))
    draw, rewrite = getattr(module, f"draw_{name}"), getattr(module, name)
    vocab = _vocabulary()
    tokens, rng = _text(vocab), np.random.default_rng(0)

    def with_numpy() -> None:  # lists of numbers, which JAX would wait for one by one
        for row in tokens[:PLAIN_ROWS]:
            rewrite(row, draw(rng, row, vocab), vocab)

    compiled = _compiled(configure(name).build(vocab), tokens)
    times = time_in_turn(with_numpy, compiled, rounds, spans=1 / 4)
    return Paired(
        first=tuple(t / (PLAIN_ROWS * RAW_LENGTH) for t in times.first),
        second=tuple(t / (BATCH * RAW_LENGTH) for t in times.second),
    )


def mixture_against_members(plain: Mapping[str, ModuleType], rounds: int = 5) -> Paired:
    """UL2's mixture (first) against the dearest of its members, alone on the same rows (second)."""
    vocab = _vocabulary()
    tokens = _text(vocab)
    mixed = _compiled(configure("ul2").build(vocab), tokens)
    pairs = []
    for member in plain["ul2"].UL2:
        alone = _compiled(configure(member.name, **member.options).build(vocab), tokens)
        pairs.append(time_in_turn(mixed, alone, rounds, spans=1 / 4, patience=PATIENCE))
    return max(pairs, key=lambda pair: pair.medians[1])


def _vocabulary() -> Vocabulary:
    """Of T5's size; of 568 tokens, each noise by itself at .15, up to 112 runs."""
    return stand_in_vocabulary(32_128, sentinels=128)


def _text(vocab: Vocabulary) -> np.ndarray:
    """Int[256, 568], ordinary ids; a sentence end every twenty tokens, a separator a row."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(12, 32_000, (BATCH, RAW_LENGTH))
    tokens[rng.random(tokens.shape) < 1 / 20] = vocab.sentence_end_ids[0]
    tokens[:, RAW_LENGTH // 2] = SEPARATOR
    return tokens.astype(np.int32)


def _compiled(built: Objective, tokens: np.ndarray) -> Callable[[], Any]:
    """The objective on these rows, from a key of each row's own, jitted."""
    compiled = jax.jit(lambda rows: corrupt(built, rows))
    rows = Rows(
        tokens=tokens,
        lengths=np.full(BATCH, RAW_LENGTH, np.int32),
        example_ids=np.arange(BATCH, dtype=np.uint32),
        epochs=np.zeros(BATCH, np.uint32),
    )
    rows = jax.device_put(rows)
    return lambda: compiled(rows)
