"""A data set, its splits, and which example belongs to which split.

Images are uint8 [n, 28, 28, 1], 0 for paper and 255 for ink; labels are int32 [n] from 0.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from digits_jax.data.tfds import RecordSplit

SPLITS = ("train", "validation", "test")
VALIDATION_FRACTION = 12  # one in so many
# Never change it: another key gives another validation split, and results no longer compare.
_SPLIT_KEY = 1998


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, in memory.

    Attributes:
      images: uint8 [n, 28, 28, 1].
      labels: int32 [n], from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels at some indices, as `RecordSplit` does from files."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, its splits and where it comes from.

    Attributes:
      name: one of ``DATASETS`` but never ``auto``; or ``tfds/NAME:VERSION``.
      version: the version of its source.
      source: where it comes from, for a person.
      sha256: over dtype, shape and bytes of all arrays (`sha256_of_arrays`); for
        ``tfds/NAME:VERSION`` see `digits_jax.data.tfds`.
      class_names: a name for each label.
      train, validation, test: the splits. With ``input="stream"`` train is a `RecordSplit`, which
        holds no arrays but has a length and `rows`.
      notice: why ``auto`` fell back to ``digits``; else empty.
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


def make_dataset(arrays: Mapping[str, np.ndarray], **fields: Any) -> Dataset:
    """Makes a data set of ``<split>_images`` and ``<split>_labels``, which become read-only."""
    for array in arrays.values():
        array.flags.writeable = False
    splits: dict[str, Any] = {
        split: Split(arrays[f"{split}_images"], arrays[f"{split}_labels"])
        for split in SPLITS
        if split not in fields
    }
    return Dataset(**fields, **splits)


def sha256_of_arrays(arrays: Iterable[np.ndarray]) -> str:
    """Computes one SHA-256 over dtype, shape and bytes of several arrays.

    Example:
      >>> sha256_of_arrays([np.zeros(3, np.uint8)])[:16]
      '7fa684a32470423a'
    """
    total = hashlib.sha256()
    for array in arrays:
        # Little-endian on every machine: the sum identifies the data, not the computer.
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        total.update(f"{plain.dtype.str}{list(plain.shape)}".encode())
        total.update(plain.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def fixed_order(count: int) -> np.ndarray:
    """Returns a random order of ``count`` examples that never changes: int64 [count].

    Example:
      >>> sorted(fixed_order(5).tolist())
      [0, 1, 2, 3, 4]
    """
    # NumPy promises never to change the raw words of a bit generator; its permutations may change.
    words = np.random.Philox(key=_SPLIT_KEY).random_raw(count)
    return np.argsort(words, kind="stable")


def validation_indices(count: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Divides an original train split into training and validation examples.

    The membership depends on ``count`` and ``most`` alone.

    Args:
      count: number of examples.
      most: largest size of the validation split; None for no limit.

    Returns:
      Two sorted int64 arrays, train and validation; the second holds a twelfth, or ``most``.

    Example:
      >>> [len(part) for part in validation_indices(60_000)]
      [55000, 5000]
    """
    order = fixed_order(count)
    size = count // VALIDATION_FRACTION
    size = size if most is None else min(size, most)
    return np.sort(order[size:]), np.sort(order[:size])


def stratified_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides examples 7 : 1 : 2 within every class.

    The examples are sorted by class, in a fixed random order within each; of every ten, two go to
    test and one to validation.

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
