"""Data sets by name: where they are found.

The folders searched are ``data_dir``, else that in ``DIGITS_JAX_DATA_DIR``, and, if it isn't given
or can't be written, that of tensorflow-datasets (``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).
A folder may hold the original files (in it, or in a folder named after the data set) or the
prepared tfds data set. Downloads and the cache of decoded arrays are written there too.
"""

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from digits_jax.data.cache import read_cache, write_cache
from digits_jax.data.digits import load_digits
from digits_jax.data.idx import find_idx
from digits_jax.data.mixing import mix_datasets
from digits_jax.data.originals import (
    DATA_DIR_VARIABLE,
    DATASETS,
    REGISTERED,
    Registered,
    UnavailableError,
    download_originals,
    find_originals,
    read_originals,
)
from digits_jax.data.splits import SPLITS, Dataset, Split, sha256_of_splits, validation_indices
from digits_jax.errors import DataError, shown
from digits_jax.files import CACHE, first_writable


def load_dataset(
    name: str | os.PathLike = "auto",
    data_dir: str | os.PathLike | None = None,
    *,
    input: Literal["memory", "stream"] = "memory",
    picture: Literal["ink", "resize"] = "ink",
    mix: Sequence[int] | None = None,
) -> Dataset:
    """Loads a data set, and downloads it first if necessary.

    ``auto`` is ``mnist`` if it is there or can be downloaded, else ``digits`` with
    `Dataset.notice` set; where ``data_dir`` holds something else, an error. No other name falls
    back.

    ``emnist`` images are turned upright (the files hold them transposed), and the labels of
    ``emnist/letters`` start at 0. Its size is that of stock tfds, which takes only the first
    88,800 and 14,800 entries of the original files.

    Args:
      name: one of ``DATASETS``; ``tfds/NAME:VERSION``, see `digits_jax.data.tfds`; the path of
        user data, see docs/data.md; or several of these with the same classes, ``A+B``.
      data_dir: an existing folder; see the top of this module.
      input: with "stream" the training images stay in the files that tfds prepared and are read
        when they are needed, in the same order.
      picture: how user pictures are read: "ink", the digit placed as MNIST's, as
        `digits_jax.predict` does it; or "resize", only scaled to 28x28.
      mix: of ``A+B``: how often the training images of each are taken; once if None.

    Raises:
      DataError: an unknown name; a folder that doesn't exist; files that are missing or damaged;
        no place to download from or to write to.

    Examples:
      >>> digits = load_dataset("digits")
      >>> digits.train.images.shape, digits.train.labels.dtype, digits.num_classes
      ((1257, 28, 28, 1), dtype('int32'), 10)

    Reference:
      MNIST: http://yann.lecun.com/exdb/mnist/; Fashion-MNIST: https://arxiv.org/abs/1708.07747;
      KMNIST: https://arxiv.org/abs/1812.01718; EMNIST: https://arxiv.org/abs/1702.05373;
      digits: https://doi.org/10.24432/C50P49; tfds: https://www.tensorflow.org/datasets
    """
    name = str(name)
    for given, value, allowed in (
        ("input", input, ("memory", "stream")),
        ("picture", picture, ("ink", "resize")),
    ):
        if value not in allowed:
            raise DataError(f"{given}={shown(value)}: must be {' or '.join(allowed)}")
    if "+" in name and not os.path.exists(os.path.expanduser(name)):
        parts = [load_dataset(p, data_dir, input=input, picture=picture) for p in name.split("+")]
        return mix_datasets(parts, mix)
    if mix:
        times = ",".join(map(str, mix))
        raise DataError(f"mix={times}: dataset={shown(name)} is one data set; leave mix out")
    own = name not in DATASETS and not name.startswith("tfds/")
    like_path = os.path.sep in name or "." in name
    near = difflib.get_close_matches(shown(name).lower(), DATASETS, 1, 0.9 if like_path else 0.6)
    if own and not os.path.exists(os.path.expanduser(name)) and (near or not like_path):
        raise DataError(
            f"dataset={shown(name)}: must be one of {', '.join(DATASETS)}, tfds/NAME of a prepared "
            "data set, or the path of your own data"
            + (f" (did you mean {near[0]}?)" if near else "")
        )
    roots = _roots(data_dir) if data_dir or name != "digits" else []
    if name in ("digits", "strokes"):
        if input == "stream":
            raise DataError(f"input=stream: {name} has no files to read; give input=memory")
        return load_digits() if name == "digits" else _load_strokes(roots)
    if own:
        from digits_jax.data.own_data import load_own

        if input == "stream":
            raise DataError(
                "input=stream: your own data is read into memory; prepare it as tfds/NAME, or "
                "give input=memory"
            )
        return load_own(Path(name), roots, picture)
    if name.startswith("tfds/"):
        return _tfds().load_prepared(name, roots, in_memory=input == "memory")
    data = REGISTERED["mnist" if name == "auto" else name]
    # Who gives a folder wants what is in it.
    found = data_dir and [p for p in roots[0].iterdir() if p.name != CACHE and p.name[0] != "."]
    try:
        dataset = _load_registered(data, roots, download=name != "auto" or not found)
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
    tfds = _tfds()
    folder = _find_prepared(data, roots) or tfds.prepare(data, roots, dataset)
    return replace(dataset, train=tfds.open_registered(data, folder, "train", training_only=True))


def _load_strokes(roots: list[Path]) -> Dataset:
    from digits_jax.data.strokes import VERSION, load_strokes

    if cached := read_cache(key := f"strokes-{VERSION}", roots):
        return cached
    write_cache(key, roots, dataset := load_strokes())
    return dataset


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


def _load_registered(data: Registered, roots: list[Path], *, download: bool) -> Dataset:
    key = f"{data.name}-{data.version}"
    if cached := read_cache(key, roots):
        return cached
    folder = next(filter(None, (find_originals(data, root) for root in roots)), None)
    prepared = None if folder else _find_prepared(data, roots)
    if prepared:
        tfds = _tfds()
        parts = {s: tfds.open_registered(data, prepared, s).read_all() for s in ("train", "test")}
        source = f"the tfds data set in {prepared}"
    elif not folder and (other := _find_other_form(data, roots)):
        return other
    elif not folder and not download:
        raise DataError(
            f"data_dir={roots[0]}: holds no {data.name}; give dataset={roots[0]} for your "
            f"own data, dataset={data.name} to download it there, or dataset=digits"
        )
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


def _tfds() -> Any:
    """The module that needs tensorflow-datasets, which takes a second to import."""
    try:
        from digits_jax.data import tfds
    except ImportError as error:
        raise DataError(
            f"prepared data sets and input=stream need {error.name or 'tensorflow-datasets'}; "
            'pip install "digits_jax[tfds]"'
        ) from None
    return tfds


def _find_other_form(data: Registered, roots: list[Path]) -> Dataset | None:
    """Genuine data, as its arrays' SHA-256 says, in unpacked IDX files or as Keras has it."""
    if not data.arrays_sha256:
        return None
    for root in roots:
        for place in (root / f"{data.name}.npz", root / data.name, root):
            if os.path.isfile(place) or find_idx(place):
                from digits_jax.data.own_data import load_own

                dataset = load_own(place, roots, "ink")
                if dataset.name == data.name:
                    return replace(dataset, path="")
                raise DataError(
                    f"{data.name}: {place} isn't the original; for your own data give "
                    f"dataset={place}"
                )
    return None


def _find_prepared(data: Registered, roots: list[Path]) -> Path | None:
    folders = [root / data.name / data.version for root in roots]
    # os.path says no where pathlib raises: in folders that may not be entered.
    return next((f for f in folders if os.path.isfile(f / "dataset_info.json")), None)
