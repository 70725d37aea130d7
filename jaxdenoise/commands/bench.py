"""jaxdenoise bench [WHAT]: figures in pairs, from one run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxdenoise.commands.bench_against import run_against
from jaxdenoise.commands.bench_parity import run_parity
from jaxdenoise.commands.console import make_console
from jaxdenoise.errors import require, unknown
from jaxdenoise.experiment import (
    Experiment,
    bundled,
    experiments,
    import_package,
    load_experiments,
    override,
)
from jaxdenoise.flags import refuse_others, split_flags, take_single
from jaxdenoise.training.run_directory import write_json

USAGE = """usage: jaxdenoise bench [WHAT] [--experiment NAME] [--field value …]
       jaxdenoise bench step --against transformers [--rounds N] [--field value …]
       jaxdenoise bench decode --against transformers [--rounds N]
       jaxdenoise bench parity

  corruption   span corruption against a careful per-example NumPy version, 256 × 568 tokens
  objectives   every objective against its plain NumPy version, 568 tokens a row; UL2's mixture
               against the dearest of its members
  loss         projection and loss in one against logits first: time at 32K ids, memory at 128K
  gradients    output_only against full, where 80% of a row is context, and where none is
  tokenise     a token store by two workers (or data.workers) against one, each of one thread
  step         an experiment's training step, and the share of it that is corruption

All when none is named. The two sides of a pair are timed in turn; ratios are medians, their
quartiles in brackets. With --output FILE the figures are written as JSON too.

With --against transformers the whole step is timed beside that of transformers' T5 in PyTorch
(extra peers), eager and compiled, with each attention that it accepts: T5 with 4 + 4 layers of 256,
8 rows of 512 + 114 tokens, 32,128 ids. --model t5_1_1_base, --model.compute-dtype bfloat16,
--training.batch-size 32 and so on change both sides.

decode: greedy decoding beside transformers' generate, T5 small, 64 rows of 64 tokens.
parity: T5, BART and BERT with the same weights here and in transformers (extra peers): logits,
loss, gradients, and what comes back when a model is exported again.
"""
PARTS = ("corruption", "objectives", "loss", "gradients", "tokenise", "step")
BESIDE = ("decode", "parity")
"""What needs PyTorch, and is not measured unless it is named."""


def run(args: Sequence[str]) -> int:
    """Measures and prints."""
    if "--help" in args or "-h" in args:
        print(USAGE)
        return 0
    named = [args[0]] if args and not args[0].startswith("-") else []
    if named and named[0] not in (*PARTS, *BESIDE):
        raise unknown("benchmark", named[0], (*PARTS, *BESIDE))
    flags = split_flags(args[len(named) :])
    load_experiments(tuple(flags.pop("module", ())))
    output = take_single(flags, "output")
    if named == ["parity"]:
        refuse_others(flags, "bench parity", ["output"])
        return run_parity(output)
    if "against" in flags:
        require(
            named in (["step"], ["decode"]),
            "--against compares whole steps, or decoding: jaxdenoise bench step --against "
            "transformers",
        )
        return run_against(named[0], flags, output)
    require(named != ["decode"], "decoding is measured beside a peer: add --against transformers")
    name = take_single(flags, "experiment") or "quickstart"
    experiment = override(experiments[name](), flags)
    console = make_console()

    from jaxdenoise.bench.pairs import machine

    console.print(machine())
    found: dict[str, Any] = {"machine": machine()}
    if not named or "corruption" in named:
        found["corruption"] = _corruption(console)
    if not named or "objectives" in named:
        found["objectives"] = _objectives(console)
        found["mixture"] = _mixture(console)
    if not named or "loss" in named:
        found["loss"] = _loss(console)
    if not named or "gradients" in named:
        found["gradients"] = {f"{c:.0%}": _gradients(c, console) for c in (0.8, 0.0)}
    if not named or "tokenise" in named:
        found["tokenise"] = _tokenise(max(2, experiment.data.workers), console)
    if not named or "step" in named:
        found["step"] = _step(name, experiment, console)
    if output:
        write_json(Path(output), found)
    return 0


def _corruption(console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import corruption

    with console.status("corruption"):
        pair = corruption.corruption_against_numpy(_references()["span_corruption"])
    numpy_speed, speed = (corruption.BATCH * corruption.RAW_LENGTH / t / 1e6 for t in pair.medians)
    low, high = pair.spread
    console.print(
        f"corruption: {speed:.1f} M tokens/s jitted, {numpy_speed:.1f} M with careful NumPy: "
        f"{pair.ratio:.1f} times ({low:.1f} to {high:.1f})"
    )
    return pair.summary()


def _objectives(console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import corruption
    from jaxdenoise.objectives import objectives

    plain = _references()
    known = [n for n in objectives.names() if any(hasattr(m, f"draw_{n}") for m in plain.values())]
    found: dict[str, Any] = {}
    table = Table("objective", "M tokens/s", "plain NumPy", "times", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    with console.status("objectives") as status:
        for name in known:
            status.update(name)
            pair = corruption.objective_against_numpy(name, plain)
            found[name] = pair.summary()
            plain_speed, speed = (1e-6 / seconds for seconds in pair.medians)
            low, high = pair.spread
            ratio = f"{pair.ratio:,.0f} ({low:,.0f} to {high:,.0f})"
            table.add_row(name, f"{speed:.1f}", f"{plain_speed:.2f}", ratio)
    console.print(table)
    return found


def _mixture(console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import corruption

    with console.status("mixture"):
        pair = corruption.mixture_against_members(_references())
    low, high = pair.spread
    console.print(
        f"mixture: ul2 takes {pair.ratio:.2f} times as long as the dearest of its members alone "
        f"({low:.2f} to {high:.2f})"
    )
    return pair.summary()


def _loss(console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import training

    with console.status("loss"):
        pair = training.loss_against_logits()
    low, high = pair.times.spread
    console.print(
        f"loss: without logits {pair.times.ratio:.2f} of the time with them "
        f"({low:.2f} to {high:.2f}), {_memory(pair.memory)}"
    )
    return pair.summary()


def _gradients(context: float, console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import training

    with console.status("gradients"):
        pair = training.output_only_against_full(context)
    low, high = pair.times.spread
    console.print(
        f"gradients: with {context:.0%} context, full takes {pair.times.ratio:.2f} times as long "
        f"as output_only ({low:.2f} to {high:.2f}), {_memory(pair.memory[::-1])}"
    )
    return pair.summary()


def _tokenise(workers: int, console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import tokenise

    with console.status("tokenise"):
        pair, size = tokenise.workers_against_one(workers)
    one, several = (size / seconds / 1e6 for seconds in pair.medians)
    low, high = pair.spread
    console.print(
        f"tokenise: {workers} workers {several:.1f} MB/s, one {one:.1f} MB/s: {pair.ratio:.2f} "
        f"times ({low:.2f} to {high:.2f}), their start included"
    )
    return pair.summary()


def _memory(pair: tuple[int, ...]) -> str:
    mine, other = (size / 2**20 for size in pair)
    return f"memory {mine:,.0f} against {other:,.0f} MiB, {mine / other:.1%}"


def _step(name: str, experiment: Experiment, console: Console) -> dict[str, Any]:
    from jaxdenoise.bench import training
    from jaxdenoise.data.store import prepare
    from jaxdenoise.training.setup import build

    setup = build(experiment, prepare(experiment.data, console=console))
    with console.status("step"):
        pair = training.corruption_in_step(setup)
    step = pair.medians[1]
    console.print(
        f"{name} step: {setup.batches[0].lengths.sum() / step:,.0f} source tokens/s; "
        f"corruption is {pair.ratio:.2%} of its {step * 1e3:.0f} ms"
    )
    return pair.summary()


def _references() -> dict[str, ModuleType]:
    """The NumPy versions by name: beside the tests in a checkout, inside the package installed."""
    package, folder = "jaxdenoise.reference", bundled("reference")
    import_package(package, folder if folder.is_dir() else folder.parent / "tests" / "reference")
    prefix = f"{package}."
    modules = {n.removeprefix(prefix): m for n, m in sys.modules.items() if n.startswith(prefix)}
    for module in modules.values():
        for name in [name for name in vars(module) if name.startswith("sees_")]:
            # A map of who sees whom is for tests: the package never makes one.
            setattr(module, name, lambda *shape: None)
    return modules
