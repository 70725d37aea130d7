"""Looking at batches in a terminal or a notebook: tokens, targets, losses, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rich
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxdenoise.arrays import Example, Params
from jaxdenoise.corruption.restore import spans_in_targets, trace_sentinels, until_eos
from jaxdenoise.losses import Loss, cross_entropy
from jaxdenoise.model.model import Model
from jaxdenoise.report.gradients import gradient_flow
from jaxdenoise.report.heat import draw_flow
from jaxdenoise.tokenizer import Tokenizer

_STYLES = ("black on sky_blue1", "black on light_goldenrod1", "black on pale_green1")
_STYLES += ("black on plum1", "black on light_salmon1", "black on aquamarine1")
_BAR = 12  # characters of the longest loss bar
_TARGETS = 24  # the first so many are drawn; each costs a backward pass


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
    for row in range(min(examples, len(jax.tree.leaves(batch)[0]))):
        example = jax.tree.map(lambda x, row=row: x[row], batch)
        loss = None if losses is None else np.asarray(losses)[row]
        rich.get_console().print(render_example(example, tokenizer, loss))


def render_example(
    example: Example,
    tokenizer: Tokenizer,
    losses: np.ndarray | None = None,
    source: np.ndarray | None = None,
) -> RenderableType:
    """One unbatched example as coloured tokens; with losses, one line a target.

    Args:
      example: from an objective.
      tokenizer: that made the tokens.
      losses: Float[T] of the targets.
      source: the tokens it was made of, where inputs and targets do not tell them.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    if example.decoder_target_tokens is None:
        lines = _encoder_lines(example, tokenizer)
    elif example.encoder_input_tokens is None:
        lines = _decoder_lines(example, tokenizer)
    else:
        lines = _both_lines(example, tokenizer, source)
    for name, line in lines:
        grid.add_row(name, line)
    grid.add_row("weights", _weights(np.asarray(example.targets(_stack(example))[1])))
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
    gradients: str = "full",
) -> None:
    """Prints which positions, layers and parameters receive gradient from which targets.

    Args:
      model: maps a batch to hidden states, and these to logits.
      params: of the model.
      batch: from a vmapped objective.
      loss: of (logits[…, V], targets[…]).
      tokenizer: to label rows and columns; ids without.
      row: which example.
      gradients: what the backward pass goes through; see `Model.hidden`.

    Raises:
      UserError: gradients that the architecture does not have.
    """
    example = jax.tree.map(lambda x: x[row], batch)
    console = rich.get_console()
    maps = render_gradients(
        model, params, example, loss, tokenizer, gradients=gradients, width=console.width
    )
    console.print(maps, highlight=False)


def render_gradients(
    model: Model,
    params: Params,
    example: Example,
    loss: Loss = cross_entropy,
    tokenizer: Tokenizer | None = None,
    *,
    gradients: str,
    width: int,
) -> RenderableType:
    """The heat maps of `show_gradients` for one unbatched example, of its first targets."""
    if not np.any(np.asarray(example.targets(model.stack)[1])):
        return Text("the example has no targets: nothing receives gradient")
    flow = gradient_flow(model, params, example, loss, gradients, first=_TARGETS)
    return draw_flow(flow, example, lambda token: _label(tokenizer, token), width)


def _stack(example: Example) -> str:
    """The stack that predicts."""
    return "encoder" if example.decoder_target_tokens is None else "decoder"


def _encoder_lines(example: Example, tokenizer: Tokenizer) -> list[tuple[str, Text]]:
    """Predictions in their places, marked."""
    inputs, segment_ids, _ = map(np.asarray, example.inputs("encoder"))
    targets, weights = map(np.asarray, example.targets("encoder"))
    length = int((segment_ids > 0).sum())
    marks = [0 if noise else None for noise in weights[:length] > 0]
    return [
        ("source", _coloured(tokenizer, targets[:length].tolist(), marks)),
        ("inputs", _coloured(tokenizer, inputs[:length].tolist(), marks)),
    ]


def _decoder_lines(example: Example, tokenizer: Tokenizer) -> list[tuple[str, Text]]:
    """What a lone decoder reads and predicts; the context's targets, of weight 0, are dim."""
    inputs, segment_ids, _ = map(np.asarray, example.inputs("decoder"))
    targets, weights = map(np.asarray, example.targets("decoder"))
    length = int((segment_ids > 0).sum())
    predicted = weights[:length] > 0
    row, plain = targets[:length].tolist(), [None] * length
    line = _coloured(tokenizer, row, plain, ["" if at else "dim" for at in predicted])
    return [
        ("source", _coloured(tokenizer, row, [0 if at else None for at in predicted])),
        ("inputs", _coloured(tokenizer, inputs[:length].tolist(), plain)),
        ("targets", line),
    ]


def _both_lines(
    example: Example, tokenizer: Tokenizer, source: np.ndarray | None
) -> list[tuple[str, Text]]:
    """Spans in the colours of their sentinels; special tokens of other kinds in one."""
    vocab = tokenizer.vocab
    inputs, targets = example.inputs("encoder")[0], example.targets("decoder")[0]
    real_inputs = until_eos(np.asarray(inputs), vocab)
    real_targets = until_eos(np.asarray(targets), vocab)
    in_inputs = [vocab.sentinel_number.get(token) for token in real_inputs]
    in_targets = spans_in_targets(real_targets, vocab)
    if any(mark is not None for mark in in_inputs):
        traced = trace_sentinels(real_inputs, real_targets, vocab)
        lines = [("source", _coloured(tokenizer, *map(list, zip(*traced, strict=True))))]
    else:
        in_inputs = [0 if vocab.is_special[token] else None for token in real_inputs]
        lines = []
        if source is not None:
            lines = [("source", _coloured(tokenizer, source.tolist(), [None] * len(source)))]
    return [
        *lines,
        ("inputs", _coloured(tokenizer, [*real_inputs, vocab.eos_id], [*in_inputs, None])),
        ("targets", _coloured(tokenizer, [*real_targets, vocab.eos_id], [*in_targets, None])),
    ]


def _coloured(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    marks: Sequence[int | None],
    plain: Sequence[str] | None = None,
) -> Text:
    """Tokens in the colours of their marks; those without one in their `plain` style."""
    line = Text()
    plain = [""] * len(ids) if plain is None else plain
    for piece, mark, style in zip(tokenizer.pieces(ids), marks, plain, strict=True):
        style = style if mark is None else _STYLES[mark % len(_STYLES)]
        line.append(piece.replace("\n", "⏎"), style)
    return line


def _weights(weights: np.ndarray) -> str:
    """How many positions weigh how much: '29 of weight 1, 3 of weight 0'."""
    values, counts = np.unique(weights, return_counts=True)
    pairs = sorted(zip(values, counts, strict=True), reverse=True)
    return ", ".join(f"{count} of weight {value:g}" for value, count in pairs)


def _loss_table(example: Example, tokenizer: Tokenizer, losses: np.ndarray) -> Table:
    stack = _stack(example)
    targets, weights = map(np.asarray, example.targets(stack))
    read = np.asarray(example.inputs(stack)[0])
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{stack} reads", no_wrap=True)
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
    if piece.strip() == piece:
        return piece
    return piece.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")


def _label(tokenizer: Tokenizer | None, token: int) -> str:
    return str(int(token)) if tokenizer is None else _quoted(tokenizer.pieces([token])[0])
