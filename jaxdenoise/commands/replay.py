"""jaxdenoise replay RUN STEP [--debug]: a step of a run made again, and what was bad about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from jaxdenoise.commands.console import make_console
from jaxdenoise.data.store import prepare
from jaxdenoise.errors import require
from jaxdenoise.experiment import load_experiments
from jaxdenoise.training.run_directory import open_run

if TYPE_CHECKING:
    from jaxdenoise.training.replay import Replay
    from jaxdenoise.training.setup import Setup

USAGE = """usage: jaxdenoise replay RUN STEP [--debug] [--module NAME]

Makes a step of a run again, from the newest checkpoint before it: the same state, the same rows,
the same keys, and so the same numbers. For a step that was not applied (runs/…/bad/STEP.json).
Prints its loss and gradient, module by module, and the rows whose loss stands out. Writes nothing.

  --debug        stop in Python's debugger, with setup, made and batch; the step, on one device, is
                 made.step(made.state, made.rows)
  --module NAME  the module that registered the run's objective, where it is one of yours
"""
MOST_ROWS = 5  # that are shown
MOST_TEXT = 160  # characters of each


def run(args: Sequence[str]) -> int:
    """Prints what the step gave."""
    plain = [arg for arg in args if arg not in ("--debug", "--help", "-h")]
    if not plain or {"--help", "-h"} & set(args):
        print(USAGE)
        return 0 if args else 2
    modules = [plain.pop(at + 1) for at in _places(plain, "--module") if at + 1 < len(plain)]
    plain = [arg for arg in plain if arg != "--module"]
    load_experiments(tuple(modules))
    unknown = [arg for arg in plain if arg.startswith("-")]
    require(not unknown, f"{' '.join(unknown)}: replay takes RUN STEP, --debug and --module NAME")
    require(
        len(plain) == 2 and plain[1].isdecimal(),
        f"replay takes a run and the number of a step, not {' '.join(plain)!r}; such as: "
        "jaxdenoise replay runs/quickstart-b597ef58 437",
    )
    directory, _, experiment = open_run(plain[0])
    require(
        "imported" not in directory.saved()["store"],
        f"'{plain[0]}' was imported: it has made no steps here",
    )
    console = make_console()
    store = prepare(experiment.data, console=console)
    directory.check(experiment, store.manifest)

    from jaxdenoise.training.replay import replay
    from jaxdenoise.training.setup import build

    setup = build(experiment, store)
    made = replay(setup, directory, int(plain[1]), console)
    _print_step(setup, made, console)
    if "--debug" in args:
        _debug(setup, made)
    _print_rows(setup, made, console)
    return 0


def _places(args: Sequence[str], flag: str) -> list[int]:
    """Where a flag stands, the last one first: what is behind it can be taken out."""
    return [at for at in reversed(range(len(args))) if args[at] == flag]


def _print_step(setup: Setup, made: Replay, console: Console) -> None:
    from jaxdenoise.training.bad_steps import why

    begun = f"the checkpoint of step {made.start}" if made.start else "the beginning"
    values = {name: float(made.metrics[name]) for name in ("loss", "gradient_norm")}
    console.print(f"step {made.number}, from {begun}")
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.9g}" for name, value in values.items())
    if not made.recorded:
        console.print(f"{shown}; the run has written nothing of this step", highlight=False)
    elif made.same:
        console.print(f"{shown}: what the run has written", highlight=False)
    else:
        written = ", ".join(f"{name} {value:.9g}" for name, value in made.recorded.items())
        text = f"{shown}, but the run has written {written}: another device, or other versions"
        console.print(text, style="yellow")
    if not made.metrics["good"]:
        reason = why(made.metrics, setup.experiment.training.spikes)
        console.print(f"not applied: {reason}", style="bold red")
    norms = made.metrics["modules"]["gradient_norm"]
    broken = [name for name, norm in norms.items() if not np.all(np.isfinite(norm))]
    if broken:
        some = "every module" if len(broken) == len(norms) else ", ".join(broken)
        console.print(f"the gradient is not finite in {some}", highlight=False)
    else:
        first = sorted(norms, key=lambda name: -np.max(norms[name]))[:MOST_ROWS]
        largest = ", ".join(f"{name} {np.max(norms[name]):.3g}" for name in first)
        console.print(f"largest gradients: {largest}", highlight=False)


def _print_rows(setup: Setup, made: Replay, console: Console) -> None:
    from jaxdenoise.training.replay import row_losses

    losses = row_losses(setup, made)
    worst = np.argsort(-np.nan_to_num(losses, nan=np.inf, posinf=np.inf), kind="stable")
    finite = losses[np.isfinite(losses)]
    median = f"median {np.median(finite):.4g}" if finite.size else "none of them finite"
    console.print(f"loss of its {len(losses)} rows, without dropout, {median}; the largest:")
    for place in worst[:MOST_ROWS]:
        console.print(_row(setup, made, int(place), float(losses[place])), soft_wrap=True)


def _row(setup: Setup, made: Replay, place: int, loss: float) -> Text:
    tokens = np.asarray(made.rows.tokens)[place, : made.rows.lengths[place]]
    text = setup.store.tokenizer.decode(tokens).replace("\n", "⏎")
    if len(text) > MOST_TEXT:
        text = text[: MOST_TEXT - 1] + "…"
    who = f"  {loss:<8.4g} row {place}, example {made.rows.example_ids[place]}, "
    return Text(f"{who}epoch {made.rows.epochs[place]}: ").append(text, "dim")


def _debug(setup: Setup, made: Replay) -> None:
    """Where --debug stops: `made.step(made.state, made.rows)` is the step, on one device."""
    from jaxdenoise.training.step import corrupt

    progress = (made.number - 1) / setup.experiment.training.steps
    batch = corrupt(setup.objective, made.rows, progress)
    breakpoint()
    del batch
