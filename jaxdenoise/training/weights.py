"""Parameters of runs: restored, made a run of where they were imported, started from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdenoise.arrays import Params, TrainState
from jaxdenoise.errors import UserError, require
from jaxdenoise.experiment import Experiment, to_dict
from jaxdenoise.model.model import Model, build_model
from jaxdenoise.optim import build_optimizer
from jaxdenoise.paths import is_local
from jaxdenoise.tokenizer import Tokenizer, read_tokenizer
from jaxdenoise.training.checkpoint import Checkpoints
from jaxdenoise.training.run_directory import RunDirectory, open_run, write_json
from jaxdenoise.training.setup import Setup, state_shapes
from jaxdenoise.training.step import begin


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


def restore_params(run: RunDirectory, experiment: Experiment, model: Model) -> Params:
    """The parameters of a run's newest checkpoint, for using the model without its data.

    Raises:
      UserError: the run has no checkpoint yet.
    """
    tx = build_optimizer(experiment.optimizer, experiment.training.steps)
    spikes = experiment.training.spikes
    if origin(run) is not None:
        tx, spikes = optax.identity(), None
    shapes = state_shapes(model, tx, spikes)
    check_trained(run)
    checkpoints = Checkpoints(run.checkpoints)
    try:
        return checkpoints.restore(shapes).params
    finally:
        checkpoints.close()


def check_trained(run: RunDirectory) -> None:
    """Raises `UserError` if a run has no checkpoint yet."""
    none = f"{run.path} has no checkpoint yet; train it first, the same command continues it"
    require(run.checkpoints.is_dir(), none)
    checkpoints = Checkpoints(run.checkpoints)
    try:
        require(checkpoints.latest() is not None, none)
    finally:
        checkpoints.close()


def restore_model(run: RunDirectory, experiment: Experiment) -> tuple[Model, Params, Tokenizer]:
    """A run's model, its newest parameters, and its tokenizer as its file has it.

    Raises:
      UserError: the run has no checkpoint yet.
    """
    start = experiment.data.decoder_start
    tokenizer = read_tokenizer(run.tokenizer, separator=False, decoder_start=start)
    model = build_model(experiment.model, tokenizer.vocab)
    return model, restore_params(run, experiment, model), tokenizer


def initial_state(setup: Setup) -> TrainState:
    """The state that a run begins with: fresh, or from the parameters of `training.init_from`.

    Raises:
      UserError: the other run has another shape, or its tokenizer other ids.
    """
    address = setup.experiment.training.init_from
    if address is None:
        return setup.initial_state()
    source, _, experiment = open_run(address)
    _, params, tokenizer = restore_model(source, experiment)
    _check_ids(tokenizer, setup.store.tokenizer, address)
    layout = setup.layout()
    params = fitted(jax.device_get(params), layout.params, tokenizer.vocab.size, address)
    placed = jax.tree.map(_place, params, layout.params)

    def begin_there(params: Params) -> TrainState:
        return begin(params, setup.tx, setup.experiment.training.spikes)

    return jax.jit(begin_there, out_shardings=jax.tree.map(lambda x: x.sharding, layout))(placed)


def fitted(params: Params, shapes: Params, ids: int, address: str) -> Params:
    """The parameters with as many rows for ids as `shapes` has.

    Where these are as many as the run had, they stay as they are, those of no id too. Else the rows
    of its ids are kept, and all others are their mean.

    Args:
      params: of a run, NumPy arrays.
      shapes: of the same model, with its own number of rows.
      ids: of the run's tokenizer.
      address: of the run, for messages.

    Raises:
      UserError: another parameter that is missing, too much or of another shape.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".
    """
    known, wanted = _named(params), _named(shapes)
    for name in sorted(known.keys() ^ wanted.keys()):
        raise UserError(
            f"'{address}' {'has' if name in known else 'lacks'} {name}, other than the model; give "
            "the model's fields as that run has them"
        )
    made = {}
    for name, x in known.items():
        axis, shape = ID_AXES.get(name), wanted[name].shape
        if axis is not None and x.shape[axis] != shape[axis]:
            x = np.moveaxis(x, axis, 0)
            more = np.broadcast_to(x[:ids].mean(axis=0), (shape[axis] - ids, *x.shape[1:]))
            x = np.moveaxis(np.concatenate([x[:ids], more]), 0, axis)
        require(
            x.shape == shape,
            f"'{address}' has {name} of shape {list(x.shape)}, the model of {list(shape)}; give "
            "the model's fields as that run has them",
        )
        made[name] = x
    return jax.tree.unflatten(jax.tree.structure(shapes), [made[name] for name in wanted])


ID_AXES = {"embedding": 0, "decoder_embedding": 0, "projection": 1, "prediction_bias": 0}
"""Parameters with a number for each id, and along which axis."""


def _named(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _check_ids(known: Tokenizer, mine: Tokenizer, address: str) -> None:
    """Raises `UserError` unless all ids of one tokenizer mean the same in the other."""
    for token in range(known.vocab.size):
        same = token < mine.vocab.size and known.name(token) == mine.name(token)
        require(
            same,
            f"'{address}' knows id {token} as {known.name(token)!r}, and this run's tokenizer does "
            f"not; give --data.tokenizer {address}/tokenizer.json",
        )


def _place(x: np.ndarray, where: Any) -> jax.Array:
    """A parameter on the devices that hold parts of it."""
    return jax.make_array_from_callback(
        where.shape, where.sharding, lambda index: x[index].astype(where.dtype)
    )
