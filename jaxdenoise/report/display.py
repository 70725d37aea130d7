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
from jaxdenoise.losses import Loss, cross_entropy
from jaxdenoise.model.model import Model
from jaxdenoise.report.gradients import gradient_flow
from jaxdenoise.report.heat import draw_flow
from jaxdenoise.report.marked import Line, Piece, marked_lines, weights_line
from jaxdenoise.report.statistics import predicting_stack
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
    lines = marked_lines(jax.device_get(example), tokenizer, source)
    grid = render_lines(lines, weights_line(example))
    if losses is None:
        return grid
    return Group(grid, Text(), _loss_table(example, tokenizer, losses))


def render_lines(lines: Sequence[Line], weights: str) -> RenderableType:
    """Lines of marked tokens by name, then the weights.

    Args:
      lines: from `marked_lines`.
      weights: from `weights_line`.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, pieces in lines:
        grid.add_row(name, _coloured(pieces))
    grid.add_row("weights", weights)
    return grid


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


def _coloured(pieces: Sequence[Piece]) -> Text:
    """Tokens in the colours of their marks."""
    line = Text()
    for piece in pieces:
        style = "dim" if piece.dim else ""
        style = style if piece.mark is None else _STYLES[piece.mark % len(_STYLES)]
        line.append(piece.text.replace("\n", "⏎"), style)
    return line


def _loss_table(example: Example, tokenizer: Tokenizer, losses: np.ndarray) -> Table:
    stack = predicting_stack(example)
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
