"""Data sets by name: where they are found.

The folders searched are ``data_dir``, else that in ``DIGITS_JAX_DATA_DIR``, and, if it isn't given
or can't be written, that of tensorflow-datasets (``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).
A folder may hold the original files (in it, or in a folder named after the data set) or the
prepared tfds data set. Downloads and the cache of decoded arrays are written there too.
"""

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from digits_jax.data.cache import read_cache, write_cache
from digits_jax.data.digits import load_digits
from digits_jax.data.files import first_writable
from digits_jax.data.originals import (
    DATA_DIR_VARIABLE,
    REGISTERED,
    Registered,
    UnavailableError,
    download_originals,
    find_originals,
    read_originals,
)
from digits_jax.data.splits import SPLITS, Dataset, Split, sha256_of_splits, validation_indices
from digits_jax.errors import DataError, shown

DATASETS = ("auto", *REGISTERED, "digits")


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


def _roots(data_dir: str | os.PathLike | None) -> list[Path]:
    """The folders to search, best first; the second is for what the first can't take."""
    # As tfds has it, without importing tfds.
    default = os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    # Without a home it stays "~", and mustn't become a folder of that name.
    roots = [] if default.startswith("~") else [Path(default).absolute()]
    variable = os.environ.get(DATA_DIR_VARIABLE)
    what, given = ("data_dir", data_dir) if data_dir else (DATA_DIR_VARIABLE, variable)
    if not given:
        return roots
    root = Path(os.path.expanduser(given)).absolute()
    if not os.path.isdir(root) or not os.access(root, os.R_OK | os.X_OK):
        raise DataError(
            f"{what}={given}: does not exist, is not a folder or can't be read; give an existing "
            "folder (it may be empty), or none for the default"
        )
    return [root] if first_writable([root]) else [root, *roots]


def _load_registered(data: Registered, roots: list[Path]) -> Dataset:
    key = f"{data.name}-{data.version}"
    if cached := read_cache(key, roots):
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
    splits = [*(Split(*parts["train"].rows(part)) for part in (train, validation)), parts["test"]]
    dataset = Dataset(
        name=data.name,
        version=data.version,
        source=f"{data.name} {data.version} from {source}",
        sha256=sha256_of_splits(splits),
        class_names=data.class_names,
        **dict(zip(SPLITS, splits, strict=True)),
    )
    write_cache(key, roots, dataset)
    return dataset


def _find_prepared(data: Registered, roots: list[Path]) -> Path | None:
    folders = [root / data.name / data.version for root in roots]
    # os.path says no where pathlib raises: in folders that may not be entered.
    return next((f for f in folders if os.path.isfile(f / "dataset_info.json")), None)
