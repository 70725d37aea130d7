"""Looking at batches in a terminal or a notebook: tokens, targets, losses, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxdenoise.arrays import Example, Params
from jaxdenoise.corruption.restore import spans_in_targets, trace_sentinels, until_eos
from jaxdenoise.losses import Loss, cross_entropy
from jaxdenoise.model.model import Model
from jaxdenoise.tokenizer import Tokenizer

_STYLES = ("black on sky_blue1", "black on light_goldenrod1", "black on pale_green1")
_STYLES += ("black on plum1", "black on light_salmon1", "black on aquamarine1")
_SHADES = " ░▒▓█"
_BAR = 12  # characters of the longest loss bar
_LABEL = 14  # characters of a row's label


def show(
    batch: Example, tokenizer: Tokenizer, losses: Any | None = None, *, examples: int = 2
) -> None:
    """Prints what a model reads and has to predict, with every target's loss where given.

    Args:
      batch: from a vmapped objective.
      tokenizer: that made the tokens.
      losses: Float[B, T] in nats, from `token_losses`.
      examples: how many of the batch to show.
    """
    batch = jax.device_get(batch)
    for row in range(min(examples, len(batch.inputs("encoder")[0]))):
        example = jax.tree.map(lambda x, row=row: x[row], batch)
        loss = None if losses is None else np.asarray(losses)[row]
        rich.get_console().print(render_example(example, tokenizer, loss))


def render_example(
    example: Example, tokenizer: Tokenizer, losses: np.ndarray | None = None
) -> RenderableType:
    """One unbatched example as coloured tokens; with losses, one line a target."""
    vocab = tokenizer.vocab
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    inputs, segment_ids, _ = map(np.asarray, example.inputs("encoder"))
    if example.decoder_target_tokens is None:
        targets, weights = map(np.asarray, example.targets("encoder"))
        length = int((segment_ids > 0).sum())
        marks = [0 if noise else None for noise in weights[:length] > 0]
        grid.add_row("source", _coloured(tokenizer, targets[:length].tolist(), marks))
        grid.add_row("inputs", _coloured(tokenizer, inputs[:length].tolist(), marks))
    else:
        targets, weights = map(np.asarray, example.targets("decoder"))
        real_inputs, real_targets = until_eos(inputs, vocab), until_eos(targets, vocab)
        source = trace_sentinels(real_inputs, real_targets, vocab)
        grid.add_row("source", _coloured(tokenizer, [t for t, _ in source], [s for _, s in source]))
        marks = [vocab.sentinel_number.get(token) for token in real_inputs]
        grid.add_row("inputs", _coloured(tokenizer, [*real_inputs, vocab.eos_id], [*marks, None]))
        marks = spans_in_targets(real_targets, vocab)
        line = _coloured(tokenizer, [*real_targets, vocab.eos_id], [*marks, None])
        grid.add_row("targets", line)
    grid.add_row("weights", _weights(weights))
    if losses is None:
        return grid
    return Group(grid, Text(), _loss_table(example, tokenizer, losses))


def show_gradients(
    model: Model,
    params: Params,
    batch: Example,
    loss: Loss = cross_entropy,
    tokenizer: Tokenizer | None = None,
    *,
    row: int = 0,
) -> None:
    """Prints how strongly each target's loss pulls on each embedded encoder input, as a heat map.

    Args:
      model: maps a batch to logits.
      params: of the model.
      batch: from a vmapped objective.
      loss: of (logits[…, V], targets[…]).
      tokenizer: to label rows and columns; ids without.
      row: which example.
    """
    example = jax.tree.map(lambda x: x[row], batch)
    targets, weights = map(np.asarray, example.targets(model.stack))
    strength = np.asarray(input_gradients(model, params, example, loss))
    inputs, segment_ids, _ = map(np.asarray, example.inputs("encoder"))
    used = np.flatnonzero(segment_ids)
    chosen = np.flatnonzero(weights > 0)
    console = rich.get_console()
    columns = used[: max(console.width - _LABEL - 1, 1)]
    top = max(float(strength[chosen].max(initial=0.0)), 1e-12)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="bold", max_width=_LABEL)
    table.add_column(no_wrap=True)
    for place in chosen:
        shades = np.minimum(strength[place, columns] / top * len(_SHADES), len(_SHADES) - 1)
        line = "".join(_SHADES[int(shade)] for shade in shades)
        table.add_row(Text(_label(tokenizer, int(targets[place]))), line)
    console.print(
        f"gradient of each target's loss (rows) at the first {len(columns)} of {len(used)} "
        "encoder inputs (columns), darkest where strongest"
    )
    console.print(table)
    console.print(Text("columns: " + "|".join(_label(tokenizer, int(inputs[i])) for i in columns)))


def input_gradients(
    model: Model, params: Params, example: Example, loss: Loss = cross_entropy
) -> jax.Array:
    """‖∂loss[t] / ∂embedded encoder input[i]‖ for every target t and input i: Float[T, I].

    Args:
      model: maps a batch to logits.
      params: of the model.
      example: unbatched.
      loss: of (logits[…, V], targets[…]).
    """
    targets, _ = example.targets(model.stack)
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
    size = example.inputs("encoder")[0].shape[-1]
    nudge = jnp.zeros((1, size, model.config.width))

    def losses(nudge: jax.Array) -> jax.Array:
        return loss(model.apply_nudged(params, batch, nudge), jnp.asarray(targets)[None])[0]

    jacobian = jax.jacrev(losses)(nudge)[:, 0]
    return jnp.linalg.norm(jacobian, axis=-1)


def _coloured(tokenizer: Tokenizer, ids: Sequence[int], marks: Sequence[int | None]) -> Text:
    line = Text()
    for piece, mark in zip(tokenizer.pieces(ids), marks, strict=True):
        style = "" if mark is None else _STYLES[mark % len(_STYLES)]
        line.append(piece.replace("\n", "⏎"), style)
    return line


def _weights(weights: np.ndarray) -> str:
    """How many positions weigh how much: '29 of weight 1, 3 of weight 0'."""
    values, counts = np.unique(weights, return_counts=True)
    pairs = sorted(zip(values, counts, strict=True), reverse=True)
    return ", ".join(f"{count} of weight {value:g}" for value, count in pairs)


def _loss_table(example: Example, tokenizer: Tokenizer, losses: np.ndarray) -> Table:
    decoder = example.decoder_target_tokens is not None
    stack = "decoder" if decoder else "encoder"
    targets, weights = map(np.asarray, example.targets(stack))
    read = np.asarray(example.inputs(stack)[0])
    table = Table(box=None, pad_edge=False)
    table.add_column("decoder reads" if decoder else "encoder reads", no_wrap=True)
    table.add_column("predicts", no_wrap=True)
    table.add_column("loss", justify="right")
    table.add_column("")
    chosen = np.flatnonzero(weights > 0)
    pieces = zip(
        tokenizer.pieces(read[chosen]),
        tokenizer.pieces(targets[chosen]),
        losses[chosen],
        strict=True,
    )
    for before, target, value in pieces:
        bar = "█" * round(min(float(value) / 10, 1) * _BAR)
        cells = [Text(_quoted(before)), Text(_quoted(target)), f"{value:.2f}", Text(bar, "red")]
        table.add_row(*cells)
    return table


def _quoted(piece: str) -> str:
    return piece.replace("\n", "⏎").replace(" ", "␣") if piece.strip() != piece else piece


def _label(tokenizer: Tokenizer | None, token: int) -> str:
    return str(int(token)) if tokenizer is None else _quoted(tokenizer.pieces([token])[0])
