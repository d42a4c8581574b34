"""The parts of a data set, and which example belongs to which.

Arrays: images uint8 [n, 28, 28, 1] (0 the paper, 255 the ink), labels int32 [n] from 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from digits_jax.data.records import RecordSplit

PARTS = ("train", "validation", "test")
VALIDATION_FRACTION = 12  # one in so many
# Fixed for ever: another key is another validation split, and no result compares.
_SPLIT_KEY = 1998
_CHUNK = 2**20  # random words at a time


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a data set.

    Attributes:
      images: uint8 [n, 28, 28, 1].
      labels: int32 [n], from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels at some indices; a `RecordSplit` reads them from files."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, its parts and where it came from.

    Attributes:
      name: one of ``DATASETS``, never ``auto``; or ``tfds/NAME:VERSION``.
      version: the version of its source.
      source: where it came from, for a person.
      sha256: over dtype, shape and bytes of all arrays, in a fixed order; that of
        ``tfds/NAME:VERSION`` is described in `digits_jax.data.prepared`.
      class_names: a name for each label.
      train, validation, test: the parts; with ``input="stream"`` train is a `RecordSplit`,
        which has no arrays, but a length and `rows` of any indices.
      notice: why ``auto`` fell back to ``digits``; empty where it did not.
    """

    name: str
    version: str
    source: str
    sha256: str
    class_names: tuple[str, ...]
    train: "Split | RecordSplit"
    validation: Split
    test: Split
    notice: str = ""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def validation_indices(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples of an original train split train, and which validate.

    Args:
      count: the number of examples.

    Returns:
      Two sorted int64 arrays without a common entry; the second holds a twelfth.

    Example:
      >>> [len(part) for part in validation_indices(60_000)]
      [55000, 5000]
    """
    order = fixed_order(count)
    size = count // VALIDATION_FRACTION
    return np.sort(order[size:]), np.sort(order[:size])


def stratified_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides examples 7 : 1 : 2, every class alike.

    The examples are lined up by class, in a fixed random order within each; of every ten in
    line, two go to test and one to validation.

    Args:
      labels: int32 [n].

    Returns:
      Three sorted int64 arrays: train, validation, test.
    """
    order = fixed_order(len(labels))
    line = order[np.argsort(labels[order], kind="stable")]
    place = np.arange(len(labels)) % 10
    return (
        np.sort(line[~np.isin(place, (0, 3, 5))]),
        np.sort(line[place == 3]),
        np.sort(line[np.isin(place, (0, 5))]),
    )


def lowest_words(count: int, size: int) -> np.ndarray:
    """The validation examples of an original train split, where they are fewer than a twelfth.

    They are the first ``size`` in the order of which :func:`validation_indices` takes the first
    twelfth, found in memory that does not grow with ``count``.

    Args:
      count: the number of examples.
      size: how many validate.

    Returns:
      int64 [size], sorted.

    Example:
      >>> bool((lowest_words(600, 50) == validation_indices(600)[1]).all())
      True
    """
    generator = np.random.Philox(key=_SPLIT_KEY)
    words, indices = np.empty(0, np.uint64), np.empty(0, np.int64)
    for start in range(0, count, _CHUNK):
        fresh = generator.random_raw(min(_CHUNK, count - start))
        words = np.concatenate([words, fresh])
        indices = np.concatenate([indices, np.arange(start, start + len(fresh))])
        best = np.argsort(words, kind="stable")[:size]
        words, indices = words[best], indices[best]
    return np.sort(indices)


def fixed_order(count: int) -> np.ndarray:
    """An order of so many examples that is random, and the same for ever.

    Args:
      count: the number of examples.

    Returns:
      int64 [count], each index once.

    Example:
      >>> sorted(fixed_order(5).tolist())
      [0, 1, 2, 3, 4]
    """
    # NumPy promises the raw words of a bit generator for ever, its permutations not.
    words = np.random.Philox(key=_SPLIT_KEY).random_raw(count)
    return np.argsort(words, kind="stable")


def make_dataset(arrays: Mapping[str, np.ndarray], **facts: object) -> Dataset:
    """A data set of ``<part>_images`` and ``<part>_labels``, which are closed to writing.

    Args:
      arrays: of all parts that ``facts`` does not give.
      facts: the other fields of `Dataset`.
    """
    for array in arrays.values():
        array.flags.writeable = False
    parts = {
        part: Split(arrays[f"{part}_images"], arrays[f"{part}_labels"])
        for part in PARTS
        if part not in facts
    }
    return Dataset(**facts, **parts)
