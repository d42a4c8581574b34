"""The processor of this machine, and the versions of the installed packages."""

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Flag in CPUINFO -> what a person calls it: the first of these that is there says most.
_VECTORS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 and bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimd": "Neon",
}


def cpu_count() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def processor_lines() -> tuple[str, ...]:
    """The lines of ``/proc/cpuinfo`` that name the processor and what it can; none elsewhere."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))


def processor_features() -> frozenset[str]:
    """The instruction sets that the processor has, in Linux's words; none where it isn't Linux.

    Example:
      >>> isinstance(processor_features(), frozenset)
      True
    """
    flags = [x.partition(":")[2] for x in processor_lines() if not x.startswith("model name")]
    return frozenset(" ".join(flags).split())


def processor_name() -> str:
    """The processor's name and its vectors: machines of one name differ in them, and in speed.

    Example:
      >>> isinstance(processor_name(), str)
      True
    """
    names = [x.partition(":")[2].strip() for x in processor_lines() if x.startswith("model name")]
    # platform.processor() is empty or just "x86_64" on most Linux systems.
    name = names[0] if names else platform.processor() or platform.machine()
    vectors = [word for flag, word in _VECTORS.items() if flag in processor_features()]
    return f"{name} ({vectors[0]})" if vectors else name


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
