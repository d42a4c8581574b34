"""The original files of a data set: found and verified, read, or asked for in the network."""

import gzip
import hashlib
import io
import math
import os
import struct
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from digits_jax.errors import DataError

# EMNIST's largest file is of 240,000 images of 28x28 bytes.
MAX_IDX_BYTES = 1_000_000_000
_PIECE = 2**20


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
      DataError: some files are missing, or one is truncated or damaged.
    """
    for place in (folder / name, folder):
        found = {
            file: _sha256_of_file(place / file) for file in urls if os.path.isfile(place / file)
        }
        if not found or (place == folder and all(digest in foreign for digest in found.values())):
            continue
        missing = [file for file in urls if file not in found]
        if missing:
            raise DataError(
                f"{place} holds only {len(found)} of the {len(urls)} files of {name}; missing: "
                f"{', '.join(missing)}; get them from {urls[missing[0]].rpartition('/')[0]}/"
            )
        for file, digest in found.items():
            expected, size = sums[file]
            if digest == expected:
                continue
            has = (place / file).stat().st_size
            state = "is truncated" if has < size else "is damaged, or another file"
            raise DataError(
                f"{place / file} {state}: {has} bytes with SHA-256 {digest[:12]}..., where "
                f"{name} has {size} bytes with {expected[:12]}...; get it again from {urls[file]}"
            )
        return place
    return None


def refuse_unpacked(place: Path, urls: Mapping[str, str]) -> None:
    """Raises an DigitsError where original files lie unpacked in a folder.

    They can't be verified; yet a folder with them isn't one without data.

    Args:
      place: the folder.
      urls: file name -> address.
    """
    for file, url in urls.items():
        plain = file.removesuffix(".gz")
        for name in (plain, plain.replace("-idx", ".idx")):
            if plain != file and os.path.isfile(place / name):
                raise DataError(
                    f"{place / name} is unpacked, and its checksum isn't known; "
                    f"put the original {file} there, from {url}"
                )


def _sha256_of_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; check its permissions") from None


def read_idx(data: bytes, count: int, name: str) -> np.ndarray:
    """Reads the first ``count`` entries of a gzipped IDX file.

    Args:
      data: the gzipped bytes.
      count: how many entries (stock tfds takes the first ones, and no more, too).
      name: the file, for the message.

    Returns:
      uint8 [count] or [count, rows, columns].

    Raises:
      DataError: it isn't a gzipped IDX file, or holds too few entries, or more bytes than its
        header says or than ``MAX_IDX_BYTES``: no more than that is unpacked.

    Reference:
      http://yann.lecun.com/exdb/mnist/ ("the IDX file format")
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
            start = unpacked.read(4)
            rank = start[3] if len(start) == 4 and start[:3] == b"\0\0\x08" else 0
            sizes = unpacked.read(4 * rank)
            if rank not in (1, 3) or len(sizes) < 4 * rank:
                raise DataError(f"{name} isn't an IDX file of bytes; get it again")
            shape = struct.unpack(f">{rank}I", sizes)
            claimed = math.prod(shape)
            if claimed > MAX_IDX_BYTES:
                raise DataError(
                    f"{name} says that it holds {claimed:,} bytes; {MAX_IDX_BYTES:,} are allowed"
                )
            # A byte more than is claimed, so that the end is met, where the checksum is.
            raw = _read_at_most(unpacked, claimed + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} can't be unpacked ({error}); get it again") from None
    if shape[0] < count or len(raw) < claimed:
        raise DataError(f"{name} holds fewer than {count} entries; get it again")
    if len(raw) > claimed:
        raise DataError(f"{name} holds more than its header says; get it again")
    size = count * math.prod(shape[1:])
    return np.frombuffer(raw, np.uint8, size).reshape(count, *shape[1:])


def _read_at_most(file, most):
    # In pieces: a `read` of what a header claims would allocate all of that at once.
    raw = bytearray()
    while piece := file.read(min(_PIECE, most - len(raw))):
        raw += piece
    return bytes(raw)


def encode_png(image: np.ndarray, level: int = 6) -> bytes:
    """A grey image as PNG bytes; a fifth of Pillow's time, of which tens of thousands count.

    Args:
      image: uint8 [height, width].
      level: of zlib's compression, from 0 (none) to 9.

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
        (b"IDAT", zlib.compress(rows.tobytes(), level)),
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
