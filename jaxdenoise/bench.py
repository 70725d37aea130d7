"""Measuring: two things in turn in one run, medians and ratios, never a bare time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Example, LossTerms, Projection, Rows
from jaxdenoise.config import ModelConfig
from jaxdenoise.corruption.examples import select
from jaxdenoise.data.stand_in import SEPARATOR, stand_in_vocabulary
from jaxdenoise.losses import loss_terms, projected_terms
from jaxdenoise.model.model import Model
from jaxdenoise.objectives import Objective, configure
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import corrupt
from jaxdenoise.vocabulary import Vocabulary

BATCH, RAW_LENGTH = 256, 568  # inputs of 512 at T5's density and span length
TIMED_LOSS = (8, 114, 512, 32_128)  # rows, targets of each, width, T5's vocabulary
LARGE_LOSS = (8, 1024, 512, 131_072)  # compiled for its memory, not run
ROUTED = (8, 512, 256, 4)  # rows, tokens of each, width, layers
SPAN = 0.2  # seconds of either function before it is the other's turn
PLAIN_ROWS = 8  # of the plain NumPy versions, which are slow and have no batch


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two functions timed in turn: A, B, A, B, ….

    Attributes:
      first: seconds of each call of the first.
      second: seconds of each call of the second.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        """Median seconds of either."""
        return statistics.median(self.first), statistics.median(self.second)

    @property
    def ratio(self) -> float:
        """Median of first / second, pair by pair: what the machine does to both cancels."""
        return statistics.median(a / b for a, b in zip(self.first, self.second, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the ratios."""
        ratios = [a / b for a, b in zip(self.first, self.second, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        return low, high

    def summary(self) -> dict[str, Any]:
        """Medians, ratio and its quartiles, as plain data."""
        return {"seconds": self.medians, "ratio": self.ratio, "quartiles": self.spread}


def time_in_turn(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int, span: float | None = None
) -> Paired:
    """Times both `rounds` times, each time for about `span` seconds of calls in a row (`SPAN`).

    Equal spans, so that neither is measured on a machine that the other one has just warmed or
    put to sleep: a call of two milliseconds between two of fifteen would look half as fast.
    """
    functions = (first, second)
    for function in functions:
        _seconds(function, 1)  # compiles
    span = SPAN if span is None else span
    calls = [max(1, round(span / _seconds(function, 3))) for function in functions]
    times = [
        [_seconds(function, number) for function, number in zip(functions, calls, strict=True)]
        for _ in range(rounds)
    ]
    ones, others = zip(*times, strict=True)
    return Paired(first=ones, second=others)


def _seconds(function: Callable[[], Any], calls: int) -> float:
    """Seconds of one call, from several in a row, each waited for."""
    begin = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - begin) / calls


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
    times = time_in_turn(with_numpy, compiled, rounds, SPAN / 4)
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
        pairs.append(time_in_turn(mixed, alone, rounds, SPAN / 4))
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


def corruption_in_step(setup: Setup, rounds: int = 15) -> Paired:
    """The experiment's corruption alone (first) against its whole training step (second)."""
    rows = setup.batches[0]
    alone = jax.jit(lambda rows: corrupt(setup.objective, rows))
    backend = setup.backend
    state = backend.place(setup.initial_state())
    step = backend.compile(setup.step(), state, backend.split(rows))
    holder = [state]  # the state is donated: each call takes what the last one gave

    def whole() -> Any:
        holder[0], metrics = step(holder[0], backend.split(rows))
        return metrics

    return time_in_turn(lambda: alone(rows), whole, rounds)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two programs that compute the same thing: time in pairs, and memory as compiled.

    Attributes:
      times: of both.
      memory: bytes of temporaries of either, as the compiler planned them.
    """

    times: Paired
    memory: tuple[int, int]

    def summary(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {**self.times.summary(), "memory": list(self.memory)}


def loss_against_logits(rounds: int = 9) -> Compared:
    """Projection and loss in one (first) against logits first (second), with gradients.

    Time of `TIMED_LOSS`, which is 8 rows of T5's span corruption; memory of `LARGE_LOSS`.
    """
    rows, length, width, size = TIMED_LOSS
    rng = np.random.default_rng(0)
    args = (
        jnp.asarray(rng.normal(size=(rows, length, width)), jnp.float32),
        jnp.asarray(rng.normal(size=(width, size)) * width**-0.5, jnp.float32),
        jnp.asarray(rng.integers(0, size, (rows, length)), jnp.int32),
        jnp.ones((rows, length), jnp.float32),
    )
    rows, length, width, size = LARGE_LOSS
    large = [(rows, length, width), (width, size), (rows, length), (rows, length)]
    shapes = [jax.ShapeDtypeStruct(s, x.dtype) for s, x in zip(large, args, strict=True)]

    def logits_first(hidden: Any, projection: Projection, targets: Any, weights: Any) -> LossTerms:
        return loss_terms(projection(hidden), targets, weights)

    def compile(function: Callable[..., LossTerms], *args: Any) -> Any:
        def total(hidden: Any, kernel: Any, targets: Any, weights: Any) -> Any:
            return function(hidden, Projection(kernel), targets, weights).loss

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*args).compile()

    one, other = (compile(function, *args) for function in (projected_terms, logits_first))
    memory = [_temporaries(compile(f, *shapes)) for f in (projected_terms, logits_first)]
    times = time_in_turn(lambda: one(*args), lambda: other(*args), rounds)
    return Compared(times=times, memory=(memory[0], memory[1]))


def output_only_against_full(context: float, rounds: int = 9) -> Compared:
    """Gradients through every position (first) against the outputs alone (second).

    A rotary decoder and rows of which the first `context` is not predicted. Both project the
    outputs alone; the optimizer is left out.
    """
    (rows, length, width, layers), size = ROUTED, 4096
    outputs = round(length * (1 - context))
    config = ModelConfig(
        architecture="decoder",
        positions="rotary",
        scaled_attention=True,
        width=width,
        mlp_width=2 * width,
        heads=4,
        head_width=width // 4,
        decoder_layers=layers,
    )
    model = Model(config, size)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, size, (rows, length)))
    predicted = jnp.tile(jnp.arange(length) >= length - outputs, (rows, 1))
    batch = Example(
        decoder_input_tokens=tokens,
        decoder_target_tokens=jnp.roll(tokens, -1, axis=1),
        decoder_loss_weights=predicted.astype(jnp.float32),
        decoder_segment_ids=jnp.ones_like(tokens),
        decoder_selected=jax.vmap(lambda row: select(row, outputs))(predicted),
    )

    def compile(gradients: str) -> Any:
        def total(params: Any, batch: Example) -> Any:
            hidden, projection, _ = model.forward(params, batch, gradients=gradients)
            return projected_terms(hidden, projection, *batch.selected_targets("decoder")).loss

        return jax.jit(jax.value_and_grad(total)).lower(params, batch).compile()

    full, routed = compile("full"), compile("output_only")
    times = time_in_turn(lambda: full(params, batch), lambda: routed(params, batch), rounds)
    return Compared(times=times, memory=(_temporaries(full), _temporaries(routed)))


def _temporaries(compiled: Any) -> int:
    return int(compiled.memory_analysis().temp_size_in_bytes)
