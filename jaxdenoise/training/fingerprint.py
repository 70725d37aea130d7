"""What a run's future depends on beside its configuration; resuming refuses if it has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxdenoise.arrays import Rows
from jaxdenoise.errors import require

PACKAGES = ("jaxdenoise", "jax")

Fingerprint = dict[str, Any]
"""{"batches": digest of two, "corruption": digest of held-out rows, "versions": by package}"""


def take_fingerprint(batches: Sequence[Rows], corrupted: Any, step: int) -> Fingerprint:
    """The fingerprint that is saved with the checkpoint of a step.

    Args:
      batches: of the run; `step` and the next are digested, those that exist.
      corrupted: the held-out rows under the run's objective.
      step: updates made.
    """
    following = [batches[k] for k in (step, step + 1) if k < len(batches)]
    return {
        "batches": digest(following),
        "corruption": digest(corrupted),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def compare_fingerprints(
    saved: Fingerprint, mine: Fingerprint, run: Path, step: int, console: Console
) -> None:
    """Refuses to continue with other data or another corruption; warns of another version.

    Raises:
      UserError: naming what differs.
    """
    changed = [
        f"{name} {saved['versions'].get(name)} → {version}"
        for name, version in mine["versions"].items()
        if saved["versions"].get(name) != version
    ]
    versions = f" ({', '.join(changed)})" if changed else ""
    meanings = {
        "batches": f"batches {step} and {step + 1} are not those it would have had",
        "corruption": "its objective corrupts the held-out rows differently now",
    }
    for name, meaning in meanings.items():
        require(
            saved[name] == mine[name],
            f"{run} cannot be continued from step {step}: {meaning}{versions}; go back to the "
            "code and data that it was started with, or choose another --run-dir",
        )
    if changed:
        console.print(f"continuing with other versions{versions}", style="yellow")


def digest(tree: Any) -> str:
    """Sixteen hexadecimal digits of every array in a PyTree, its dtype and shape."""
    found = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        found.update(f"{leaf.dtype.str}{leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]
