"""Denoising pre-training research in JAX: corruption and loss as pure functions.

    import jaxdenoise as jd

The public names are listed in `__init__.pyi`; each loads when first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
