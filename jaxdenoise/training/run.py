"""A whole run: claim a directory, resume or begin, train, evaluate, leave what a report needs."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxdenoise.arrays import Params
from jaxdenoise.data.baselines import MAX_TOKENS, fit_baselines
from jaxdenoise.data.rows import Batches
from jaxdenoise.experiment import to_dict
from jaxdenoise.paths import write_whole
from jaxdenoise.training import processes, samples
from jaxdenoise.training.answers import answer_held_out
from jaxdenoise.training.bad_steps import BadSteps
from jaxdenoise.training.checkpoint import Checkpoints, set_damaged_aside
from jaxdenoise.training.evaluation import Evaluator, gap_closed
from jaxdenoise.training.fingerprint import compare_fingerprints, take_fingerprint
from jaxdenoise.training.loggers import opened
from jaxdenoise.training.loop import Clock, run_steps
from jaxdenoise.training.metrics_file import MetricsFile
from jaxdenoise.training.run_directory import RunDirectory, read_json, write_json
from jaxdenoise.training.setup import Setup
from jaxdenoise.training.weights import initial_state

SENTENCES = 5
GALLERY_ROWS = 12


def train(
    setup: Setup,
    name: str,
    run: RunDirectory,
    console: Console,
    *,
    profile: range | None = None,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains an experiment in its directory; continues a run that was stopped.

    Of several processes all come here, and the first one writes.

    Args:
      setup: from `build`.
      name: of the experiment.
      run: where its files go.
      console: for progress.
      profile: steps whose trace is written into the run's directory.
      log: names of loggers that show the rows of metrics.jsonl too.

    Returns:
      What results.json holds, in the first process. A finished run is not trained again.

    Raises:
      UserError: the directory belongs to another configuration, its data have changed, another
        program is training in it, or a step could not be applied.
      Interrupted: a signal stopped the run; a checkpoint is saved.
    """
    processes.first_alone(lambda: run.claim(name, setup.experiment, setup.store.manifest))
    with contextlib.ExitStack() as held:
        processes.first_alone(lambda: held.enter_context(run.locked()))
        if processes.as_first_says(run.results.exists()):
            return read_json(run.results)
        return _train(setup, run, console, profile, log)


def _train(
    setup: Setup, run: RunDirectory, console: Console, profile: range | None, log: Sequence[str]
) -> dict[str, Any]:
    """What is left of the steps, and what is made of the last ones."""
    if processes.first():
        write_whole(run.tokenizer, setup.store.tokenizer.to_json().encode())
    if not isinstance(setup.batches, Batches) and setup.packing is not None:
        filled = zip(("encoder", "decoder"), setup.batches.filled, strict=True)
        shares = " and ".join(f"{share:.1%} of the {stack}" for stack, share in filled if share)
        console.print(f"packed rows: {shares} in use", highlight=False)
    training, evaluator = setup.experiment.training, setup.evaluator()
    look = (run.checkpoints, run.damaged, console)
    processes.first_alone(lambda: set_damaged_aside(*look))
    checkpoints = Checkpoints(run.checkpoints, training.keep_checkpoints)
    try:
        start = checkpoints.latest() or 0
        processes.agree({f"the newest checkpoint in {run.path}": start})
        if not start:
            state = initial_state(setup)
        else:
            saved = checkpoints.fingerprint(start)  # by all: Orbax has them wait for each other

            def compare() -> None:
                mine = take_fingerprint(setup.batches, evaluator.corrupted, start)
                compare_fingerprints(saved, mine, run.path, start, console)

            processes.first_alone(compare)
            state = checkpoints.restore(setup.layout(), start)
            console.print(f"continuing {run.path} from step {start}", highlight=False)
        asked = log if processes.first() else ()
        with opened(asked, run.path, to_dict(setup.experiment), start, console) as loggers:
            metrics = MetricsFile(run.metrics, start, writes=processes.first(), loggers=loggers)
            clock = Clock()
            if start < training.steps:
                state, clock = run_steps(
                    setup,
                    checkpoints,
                    metrics,
                    evaluator,
                    BadSteps(setup, run, start, console),
                    console,
                    start=start,
                    state=state,
                    profile=(profile if processes.first() else None, run.profile),
                )
        with console.status("evaluating"):
            return _finish(setup, run, evaluator, state.params, clock)
    finally:
        checkpoints.close()


def final_params(setup: Setup, run: RunDirectory) -> Params:
    """The parameters of a run's newest checkpoint, where its backend has them."""
    checkpoints = Checkpoints(run.checkpoints)
    try:
        return checkpoints.restore(setup.layout()).params
    finally:
        checkpoints.close()


def _finish(
    setup: Setup, run: RunDirectory, evaluator: Evaluator, params: Params, clock: Clock
) -> dict[str, Any]:
    tokenizer, held_out = setup.store.tokenizer, setup.store.tokens("held_out")
    final, sentences = evaluator(params), []
    pairs = setup.experiment.data.pairs
    if setup.model.config.architecture == "encoder_decoder" and not pairs:
        sentences = samples.find_sentences(held_out, tokenizer, SENTENCES, setup.raw_length)
    rows = setup.held_out_alone(GALLERY_ROWS)
    parts = (setup.evaluation, setup.model, params, tokenizer)
    shown = samples.gallery(*parts, rows)
    filled = samples.fill_held_out_sentences(*parts, sentences) if sentences else []
    answered = answer_held_out(setup, params) if pairs else {}
    if not processes.first():
        return {}
    models = fit_baselines(setup.store.sample(MAX_TOKENS), tokenizer.vocab.size)
    baselines = evaluator.baselines(models)
    results = {
        "held_out": final,
        "baselines": baselines,
        "gap_closed": gap_closed(final, baselines),
        "sentences": filled,
        "parameters": int(sum(np.size(leaf) for leaf in jax.tree.leaves(params))),
        "steps": clock.steps,  # of this part of the run, whose seconds these are
        "seconds": {
            "total": clock.total,
            "compiling": clock.compiling,
            "stepping": clock.stepping,
        },
        "data_wait": clock.wait_share,
        "device": _device(),
        "versions": {
            "Python": platform.python_version(),
            **{name: metadata.version(name) for name in ("jax", "flax", "optax")},
        },
    }
    if answered:
        write_json(run.answers, answered.pop("answers"))
        results["scores"] = answered["scores"]
    write_json(run.gallery, shown)
    write_json(run.results, results)
    return results


def _device() -> str:
    kind = jax.devices()[0].device_kind
    cores = f", {os.cpu_count()} cores" if kind == "cpu" else ""
    return f"{jax.device_count()} × {kind}{cores}"
