"""From arrays to batches, in an order that is a pure function of (seed, epoch).

Training sees one long stream of images: epoch 0 in its order, then epoch 1 in its own, and so
on, cut into batches of equal size. A batch may hold the end of one epoch and the start of the
next; so each image comes once per epoch, no batch is short, and the images of step s depend
on (seed, s) alone: not on where a run was resumed, and not on the number of devices.
"""

import math
from collections.abc import Iterator

import chex
import numpy as np

from digits_jax.errors import InputError


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
    # Philox is counter-based: each (seed, epoch) is a stream of its own, at no cost. Its raw
    # words are the same in every NumPy; what `Generator` makes of them is not promised to be.
    words = np.random.Philox(key=[seed, epoch]).random_raw(size)
    return np.argsort(words, kind="stable")


def num_steps(epochs: float, size: int, batch_size: int) -> int:
    """Steps after which every image has been seen ``epochs`` times.

    Example:
      >>> num_steps(epochs=2, size=55_000, batch_size=256)
      430
    """
    return max(1, math.ceil(round(epochs * size / batch_size, 6)))


class TrainStream:
    """The training batches of a run, by step.

    Args:
      images: uint8 [n, height, width, channels].
      labels: int32 [n].
      seed: the run's seed.
      batch_size: images in each batch, over all devices.

    Example:
      >>> images, labels = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32)
      >>> stream = TrainStream(images, labels, seed=0, batch_size=2)
      >>> seen = [int(label) for step in range(5) for label in stream.batch(step)["label"]]
      >>> sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
      True
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, seed: int, batch_size: int):
        chex.assert_rank(images, 4, custom_message="images are [n, height, width, channels]")
        chex.assert_shape(labels, images.shape[:1], custom_message="labels are [n]")
        if images.dtype != np.uint8:
            raise InputError(f"images are {images.dtype}; give uint8 in [0, 255]")
        if batch_size < 1 or not len(labels):
            raise InputError(f"batch_size is {batch_size} of {len(labels)} images; give 1 or more")
        self._images, self._labels = images, labels
        self._seed, self._batch_size = seed, batch_size
        self._orders: dict[int, np.ndarray] = {}
        self._mask = np.ones(batch_size, np.float32)

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch_size]: which images the batch of ``step`` holds."""
        size = len(self._labels)
        position, end = step * self._batch_size, (step + 1) * self._batch_size
        parts = []
        while position < end:
            epoch, start = divmod(position, size)
            part = self._order(epoch)[start : start + end - position]
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of ``step``: {"image", "label", "mask"}."""
        indices = self.indices(step)
        return {
            "image": self._images[indices],
            "label": self._labels[indices],
            "mask": self._mask,
        }

    def _order(self, epoch):
        if epoch not in self._orders:
            # A batch needs two epochs' orders at the most, where it isn't larger than the data.
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = epoch_order(self._seed, epoch, len(self._labels))
        return self._orders[epoch]


def eval_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Every image once, in order; the last batch is filled up with images whose mask is 0.

    Args:
      images: uint8 [n, height, width, channels].
      labels: int32 [n].
      batch_size: images in each batch, over all devices.

    Yields:
      {"image", "label", "mask"}, each of length ``batch_size``.

    Example:
      >>> images, labels = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32)
      >>> [int(batch["mask"].sum()) for batch in eval_batches(images, labels, 2)]
      [2, 2, 1]
    """
    chex.assert_rank(images, 4)
    chex.assert_shape(labels, images.shape[:1])
    for start in range(0, len(labels), batch_size):
        image, label = images[start : start + batch_size], labels[start : start + batch_size]
        missing = batch_size - len(label)
        yield {
            "image": np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(label, (0, missing)),
            "mask": np.pad(np.ones(len(label), np.float32), (0, missing)),
        }
