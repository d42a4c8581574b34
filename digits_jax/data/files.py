"""Files of data sets: the original ones, verified; decoded arrays, cached; folders, renamed.

A cache is a folder of ``.npy`` files and a ``manifest.json`` with their sizes, times and the
SHA-256 of the whole. It is written aside and renamed; whatever is wrong with it, it is as if
it were not there. Decoded arrays are opened by memory map: the second start reads nothing.
"""

import contextlib
import gzip
import hashlib
import json
import os
import secrets
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from digits_jax.errors import InputError

FORMAT = 1
_MANIFEST = "manifest.json"


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
        manifest = json.loads((folder / _MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return None
        touched = False
        arrays = {}
        for name, (size, modified) in manifest["files"].items():
            path = folder / f"{name}.npy"
            status = path.stat()
            if status.st_size != size:
                return None
            touched |= status.st_mtime_ns != modified
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        facts = dict(manifest["facts"], sha256=manifest["sha256"])
        if touched and sha256_of_arrays(arrays) != facts["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if touched:
        with contextlib.suppress(OSError):
            _write_manifest(folder, arrays, manifest["facts"], facts["sha256"])
    return arrays, facts


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
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
      InputError: it isn't there, isn't a folder, or may not be read.
    """
    path = Path(os.path.expanduser(folder)).absolute()
    state = "can't be read" if not os.access(path, os.R_OK | os.X_OK) else ""
    if not os.path.isdir(path):
        state = "is not a folder" if os.path.exists(path) else "does not exist"
    if state:
        raise InputError(
            f"{what} is {str(folder)!r}, which {state}; give a folder that is there "
            "(empty will do), or none for the default"
        )
    return path


# --- original files ------------------------------------------------------------------------


def find_originals(
    name: str,
    folder: Path,
    urls: Mapping[str, str],
    sums: Mapping[str, tuple[str, int]],
    foreign: Collection[str],
) -> Path | None:
    """Finds the original files in ``folder/<name>`` or in ``folder`` and verifies them.

    Several data sets share their file names, so files directly in ``folder`` that are those
    of another one count as not there.

    Args:
      name: of the data set.
      folder: where to look.
      urls: file name -> address.
      sums: file name -> (SHA-256, bytes).
      foreign: the SHA-256 sums of other data sets' files.

    Returns:
      The folder with all the files, or None where there is none of them.

    Raises:
      InputError: some files are missing, or one is truncated or damaged.
    """
    for place in (folder / name, folder):
        found = {
            file: _sha256_of_file(place / file) for file in urls if os.path.isfile(place / file)
        }
        if not found or (place == folder and all(digest in foreign for digest in found.values())):
            continue
        missing = [file for file in urls if file not in found]
        if missing:
            raise InputError(
                f"{place} holds only {len(found)} of the {len(urls)} files of {name}; missing: "
                f"{', '.join(missing)}; get them from {urls[missing[0]].rpartition('/')[0]}/"
            )
        for file, digest in found.items():
            expected, size = sums[file]
            if digest == expected:
                continue
            has = (place / file).stat().st_size
            state = "is truncated" if has < size else "is damaged, or another file"
            raise InputError(
                f"{place / file} {state}: {has} bytes with SHA-256 {digest[:12]}..., where "
                f"{name} has {size} bytes with {expected[:12]}...; get it again from {urls[file]}"
            )
        return place
    return None


def _sha256_of_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; check its permissions") from None


def read_idx(data: bytes, count: int, name: str) -> np.ndarray:
    """Reads the first ``count`` entries of a gzipped IDX file.

    Args:
      data: the gzipped bytes.
      count: how many entries (stock tfds takes the first ones, and no more, too).
      name: the file, for the message.

    Returns:
      uint8 [count] or [count, rows, columns].

    Raises:
      InputError: it isn't a gzipped IDX file, or holds too few entries.

    Reference:
      http://yann.lecun.com/exdb/mnist/ ("the IDX file format")
    """
    try:
        raw = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} can't be unpacked ({error}); get it again") from None
    rank = raw[3] if len(raw) > 4 and raw[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * rank
    if rank not in (1, 3) or len(raw) < header:
        raise InputError(f"{name} isn't an IDX file of bytes; get it again")
    shape = struct.unpack(f">{rank}I", raw[4:header])
    size = count * int(np.prod(shape[1:], dtype=np.int64))
    if shape[0] < count or len(raw) < header + size:
        raise InputError(f"{name} holds fewer than {count} entries; get it again")
    return np.frombuffer(raw, np.uint8, size, header).reshape(count, *shape[1:])


def encode_png(image: np.ndarray) -> bytes:
    """A grey image as PNG bytes; a fifth of Pillow's time, of which tens of thousands count.

    Args:
      image: uint8 [height, width].

    Returns:
      The bytes of a PNG file, 8 bits a pixel, every row unfiltered.

    Reference:
      https://www.w3.org/TR/png-3/
    """
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = image
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in (
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    ):
        parts += [struct.pack(">I", len(body)), kind, body]
        parts.append(struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, which tfds by itself reads only with TensorFlow.

    Args:
      path: the file; it is read whole.

    Yields:
      The bytes of each record; their checksums are not verified (a PNG has its own).

    Raises:
      ValueError: the file ends within a record.

    Reference:
      https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    data = path.read_bytes()
    start = 0
    while start < len(data):
        (size,) = struct.unpack_from("<Q", data.ljust(start + 8), start)
        if start + size + 16 > len(data):
            raise ValueError(f"{path.name} is truncated")
        yield data[start + 12 : start + 12 + size]
        start += size + 16


# --- the network ---------------------------------------------------------------------------

# Below the five seconds that a decision without a network may take, imports included.
REACH_SECONDS = 3.0


def why_unreachable(url: str, limit_seconds: float = REACH_SECONDS) -> str:
    """Asks once, and not for long, whether a download could start.

    tfds by itself retries for a minute, and a name lookup can block for as long: hence the
    thread, which is left behind when it doesn't answer in time.

    Args:
      url: the address of a file.
      limit_seconds: how long to wait at most.

    Returns:
      The reason why not; empty where the server answers.
    """
    import requests  # what tfds downloads with: the same proxies and certificates

    answer: list[str] = []

    def ask() -> None:
        try:
            status = requests.head(url, timeout=limit_seconds, allow_redirects=True).status_code
        except (OSError, ValueError) as error:
            answer.append(f"no connection ({type(error).__name__})")
        else:
            # 405: a server that knows only GET; it is there.
            answer.append("" if status < 400 or status == 405 else f"HTTP status {status}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_seconds)
    return answer[0] if answer else f"no answer within {limit_seconds:.0f} s"
