"""From a data set's name to its arrays, wherever they are.

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
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from digits_jax.data.digits import load_digits
from digits_jax.data.files import (
    first_writable,
    is_prepared,
    require_folder,
    scratch_folder,
)
from digits_jax.data.originals import (
    DATA_DIR_VARIABLE,
    REGISTERED,
    Registered,
    UnavailableError,
    find_originals,
    read_originals,
)
from digits_jax.data.splits import (
    SPLITS,
    Dataset,
    make_dataset,
    sha256_of_arrays,
    validation_indices,
)
from digits_jax.errors import DataError, shown

DATASETS = ("auto", *REGISTERED, "digits")
INPUTS = ("memory", "stream")
PREPARED_PREFIX = "tfds/"


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

    Returns:
      The data set, with read-only arrays.

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
    _check(name, input)
    if data_dir in ("", None):  # "" is how a command line says none
        data_dir = None
    else:
        require_folder(data_dir, "data_dir")
    if name == "digits":
        return load_digits()
    roots = _roots(data_dir)
    if name.startswith(PREPARED_PREFIX):
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

    return replace(dataset, train=tfds.stream_registered(data, roots, dataset))


def _check(name: str, input_: str) -> None:
    if input_ not in INPUTS:
        raise DataError(f"input={shown(input_)}: must be one of {', '.join(INPUTS)}")
    if name not in DATASETS and not str(name).startswith(PREPARED_PREFIX):
        word = shown(name).lower()
        near = [other for other in DATASETS if word and other.startswith(word)]
        near = near or difflib.get_close_matches(word, DATASETS, 1, 0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(
            f"dataset={shown(name)}: must be one of {', '.join(DATASETS)}, or tfds/NAME of a "
            f"prepared data set of your own{hint}"
        )
    if name == "digits" and input_ == "stream":
        raise DataError(
            "input=stream: reads files that tfds prepared, which digits doesn't have; give "
            "input=memory, or another dataset"
        )


def _roots(data_dir: str | os.PathLike | None) -> list[Path]:
    """The folders to search, best first; the second is for what the first can't take."""
    # As tfds has it, without importing tfds.
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    default = Path(os.path.expanduser(default)).absolute()
    if data_dir is not None:
        given = require_folder(data_dir, "data_dir")
    elif os.environ.get(DATA_DIR_VARIABLE):
        given = require_folder(os.environ[DATA_DIR_VARIABLE], DATA_DIR_VARIABLE)
    else:
        return [default]
    return [given] if first_writable([given]) else [given, default]


def _load_registered(data: Registered, roots: list[Path]) -> Dataset:
    for root in roots:
        cached = _read_cache(data, root)
        if cached is not None:
            return cached
    for root in roots:
        folder = find_originals(data, root)
        if folder is not None:
            return _finish(data, read_originals(data, folder), f"the files in {folder}", roots)
    for root in roots:
        folder = root / data.name / data.version
        if is_prepared(folder):
            from digits_jax.data import tfds

            arrays = tfds.read_registered(data, folder)
            return _finish(data, arrays, f"the tfds data set in {folder}", roots)
    from digits_jax.data.download import download_originals  # it imports http and ssl

    folder = download_originals(data, roots)
    return _finish(data, read_originals(data, folder), f"the files in {folder}", roots)


def _finish(
    data: Registered, arrays: dict[str, np.ndarray], source: str, roots: list[Path]
) -> Dataset:
    """Splits the arrays, and leaves a cache."""
    for split in ("train", "test"):
        labels = arrays[f"{split}_labels"]
        if not 0 <= labels.min() <= labels.max() < len(data.class_names):
            raise DataError(
                f"{source}: {split} labels of {data.name} are {labels.min()} to {labels.max()}, "
                f"not 0 to {len(data.class_names) - 1}; give another folder as data_dir"
            )
    train, validation = validation_indices(data.train_count)
    rows = {"train": train, "validation": validation, "test": slice(None)}
    arrays = {
        f"{split}_{kind}": arrays[f"{'test' if split == 'test' else 'train'}_{kind}"][rows[split]]
        for split in SPLITS
        for kind in ("images", "labels")
    }
    facts = {
        "name": data.name,
        "version": data.version,
        "source": f"{data.name} {data.version} from {source}",
        "sha256": sha256_of_arrays(arrays.values()),
    }
    _write_cache(data, roots, arrays, facts)
    return make_dataset(arrays, **facts, class_names=data.class_names)


def cache_path(data: Registered, root: Path) -> Path:
    """Returns the path of a data set's decoded arrays under ``root``."""
    return root / "digits_jax_cache" / f"{data.name.replace('/', '-')}-{data.version}.npz"


def _read_cache(data: Registered, root: Path) -> Dataset | None:
    """The cached data set; None if it is absent, damaged or another version's.

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
            arrays = {name: file[name] for name in file.files if name != "facts"}
        if (facts["name"], facts["version"]) != (data.name, data.version):
            return None
        return make_dataset(arrays, **facts, class_names=data.class_names)
    except Exception:  # zipfile's, NumPy's and json's errors, depending on what is damaged
        return None


def _write_cache(
    data: Registered, roots: list[Path], arrays: dict[str, np.ndarray], facts: dict[str, str]
) -> None:
    root = first_writable(roots)
    if root is None:
        print(f"notice: no cache of {data.name}: {roots[0]} can't be written", file=sys.stderr)
        return
    path = cache_path(data, root)
    members: dict[str, Any] = {**arrays, "facts": np.array(json.dumps(facts))}
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
