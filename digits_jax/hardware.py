"""This machine: its processor and cores, compiled code that is kept, memory, package versions."""

import atexit
import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
from functools import cache
from pathlib import Path, PurePosixPath

from digits_jax.errors import ConfigError

# JAX takes them from the environment, and a seed's random numbers depend on them.
JAX_SETTINGS = ("jax_enable_x64", "jax_threefry_partitionable", "jax_random_seed_offset")
CPUINFO = Path("/proc/cpuinfo")
_SUMS = "sums.json"
_caches: list[Path] = []  # of compiled code, in use
CGROUPS, CGROUP_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Flag in CPUINFO -> what a person calls it: the first of these that is there says most.
_VECTORS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 and bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimd": "Neon",
}


def cpu_count() -> int:
    """Returns how many CPU cores this process may use: its affinity, its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, cpu_quota())))


def cpu_quota() -> float:
    """Returns the CPU time per second that Linux's control groups allow; infinite without a limit.

    The group and those above it are asked, of version 2 (``cpu.max``: quota and period) and of
    version 1; in a container, groups above its own can't be seen.
    """
    quotas = [math.inf]
    with contextlib.suppress(OSError):
        for line in CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)  # of version 2 there are no controllers
            if not controllers or "cpu" in controllers.split(","):
                group = PurePosixPath(name)
                for path in (group, *group.parents):
                    for top in (CGROUP_ROOT / controllers, CGROUP_ROOT / "cpu"):
                        quotas.append(_read_quota(top / path.relative_to("/")))
    return min(quotas)


def _read_quota(folder: Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max" isn't a number
        if (file := folder / "cpu.max").exists():
            quota, period = map(int, file.read_text().split())
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int((folder / name).read_text()) for name in names)
        if quota > 0:  # -1: no limit
            return quota / period
    return math.inf


@cache
def processor_lines() -> tuple[str, ...]:
    """Reads the processor's name and features in ``/proc/cpuinfo``; empty without that file."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))


def processor_features() -> frozenset[str]:
    """Returns the processor's instruction sets as Linux names them; empty on other systems."""
    flags = [x.partition(":")[2] for x in processor_lines() if not x.startswith("model name")]
    return frozenset(" ".join(flags).split())


def processor_name() -> str:
    """Returns the processor's name and vectors, in which processors of one name may differ."""
    names = [x.partition(":")[2].strip() for x in processor_lines() if x.startswith("model name")]
    # platform.processor() is empty or just "x86_64" on most Linux systems.
    name = names[0] if names else platform.processor() or platform.machine()
    vectors = [word for flag, word in _VECTORS.items() if flag in processor_features()]
    return f"{name} ({vectors[0]})" if vectors else name


def version_of(package: str) -> str | None:
    """Returns an installed package's version; None if it is only on the path, as a checkout is.

    Examples:
      >>> version_of("no-such-package") is None
      True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_backend() -> None:
    """Starts JAX's backend, before anything is read.

    Raises:
      ConfigError: ``JAX_PLATFORMS`` names a platform that JAX doesn't find.
    """
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the latter for cuda without its plugin
        name = "JAX_PLATFORMS" if os.environ.get("JAX_PLATFORMS") else "JAX_PLATFORM_NAME"
        if not os.environ.get(name):
            raise
        raise ConfigError(
            f"{name}={os.environ[name]}: JAX finds no such platform here; unset it, or set it "
            "to cpu"
        ) from error


def use_compilation_cache() -> None:
    """Makes JAX keep what XLA compiles in `compilation_cache`, for the next start of a program.

    ``JAX_COMPILATION_CACHE_DIR``, where it is set, is left to JAX.
    """
    path = compilation_cache()
    if path is None or os.environ.get("JAX_COMPILATION_CACHE_DIR") is not None:
        return
    drop_damaged_entries(Path(path))
    _caches.append(Path(path))
    atexit.register(record_compilation_cache)  # `cli.leave` calls it, too
    import jax

    jax.config.update("jax_compilation_cache_dir", path)
    # Everything, however quickly compiled: the many small functions add up.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compilation_cache() -> str | None:
    """Returns this user's folder for what XLA compiles, made where it isn't there.

    It is named after the jaxlib and the processor: code compiled for one may crash on another.

    Returns:
      ``JAX_COMPILATION_CACHE_DIR`` where that is set; None without a folder to write to.
    """
    if (path := os.environ.get("JAX_COMPILATION_CACHE_DIR")) is not None:
        return path or None
    root = user_cache()
    if root is None:
        return None
    processor = "".join(processor_lines()) or platform.processor() + platform.machine()
    key = hashlib.sha256(processor.encode()).hexdigest()[:12]
    path = str(root / f"xla-{version_of('jaxlib')}-{key}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK) else None


@cache
def user_cache() -> Path | None:
    """Returns this user's folder for what can be made again; None, said once, without a home."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(root):  # "~" stays as it is where neither HOME nor the user is known
        print(
            "warning: this user has no home folder, so nothing is cached; set XDG_CACHE_HOME",
            file=sys.stderr,
        )
        return None
    return Path(root) / "digits_jax"


def drop_damaged_entries(path: Path) -> None:
    """Removes entries without the sum that `record_compilation_cache` wrote of them.

    JAX never replaces a damaged entry, but warns of it at each start. Where zstandard is installed
    it loads the entry without a checksum: that crashed 3 of 25 starts. 200 entries took 15 ms.
    """
    sums = _read_sums(path)
    with contextlib.suppress(OSError):
        for entry in _entries(path):
            regular = entry.is_file() and not entry.is_symlink()
            if not regular or sums.get(entry.name) != _sha256(entry):
                entry.unlink(missing_ok=True)


def record_compilation_cache() -> None:
    """Writes the SHA-256 sums of the entries of the compilation cache that is in use, if any."""
    for path in _caches:
        sums = _read_sums(path)
        with contextlib.suppress(OSError):
            new = {e.name: sums.get(e.name) or _sha256(e) for e in _entries(path) if e.is_file()}
            if new != sums:
                aside = path / f"{_SUMS}.{os.getpid()}-{os.urandom(4).hex()}"
                aside.write_text(json.dumps(new))
                aside.replace(path / _SUMS)


def _entries(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.name.endswith("-cache")]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_sums(path: Path) -> dict[str, str]:
    try:
        sums = json.loads((path / _SUMS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return sums if isinstance(sums, dict) else {}


# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Makes the C library keep what is freed, for the next step, instead of giving it back.

    A step's buffers are allocated together. From 32 MiB on, glibc asks the system for new pages at
    each step and gives them back after it; touching 10,000 new pages took as long as the step.
    For a program, not for a library: it changes the whole process. Call it before JAX's backend
    starts: its threads' arenas, once there, stay, and what doesn't fit into their 64 MiB is
    requested from the system at each step.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        # The arenas of threads other than the first can't hold more than 64 MiB in one piece.
        mallopt(_M_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Gives the system what compilation used and freed, 100 MB and more, before training grows."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
