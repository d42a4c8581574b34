"""Which cores each of several processes has."""

import os
from collections.abc import Collection

from digits_jax.errors import ConfigError
from digits_jax.hardware import cpu_count

_PINS = hasattr(os, "sched_setaffinity")


def shares(jobs: int) -> list[list[int]]:
    """The cores of each job: all of this process's are used, none twice.

    Raises:
      ConfigError: more jobs than cores, or none.

    Example:
      >>> shares(1) == [list(range(cpu_count()))] or "this process may not use all cores"
      True
    """
    count = cpu_count()
    cores = sorted(os.sched_getaffinity(0)) if _PINS else range(count)
    if not 1 <= jobs <= count:
        raise ConfigError(f"--jobs={jobs}: give 1 to {count}, the cores that there are")
    return [list(cores[first::jobs]) for first in range(jobs)]


def pin(process: int, cores: Collection[int]) -> None:
    """Leaves a process these cores, where the system can."""
    if _PINS:
        os.sched_setaffinity(process, cores)
