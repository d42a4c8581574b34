"""From arrays or files to batches, in an order that is a pure function of (seed, epoch).

Training sees one long stream of images: epoch 0 in its order, then epoch 1 in its own, and so
on, cut into batches of equal size. A batch may hold the end of one epoch and the start of the
next; so each image comes once per epoch, no batch is short, and the images of step s depend
on (seed, s) alone: not on where a run was resumed, and not on the number of devices. With several
processes each takes its share of every batch: a run of neighbours, so that the concatenated shares
are the batch.
"""

import math
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from digits_jax.data.splits import Split, random_order
from digits_jax.errors import DataError

if TYPE_CHECKING:
    from digits_jax.data.tfds import RecordSplit

Batch = dict[str, np.ndarray]
THREADS = 2
IMAGES_AT_ONCE = 4096
BLOCKS_AHEAD = 3  # 3 MB each


def num_steps(epochs: float, size: int, batch_size: int) -> int:
    """Returns the number of steps after which every image has been seen ``epochs`` times.

    Examples:
      >>> num_steps(epochs=2, size=55_000, batch_size=256)
      430
    """
    return max(1, math.ceil(round(epochs * size / batch_size, 6)))


def share_size(batch_size: int, share: tuple[int, int]) -> int:
    """Returns how many images of each batch go to one process.

    Args:
      batch_size: images in each batch, over all processes.
      share: (index, count) of the process.

    Raises:
      DataError: there is no such share, or the batch can't be divided evenly.

    Examples:
      >>> share_size(256, (1, 2))
      128
    """
    index, count = share
    if not 0 <= index < count:
        raise DataError(f"share={share}: must be (index, count) with 0 <= index < count")
    if batch_size % count:
        raise DataError(
            f"batch_size={batch_size}: must be a multiple of {count}, the number of processes"
        )
    return batch_size // count


class TrainStream:
    """The training batches of a run, by step; use it in a ``with`` if they are read from files.

    The batch of a step depends on (seed, step) alone, so a run continues at any step without a
    saved state. Any thread may ask for `indices`, and only one for batches.

    From files Grain reads ahead, for several steps at a time: a disk that gets thousands of
    positions at once answers several times as fast as for those of one batch. The readers are
    threads, not processes: on two cores one or two of Grain's worker processes read no more images
    a second than two threads, and took seconds to start; and threads end with their process,
    however it ends. `python -m digits_jax.benchmark input` measures them. Ask for one step after
    the other: what was read ahead is thrown away when a step doesn't follow its predecessor.

    Args:
      split: where the images are.
      seed: the run's seed, 0 or more.
      batch_size: images in each batch, over all devices and processes.
      share: (index, count): the part of every batch that this process takes.
      threads: how many read files at once.
      at_once: images that a thread reads at once, about; at least one batch.

    Examples:
      >>> split = Split(np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32))
      >>> stream = TrainStream(split, seed=0, batch_size=2)
      >>> seen = [int(label) for step in range(5) for label in stream.batch(step)["label"]]
      >>> sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
      True
    """

    def __init__(
        self,
        split: "Split | RecordSplit",
        *,
        seed: int,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        threads: int = THREADS,
        at_once: int = IMAGES_AT_ONCE,
    ):
        if batch_size < 1 or not len(split):
            raise DataError(f"batch_size={batch_size} of {len(split)} images: must be at least 1")
        self._split, self._seed, self._batch_size = split, seed, batch_size
        self._share_size = share_size(batch_size, share)
        self._first = share[0] * self._share_size
        self._mask = np.ones(self._share_size, np.float32)
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        in_memory = isinstance(split, Split)
        self._threads = 0 if in_memory else threads
        self._steps = 1 if in_memory else max(1, at_once // self._share_size)  # in a block
        self._number = -2  # of the block at hand
        self._block: list[Batch] = []
        self._blocks: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads that read ahead; the next batch would start them again."""
        blocks, self._blocks, self._block, self._number = self._blocks, None, [], -2
        if blocks is not None:
            blocks.close()

    def batch(self, step: int) -> Batch:
        """Returns this process's share of the batch of ``step``: {"image", "label", "mask"}.

        Raises:
          DataError: a file can't be read; the message names it. It is raised for the first batch
            of those that are read at once.
        """
        if not self._threads:
            return self._read(step)[0]
        number, place = divmod(step, self._steps)
        if number != self._number:
            if number != self._number + 1:
                self._start(number)
            # An iterator that is interrupted, by an error or a signal, has lost its place.
            self._number = -2
            self._block = next(self._blocks)
            self._number = number
        return self._block[place]

    def _start(self, number: int) -> None:
        """Begins to read ahead, from a block on."""
        import grain

        self.close()
        ahead = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=max(BLOCKS_AHEAD, self._threads)
        )
        numbers = grain.MapDataset.range(number, sys.maxsize // 2)
        self._blocks = iter(numbers.map(self._read).to_iter_dataset(ahead))

    def _read(self, number: int) -> list[Batch]:
        """The batches of a block."""
        steps = range(number * self._steps, (number + 1) * self._steps)
        rows = np.concatenate([self.indices(step) for step in steps])
        images, labels = (np.split(part, self._steps) for part in self._split.rows(rows))
        return [
            {"image": image, "label": label, "mask": self._mask}
            for image, label in zip(images, labels, strict=True)
        ]

    def indices(self, step: int) -> np.ndarray:
        """Returns which images this process's part of a batch holds: int64 [batch_size / count]."""
        position = step * self._batch_size + self._first
        end = position + self._share_size
        parts = []
        while position < end:
            epoch, start = divmod(position, len(self._split))
            parts.append(self._order(epoch)[start : start + end - position])
            position += len(parts[-1])
        return np.concatenate(parts).astype(np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        # Sorting takes up to 24 bytes an image for a moment, of which 4 are kept for each of two
        # epochs: 100 million images, 78 GB of pixels, take 2.4 GB and then 0.8 GB.
        with self._lock:
            if epoch not in self._orders:
                # A batch spans two epochs, unless it is larger than the data; threads that read
                # ahead may be in the next epoch while the last is still needed.
                self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
                order = random_order(len(self._split), self._seed, epoch)
                self._orders[epoch] = order.astype(np.min_scalar_type(len(self._split)))
            return self._orders[epoch]


def eval_batches(split: Split, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
    """Yields every image once, in order; the last batch is padded with images whose mask is 0.

    Args:
      split: in memory.
      batch_size: images in each batch, over all devices and processes.
      share: (index, count) of this process; all get equally many batches, the last of which may
        hold masked images alone.

    Yields:
      {"image", "label", "mask"}, each of length ``batch_size / count``.

    Examples:
      >>> split = Split(np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32))
      >>> [int(batch["mask"].sum()) for batch in eval_batches(split, 2)]
      [2, 2, 1]
    """
    size = share_size(batch_size, share)
    for start in range(share[0] * size, share[0] * size + len(split), batch_size):
        image, label = split.images[start : start + size], split.labels[start : start + size]
        missing = size - len(label)
        yield {
            "image": np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(label, (0, missing)),
            "mask": np.pad(np.ones(len(label), np.float32), (0, missing)),
        }
