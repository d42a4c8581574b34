"""Reads the examples of a prepared tfds data set by index: what doesn't fit into memory.

tfds says what there is (files, counts, features); the bytes come from array_record's reader, on
which tfds's own data source stands. That source asks the reader for lists of records, which
costs half a millisecond for each file and request, whatever is asked for, and decodes through
Python's layers. Here the few records that a batch takes from a file are sought and read, some 3
microseconds each. Nothing is kept but the files' indices.

A record whose bytes are damaged is noticed (array_record keeps a hash of each, zlib a sum of the
pixels), and so is one that is missing or of another kind.

Arrays: images uint8 [n, 28, 28, 1], labels int32 [n] from 0.
"""

import copy
import io
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.originals import encode_png
from digits_jax.errors import DataError, DigitsError

IMAGE_SIZE = 28
# A grey PNG of this size, 8 bits a pixel, not interlaced, up to the length of its pixels; and
# its pixels: each row begins with the number of its filter.
_PNG_BEGINS = encode_png(np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8))[:33]
_RAW_SIZE = IMAGE_SIZE * (IMAGE_SIZE + 1)
# For random access: nothing read ahead, no threads of its own (by default megabytes and all
# cores), and a small buffer (tfds's, 32 KB, reads 30 images for each).
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 4096
# A list of so many is worth the half millisecond: the reader's own threads wait for the disk
# together, five times as fast where the file isn't in the system's memory.
MANY = 128


@dataclass(frozen=True)
class Layout:
    """What must be known of a data set to decode its records.

    Attributes:
      num_classes: labels are in [0, num_classes) after ``first_label`` was taken off.
      first_label: what the files give to the first class.
      transposed: rows and columns of the images are exchanged in the files.
    """

    num_classes: int
    first_label: int = 0
    transposed: bool = False


class RecordSplit:
    """Examples of a split of an array_record data set, read when they are asked for.

    Threads may ask at once. The files are opened here, once: to delete them later does no harm.

    Args:
      paths: the files of the split, in order.
      lengths: the number of examples in each.
      layout: how to decode them.

    Raises:
      DataError: a file is missing, damaged or truncated.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        lengths: Sequence[int],
        layout: Layout,
    ):
        self._paths, self._layout = [Path(path) for path in paths], layout
        self._locate: Callable[[np.ndarray], np.ndarray] = np.asarray
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._starts = self._ends - np.asarray(lengths, np.int64)
        self._size = int(self._ends[-1]) if len(self._ends) else 0
        # A reader has one place where it reads.
        self._locks = [threading.Lock() for _ in lengths]
        self._readers = [
            self._open(shard, length) for shard, length in enumerate(map(int, lengths))
        ]

    def __len__(self) -> int:
        return self._size

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(self._paths)

    def part(self, locate: Callable[[np.ndarray], np.ndarray], size: int) -> "RecordSplit":
        """Some of the examples, in an order of their own, from the same open files.

        Args:
          locate: int64 [n] -> int64 [n]: the indices here of those with some indices there.
          size: how many there are.
        """
        part = copy.copy(self)
        part._locate, part._size = locate, size
        return part

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads the images and labels at some indices, in their order.

        Raises:
          DataError: a record can't be read; the message names its file.
        """
        places = self._locate(np.asarray(indices, np.int64))
        shards = np.searchsorted(self._ends, places, side="right")
        # Neighbours in a file follow each other; each file is asked once.
        by_place = np.argsort(places, kind="stable")
        records: list[bytes] = [b""] * len(places)
        cuts = np.flatnonzero(np.diff(shards[by_place])) + 1
        for group in np.split(by_place, cuts) if len(places) else ():
            shard = int(shards[group[0]])
            found = self._read(shard, (places[group] - self._starts[shard]).tolist())
            for row, record in zip(group.tolist(), found, strict=True):
                records[row] = record
        return self._decode(records, shards)

    def _open(self, shard: int, length: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        path = self._paths[shard]
        if not os.path.isfile(path):
            raise DataError(
                f"{path} is missing; put it back, or prepare that data set anew in another folder"
            )
        try:
            reader = ArrayRecordReader(
                str(path), options=_READER_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
            )
            # A file that was cut has lost its index, or ends before its last record.
            if length and (reader.num_records() != length or not all(reader.read([length - 1]))):
                raise ValueError(f"it has {reader.num_records()} records, not {length}")
        except Exception as error:
            raise self._unreadable(shard, error) from None
        return reader

    def _read(self, shard: int, positions: list[int]) -> list[bytes]:
        reader, found = self._readers[shard], []
        try:
            if len(positions) >= MANY:
                return reader.read(positions)
            with self._locks[shard]:
                for position in positions:
                    reader.seek(position)
                    found.append(reader.read())
            return found
        except Exception as error:
            raise self._unreadable(shard, error) from None

    def _decode(self, records: list[bytes], shards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from tensorflow_datasets.proto import tf_example_pb2

        parse = tf_example_pb2.Example.FromString
        labels = np.empty(len(records), np.int32)
        pixels = []
        row = 0
        try:
            for row, record in enumerate(records):
                feature = parse(record).features.feature
                (png,) = feature["image"].bytes_list.value
                (labels[row],) = feature["label"].int64_list.value
                pixels.append(_rows_of_png(png))
            labels -= np.int32(self._layout.first_label)
            wrong = np.flatnonzero((labels < 0) | (labels >= self._layout.num_classes))
            if len(wrong):
                row = wrong[0]
                raise ValueError(f"a label is not one of {self._layout.num_classes} classes")
        except Exception as error:
            raise self._unreadable(int(shards[row]), error) from None
        images = np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE + 1)
        images = images[:, :, 1:]
        if self._layout.transposed:
            images = images.transpose(0, 2, 1)
        return np.ascontiguousarray(images)[..., None], labels

    def _unreadable(self, shard: int, error: Exception) -> DigitsError:
        line = " ".join(str(error).split())[:200] or "it ends too early"  # array_record's silence
        return DataError(
            f"{self._paths[shard]} can't be read ({line}): it is damaged, "
            "or was changed; put a good copy there, or prepare that data set anew"
        )


def _rows_of_png(png: bytes) -> bytes:
    """The rows of a grey image, a byte before each: zlib alone where no row is filtered."""
    if png[:33] == _PNG_BEGINS and png[37:41] == b"IDAT":
        unpacker = zlib.decompressobj()
        # One byte more than there are, so that it comes to its end, and verifies its sum.
        rows = unpacker.decompress(png[41 : 41 + int.from_bytes(png[33:37])], _RAW_SIZE + 1)
        if unpacker.eof and len(rows) == _RAW_SIZE and not any(rows[:: IMAGE_SIZE + 1]):
            return rows
    return _rows_by_pillow(png)


def _rows_by_pillow(png: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG", "JPEG")) as image:
        if image.size != (IMAGE_SIZE, IMAGE_SIZE) or image.mode not in ("1", "L"):
            width, height = image.size
            raise ValueError(f"an image is {width}x{height} of mode {image.mode}, not 28x28 grey")
        rows = np.zeros((IMAGE_SIZE, IMAGE_SIZE + 1), np.uint8)
        rows[:, 1:] = np.asarray(image.convert("L"))
    return rows.tobytes()
