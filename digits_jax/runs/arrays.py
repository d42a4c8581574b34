"""NumPy's ``.npz`` files from anybody: read in bounded memory, or refused.

``numpy.load`` believes an array's header, gives bytes for what isn't an array, and warns of
headers that are odd. Here a file is refused before anything large is unpacked.
"""

import math
import re
import zipfile
from pathlib import Path

import numpy as np

from digits_jax.errors import shown

MAX_BYTES = 1_000_000_000  # of all arrays together, unpacked
_PIECE = 2**20
_LONGEST_HEADER = 10_000  # as NumPy has it
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Booleans, integers, floating point, and text; each of a size that NumPy's own types have.
_DTYPE = re.compile(r"""["']descr["']:\s*["']([<>|=]?(?:b1|[iu][1248]|f[248]|U[1-9]\d{0,8}))["']""")
_ORDER = re.compile(r"""["']fortran_order["']:\s*(True|False)\b""")
_SHAPE = re.compile(r"""["']shape["']:\s*\(([0-9L,\s]*)\)""")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file.

    Args:
      path: the file, stored or deflated, as ``numpy.savez`` and ``numpy.savez_compressed`` write
        it.

    Returns:
      name -> array of numbers or text, in the order of the file.

    Raises:
      OSError: it can't be opened.
      ValueError: one line, without the file's name: it isn't whole, isn't an ``.npz`` file, holds
        other things than arrays of numbers and text, or more than ``MAX_BYTES`` of them.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "a.npz"
      >>> np.savez(path, labels=np.arange(3))
      >>> read_npz(path)["labels"].tolist()
      [0, 1, 2]

    Reference:
      https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    with open(path, "rb") as opened:
        try:
            with zipfile.ZipFile(opened) as file:
                members = file.infolist()
                _check_sizes(members)
                return {
                    info.filename.removesuffix(".npy"): _array(_unpacked(file, info))
                    for info in members
                }
        # zipfile and zlib each have errors of their own, by what is damaged.
        except Exception as error:
            raise ValueError(shown(str(error)) or type(error).__name__) from None


def _check_sizes(members):
    if any(info.compress_type not in _PACKED for info in members):
        raise ValueError("it is packed in a way that NumPy doesn't use")
    if len({info.filename for info in members}) < len(members):
        raise ValueError("it holds two arrays of one name")
    size = sum(info.file_size for info in members)
    if size > MAX_BYTES:
        raise ValueError(f"it is {size:,} bytes unpacked; {MAX_BYTES:,} are allowed")


def _unpacked(file, info):
    # A whole `read` would unpack all that is there, and only then cut it to the size that the
    # entry says.
    data = bytearray()
    with file.open(info) as member:
        while piece := member.read(_PIECE):
            data += piece
    return data


def _array(data):
    """An array from the bytes of an ``.npy`` file."""
    width = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(bytes(data[6:8]))
    if data[:6] != b"\x93NUMPY" or width is None:
        raise ValueError("it holds something that isn't an array")
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if start > _LONGEST_HEADER:
        raise ValueError("it holds an array with a header that isn't NumPy's")
    header = data[8 + width : start].decode("latin-1")
    found = [pattern.search(header) for pattern in (_DTYPE, _ORDER, _SHAPE)]
    if not all(found):
        raise ValueError("it holds an array that isn't of numbers or text")
    dtype, order, sizes = (match[1] for match in found)
    dtype, shape = np.dtype(dtype), tuple(map(int, re.findall(r"\d+", sizes)))
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError("it holds an array of another size than its header says")
    flat = np.frombuffer(data, dtype, offset=start)
    array = flat.reshape(shape, order="F" if order == "True" else "C")
    return array if array.flags.aligned else array.copy()
