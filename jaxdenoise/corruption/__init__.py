"""Corruption: lengths, masks, rewrite, and restore, the way back.

`lengths` is host arithmetic; `masks` say where and take a key; `rewrite` says what and takes none.
The submodules load when first used, so that checking a configuration does not import JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "characters",
        "checks",
        "examples",
        "lengths",
        "masks",
        "pack",
        "rates",
        "reorder",
        "restore",
        "rewrite",
        "spans",
        "sums",
        "times",
    ],
)
