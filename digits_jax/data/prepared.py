"""Data sets that tfds prepared in the array_record format: read by index, or a user's own.

``tfds/NAME`` (of several versions the newest), ``tfds/NAME:VERSION`` and
``tfds/NAME/CONFIG:VERSION`` name any data set that lies prepared under the data folder, with the
features image (``Image(shape=(28, 28, 1))``, uint8) and label (a ``ClassLabel``) and the splits
train and test. What counts as their original order is the order in which they are stored.

Their validation split is a twelfth of train, or 10,000 examples where that is less. It and the
test split are held in memory.

Their SHA-256 would take minutes over all pixels of a large set. It is taken over the names of the
classes; for both splits the number of examples in each file and the file's size; all validation
and test examples; and 1,000 training examples at even distances. So it tells apart versions, a
set that was made anew or has grown, and anything that would change a score; it does not promise
to notice that one training image among millions was exchanged for another of the same size.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.files import sha256_of_arrays
from digits_jax.data.records import IMAGE_SIZE, Layout, RecordSplit
from digits_jax.data.splits import (
    VALIDATION_FRACTION,
    Dataset,
    lowest_words,
    make_dataset,
    validation_indices,
)
from digits_jax.data.tfds_prepare import SPECS, Spec, prepared_folder, quiet_tfds, stored_order
from digits_jax.errors import DataError

PREFIX = "tfds/"
MAX_VALIDATION = 10_000
MAX_TEST = 500_000  # 400 MB
_SAMPLE = 1_000
_CHUNK = 10_000
_NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)


def stream_registered(spec: Spec, root: Path) -> RecordSplit:
    """The training split of a registered data set, from the files that tfds prepared.

    Args:
      spec: the data set.
      root: the folder that holds ``<name>/<version>``.

    Returns:
      The examples of the arrays' ``train``, in the same order.

    Raises:
      DataError: what is there is damaged, or in a format without random access.
    """
    layout = Layout(len(spec.class_names), spec.first_label, spec.transposed)
    info = _info(prepared_folder(spec, root))
    stored = _open(info, "train", layout)
    if len(stored) != spec.train_count:
        raise DataError(
            f"{prepared_folder(spec, root)} has {len(stored)} training examples, not "
            f"{spec.train_count}; delete that folder, and it is prepared anew"
        )
    places = np.empty(spec.train_count, np.int64)
    places[stored_order("train", spec.train_count)] = np.arange(spec.train_count)
    train, _ = validation_indices(spec.train_count)
    places = places[train]
    return stored.part(lambda indices: places[indices], len(places))


def load_prepared(name: str, roots: Sequence[Path], *, in_memory: bool) -> Dataset:
    """Loads a data set that isn't registered here; see the top of this module.

    Args:
      name: ``tfds/NAME`` or ``tfds/NAME:VERSION``.
      roots: where to look.
      in_memory: train is read into arrays too.

    Returns:
      The data set, with its version in its name.

    Raises:
      DataError: it isn't there, or can't be used.
    """
    folder, title = _find(name, roots)
    info = _info(folder)
    layout = Layout(info.features["label"].num_classes)
    stored, test = _open(info, "train", layout), _open(info, "test", layout)
    size = min(len(stored) // VALIDATION_FRACTION, MAX_VALIDATION)
    if not size or not 0 < len(test) <= MAX_TEST:
        raise DataError(
            f"{folder} has {len(stored):,} training and {len(test):,} test examples; give a data "
            f"set of at least {VALIDATION_FRACTION} and 1, with at most {MAX_TEST:,} to test"
        )
    validation = lowest_words(len(stored), size)
    train = stored.part(_Without(validation), len(stored) - size)
    arrays = {}
    held = {"validation": stored.part(lambda rows: validation[rows], size), "test": test}
    for part, split in held.items():
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = _read_all(split, part)
    names = tuple(info.features["label"].names)
    digest = _sha256(info, names, arrays, train)
    if in_memory:
        arrays["train_images"], arrays["train_labels"] = _read_all(train, "train")
    return make_dataset(
        arrays,
        **({} if in_memory else {"train": train}),
        name=title,
        version=str(info.version),
        source=f"{title}, prepared in {folder}",
        sha256=digest,
        class_names=names,
    )


class _Without:
    """Where the i-th of the examples that don't validate is: no table of millions of them."""

    def __init__(self, validation: np.ndarray):
        # How many examples that train stand before each that validates.
        self._before = validation - np.arange(len(validation))

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        return indices + np.searchsorted(self._before, indices, side="right")


def _find(name: str, roots: Sequence[Path]) -> tuple[Path, str]:
    """The folder of a prepared data set, and its full name."""
    match = _NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None:
        raise DataError(
            f"--dataset={name}: give tfds/NAME or tfds/NAME:VERSION, as tensorflow-datasets names "
            "a prepared data set, such as tfds/large_digits:1.0.0"
        )
    base, wanted = match["name"], match["version"]
    if base in SPECS:
        raise DataError(f"--dataset={name}: is known by its own name; give --dataset={base}")
    for root in roots:
        versions = {
            folder.name: folder
            for folder in (root / base).glob("*.*.*")
            if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)
            and os.path.isfile(folder / "dataset_info.json")
        }
        newest = max(versions, key=lambda v: [int(n) for n in v.split(".")], default=None)
        version = wanted or newest
        if version in versions:
            return versions[version], f"{PREFIX}{base}:{version}"
    there = sorted(
        {
            f"{PREFIX}{path.parent.parent.relative_to(root)}:{path.parent.name}"
            for root in roots
            for depth in ("*/*", "*/*/*")
            for path in root.glob(f"{depth}/dataset_info.json")
            if str(path.parent.parent.relative_to(root)) not in SPECS
        }
    )
    raise DataError(
        f"--dataset={name}: no such prepared data set in {' or '.join(map(str, roots))} (there: "
        f"{', '.join(there[:10]) or 'none'}); give another name, or its folder as data_dir "
        "(--data-dir)"
    )


def _info(folder: Path) -> Any:
    """What tfds knows of a prepared data set, checked to be of digits, and of random access."""
    with quiet_tfds() as tfds:
        try:
            info = tfds.builder_from_directory(folder).info
            file_format, features = info.file_format.value, dict(info.features)
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise DataError(
                f"{folder} can't be read ({type(error).__name__}: {line}); prepare that data set "
                "anew, or give another folder as data_dir (--data-dir)"
            ) from None
        if file_format != "array_record":
            raise DataError(
                f"{folder} is in the {file_format} format, which can't be read in any order; "
                'prepare it with file_format="array_record", or give another folder as data_dir '
                "(--data-dir)"
            )
        image, label = features.get("image"), features.get("label")
        if (
            not isinstance(image, tfds.features.Image)
            or (image.shape, image.np_dtype) != ((IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
            or not isinstance(label, tfds.features.ClassLabel)
            or not label.num_classes
        ):
            found = ", ".join(f"{key} {value}" for key, value in features.items())
            raise DataError(
                f"{folder} has the features {' '.join(found.split())[:300]}; needed are image "
                "Image(shape=(28, 28, 1), dtype=uint8) and label, a ClassLabel with its classes"
            )
    missing = [split for split in ("train", "test") if split not in info.splits]
    if missing:
        raise DataError(
            f"{folder} has the splits {', '.join(info.splits) or '(none)'}, and no "
            f"{' and no '.join(missing)}; prepare it with both"
        )
    return info


def _open(info: Any, split: str, layout: Layout) -> RecordSplit:
    return RecordSplit(info.splits[split].filepaths, info.splits[split].shard_lengths, layout)


def _read_all(split: RecordSplit, part: str) -> tuple[np.ndarray, np.ndarray]:
    from tqdm import tqdm

    images = np.empty((len(split), IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
    labels = np.empty(len(split), np.int32)
    with tqdm(total=len(split), desc=f"reading {part}", leave=False, disable=None) as bar:
        for start in range(0, len(split), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(split)))
            images[rows], labels[rows] = split.rows(rows)
            bar.update(len(rows))
    return images, labels


def _sha256(info: Any, names: Sequence[str], arrays: dict, train: RecordSplit) -> str:
    total = hashlib.sha256("\n".join(names).encode())
    for split in ("train", "test"):
        for path, length in zip(
            info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True
        ):
            total.update(f"{split} {length} {os.path.getsize(path)}\n".encode())
    sample = np.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).astype(np.int64)
    images, labels = train.rows(sample)
    every = {**dict(sorted(arrays.items())), "sample_images": images, "sample_labels": labels}
    total.update(sha256_of_arrays(every).encode())
    return total.hexdigest()
