"""Images and labels in memory, and their fixed division into training, validation and test.

Images are uint8 [n, 28, 28, 1], 0 for paper and 255 for ink; labels are int32 [n] from 0.

Validation: the original train split is ordered by the random words that a Philox generator with a
constant key gives to its indices; the first twelfth (5,000 of MNIST's 60,000) is the validation
split. It depends on nothing but the number of examples. Within each split, the examples are in the
order of the original files.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from digits_jax.errors import DataError, shown
from digits_jax.formatting import html_table

if TYPE_CHECKING:
    from digits_jax.data.tfds import RecordSplit

SPLITS = ("train", "validation", "test")
IMAGE_SIZE = (28, 28)
MAX_CLASSES = 1000
OWN = "own"
# Never change it: another key gives another validation split, and results no longer compare.
_SPLIT_KEY = 1998


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, in memory; its arrays are read-only.

    Attributes:
      images: uint8 [n, height, width, channels].
      labels: int32 [n], from 0; other integers are converted.

    Raises:
      DataError: images of another type or rank, or labels that don't fit.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images).view(), np.asarray(self.labels)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                f"images are {images.dtype} {list(images.shape)}: must be uint8 [n, height, "
                "width, channels]; or give any arrays to Dataset.from_arrays"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(
                f"labels are {labels.dtype} {list(labels.shape)}: must be integers "
                f"[{len(images)}], as the images"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
            raise DataError(
                f"labels are from {labels.min()} to {labels.max()}: must be from 0 to at most "
                f"{MAX_CLASSES - 1}"
            )
        labels = labels.astype(np.int32, copy=False).view()
        images.flags.writeable = labels.flags.writeable = False
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {list(self.images.shape[1:])})"

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels at some indices, as `RecordSplit` does from files."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, its splits and where it comes from.

    Attributes:
      name: one of ``DATASETS`` but never ``auto``; ``tfds/NAME:VERSION``; or the user's choice.
      version: the version of its source; ``OWN`` for user arrays and files.
      source: where it comes from, for a person.
      sha256: over all arrays (`sha256_of_splits`), computed if it is empty; for
        ``tfds/NAME:VERSION`` see `digits_jax.data.tfds`.
      class_names: a name for each label.
      train, validation, test: the splits. With ``input="stream"`` train is a `RecordSplit`, which
        holds no arrays but has a length and `rows`.
      notice: why ``auto`` fell back to ``digits``; else empty.
      notes: what was done to user data, a line each.
      path: where user data was read; else empty. Of mixed ones ``A+B``.
      parts: of mixed data sets (`mix_datasets`): the name of each, and how many of the validation
        and of the test images are its own; else empty.

    Raises:
      DataError: a split that can't be trained on or scored; the message names it.
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
    notes: tuple[str, ...] = ()
    path: str = ""
    parts: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        names = tuple(map(str, self.class_names))
        if len(set(names)) < len(names) or not 2 <= len(names) <= MAX_CLASSES:
            raise DataError(
                f"class_names are {len(names)}, {len(set(names))} of them different: must be 2 to "
                f"{MAX_CLASSES:,} different names"
            )
        object.__setattr__(self, "class_names", names)
        for part in SPLITS:
            split = getattr(self, part)
            if not hasattr(split, "rows"):
                raise DataError(f"{part} is a {type(split).__name__}: must be a digits_jax.Split")
            if not len(split):
                raise DataError(f"{part} has no images: must have at least 1")
            if isinstance(split, Split):
                _check_split(part, split, len(names))
        if not self.sha256 and isinstance(self.train, Split):
            total = sha256_of_splits(getattr(self, part) for part in SPLITS)
            object.__setattr__(self, "sha256", total)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, part)):,} {part}" for part in SPLITS)
        return f"Dataset({self.name} {self.version}: {sizes} images; {self.num_classes} classes)"

    def _repr_html_(self) -> str:
        sizes = {f"{part} images": f"{len(getattr(self, part)):,}" for part in SPLITS}
        names = ", ".join(self.class_names[:20]) + (", ..." if self.num_classes > 20 else "")
        facts = {"name": f"{self.name} {self.version}", "source": self.source, **sizes}
        return html_table({**facts, "classes": f"{self.num_classes}: {names}"}, "Dataset")

    @classmethod
    def from_arrays(
        cls,
        train: tuple[Any, Any],
        test: tuple[Any, Any] | None = None,
        *,
        validation: tuple[Any, Any] | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "mine",
    ) -> "Dataset":
        """Makes a data set from the user's arrays, or from what NumPy converts to arrays.

        What isn't given is taken from ``train``: one of ten images of each class, always the same
        ones. Images of another size are scaled to 28x28, colours become grey, and dark digits on
        light paper are inverted, by majority; `notes` says what was done, and so does a line on
        stderr. The arrays of genuine MNIST, in their order, are recognized and give ``mnist``.

        Args:
          train: images and labels. Images are [n, height, width], with a last axis of 1 or 3
            channels or none, or [n, height * width] of square images; bool, integers from 0 to
            255, or floats from 0 to 1 or from 0 to 255. Labels are [n], whole numbers or text.
          test, validation: likewise.
          class_names: of the labels 0, 1, 2, ...; else the classes are the labels that there are.

        Raises:
          DataError: the message names the array, what it has and what is allowed.

        Examples:
          >>> images, labels = np.zeros((40, 28, 28)), np.arange(40) % 2
          >>> images[:, 4:20, 14] = 1
          >>> mine = Dataset.from_arrays((images, labels), class_names=("odd", "even"))
          >>> len(mine.train), len(mine.validation), len(mine.test), mine.num_classes
          (32, 4, 4, 2)
        """
        from digits_jax.data.arrays import dataset_from_arrays, print_notes  # it imports this one

        parts = {"train": train, "validation": validation, "test": test}
        given = {part: arrays for part, arrays in parts.items() if arrays is not None}
        return print_notes(dataset_from_arrays(given, class_names=class_names, name=name))

    @property
    def is_small(self) -> bool:
        """Whether presets train it as ``digits``: so are small sets of user data."""
        return self.name == "digits" or (self.version == OWN and len(self.train) < 5_000)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def without_images(described: Mapping[str, Any], reason: str) -> Dataset:
    """Makes the data set that a run's ``config.json`` describes, with blank images of label 0.

    Args:
      reason: why its images aren't there, for the notice.

    Raises:
      DataError: it isn't described in full.
    """

    def blank(count: Any) -> Split:
        if type(count) is not int or not 0 < count < 2**40:
            raise ValueError(count)
        shape = (count, *IMAGE_SIZE, 1)
        return Split(np.broadcast_to(np.uint8(0), shape), np.broadcast_to(np.int32(0), count))

    try:
        facts = {name: str(described[name]) for name in ("name", "version", "source", "sha256")}
        parts: Any = {part: blank(described["counts"][part]) for part in SPLITS}
        names = tuple(described["class_names"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"its data set isn't described ({shown(str(error))})") from None
    return Dataset(**facts, class_names=names, **parts, notice=f"its images aren't there: {reason}")


def _check_split(part: str, split: Split, classes: int) -> None:
    size, most = list(split.images.shape[1:]), int(split.labels.max())
    if size != [*IMAGE_SIZE, 1]:
        raise DataError(
            f"{part} has images of {size}: must be [28, 28, 1]; or give them to Dataset.from_arrays"
        )
    if most >= classes:
        raise DataError(
            f"{part} has labels up to {most}: must be from 0 to {classes - 1}, as class_names has "
            f"{classes}"
        )


def random_order(size: int, *key: int) -> np.ndarray:
    """Returns a permutation that is a pure function of a key of one or two numbers: int64 [size].

    Examples:
      >>> random_order(5, 0, 3).tolist()
      [4, 0, 1, 2, 3]
    """
    # Philox is counter-based: each key is a stream of its own, at no cost. NumPy promises never to
    # change the raw words of a bit generator; its permutations may change.
    words = np.random.Philox(key=[*key, 0][:2]).random_raw(size)
    return np.argsort(words, kind="stable")


def validation_indices(count: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Divides an original train split into training and validation examples.

    Args:
      count: number of examples.
      most: largest size of the validation split; None for no limit.

    Returns:
      Two sorted int64 arrays, train and validation; the second holds a twelfth, or ``most``.

    Examples:
      >>> [len(part) for part in validation_indices(60_000)]
      [55000, 5000]
    """
    order = random_order(count, _SPLIT_KEY)
    size = min(count // 12, count if most is None else most)
    return np.sort(order[size:]), np.sort(order[:size])


def stratified_indices(
    labels: np.ndarray, parts: Sequence[str], *, begin_again: bool = True
) -> dict[str, np.ndarray]:
    """Deals examples out to parts in turn, class after class, in a fixed random order.

    Args:
      labels: [n].
      parts: to which the first example goes, the second, ...; after the last comes the first again.
      begin_again: with the first part in every class.

    Returns:
      For each part, which examples it has: sorted int64.

    Examples:
      >>> stratified_indices(np.array([0, 0, 1, 0, 1]), ["a", "b"])
      {'a': array([0, 1, 4]), 'b': array([2, 3])}
    """
    order = random_order(len(labels), _SPLIT_KEY)
    line = order[np.argsort(labels[order], kind="stable")]
    turns = np.arange(len(line))
    if begin_again:
        turns -= np.searchsorted(labels[line], labels[line])
    names = np.array(parts)[turns % len(parts)]
    return {part: np.sort(line[names == part]) for part in dict.fromkeys(parts)}


def sha256_of_splits(splits: Iterable[Split]) -> str:
    """Computes one SHA-256 over dtype, shape and bytes of all images and labels.

    Examples:
      >>> split = Split(np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32))
      >>> sha256_of_splits([split])[:16]
      'b115996a7f57cf74'
    """
    total = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels):
            # Little-endian on every machine: the sum identifies the data, not the computer.
            plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            total.update(f"{plain.dtype.str}{list(plain.shape)}".encode())
            total.update(plain.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
