"""Randomness by identity: a key is made of what it is for, never carried through a loop.

    key = fold_in(fold_in(stream("corruption", seed), epoch), example_id)

So an example is corrupted alike whatever its batch, its device, or the step a run was resumed at,
and changing one field of an experiment leaves every other stream as it was.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

GOLDEN = 2654435769
"""2^32 / φ: multiples of it, cut to 32 bits, are spread as evenly as can be."""


def stream(name: str, seed: ArrayLike = 0) -> jax.Array:
    """The root key of a named stream; names are told apart by crc32, the same on every machine.

    Example:
      >>> bool((jax.random.key_data(stream("dropout")) == jax.random.key_data(
      ...     stream("corruption"))).all())
      False
    """
    # The implementation is named: values must not follow the user's `jax_default_prng_impl`.
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(root, zlib.crc32(name.encode()))


def example_key(root: jax.Array, epoch: ArrayLike, example_id: ArrayLike) -> jax.Array:
    """The key of one example in one epoch of a stream; vmap it over a batch."""
    return jax.random.fold_in(jax.random.fold_in(root, epoch), example_id)


def to_uniform(bits: jax.Array) -> jax.Array:
    """Uint32 as float32 in [0, 1), by its upper 24 bits."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def host_seed(name: str, *parts: int) -> int:
    """A 32-bit seed for host-side shuffling, from a name and integers.

    Example:
      >>> host_seed("rows", 0, 1) != host_seed("rows", 1, 0)
      True
    """
    return zlib.crc32(":".join([name, *map(str, parts)]).encode())
