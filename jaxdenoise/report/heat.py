"""Heat maps in a terminal: which targets pull on which positions, layers and parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from jaxdenoise.arrays import Example
from jaxdenoise.report.gradients import GradientFlow

SHADES = "░▒▓█"
ZERO = "·"
STEP = 3.0  # from one shade to the next
SCALE = (
    f"Norms, from the largest of a map: █ down to 1/{STEP:g} of it, ▓ to 1/{STEP**2:g}, "
    f"▒ to 1/{STEP**3:g}, ░ to anything above 0; {ZERO} is exactly 0."
)
STACKS = ("encoder", "decoder")
NARROW = 14  # characters of a row's label
TALL = 6  # lines of a column's label
FOLDS = 3  # of one map; positions further on are not drawn


def draw_flow(
    flow: GradientFlow, example: Example, label: Callable[[int], str], width: int
) -> RenderableType:
    """Targets × positions and layers × positions of each stack, modules × layers; zeros apart.

    Args:
      flow: of the example.
      example: unbatched; padding is not drawn.
      label: the text of a token.
      width: of the console, in characters.
    """
    stacks = [stack for stack in STACKS if stack in flow.positions]
    real = {stack: np.flatnonzero(example.inputs(stack)[1]) for stack in stacks}
    norms = {stack: flow.positions[stack][..., real[stack]] for stack in stacks}
    largest = (
        _largest(x[:, 0] for x in norms.values()),
        _largest(x.sum(axis=0) for x in norms.values()),
    )
    targets = [label(token) for token in flow.tokens]
    drawn: list[RenderableType] = [_summary(flow, norms), Text(SCALE, "dim"), *_warnings(flow)]
    for stack in stacks:
        read = [label(token) for token in np.asarray(example.inputs(stack)[0])[real[stack]]]
        title = f": gradient of each target's loss (rows) by the {stack}'s inputs (columns)"
        drawn += [Text(), Text.assemble((stack, "bold"), title)]
        drawn += _positions_map(targets, read, norms[stack], largest, width)
    title = ": by their parameters in each layer (columns), summed over the targets"
    drawn += [Text(), Text.assemble(("modules", "bold"), title), *_modules_map(flow, width)]
    return Group(*drawn)


def _summary(flow: GradientFlow, norms: Mapping[str, np.ndarray]) -> Text:
    """The routing, and how much receives nothing."""
    counts = []
    for stack, x in norms.items():
        silent = (x == 0).all(axis=(0, 1))
        share = _percent(silent.sum() / max(len(silent), 1))
        counts.append(f"{silent.sum()} of {len(silent)} {stack} positions ({share})")
    shown, number = len(flow.tokens), flow.number
    some = f"{number} target" if number == 1 else f"{number} targets"
    some = f"the first {shown} of {some}; only those are drawn" if shown < number else some
    return Text.assemble(
        (f"gradients {flow.gradients}", "bold"),
        f": {', '.join(counts)} and {_percent(flow.silent_parameters)} of the parameters receive "
        f"nothing from {some}.",
    )


def _percent(share: float) -> str:
    """Rounded, but 0% and 100% only where that is exact."""
    rounded = f"{share:.0%}"
    bounds = {"0%": "<1%", "100%": ">99%"}
    return rounded if share in (0, 1) else bounds.get(rounded, rounded)


def _warnings(flow: GradientFlow) -> Iterator[Text]:
    if flow.gradients == "encoder":
        note = "The decoder's positions pass gradient on to the encoder; its parameters are stopped"
        yield Text(f"{note}.", "dim")
    if not all(np.isfinite(x).all() for x in [*flow.positions.values(), *flow.modules.values()]):
        yield Text("? is infinite or not a number.", "bold red")


def _positions_map(
    targets: Sequence[str],
    tokens: Sequence[str],
    norms: np.ndarray,
    largest: tuple[float, float],
    width: int,
) -> Iterator[Text]:
    """Norms [N, layers, T] as targets × T and layers × T, folded where T is too wide."""
    layers = [f"layer {n}" for n in range(norms.shape[1])]
    room = min(max(map(cell_len, [*targets, *layers])), NARROW)
    cell, fits = _fit(len(tokens), room, width)
    folded, drawn = len(tokens) > fits, 0
    for part, silent in _folds(norms, fits):
        places = f"positions {part.start} to {part.stop - 1} of {len(tokens)}"
        if folded and silent:
            yield Text(f"{places}: exactly 0", "dim")
            continue
        if drawn == FOLDS:
            yield Text(f"positions from {part.start} on: no room", "dim")
            return
        drawn += 1
        if folded:
            yield Text(places, "dim")
        yield from _headings([token.strip("␣") or token for token in tokens[part]], room, cell)
        yield from _rows(targets, norms[:, 0, part], largest[0], room, cell)
        yield Text("summed over the targets, by what enters", "dim")
        yield from _rows(layers, norms[..., part].sum(axis=0), largest[1], room, cell)


def _folds(norms: np.ndarray, fits: int) -> list[tuple[slice, bool]]:
    """The positions in parts that fit, and whether a part is all 0; such neighbours are joined."""
    folds: list[tuple[slice, bool]] = []
    for part in _parts(norms.shape[-1], fits):
        silent = not norms[..., part].any()
        start = folds.pop()[0].start if silent and folds and folds[-1][1] else part.start
        folds.append((slice(start, part.stop), silent))
    return folds


def _modules_map(flow: GradientFlow, width: int) -> Iterator[RenderableType]:
    """Modules × layers, a map for each stack, side by side; then the modules without layers."""
    sums = {name: norms.sum(axis=0) for name, norms in flow.modules.items()}
    largest = _largest(sums.values())
    maps = [part for stack in STACKS for part in _maps_of_stack(stack, sums, largest, width)]
    yield Columns(maps)
    lone = [(name, _shade(x, largest)) for name, x in sums.items() if not np.ndim(x)]
    yield Text("  ").join(Text.assemble(name, " ", shade) for name, shade in lone)


def _maps_of_stack(
    stack: str, sums: Mapping[str, np.ndarray], largest: float, width: int
) -> Iterator[RenderableType]:
    """One map, or several where it has more layers than there is room."""
    mine = {name: x for name, x in sums.items() if name.startswith(f"{stack}.") and np.ndim(x)}
    names = [name.removeprefix(f"{stack}.") for name in mine]
    room = max(map(len, [*names, stack]))
    layers = max(map(len, mine.values()), default=0)
    cell, fits = _fit(layers, room, width - 2)  # the gap to the next map
    for part in _parts(layers, fits):
        lines = [*_headings([str(n) for n in range(layers)[part]], room, cell, stack)]
        lines += _rows(names, [x[part] for x in mine.values()], largest, room, cell)
        yield Padding(Group(*lines), (0, 2, 0, 0))


def _fit(columns: int, room: int, width: int) -> tuple[int, int]:
    """The width of a cell, and how many columns stand beside labels of `room` characters."""
    cell = 2 if room + 1 + 2 * columns <= width else 1
    return cell, max((width - room - 1) // cell, 1)


def _parts(columns: int, fits: int) -> list[slice]:
    return [slice(start, min(start + fits, columns)) for start in range(0, columns, fits)]


def _headings(labels: Sequence[str], room: int, cell: int, corner: str = "") -> Iterator[Text]:
    """Labels from top to bottom, each above its column; every second one dim."""
    height = min(max(map(len, labels)), TALL)
    cut = [x if len(x) <= height else f"{x[:2]}…{x[3 - height :]}" for x in labels]
    upright = [label.rjust(height) for label in cut]
    for line in range(height):
        text = Text((corner if line == height - 1 else "").ljust(room + 1), "bold", no_wrap=True)
        for number, label in enumerate(upright):
            letter = label[line] if cell_len(label[line]) == 1 else "□"
            text.append(letter.ljust(cell), "dim" if number % 2 else "")
        yield text


def _rows(
    labels: Sequence[str], values: Iterable[np.ndarray], largest: float, room: int, cell: int
) -> Iterator[Text]:
    for label, row in zip(labels, values, strict=True):
        line = Text(label, "bold", no_wrap=True)
        line.truncate(room, overflow="ellipsis", pad=True)
        line.append(" ")
        for value in row:
            line.append_text(_shade(value, largest))
            line.append(" " * (cell - 1))
        yield line


def _shade(value: float, largest: float) -> Text:
    if not np.isfinite(value):
        return Text("?", "bold red")
    if value == 0:
        return Text(ZERO, "dim")
    steps = np.log(float(largest) / float(value)) / np.log(STEP)
    return Text(SHADES[len(SHADES) - 1 - int(np.clip(steps, 0, len(SHADES) - 1))], "not bold")


def _largest(norms: Iterable[np.ndarray]) -> float:
    """The largest finite number; 0 if there is none."""
    joined = np.concatenate([np.ravel(x) for x in norms])
    return float(np.max(joined, initial=0.0, where=np.isfinite(joined)))
