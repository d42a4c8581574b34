"""Packages that only some formats need."""

import importlib
from types import ModuleType

from digits_jax.errors import DataError


def need(name: str) -> ModuleType:
    """Imports a module of the extra "export".

    Raises:
      DataError: it isn't installed.

    Example:
      >>> need("no_such_package.module")
      Traceback (most recent call last):
      digits_jax.errors.DataError: this format needs no_such_package; install it with pip ...
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"this format needs {name.partition('.')[0]}; install it with "
            'pip install "digits_jax[export]"'
        ) from None
