"""Checkpoints of the train state, by Orbax, behind five verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxdenoise.arrays import TrainState


class Checkpoints:
    """The checkpoints of one run, numbered by step, saved in the background.

    Args:
      directory: where they are; created with the first save.
      keep: the latest so many stay.
    """

    def __init__(self, directory: Path, keep: int = 3):
        policy = ocp.checkpoint_managers.LatestN(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest(self) -> int | None:
        """The newest step, None before the first save."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, fingerprint: dict[str, Any]) -> None:
        """Starts saving; the state is copied before this returns, the files are written later."""
        if step != self.latest():
            both = {
                "state": ocp.args.StandardSave(_as_dict(state)),
                "fingerprint": ocp.args.JsonSave(fingerprint),
            }
            self._manager.save(step, args=ocp.args.Composite(**both))

    def fingerprint(self, step: int) -> dict[str, Any]:
        """What was saved with a step."""
        wanted = ocp.args.Composite(fingerprint=ocp.args.JsonRestore())
        return self._manager.restore(step, args=wanted)["fingerprint"]

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Reads a step (the latest by default) into arrays of the shapes and dtypes of `like`."""
        step = self.latest() if step is None else step
        named = _as_dict(like)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, named)
        wanted = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        restored = self._manager.restore(step, args=wanted)["state"]
        leaves = [restored[name] for name in named]  # the state's order; a PyTree's is the names'
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _as_dict(state: TrainState) -> dict[str, Any]:
    """The state's leaves under their paths: files name what they hold, whatever Optax nests."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}
