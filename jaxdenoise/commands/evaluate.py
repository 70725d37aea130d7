"""jaxdenoise evaluate RUN [--per-document FILE] [--field value …]: a model on held-out text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jaxdenoise.commands.console import make_console
from jaxdenoise.commands.show_results import results_table, scores_table
from jaxdenoise.data.store import TokenStore, prepare
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment, load_experiments, override
from jaxdenoise.flags import split_flags, take_single
from jaxdenoise.paths import as_path, is_local, write_whole
from jaxdenoise.tokenizer import read_tokenizer
from jaxdenoise.training.run_directory import RunDirectory, open_run, started_from

if TYPE_CHECKING:
    from jaxdenoise.arrays import Params
    from jaxdenoise.training.setup import Setup

USAGE = """usage: jaxdenoise evaluate RUN [--per-document FILE] [--field value …]

Loss, accuracy and bits a byte of a run's newest checkpoint on held-out text, beside those of a
unigram and a bigram model of the training text; of a run on pairs, how it answers them.

  --per-document FILE  write a line of JSON for each held-out document: nats (summed over the text
                       that is predicted), tokens and bytes (of that text), source_tokens
  --module NAME        the module that registered the run's objective, where it is one of yours

Fields of data, objective and training may be others than the run's, such as
--objective prefix_lm, --training.evaluation-rows 2000, or --data.files "texts/*.txt", of which the
held-out part is asked: give --data.held-out 0.9 to ask for most of it.
"""
MAY_CHANGE = ("data.", "objective", "training.backend", "training.evaluation_rows")


def run(args: Sequence[str]) -> int:
    """Prints the figures and writes those of documents."""
    if not args or "--help" in args or "-h" in args:
        print(USAGE)
        return 0 if args else 2
    changes = split_flags(args[1:])
    load_experiments(tuple(changes.pop("module", ())))
    output = take_single(changes, "per_document")
    directory, _, trained = open_run(args[0])
    experiment = _changed(trained, changes, directory)
    if output is not None:
        require(
            is_local(as_path(output)) and as_path(output).absolute().parent.is_dir(),
            f"--per-document is '{output}', whose folder is not there; make it, or name another",
        )
    console = make_console()
    experiment, store = _prepared(experiment, directory, console)

    from jaxdenoise.data.baselines import MAX_TOKENS, fit_baselines
    from jaxdenoise.training.answers import answer_held_out
    from jaxdenoise.training.documents import document_losses
    from jaxdenoise.training.setup import build

    setup = build(experiment, store)
    params = _params(setup, directory)
    if output is not None:
        count = _write_lines(output, document_losses(setup, params))
        console.print(f"{count:,} held-out documents: {output}", soft_wrap=True)
        return 0
    evaluator = setup.evaluator()
    models = fit_baselines(store.sample(MAX_TOKENS), store.tokenizer.vocab.size)
    held_out = evaluator(params)
    console.print(results_table({"baselines": evaluator.baselines(models), "held_out": held_out}))
    if experiment.data.pairs:
        console.print(scores_table(answer_held_out(setup, params)["scores"]))
    return 0


def _changed(trained: Experiment, changes: dict[str, Any], directory: RunDirectory) -> Experiment:
    """The run's experiment with what is asked otherwise; other text has the run's tokenizer."""
    for name in changes:
        if not name.startswith(MAY_CHANGE):
            raise UserError(
                f"--{name} cannot be another than the run's; what can: "
                + ", ".join(f"{field}*" if field.endswith(".") else field for field in MAY_CHANGE)
            )
    require(
        "data.tokenizer" not in changes,
        "--data.tokenizer cannot be another than the run's; leave it out",
    )
    data, others = trained.data, any(name.startswith("data.") for name in changes)
    if others or data.tokenizer is not None:  # the file that was given may be gone
        data = dataclasses.replace(data, tokenizer=str(directory.tokenizer))
    if others:
        data = dataclasses.replace(data, train_tokens=None)
    trained = dataclasses.replace(trained, data=data)
    if "imported" in directory.saved()["store"]:
        trained = started_from(trained, str(directory.path))
    return override(trained, changes)


def _params(setup: Setup, directory: RunDirectory) -> Params:
    """Where the setup's devices have them."""
    from jaxdenoise.training.run import final_params
    from jaxdenoise.training.weights import check_trained, initial_state

    if setup.experiment.training.init_from == str(directory.path):  # imported: no optimizer's state
        return initial_state(setup).params
    check_trained(directory)
    return final_params(setup, directory)


def _prepared(
    experiment: Experiment, directory: RunDirectory, console: Console
) -> tuple[Experiment, TokenStore]:
    """The tokens, made by the run's own tokenizer, also where its corpus has changed since."""
    store, file = prepare(experiment.data, console=console), directory.tokenizer
    if store.tokenizer.to_json() != read_tokenizer(file).to_json():
        data = dataclasses.replace(experiment.data, tokenizer=str(file))
        experiment = dataclasses.replace(experiment, data=data)
        store = prepare(data, console=console)
    return experiment, store


def _write_lines(output: str, records: Iterable[dict[str, Any]]) -> int:
    lines = [json.dumps(record) + "\n" for record in records]
    write_whole(as_path(output), "".join(lines).encode())
    return len(lines)
