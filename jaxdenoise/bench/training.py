"""What a step is made of: its loss, its gradients, its corruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdenoise.arrays import Example, LossTerms, Projection
from jaxdenoise.bench.pairs import PATIENCE, Compared, Paired, temporaries, time_in_turn
from jaxdenoise.config import ModelConfig
from jaxdenoise.corruption.examples import select
from jaxdenoise.losses import loss_terms, projected_terms
from jaxdenoise.model.model import Model
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.step import corrupt

TIMED_LOSS = (8, 114, 512, 32_128)  # rows, targets of each, width, T5's vocabulary
LARGE_LOSS = (8, 1024, 512, 131_072)  # compiled for its memory, not run
ROUTED = (8, 512, 256, 4)  # rows, tokens of each, width, layers


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
    memory = [temporaries(compile(f, *shapes)) for f in (projected_terms, logits_first)]
    times = time_in_turn(lambda: one(*args), lambda: other(*args), rounds, patience=PATIENCE)
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
    times = time_in_turn(
        lambda: full(params, batch), lambda: routed(params, batch), rounds, patience=PATIENCE
    )
    return Compared(times=times, memory=(temporaries(full), temporaries(routed)))
