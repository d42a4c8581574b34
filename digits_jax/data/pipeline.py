"""From arrays to batches, in an order that is a pure function of (seed, epoch).

Training sees one long stream of images: epoch 0 in its order, then epoch 1 in its own, and so
on, cut into batches of equal size. A batch may hold the end of one epoch and the start of the
next; so each image comes once per epoch, no batch is short, and the images of step s depend
on (seed, s) alone: not on where a run was resumed, and not on the number of devices. Of several
processes each takes its share of every batch: a run of neighbours, so that the shares laid end
to end are the batch.
"""

import math
import threading
from collections.abc import Iterator

import chex
import numpy as np

from digits_jax.errors import DataError

# The largest data set whose epochs are sorted by random words: 170 MB for a second. Of a larger
# one the order is computed place by place, and takes no memory at all.
LARGEST_SORTED = 2**23
_ROUNDS = 6


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which an epoch visits the images.

    Args:
      seed: the run's seed, 0 or more.
      epoch: 0, 1, ...
      size: number of images.

    Returns:
      int64 [size], a permutation.

    Example:
      >>> sorted(epoch_order(seed=0, epoch=3, size=4).tolist())
      [0, 1, 2, 3]
    """
    if size > LARGEST_SORTED:
        return scattered(seed, epoch, size, np.arange(size))
    # Philox is counter-based: each (seed, epoch) is a stream of its own, at no cost. Its raw
    # words are the same in every NumPy; what `Generator` makes of them is not promised to be.
    words = np.random.Philox(key=[seed, epoch]).random_raw(size)
    return np.argsort(words, kind="stable")


def scattered(seed: int, epoch: int, size: int, places: np.ndarray) -> np.ndarray:
    """What stands at some places of a permutation that is never written down.

    A Feistel network permutes the smallest square of a power of two that holds ``size``; a
    number beyond ``size`` is permuted again until it is within.

    Args:
      seed: the run's seed.
      epoch: 0, 1, ...
      size: of the permutation.
      places: int64 [n], in [0, size).

    Returns:
      int64 [n].

    Example:
      >>> sorted(scattered(0, 3, 5, np.arange(5)).tolist())
      [0, 1, 2, 3, 4]

    Reference:
      Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002 (cycle walking)
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.Philox(key=[seed, epoch]).random_raw(_ROUNDS)
    found = np.asarray(places).astype(np.uint64)
    todo = np.arange(len(found))
    while len(todo):
        left, right = found[todo] >> half, found[todo] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        found[todo] = left << half | right
        todo = todo[found[todo] >= size]
    return found.astype(np.int64)


def _mixed(words: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every bit depends on all; the high half is the better one."""
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words >> np.uint64(32)


def num_steps(epochs: float, size: int, batch_size: int) -> int:
    """Steps after which every image has been seen ``epochs`` times.

    Example:
      >>> num_steps(epochs=2, size=55_000, batch_size=256)
      430
    """
    return max(1, math.ceil(round(epochs * size / batch_size, 6)))


class BatchOrder:
    """Which images the batch of each step holds; threads may ask at once.

    Args:
      size: number of images.
      seed: the run's seed.
      batch_size: images in each batch, over all processes.
      share: (index, count): this process's part of every batch, of so many.

    Example:
      >>> halves = [BatchOrder(9, seed=0, batch_size=4, share=(i, 2)).indices(3) for i in (0, 1)]
      >>> np.concatenate(halves).tolist() == BatchOrder(9, seed=0, batch_size=4).indices(3).tolist()
      True
    """

    def __init__(self, size: int, *, seed: int, batch_size: int, share: tuple[int, int] = (0, 1)):
        if batch_size < 1 or not size:
            raise DataError(f"batch_size is {batch_size} of {size} images; give 1 or more")
        self.share_size = share_size(batch_size, share)
        self._size, self._seed, self._batch_size = size, seed, batch_size
        self._first = share[0] * self.share_size
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch_size / count]: which images this process's part of a batch holds."""
        position = step * self._batch_size + self._first
        end = position + self.share_size
        parts = []
        while position < end:
            epoch, start = divmod(position, self._size)
            part = self._part(epoch, start, min(start + end - position, self._size))
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _part(self, epoch, start, stop):
        if self._size > LARGEST_SORTED:
            return scattered(self._seed, epoch, self._size, np.arange(start, stop))
        with self._lock:
            if epoch not in self._orders:
                # A batch needs two epochs' orders at the most, where it isn't larger than the
                # data; those who prefetch may be in the next while the last is still asked for.
                self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
                order = epoch_order(self._seed, epoch, self._size)
                self._orders[epoch] = order.astype(np.uint32)  # half the memory
            return self._orders[epoch][start:stop].astype(np.int64)


def share_size(batch_size: int, share: tuple[int, int]) -> int:
    """Images of each batch that fall to one process.

    Args:
      batch_size: images in each batch, over all processes.
      share: (index, count).

    Raises:
      DataError: no such part, or the batch can't be divided evenly.

    Example:
      >>> share_size(256, (1, 2))
      128
    """
    index, count = share
    if not 0 <= index < count:
        raise DataError(f"share is {share}; give (index, count) with 0 <= index < count")
    if batch_size % count:
        raise DataError(
            f"batch_size is {batch_size} for {count} processes; give a multiple of {count}"
        )
    return batch_size // count


class TrainStream:
    """The training batches of a run, by step, from arrays in memory.

    Args:
      images: uint8 [n, height, width, channels].
      labels: int32 [n].
      seed: the run's seed.
      batch_size: images in each batch, over all devices and processes.
      share: (index, count): this process's part of every batch, of so many processes.

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
        chex.assert_rank(images, 4, custom_message="images are [n, height, width, channels]")
        chex.assert_shape(labels, images.shape[:1], custom_message="labels are [n]")
        if images.dtype != np.uint8:
            raise DataError(f"images are {images.dtype}; give uint8 in [0, 255]")
        self._images, self._labels = images, labels
        self._order = BatchOrder(len(labels), seed=seed, batch_size=batch_size, share=share)
        self._mask = np.ones(self._order.share_size, np.float32)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing to close: as `PrefetchedStream` has it."""

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch_size / count]: which images the batch of ``step`` holds."""
        return self._order.indices(step)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's part of the batch of ``step``: {"image", "label", "mask"}."""
        indices = self.indices(step)
        return {
            "image": self._images[indices],
            "label": self._labels[indices],
            "mask": self._mask,
        }


def eval_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """Every image once, in order; the last batch is filled up with images whose mask is 0.

    Args:
      images: uint8 [n, height, width, channels].
      labels: int32 [n].
      batch_size: images in each batch, over all devices and processes.
      share: (index, count): this process's part of every batch, of so many processes; each
        process gets as many batches as the others, the last ones perhaps of masked images alone.

    Yields:
      {"image", "label", "mask"}, each of length ``batch_size / count``.

    Example:
      >>> images, labels = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32)
      >>> [int(batch["mask"].sum()) for batch in eval_batches(images, labels, 2)]
      [2, 2, 1]
    """
    chex.assert_rank(images, 4)
    chex.assert_shape(labels, images.shape[:1])
    size = share_size(batch_size, share)
    for start in range(share[0] * size, share[0] * size + len(labels), batch_size):
        image, label = images[start : start + size], labels[start : start + size]
        missing = size - len(label)
        yield {
            "image": np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(label, (0, missing)),
            "mask": np.pad(np.ones(len(label), np.float32), (0, missing)),
        }
