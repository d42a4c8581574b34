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

from digits_jax.data.splits import Split
from digits_jax.errors import DataError

if TYPE_CHECKING:
    from digits_jax.data.tfds import RecordSplit

Batch = dict[str, np.ndarray]
THREADS = 2
IMAGES_AT_ONCE = 4096
BLOCKS_AHEAD = 3  # 3 MB each


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which an epoch visits the images: int64 [size], a permutation.

    Sorting takes up to 24 bytes an image for a moment, of which `BatchOrder` keeps 4 for each of
    two epochs: 100 million images, 78 GB of pixels, take 2.4 GB and then 0.8 GB.

    Args:
      seed: the run's seed, 0 or more.
      epoch: 0, 1, ...
      size: number of images.

    Example:
      >>> sorted(epoch_order(seed=0, epoch=3, size=4).tolist())
      [0, 1, 2, 3]
    """
    # Philox is counter-based: each (seed, epoch) is a stream of its own, at no cost. Its raw
    # words are the same in every NumPy; what `Generator` makes of them is not promised to be.
    words = np.random.Philox(key=[seed, epoch]).random_raw(size)
    return np.argsort(words, kind="stable")


def num_steps(epochs: float, size: int, batch_size: int) -> int:
    """Returns the number of steps after which every image has been seen ``epochs`` times.

    Example:
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

    Example:
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


class BatchOrder:
    """Which images the batch of each step holds; several threads may ask at once.

    Args:
      size: number of images.
      seed: the run's seed.
      batch_size: images in each batch, over all processes.
      share: (index, count): the part of every batch that this process takes.

    Example:
      >>> halves = [BatchOrder(9, seed=0, batch_size=4, share=(i, 2)).indices(3) for i in (0, 1)]
      >>> np.concatenate(halves).tolist() == BatchOrder(9, seed=0, batch_size=4).indices(3).tolist()
      True
    """

    def __init__(self, size: int, *, seed: int, batch_size: int, share: tuple[int, int] = (0, 1)):
        if batch_size < 1 or not size:
            raise DataError(f"batch_size={batch_size} of {size} images: both must be at least 1")
        self.share_size = share_size(batch_size, share)
        self._size, self._seed, self._batch_size = size, seed, batch_size
        self._first = share[0] * self.share_size
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def indices(self, step: int) -> np.ndarray:
        """Returns which images this process's part of a batch holds: int64 [batch_size / count]."""
        position = step * self._batch_size + self._first
        end = position + self.share_size
        parts = []
        while position < end:
            epoch, start = divmod(position, self._size)
            parts.append(self._order(epoch)[start : start + end - position])
            position += len(parts[-1])
        return np.concatenate(parts).astype(np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                # A batch spans two epochs, unless it is larger than the data; threads that read
                # ahead may be in the next epoch while the last is still needed.
                self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
                order = epoch_order(self._seed, epoch, self._size)
                self._orders[epoch] = order.astype(np.min_scalar_type(self._size))
            return self._orders[epoch]


class TrainStream(BatchOrder):
    """The training batches of a run, by step, from arrays in memory.

    Args:
      images: uint8 [n, height, width, channels].
      labels: int32 [n].
      seed: the run's seed.
      batch_size: images in each batch, over all devices and processes.
      share: (index, count): the part of every batch that this process takes.

    Example:
      >>> images, labels = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32)
      >>> stream = TrainStream(images, labels, seed=0, batch_size=2)
      >>> seen = [int(label) for step in range(5) for label in stream.batch(step)["label"]]
      >>> sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
      True
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
    ):
        _check_arrays(images, labels)
        super().__init__(len(labels), seed=seed, batch_size=batch_size, share=share)
        self._images, self._labels = images, labels
        self._mask = np.ones(self.share_size, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: for the same use as `PrefetchedStream`."""

    def batch(self, step: int) -> Batch:
        """Returns this process's share of the batch of ``step``: {"image", "label", "mask"}."""
        rows = self.indices(step)
        return {"image": self._images[rows], "label": self._labels[rows], "mask": self._mask}


class PrefetchedStream(BatchOrder):
    """The batches of a `TrainStream`, bit for bit, read from files ahead of time by Grain.

    The batch of a step depends on (seed, step) alone, so a run continues at any step without a
    saved state of the reader. Ask for one step after the other: what was read ahead is thrown away
    when a step doesn't follow its predecessor. Only one thread may ask.

    Images are read for several steps at a time: a disk that gets thousands of positions at once
    answers several times as fast as for those of one batch. The readers are threads, not
    processes: on two cores one or two of Grain's worker processes read no more images a second
    than two threads, and took seconds to start; and threads end with their process, however it
    ends. `python -m digits_jax.benchmark input` measures them.

    Args:
      split: where the images are.
      seed, batch_size, share: as for `TrainStream`.
      threads: how many read at once.
      at_once: images that a thread reads at once, about; at least one batch.
    """

    def __init__(
        self,
        split: "RecordSplit",
        *,
        seed: int,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        threads: int = THREADS,
        at_once: int = IMAGES_AT_ONCE,
    ):
        import grain

        super().__init__(len(split), seed=seed, batch_size=batch_size, share=share)
        self._split = split
        self._mask = np.ones(self.share_size, np.float32)
        self._steps = max(1, at_once // self.share_size)  # in a block
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(BLOCKS_AHEAD, threads)
        )
        blocks = grain.MapDataset.range(sys.maxsize // 2).map(self._read_block)
        self._dataset = blocks.to_iter_dataset(options)
        self._iterator: Any = None
        self._block: list[Batch] = []
        self._here = self._next = -1  # the block at hand, and the next one of the iterator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads that read ahead; the next batch would start them again."""
        iterator, self._iterator = self._iterator, None
        self._block, self._here, self._next = [], -1, -1
        if iterator is not None:
            iterator.close()

    def batch(self, step: int) -> Batch:
        """Returns this process's share of the batch of ``step``: {"image", "label", "mask"}.

        Raises:
          DataError: a file can't be read; the message names it. It is raised for the first batch
            of those that are read at once.
        """
        number, place = divmod(step, self._steps)
        if number != self._here:
            if number != self._next:
                self.close()
                self._iterator = iter(self._dataset)
                self._iterator.set_state({"next_index": number})
            # An iterator that is interrupted, by an error or a signal, has lost its place.
            self._here = self._next = -1
            self._block = next(self._iterator)
            self._here, self._next = number, number + 1
        return self._block[place]

    def _read_block(self, number: int) -> list[Batch]:
        steps = range(number * self._steps, (number + 1) * self._steps)
        rows = np.concatenate([self.indices(step) for step in steps])
        images, labels = (np.split(part, self._steps) for part in self._split.rows(rows))
        return [
            {"image": image, "label": label, "mask": self._mask}
            for image, label in zip(images, labels, strict=True)
        ]


def open_stream(
    split: "Split | RecordSplit",
    *,
    seed: int,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
) -> TrainStream | PrefetchedStream:
    """Opens the batches of a training split, in memory or in files; use it in a ``with``.

    Args:
      split: of a `Dataset`.
      seed, batch_size, share: as for `TrainStream`.

    Example:
      >>> split = Split(np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32))
      >>> with open_stream(split, seed=0, batch_size=4) as stream:
      ...     stream.batch(step=7)["image"].shape
      (4, 28, 28, 1)
    """
    if isinstance(split, Split):
        return TrainStream(
            split.images, split.labels, seed=seed, batch_size=batch_size, share=share
        )
    return PrefetchedStream(split, seed=seed, batch_size=batch_size, share=share)


def eval_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Yields every image once, in order; the last batch is padded with images whose mask is 0.

    Args:
      images, labels, batch_size: as for `TrainStream`.
      share: likewise; all processes get equally many batches, the last of which may hold masked
        images alone.

    Yields:
      {"image", "label", "mask"}, each of length ``batch_size / count``.

    Example:
      >>> images, labels = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32)
      >>> [int(batch["mask"].sum()) for batch in eval_batches(images, labels, 2)]
      [2, 2, 1]
    """
    _check_arrays(images, labels)
    size = share_size(batch_size, share)
    for start in range(share[0] * size, share[0] * size + len(labels), batch_size):
        image, label = images[start : start + size], labels[start : start + size]
        missing = size - len(label)
        yield {
            "image": np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(label, (0, missing)),
            "mask": np.pad(np.ones(len(label), np.float32), (0, missing)),
        }


def _check_arrays(images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"images are {images.dtype} {list(images.shape)}: must be uint8 [n, height, width, "
            "channels]"
        )
    if labels.shape != images.shape[:1]:
        raise DataError(f"labels are {list(labels.shape)}: must be [{len(images)}], as the images")
