"""The versions of packages."""

import importlib.metadata


def version_of(package: str) -> str | None:
    """An installed package's version; None of one that is merely on the path, as a checkout is.

    Example:
      >>> version_of("no-such-package") is None
      True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
