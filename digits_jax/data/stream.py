"""The training batches of a run from files, read ahead by Grain while the last ones are used.

The order is that of `digits_jax.data.pipeline.TrainStream`, bit for bit: the batch of a step
depends on (seed, step) alone. So there is no state to be saved but the step, and a run goes on
at any step at once.

The readers are threads, not processes: unpacking needs a fraction of a core (the README's table),
and threads end with their process however it ends.
"""

import sys
from typing import Any

import numpy as np

from digits_jax.data.pipeline import BatchOrder, TrainStream
from digits_jax.data.records import RecordSplit
from digits_jax.data.splits import Split

THREADS = 2
BATCHES_AHEAD = 8


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
      ahead: batches that are kept ready.
    """

    def __init__(
        self,
        split: RecordSplit,
        *,
        seed: int,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        threads: int = THREADS,
        ahead: int = BATCHES_AHEAD,
    ):
        import grain

        order = BatchOrder(len(split), seed=seed, batch_size=batch_size, share=share)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self._batches = _Batches(split, order)
        self._dataset = grain.MapDataset.source(self._batches).to_iter_dataset(options)
        self._iterator: Any = None
        self._next_step = -1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends the threads that read ahead; the next batch would start them again."""
        iterator, self._iterator, self._next_step = self._iterator, None, -1
        if iterator is not None:
            iterator.close()

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch_size / count]: which images the batch of ``step`` holds."""
        return self._batches.order.indices(step)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's part of the batch of ``step``: {"image", "label", "mask"}.

        Raises:
          InputError: a file can't be read; the message names it.
        """
        if step != self._next_step:
            self.close()
            self._iterator = iter(self._dataset)
            self._iterator.set_state({"next_index": step})
        # What is interrupted within, by an error or a signal, has lost its place.
        self._next_step = -1
        batch = next(self._iterator)
        self._next_step = step + 1
        return batch


class _Batches:
    """All batches there will ever be, for Grain to pick from by step."""

    def __init__(self, split, order):
        self.split, self.order = split, order
        self._mask = np.ones(order.share_size, np.float32)

    def __len__(self):
        return sys.maxsize // 2

    def __getitem__(self, step):
        images, labels = self.split.rows(self.order.indices(step))
        return {"image": images, "label": labels, "mask": self._mask}
