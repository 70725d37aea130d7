"""Checkpoints of the train state, by Orbax, behind a few verbs, with checksums of our own."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from rich.console import Console

from jaxdenoise import paths
from jaxdenoise.arrays import TrainState
from jaxdenoise.errors import UserError, require
from jaxdenoise.training import processes
from jaxdenoise.training.manifest import fault, has_manifest, write_manifest
from jaxdenoise.training.parallel import first_device

POLL = 0.05  # seconds between looks whether a checkpoint is complete
PATIENCE = 600.0  # seconds that other processes wait for the first one's manifest


class Checkpoints:
    """The checkpoints of one run, numbered by step, saved in the background.

    Args:
      directory: where they are; created if it is not there.
      keep: the latest so many stay.
    """

    def __init__(self, directory: Path, keep: int = 3):
        policy = ocp.checkpoint_managers.LatestN(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, create=True)
        self._local = paths.is_local(directory)
        place = directory.absolute() if self._local else str(directory)
        self._manager = ocp.CheckpointManager(place, options=options)
        self._sealing: threading.Thread | None = None
        self._over = threading.Event()

    def latest(self) -> int | None:
        """The newest step, None before the first save."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All steps that are kept."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, step: int, fingerprint: dict[str, Any]) -> None:
        """Starts saving; the state is copied before this returns, the files are written later.

        Of several processes, each writes what it holds, and the first one the manifest.
        """
        if step != self.latest():
            named = _as_dict(state)
            about = {"sum": int(_checksum(named)), "fingerprint": fingerprint}
            self._sealed()
            both = {"state": ocp.args.StandardSave(named), "about": ocp.args.JsonSave(about)}
            self._manager.save(step, args=ocp.args.Composite(**both))
            if self._local:
                self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
                self._sealing.start()

    def _seal(self, step: int) -> None:
        """Waits until Orbax has given a checkpoint its name, and writes its manifest.

        The other processes wait until the first has: it reads what all of them have written, and
        who leaves earlier would end the run for it.
        """
        folder = Path(self._place(step))
        while not folder.is_dir():
            if self._over.wait(POLL) and not folder.is_dir():
                return  # it could not be saved
        if processes.first():
            with contextlib.suppress(OSError):  # a full disk: it stays without
                write_manifest(folder)
            return
        end = time.monotonic() + PATIENCE
        while not has_manifest(folder) and time.monotonic() < end:
            time.sleep(POLL)

    def _sealed(self) -> None:
        """Waits for the manifest of the last save."""
        if self._sealing is not None:
            self._manager.wait_until_finished()
            self._over.set()
            self._sealing.join()
            self._over.clear()
            self._sealing = None

    def fault(self, step: int | None) -> str | None:
        """What is wrong with the files of a step, by their manifest; None if nothing is known."""
        return fault(Path(self._place(step))) if self._local else None

    def fingerprint(self, step: int) -> dict[str, Any]:
        """What was saved with a step."""
        return self._about(step)["fingerprint"]

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Reads a step (the latest by default) into arrays of the shapes and dtypes of `like`.

        They come to where `like` says, or to this process' first device, whatever device wrote
        them.

        Raises:
          UserError: what is on disk is not what was saved.
        """
        step = self.latest() if step is None else step
        named = _as_dict(like)
        shapes = {name: _where(leaf) for name, leaf in named.items()}
        restored = self._read(step, state=ocp.args.StandardRestore(shapes))
        about = self._about(step)
        require(
            "checksum" not in about,
            f"checkpoint {self._place(step)} is of an older version, with another checksum; start "
            "anew in another --run-dir, or go on with that version",
        )
        if int(_checksum(restored)) != about.get("sum"):
            raise self._damaged(step)
        leaves = [restored[name] for name in named]  # the state's order; a PyTree's is the names'
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _about(self, step: int | None) -> dict[str, Any]:
        return self._read(step, about=ocp.args.JsonRestore())

    def _read(self, step: int | None, **item: Any) -> Any:
        """Reads one item of a step."""
        [name] = item
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**item))[name]
        except Exception as error:  # missing, cut, not JSON: Orbax has no one type for it
            if not self._local:  # it may be there, and the way to it not
                raise UserError(
                    f"checkpoint {self._place(step)} cannot be read: {error}"
                ) from error
            raise self._damaged(step) from error

    def _damaged(self, step: int | None) -> UserError:
        found = self.fault(step)
        return UserError(
            f"checkpoint {self._place(step)} is damaged{f': {found}' if found else ''}; delete it "
            "to go on from the one before"
        )

    def _place(self, step: int | None) -> Any:
        return self._manager.directory / str(step)

    def close(self) -> None:
        """Waits until everything is on disk."""
        try:
            self._manager.wait_until_finished()
            self._sealed()
        finally:
            self._over.set()
            self._manager.close()


def set_damaged_aside(directory: Path, aside: Path, console: Console) -> None:
    """Moves checkpoints that are not what was saved out of the way, from the newest to an intact.

    One without a manifest is none where another has one: a program was killed before it was
    complete. Those of stores of objects stay: there every file has a checksum already.

    Args:
      directory: of a run's checkpoints.
      aside: where they go.
      console: says which, and why.

    Raises:
      UserError: none is intact; nothing is moved then.
    """
    if not paths.is_local(directory) or not directory.is_dir():
        return
    steps = sorted((int(p.name) for p in directory.iterdir() if p.name.isdecimal()), reverse=True)
    folders, faults = [directory / str(step) for step in steps], {}
    manifests = any(map(has_manifest, folders))
    for folder in folders:
        found = fault(folder) if has_manifest(folder) or not manifests else "it has no manifest"
        if found is None:
            break
        faults[folder] = found
    else:
        listed = "; ".join(f"{folder.name}: {found}" for folder, found in faults.items())
        require(
            not folders,
            f"no checkpoint in {directory} is what was saved ({listed}); bring them back from a "
            "copy, or delete the run to begin anew",
        )
    for folder, found in faults.items():
        aside.mkdir(exist_ok=True)
        free = (aside / f"{folder.name}{f'-{n}' if n else ''}" for n in itertools.count())
        place = next(path for path in free if not path.exists())
        folder.rename(place)
        text = f"checkpoint {folder} is damaged: {found}; it is in {place} now"
        console.print(text, style="yellow", soft_wrap=True, markup=False)


def _as_dict(state: TrainState) -> dict[str, Any]:
    """The state's leaves under their paths: files name what they hold, whatever Optax nests."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def _where(leaf: Any) -> jax.ShapeDtypeStruct:
    place = getattr(leaf, "sharding", None) or first_device()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


@jax.jit
def _checksum(named: dict[str, jax.Array]) -> jax.Array:
    """UInt32[]: every word of every leaf times an odd number of its place, summed modulo 2³².

    Whatever devices hold the parts, the sum is the same, and a word that differs changes it: a
    flipped bit on disk is not trained on.
    """
    total = jnp.uint32(0)
    for number, name in enumerate(sorted(named)):
        words = _words(named[name])
        place = jnp.uint32(number)
        for axis in range(words.ndim):
            along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            place = place * jnp.uint32(0x01000193) + along
        factor = place * jnp.uint32(0x9E3779B2) | jnp.uint32(1)
        total += jnp.sum(words * factor, dtype=jnp.uint32)
    return total


def _words(x: jax.Array) -> jax.Array:
    """The bits of an array, as UInt32."""
    bits = 8 * x.dtype.itemsize
    if x.dtype == jnp.bool_ or bits < 32:
        kind = jnp.uint8 if x.dtype == jnp.bool_ else jnp.dtype(f"uint{bits}")
        x = x.astype(kind) if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, kind)
        return x.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint32)
