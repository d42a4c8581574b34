"""Files that are written all or nothing, and files from any source that are read safely."""

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO

from digits_jax.errors import CheckpointError, shown

if TYPE_CHECKING:  # Importing NumPy takes a tenth of a second, and `--help` comes by here.
    import numpy as np

CACHE = "digits_jax_cache"  # a folder of ours beside a user's files
_NO_DATA = (CACHE, "__MACOSX", "Thumbs.db", "desktop.ini")
MAX_ARRAY_BYTES = 1_000_000_000  # of all arrays of an npz file together, unpacked
MAX_JSON_BYTES = 50_000_000
# Windows has no SIGHUP: a terminal or a connection that is closed.
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def replace_files(files: dict[Path, bytes | Callable[[BinaryIO], object]]) -> None:
    """Writes files, or calls what writes them; none takes its place before all are on the disk."""
    asides = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in files}
    try:
        for path, content in files.items():
            # "x": it isn't there, not even as a link.
            with naming(path), open(asides[path], "xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, aside in asides.items():
            os.replace(aside, path)
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes one file, as `replace_files` does."""
    replace_files({path: content})


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, all or nothing; NaN and infinity, which JSON doesn't have, are an error."""
    replace_file(path, as_json(value))


def as_json(value: Any) -> bytes:
    """Returns what `write_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts a file's name into the operating system's error: a write doesn't say where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def open_regular(path: Path) -> BufferedReader:
    """Opens a file for reading; a pipe or a device, which could block, is an OSError."""
    nonblock = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblock))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_bytes(path: Path) -> bytes:
    """Reads one of a run's text files, of at most 50 MB; a larger one is an OSError."""
    with naming(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise OSError(errno.EFBIG, f"has more than {MAX_JSON_BYTES:,} bytes", str(path))
        return file.read(size)


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
      CheckpointError: it can't be read, or isn't JSON, which has neither NaN nor infinity.
    """
    try:
        return parse_json(read_bytes(path))
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: isn't JSON; was it changed by hand?") from None


def parse_json(data: bytes) -> Any:
    """Parses JSON, which has neither NaN nor infinity; a ValueError otherwise."""
    return json.loads(data.decode(), parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} isn't a finite number")
    return value


def read_npz(path: Path) -> dict[str, "np.ndarray"]:
    """Reads an ``.npz`` file of arrays of numbers and text, from any source.

    `numpy.load` allocates what an array's header claims, and returns bytes for what isn't an array.

    Raises:
      OSError: it can't be opened.
      ValueError: one line, without the file's name: it is damaged, isn't an ``.npz`` file, or holds
        anything else or more than `MAX_ARRAY_BYTES`.
    """
    import numpy as np
    from numpy.lib import format as npy

    arrays = {}
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with open_regular(path) as file:
        try:
            with warnings.catch_warnings(), zipfile.ZipFile(file) as archive:
                warnings.simplefilter("error")  # of a header that NumPy doesn't write
                size = sum(info.file_size for info in archive.infolist())
                if size > MAX_ARRAY_BYTES:
                    raise ValueError(f"{size:,} bytes unpacked; {MAX_ARRAY_BYTES:,} are allowed")
                for info in archive.infolist():
                    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError("it is packed in a way that NumPy doesn't use")
                    with archive.open(info) as member:
                        shape, fortran, dtype = headers[npy.read_magic(member)](member)
                        size = math.prod(shape) * dtype.itemsize
                        # A byte more than there should be: at the end the checksum is verified.
                        data = bytearray(member.read(max(0, min(size, info.file_size)) + 1))
                    if dtype.kind not in "biufU" or len(data) != size:
                        raise ValueError("it holds something else than arrays of numbers or text")
                    array = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
                    arrays[info.filename.removesuffix(".npy")] = array
        except Exception as error:  # zipfile, zlib and NumPy each have their own
            raise ValueError(shown(str(error)) or type(error).__name__) from None
    return arrays


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Makes a folder in ``parent`` to write in before renaming, and removes it afterwards.

    SIGINT, SIGTERM and SIGHUP remove it before they do what they did: the handlers of our programs
    end the process at once, without any ``finally``.

    Raises:
      OSError: ``parent`` can't be written.
    """
    folder = Path(tempfile.mkdtemp(prefix=".digits_jax-", dir=parent))

    def handle(number: int, _frame: FrameType | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(number, previous[number])
        signal.raise_signal(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():  # only it receives signals
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handle)
    try:
        yield folder
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


def try_to_write(folder: Path) -> None:
    """Raises an OSError where nothing can be written in a folder, or the nearest one above it.

    Permissions don't tell all, nor do they bind root.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    tempfile.TemporaryDirectory(prefix=".digits_jax-", dir=there).cleanup()


def first_writable(folders: list[Path]) -> Path | None:
    """Returns the first folder in which files can be created, made if necessary; or None.

    It tries, because permission bits don't tell everything. A folder that can't be written is left
    alone even by root, whom the bits don't stop.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o222:
                with scratch_folder(folder):
                    return folder
    return None


def is_visible(path: str | Path) -> bool:
    """Whether a file or folder is a user's: not hidden, not the system's, no cache of ours."""
    name = os.path.basename(path)
    return name[0] != "." and name not in _NO_DATA


def walk_visible(
    folder: str | Path, onerror: Callable[[OSError], object]
) -> Iterator[tuple[Path, bool]]:
    """Yields the visible files in a folder and below, in a fixed order.

    Args:
      onerror: is called with the error of a folder that can't be listed.

    Yields:
      A path, and whether it is a link to a folder, whose files aren't yielded.
    """
    for place, folders, names in os.walk(folder, onerror=onerror):
        folders[:] = sorted(filter(is_visible, folders), key=natural_key)
        for name in folders:
            if os.path.islink(os.path.join(place, name)):  # os.walk doesn't follow it
                yield Path(place, name), True
        for name in sorted(filter(is_visible, names), key=natural_key):
            yield Path(place, name), False


def natural_key(value: object) -> tuple:
    """Sorts numbers, also in text, in their order, and other text behind them."""
    text = str(value)
    return (0, int(text), text) if text.isascii() and text.isdigit() else (1, 0, text)
