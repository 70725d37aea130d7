"""Norms and peaks by module, in the graph."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

SCANNED = "layers"  # under this name parameters have one more axis in front, the layer


def norms_by_module(tree: Any, relative_to: Any = None) -> dict[str, jax.Array]:
    """The norm of each module's leaves together; Float[layers] for scanned ones.

    Args:
      tree: gradients, updates or parameters.
      relative_to: a tree alike; the result is divided by its norms.
    """
    norms = {name: jnp.sqrt(square) for name, square in _squares(tree).items()}
    if relative_to is None:
        return norms
    base = norms_by_module(relative_to)
    return {name: norm / jnp.maximum(base[name], 1e-12) for name, norm in norms.items()}


def peaks_by_module(intermediates: Any) -> dict[str, jax.Array]:
    """The largest attention logit of each attention: Float[layers]."""
    flat = jax.tree_util.tree_flatten_with_path(intermediates)[0]
    return {_module(path[:-1]): peak for path, peak in flat}


def _squares(tree: Any) -> dict[str, jax.Array]:
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        scanned = any(getattr(entry, "key", None) == SCANNED for entry in path)
        axes = tuple(range(1 if scanned else 0, leaf.ndim))
        name = _module(path)
        squares[name] = squares.get(name, 0.0) + jnp.sum(leaf.astype(jnp.float32) ** 2, axis=axes)
    return squares


def _module(path: tuple) -> str:
    """encoder/layers/mlp/wi_0 → encoder.mlp; a lone parameter keeps its own name."""
    names = [str(getattr(entry, "key", entry)) for entry in path]
    modules = [name for name in names[:-1] if name != SCANNED]
    return ".".join(modules) or names[-1]
