"""Data sets: their arrays, their splits, and where they are found.

Images are uint8 [n, 28, 28, 1], 0 for paper and 255 for ink; labels are int32 [n] from 0.

The folders searched are ``data_dir``, else that in ``DIGITS_JAX_DATA_DIR``, and, if it isn't given
or can't be written, that of tensorflow-datasets (``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).
A folder may hold the original files (in it, or in a folder named after the data set) or the
prepared tfds data set. Downloads and the cache of decoded arrays are written there too.

Validation: the original train split is ordered by the random words that a Philox generator with a
constant key gives to its indices; the first twelfth (5,000 of MNIST's 60,000) is the validation
split. It depends on nothing but the number of examples. Within each split, the examples are in the
order of the original files.
"""

import difflib
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from digits_jax.data.files import first_writable, scratch_folder
from digits_jax.data.originals import (
    DATA_DIR_VARIABLE,
    REGISTERED,
    Registered,
    UnavailableError,
    download_originals,
    find_originals,
    read_originals,
)
from digits_jax.errors import DataError, shown

if TYPE_CHECKING:
    from digits_jax.data.tfds import RecordSplit

DATASETS = ("auto", *REGISTERED, "digits")
SPLITS = ("train", "validation", "test")
# Never change it: another key gives another validation split, and results no longer compare.
_SPLIT_KEY = 1998


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, in memory; its arrays are read-only.

    Attributes:
      images: uint8 [n, height, width, channels].
      labels: int32 [n], from 0.

    Raises:
      DataError: images of another type or rank, or another number of labels.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images).view(), np.asarray(self.labels).view()
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                f"images are {images.dtype} {list(images.shape)}: must be uint8 [n, height, "
                "width, channels]"
            )
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"labels are {list(labels.shape)}: must be [{len(images)}], as the images"
            )
        images.flags.writeable = labels.flags.writeable = False
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

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
      sha256: over all arrays (`sha256_of_splits`); for ``tfds/NAME:VERSION`` see
        `digits_jax.data.tfds`.
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


def load_dataset(
    name: str = "auto",
    data_dir: str | os.PathLike | None = None,
    *,
    input: Literal["memory", "stream"] = "memory",
) -> Dataset:
    """Loads a data set, and downloads it first if necessary.

    ``auto`` is ``mnist`` if it is there or can be downloaded, else ``digits`` with
    `Dataset.notice` set. No other name falls back.

    ``emnist`` images are turned upright (the files hold them transposed), and the labels of
    ``emnist/letters`` start at 0. Its size is that of stock tfds, which takes only the first
    88,800 and 14,800 entries of the original files.

    Args:
      name: one of ``DATASETS``, or ``tfds/NAME:VERSION``; see `digits_jax.data.tfds`.
      data_dir: an existing folder; see the top of this module.
      input: with "stream" the training images stay in the files that tfds prepared and are read
        when they are needed, in the same order.

    Raises:
      DataError: an unknown name; a folder that doesn't exist; files that are missing or damaged;
        no place to download from or to write to.

    Example:
      >>> digits = load_dataset("digits")
      >>> digits.train.images.shape, digits.train.labels.dtype, digits.num_classes
      ((1257, 28, 28, 1), dtype('int32'), 10)

    Reference:
      MNIST: http://yann.lecun.com/exdb/mnist/; Fashion-MNIST: https://arxiv.org/abs/1708.07747;
      KMNIST: https://arxiv.org/abs/1812.01718; EMNIST: https://arxiv.org/abs/1702.05373;
      digits: https://doi.org/10.24432/C50P49; tfds: https://www.tensorflow.org/datasets
    """
    from digits_jax.data.digits import load_digits  # it imports this module

    if input not in ("memory", "stream"):
        raise DataError(f"input={shown(input)}: must be memory or stream")
    if name not in DATASETS and not str(name).startswith("tfds/"):
        near = difflib.get_close_matches(shown(name).lower(), DATASETS, 1)
        raise DataError(
            f"dataset={shown(name)}: must be one of {', '.join(DATASETS)}, or tfds/NAME of a "
            "prepared data set of your own" + (f" (did you mean {near[0]}?)" if near else "")
        )
    roots = _roots(data_dir) if data_dir or name != "digits" else []
    if name == "digits":
        if input == "stream":
            raise DataError("input=stream: digits has no files to read; give input=memory")
        return load_digits()
    if name.startswith("tfds/"):
        from digits_jax.data import tfds

        return tfds.load_prepared(name, roots, in_memory=input == "memory")
    data = REGISTERED["mnist" if name == "auto" else name]
    try:
        dataset = _load_registered(data, roots)
    except UnavailableError as error:
        if name != "auto" or input == "stream":
            raise
        notice = (
            "this is NOT MNIST, which could not be found: the 1,797 small digits that come with "
            f"this library are used ({error})"
        )
        return replace(load_digits(), notice=notice)
    if input == "memory":
        return dataset
    from digits_jax.data import tfds

    folder = _find_prepared(data, roots) or tfds.prepare(data, roots, dataset)
    return replace(dataset, train=tfds.open_registered(data, folder, "train", training_only=True))


# --- splits --------------------------------------------------------------------------------


def random_order(size: int, *key: int) -> np.ndarray:
    """Returns a permutation that is a pure function of a key of one or two numbers: int64 [size].

    Example:
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

    Example:
      >>> [len(part) for part in validation_indices(60_000)]
      [55000, 5000]
    """
    order = random_order(count, _SPLIT_KEY)
    size = min(count // 12, count if most is None else most)
    return np.sort(order[size:]), np.sort(order[:size])


def stratified_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides examples 7 : 1 : 2 within every class: sorted int64 arrays train, validation, test.

    The examples are sorted by class, in a fixed random order within each; of every ten, two go to
    test and one to validation.
    """
    order = random_order(len(labels), _SPLIT_KEY)
    line = order[np.argsort(labels[order], kind="stable")]
    part = np.resize([2, 0, 0, 1, 0, 2, 0, 0, 0, 0], len(labels))
    train, validation, test = (np.sort(line[part == number]) for number in range(3))
    return train, validation, test


def sha256_of_splits(splits: Iterable[Split]) -> str:
    """Computes one SHA-256 over dtype, shape and bytes of all images and labels.

    Example:
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


# --- the registered data sets --------------------------------------------------------------


def _roots(data_dir: str | os.PathLike | None) -> list[Path]:
    """The folders to search, best first; the second is for what the first can't take."""
    # As tfds has it, without importing tfds.
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    default = Path(os.path.expanduser(default)).absolute()
    variable = os.environ.get(DATA_DIR_VARIABLE)
    what, given = ("data_dir", data_dir) if data_dir else (DATA_DIR_VARIABLE, variable)
    if not given:
        return [default]
    root = Path(os.path.expanduser(given)).absolute()
    if not os.path.isdir(root) or not os.access(root, os.R_OK | os.X_OK):
        raise DataError(
            f"{what}={given}: does not exist, is not a folder or can't be read; give an existing "
            "folder (it may be empty), or none for the default"
        )
    return [root] if first_writable([root]) else [root, default]


def _load_registered(data: Registered, roots: list[Path]) -> Dataset:
    for root in roots:
        cached = _read_cache(data, root)
        if cached is not None:
            return cached
    folder = next(filter(None, (find_originals(data, root) for root in roots)), None)
    prepared = None if folder else _find_prepared(data, roots)
    if prepared:
        from digits_jax.data import tfds

        parts = {s: tfds.open_registered(data, prepared, s).read_all() for s in ("train", "test")}
        source = f"the tfds data set in {prepared}"
    else:
        folder = folder or download_originals(data, roots)
        parts = {split: Split(*arrays) for split, arrays in read_originals(data, folder).items()}
        source = f"the files in {folder}"
    train, validation = validation_indices(data.train_count)
    splits: dict[str, Any] = {
        "train": Split(*parts["train"].rows(train)),
        "validation": Split(*parts["train"].rows(validation)),
        "test": parts["test"],
    }
    facts = {
        "name": data.name,
        "version": data.version,
        "source": f"{data.name} {data.version} from {source}",
        "sha256": sha256_of_splits(splits.values()),
    }
    _write_cache(data, roots, splits, facts)
    return Dataset(**facts, class_names=data.class_names, **splits)


def _find_prepared(data: Registered, roots: list[Path]) -> Path | None:
    folders = [root / data.name / data.version for root in roots]
    # os.path says no where pathlib raises: in folders that may not be entered.
    return next((f for f in folders if os.path.isfile(f / "dataset_info.json")), None)


def cache_path(data: Registered, root: Path) -> Path:
    """Returns the path of a data set's decoded arrays under ``root``."""
    return root / "digits_jax_cache" / f"{data.name.replace('/', '-')}-{data.version}.npz"


def _read_cache(data: Registered, root: Path) -> Dataset | None:
    """The cached data set; None if it is absent or damaged.

    An uncompressed npz holds a CRC-32 of each array, which is verified here: MNIST's 55 MB take
    27 ms, checksum included. The arrays are in memory, so what happens to the file later can't
    change or end a training (a memory map of a file that is cut ends in SIGBUS).
    """
    path = cache_path(data, root)
    if not os.path.isfile(path):
        return None
    try:
        # NumPy doesn't close the file of an archive that it can't read.
        with path.open("rb") as stream, np.load(stream) as file:
            facts = json.loads(str(file["facts"]))
            splits: Any = {s: Split(file[f"{s}_images"], file[f"{s}_labels"]) for s in SPLITS}
        return Dataset(**facts, class_names=data.class_names, **splits)
    except Exception:  # zipfile's, NumPy's and json's errors, depending on what is damaged
        return None


def _write_cache(
    data: Registered, roots: list[Path], splits: dict[str, Split], facts: dict[str, str]
) -> None:
    root = first_writable(roots)
    if root is None:
        print(f"notice: no cache of {data.name}: {roots[0]} can't be written", file=sys.stderr)
        return
    path = cache_path(data, root)
    members: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    for name, split in splits.items():
        members |= {f"{name}_images": split.images, f"{name}_labels": split.labels}
    try:
        path.parent.mkdir(exist_ok=True)
        with scratch_folder(path.parent) as scratch:
            with (scratch / path.name).open("wb") as file:
                np.savez(file, **members)
                file.flush()
                os.fsync(file.fileno())
            (scratch / path.name).replace(path)
    except OSError as error:
        print(f"notice: no cache in {root}: {error.strerror or error}", file=sys.stderr)
