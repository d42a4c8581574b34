"""Folders of data sets: decoded arrays, cached; made aside and renamed into place.

A cache is a folder of ``.npy`` files and a ``manifest.json`` with their sizes, times, the
SHA-256 of the whole and that of its own values. It is written aside and renamed; whatever is
wrong with it, it is as if it were not there. Decoded arrays are opened by memory map: the second
start reads nothing.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from digits_jax.errors import DataError

FORMAT = 1
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 1_000_000


def sha256_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 over dtype, shape and bytes of every array, in the mapping's order.

    Args:
      arrays: arrays of any shape; names don't enter.

    Returns:
      64 hexadecimal digits.

    Example:
      >>> sha256_of_arrays({"a": np.zeros(3, np.uint8)})[:16]
      '7fa684a32470423a'
    """
    total = hashlib.sha256()
    for array in arrays.values():
        # Little-endian whatever the machine: the sum names the data, not the computer.
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        total.update(f"{plain.dtype.str}{list(plain.shape)}".encode())
        total.update(plain.reshape(-1).view(np.uint8))
    return total.hexdigest()


def read_cache(folder: Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """Opens a cache without reading its arrays.

    Sizes and modification times must be those of the manifest. Where only the times differ
    (the folder was copied), the SHA-256 decides.

    Args:
      folder: the cache's folder; needs not exist.

    Returns:
      The arrays (read-only memory maps) by name and the facts given to :func:`write_cache`
      with ``sha256`` added; None where the cache is absent, damaged or of another format.
    """
    try:
        # Python's older headers make NumPy warn; a damaged one may look like it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _read_cache(folder)
    except Exception:  # NumPy's, json's and tokenize's errors, by what is damaged
        return None
    if found is None:
        return None
    arrays, manifest, touched = found
    facts = dict(manifest["facts"], sha256=manifest["sha256"])
    if touched:
        with contextlib.suppress(OSError):
            _write_manifest(folder, arrays, manifest["facts"], facts["sha256"])
    return arrays, facts


def _read_cache(folder):
    path = folder / _MANIFEST
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        return None
    manifest = json.loads(path.read_text())
    if manifest["format"] != FORMAT or manifest["check"] != _sum_of(manifest):
        return None
    touched = False
    arrays = {}
    for name, (size, modified) in manifest["files"].items():
        path = folder / f"{name}.npy"
        status = path.stat()
        if status.st_size != size:
            return None
        touched |= status.st_mtime_ns != modified
        arrays[name] = np.lib.format.open_memmap(path, mode="r")
    if touched and sha256_of_arrays(arrays) != manifest["sha256"]:
        return None
    return arrays, manifest, touched


def _sum_of(manifest):
    """The SHA-256 of a manifest's values, its own sum left out."""
    plain = {name: value for name, value in manifest.items() if name != "check"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_cache(folder: Path, arrays: Mapping[str, np.ndarray], facts: dict, sha256: str) -> None:
    """Writes a cache aside and renames it into place.

    Args:
      folder: the cache's folder; a damaged one is replaced, a good one is kept.
      arrays: what to keep, by name.
      facts: JSON values to give back.
      sha256: of the arrays.

    Raises:
      OSError: it can't be written; whatever was there is unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent) as scratch:
        fresh = scratch / folder.name
        fresh.mkdir()
        for name, array in arrays.items():
            with (fresh / f"{name}.npy").open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
        _write_manifest(fresh, arrays, facts, sha256)

        def is_good() -> bool:
            kept, known = read_cache(folder) or ({}, {})
            same = kept.keys() == arrays.keys() and known.keys() == {*facts, "sha256"}
            return same and known["sha256"] == sha256

        install_folder(fresh, folder, is_good)


def _write_manifest(folder: Path, names: Mapping[str, object], facts: dict, sha256: str) -> None:
    status = {name: (folder / f"{name}.npy").stat() for name in names}
    content = {
        "format": FORMAT,
        "sha256": sha256,
        "facts": facts,
        "files": {name: [s.st_size, s.st_mtime_ns] for name, s in status.items()},
    }
    content["check"] = _sum_of(content)
    aside = folder / f".{_MANIFEST}-{secrets.token_hex(4)}"
    try:
        aside.write_text(json.dumps(content, indent=1))
        aside.replace(folder / _MANIFEST)
    finally:
        aside.unlink(missing_ok=True)


def install_folder(fresh: Path, target: Path, is_good: Callable[[], bool]) -> None:
    """Renames a folder into place, where another process may do the same just now.

    Args:
      fresh: the complete folder, on the same file system, in a folder that is deleted later.
      target: where it should be.
      is_good: whether what lies at ``target`` can be used.

    Raises:
      OSError: it can't be renamed, for another reason than that a good one is there.
    """
    for _ in range(3):
        if is_good():
            return
        # A folder can't be renamed onto a full one: a damaged one is moved out first.
        with contextlib.suppress(FileNotFoundError):
            target.rename(fresh.with_name(f"{fresh.name}-replaced-{secrets.token_hex(4)}"))
        try:
            fresh.rename(target)
            return
        except OSError:
            # Someone was quicker between the two renames: look at theirs.
            if not target.exists():
                raise
    raise OSError(f"{target} is replaced again and again by another process")


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder of one's own beside the target, removed afterwards.

    Not from ``tempfile``: its folders are closed to other users, and are renamed so.

    Args:
      parent: an existing folder.

    Yields:
      The new folder.

    Raises:
      OSError: ``parent`` can't be written.
    """
    folder = parent / f".digits_jax-{os.getpid()}-{secrets.token_hex(4)}"

    def remove():
        shutil.rmtree(folder, ignore_errors=True)

    folder.mkdir()
    try:
        with _first_on_signals(remove):
            yield folder
    finally:
        remove()


@contextlib.contextmanager
def _first_on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Calls ``act`` before SIGINT or SIGTERM does what it did: no ``finally`` may come to run."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone.
        return
    previous = {}

    def handle(number, _frame):
        act()
        signal.signal(number, previous[number])
        signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle) or signal.SIG_DFL
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_writable(folder: Path) -> bool:
    """Whether something may be made in ``folder``.

    By trying, for permission bits don't tell all; but a folder that nobody may write is left
    alone, also by root, whom the bits don't stop.
    """
    try:
        if folder.exists() and not folder.stat().st_mode & 0o222:
            return False
        with scratch_folder(folder):
            return True
    except OSError:
        return False


def require_folder(folder: str | os.PathLike, what: str) -> Path:
    """The absolute path of a folder that the user named.

    Args:
      folder: what was given.
      what: where it was given, for the message.

    Raises:
      DataError: it isn't there, isn't a folder, or may not be read.
    """
    path = Path(os.path.expanduser(folder)).absolute()
    state = "can't be read" if not os.access(path, os.R_OK | os.X_OK) else ""
    if not os.path.isdir(path):
        state = "is not a folder" if os.path.exists(path) else "does not exist"
    if state:
        raise DataError(
            f"{what} is {str(folder)!r}, which {state}; give a folder that is there "
            "(empty will do), or none for the default"
        )
    return path
