"""The training batches of a run from files, read ahead by Grain while the last ones are used.

The order is that of `digits_jax.data.pipeline.TrainStream`, bit for bit: the batch of a step
depends on (seed, step) alone. So there is no state to be saved but the step, and a run goes on
at any step at once. Images are read for some steps at a time: a disk that has the places of
thousands of records at once answers several times as fast as for the few of one batch.

The readers are threads, not processes: on two cores one or two of Grain's worker processes read no
more images a second than two threads, and took seconds to start; and threads end with their
process however it ends. `python -m digits_jax.benchmark input` measures them.
"""

import sys
from typing import Any

import numpy as np

from digits_jax.data.pipeline import BatchOrder, TrainStream
from digits_jax.data.records import RecordSplit
from digits_jax.data.splits import Split

THREADS = 2
IMAGES_AT_ONCE = 4096
BLOCKS_AHEAD = 3  # 3 MB each


def open_stream(
    split: Split | RecordSplit,
    *,
    seed: int,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
) -> "TrainStream | PrefetchedStream":
    """The batches of a training split, wherever it is; close them, or use them in a ``with``.

    Args:
      split: of a `Dataset`: arrays in memory, or files.
      seed: the run's seed.
      batch_size: images in each batch, over all devices and processes.
      share: (index, count): this process's part of every batch, of so many processes.

    Example:
      >>> split = Split(np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.int32))
      >>> with open_stream(split, seed=0, batch_size=4) as stream:
      ...     stream.batch(step=7)["image"].shape
      (4, 28, 28, 1)
    """
    order = {"seed": seed, "batch_size": batch_size, "share": share}
    if isinstance(split, RecordSplit):
        return PrefetchedStream(split, **order)
    return TrainStream(split.images, split.labels, **order)


class PrefetchedStream:
    """The batches of a `TrainStream`, read from files and ahead of time.

    Ask for one step after the other: what is read ahead is thrown away where a step doesn't
    follow its predecessor. Only one thread may ask.

    Args:
      split: where the images are.
      seed: the run's seed.
      batch_size: images in each batch, over all devices and processes.
      share: (index, count): this process's part of every batch, of so many processes.
      threads: how many read at once.
      ahead: blocks of batches that are kept ready, one for each thread at least.
      at_once: images in a block, about; it holds one batch at least.
    """

    def __init__(
        self,
        split: RecordSplit,
        *,
        seed: int,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        threads: int = THREADS,
        ahead: int = BLOCKS_AHEAD,
        at_once: int = IMAGES_AT_ONCE,
    ):
        import grain

        self._order = BatchOrder(len(split), seed=seed, batch_size=batch_size, share=share)
        self._steps = max(1, at_once // self._order.share_size)  # in a block
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
        blocks = _Blocks(split, self._order, self._steps)
        self._dataset = grain.MapDataset.source(blocks).to_iter_dataset(options)
        self._iterator: Any = None
        self._block: list[dict[str, np.ndarray]] = []
        self._here = self._next = -1  # the numbers of the block at hand, and of the iterator's next

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends the threads that read ahead; the next batch would start them again."""
        iterator, self._iterator = self._iterator, None
        self._block, self._here, self._next = [], -1, -1
        if iterator is not None:
            iterator.close()

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch_size / count]: which images the batch of ``step`` holds."""
        return self._order.indices(step)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's part of the batch of ``step``: {"image", "label", "mask"}.

        Raises:
          DataError: a file can't be read; the message names it. It is raised for the first
            batch of those that are read at once.
        """
        number, place = divmod(step, self._steps)
        if number != self._here:
            self._take(number)
        return self._block[place]

    def _take(self, number):
        if number != self._next:
            self.close()
            self._iterator = iter(self._dataset)
            self._iterator.set_state({"next_index": number})
        # What is interrupted within, by an error or a signal, has lost its place.
        self._here = self._next = -1
        self._block = next(self._iterator)
        self._here, self._next = number, number + 1


class _Blocks:
    """All batches there will ever be, some steps at a time, for Grain to pick from."""

    def __init__(self, split, order, steps):
        self._split, self._order, self._steps = split, order, steps
        self._mask = np.ones(order.share_size, np.float32)

    def __len__(self):
        return sys.maxsize // 2

    def __getitem__(self, number):
        steps = range(number * self._steps, (number + 1) * self._steps)
        indices = np.concatenate([self._order.indices(step) for step in steps])
        images, labels = (np.split(rows, self._steps) for rows in self._split.rows(indices))
        return [
            {"image": image, "label": label, "mask": self._mask}
            for image, label in zip(images, labels, strict=True)
        ]
