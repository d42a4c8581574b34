"""Handwritten-digit recognizers in JAX: train them, compare them, ship them.

The public names, listed in ``__init__.pyi``, are loaded on first use, so that importing the package
costs nothing.
"""

import os
import sys

# `python -m` imports modules of the current folder first, which may hold untrusted files.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and not __file__.startswith(os.path.join(sys.path[0], ""))  # the package itself may lie there
):
    del sys.path[0]

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from digits_jax.hardware import version_of

        return version_of("digits_jax")
    return _load(name)
