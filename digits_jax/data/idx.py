"""IDX files, the format of MNIST's original files: http://yann.lecun.com/exdb/mnist/"""

import gzip
import io
import math
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from digits_jax.errors import DataError

# EMNIST's largest file holds 240,000 images of 28x28 bytes.
MAX_IDX_BYTES = 1_000_000_000
_PIECE = 2**20
_PARTS = {"train": "train", "t10k": "test", "test": "test", "val": "validation"}


def read_idx(data: bytes, name: str) -> np.ndarray:
    """Reads an IDX file of bytes, packed by gzip or not.

    Args:
      name: of the file, for the message.

    Returns:
      uint8 [n] or [n, rows, columns].

    Raises:
      DataError: it isn't such a file, or doesn't hold as many bytes as its header says, or more
        than ``MAX_IDX_BYTES``: no more than that is unpacked.

    Examples:
      >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "labels").tolist()
      [7, 8, 9]
    """
    file = io.BytesIO(data)
    try:
        with gzip.GzipFile(fileobj=file) if data[:2] == b"\x1f\x8b" else file as unpacked:
            magic = unpacked.read(4)
            rank = magic[3] if len(magic) == 4 and magic[:3] == b"\0\0\x08" else 0
            sizes = unpacked.read(4 * rank)
            if rank not in (1, 3) or len(sizes) < 4 * rank:
                raise DataError(f"{name}: isn't an IDX file of bytes; get it again")
            shape = struct.unpack(f">{rank}I", sizes)
            claimed = math.prod(shape)
            if claimed > MAX_IDX_BYTES:
                raise DataError(
                    f"{name}: says that it holds {claimed:,} bytes; {MAX_IDX_BYTES:,} are allowed"
                )
            # In pieces: one `read` of what a header claims would allocate all of it at once. One
            # byte more than claimed, so that the end is reached, where the checksum is.
            raw = bytearray()
            while piece := unpacked.read(min(_PIECE, claimed + 1 - len(raw))):
                raw += piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: can't be unpacked ({error}); get it again") from None
    if len(raw) != claimed:
        holds = "fewer" if len(raw) < claimed else "more"
        raise DataError(f"{name}: holds {holds} bytes than its header says; get it again")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def find_idx(folder: Path) -> dict[str, Path]:
    """Finds the IDX files of a data set in a folder, or where torchvision and Kaggle put them.

    Returns:
      Paths by "train images", "test labels" and so on; empty where there are none.

    Raises:
      DataError: files of several data sets.
    """
    found: dict[str, Path] = {}
    for place in (folder, folder / "raw", *folder.glob("*/raw"), *folder.glob("*-ubyte")):
        for path in sorted(place.iterdir()) if os.path.isdir(place) else ():
            name = path.name.lower()
            what = re.search("images|labels", name)
            if not what or not re.search("idx|ubyte", name) or not os.path.isfile(path):
                continue
            part = re.search("train|t10k|test|val", name)
            key = f"{_PARTS[part[0]] if part else 'train'} {what[0]}"
            # A file may lie there packed, too, or as train-images.idx3-ubyte.
            other = found.setdefault(key, path)
            if _plain_name(other) != _plain_name(path):
                raise DataError(
                    f"{folder}: holds {other.name} and {path.name}; give a folder with one data set"
                )
    return found


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz").replace(".", "-")
