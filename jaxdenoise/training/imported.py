"""Runs that were not trained here: a checkpoint of step 0, with parameters and no optimizer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax

from jaxdenoise.arrays import Params, TrainState
from jaxdenoise.errors import require
from jaxdenoise.experiment import Experiment, to_dict
from jaxdenoise.paths import is_local
from jaxdenoise.tokenizer import Tokenizer
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.run_directory import RunDirectory, write_json


def check_free(run: RunDirectory) -> None:
    """Raises `UserError` unless a run can be imported to this directory."""
    require(is_local(run.path), f"'{run.path}' is not of this machine; import to a local --run-dir")
    require("[" not in str(run.path.absolute()), f"'{run.path}' has a [ in it; choose another")
    require(not run.path.exists(), f"'{run.path}' is there already; choose another --run-dir")


def write_imported(
    run: RunDirectory,
    experiment: Experiment,
    params: Params,
    tokenizer: Tokenizer,
    about: dict[str, Any],
) -> None:
    """Writes a run whose parameters come from elsewhere, all of it or nothing.

    Args:
      run: where; nothing may be there.
      experiment: with the model's shape, and an objective of its architecture.
      params: of the model.
      tokenizer: whose ids the model knows.
      about: where it comes from, for config.json.

    Raises:
      UserError: the directory is there.
    """
    check_free(run)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{run.path.name}-", dir=run.path.parent) as folder:
        unfinished = RunDirectory(Path(folder) / "run")
        unfinished.path.mkdir()
        unfinished.tokenizer.write_text(tokenizer.to_json(), "utf-8")
        store = {"identity_digest": "imported", "imported": about}
        saved = {"name": "imported", "experiment": to_dict(experiment), "store": store}
        write_json(unfinished.config, saved)
        checkpoints = Checkpoints(unfinished.checkpoints)
        try:
            state = TrainState(
                step=jnp.zeros((), jnp.int32), params=params, opt_state=optax.identity().init({})
            )
            checkpoints.save(state, 0, {})
        finally:
            checkpoints.close()
        unfinished.path.rename(run.path)


def origin(run: RunDirectory) -> dict[str, Any] | None:
    """Where an imported run comes from; None for one that was trained here."""
    return run.saved()["store"].get("imported")
