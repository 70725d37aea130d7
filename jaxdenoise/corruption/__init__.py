"""Corruption: lengths (host arithmetic), masks (where, takes a key), rewrite (what, takes none),
and restore, the way back.

The submodules load when first used, so that checking a configuration does not import JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["lengths", "masks", "restore", "rewrite"]
)
