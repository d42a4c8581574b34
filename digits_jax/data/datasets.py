"""A data set's name -> its arrays, from wherever they are.

Arrays: images uint8 [n, 28, 28, 1] (0 the paper, 255 the ink), labels int32 [n] from 0.

Where: ``data_dir``, else the folder in ``DIGITS_JAX_DATA_DIR``, else that of tfds
(``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``). It may hold the prepared tfds data set, or
the original files (in it, or in a folder named after the data set). What is prepared and
cached goes there too; where it can't be written, to the folder of tfds; where that can't be
written either, to a temporary folder for this one time.

Validation: the original train split is ordered by the random words that a Philox generator
with a constant key gives to its indices; the first twelfth (5,000 of MNIST's 60,000) is the
validation split. It depends on nothing but the number of examples. Within each split, the
examples are in the order of the original files.
"""

import contextlib
import difflib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from digits_jax.data import prepared, tfds_prepare
from digits_jax.data.digits import load_digits
from digits_jax.data.files import (
    is_writable,
    read_cache,
    require_folder,
    sha256_of_arrays,
    write_cache,
)
from digits_jax.data.originals import why_unreachable
from digits_jax.data.splits import PARTS, Dataset, make_dataset, validation_indices
from digits_jax.data.tfds_prepare import SPECS, Spec, UnavailableError
from digits_jax.errors import DataError, shown

DATASETS = ("auto", *SPECS, "digits")
INPUTS = ("memory", "stream")
DATA_DIR_VARIABLE = "DIGITS_JAX_DATA_DIR"


def load_dataset(
    name: str = "auto", data_dir: str | os.PathLike | None = None, *, input: str = "memory"
) -> Dataset:
    """Loads a data set; prepares it first where that was never done.

    ``auto`` is ``mnist`` where it is prepared, lies as files in the folder or can be
    downloaded, else ``digits`` with :attr:`Dataset.notice` set. No other name falls back.

    In ``emnist`` the images are turned upright (tfds stores them transposed), and the labels
    of ``emnist/letters`` are counted from 0. Its size is that of stock tfds, which takes the
    first 88,800 and 14,800 entries of the original files, and no more.

    With ``input="stream"`` the training images stay in the files that tfds prepared, and are read
    when they are asked for, in the same order; ``digits`` has no such files.

    Args:
      name: one of ``DATASETS``, or ``tfds/NAME:VERSION``; see `digits_jax.data.prepared`.
      data_dir: an existing folder; see the top of this module.
      input: one of ``INPUTS``.

    Returns:
      The data set. Its arrays can't be written to; those of tfds are memory maps.

    Raises:
      DataError: an unknown name, a folder that isn't there, files that are missing,
        truncated or damaged, nothing to download from, or nowhere to write.

    Example:
      >>> digits = load_dataset("digits")
      >>> digits.train.images.shape, digits.train.labels.dtype, digits.num_classes
      ((1257, 28, 28, 1), dtype('int32'), 10)
      >>> len(digits.train), len(digits.validation), len(digits.test)
      (1257, 180, 360)

    Reference:
      MNIST: http://yann.lecun.com/exdb/mnist/; Fashion-MNIST: https://arxiv.org/abs/1708.07747;
      KMNIST: https://arxiv.org/abs/1812.01718; EMNIST: https://arxiv.org/abs/1702.05373;
      digits: https://doi.org/10.24432/C50P49; tfds: https://www.tensorflow.org/datasets
    """
    _check(name, input)
    if data_dir == "":  # how a command line says none
        data_dir = None
    if data_dir is not None:
        require_folder(data_dir, "data_dir (--data-dir)")
    if name == "digits":
        return load_digits()
    if name.startswith(prepared.PREFIX):
        return prepared.load_prepared(name, _roots(data_dir), in_memory=input == "memory")
    if name != "auto":
        return _load_tfds(SPECS[name], data_dir, input)
    try:
        return _load_tfds(SPECS["mnist"], data_dir, input)
    except UnavailableError as error:
        if input == "stream":
            raise
        notice = (
            "this is NOT MNIST: it could not be had, so the 1,797 small digits that come with "
            f"scikit-learn are used ({error})"
        )
        return replace(load_digits(), notice=notice)


def _check(name, input_):
    if input_ not in INPUTS:
        raise DataError(f"--input={shown(input_)}: allowed are {', '.join(INPUTS)}")
    if name not in DATASETS and not str(name).startswith(prepared.PREFIX):
        word = shown(name).lower()
        near = [other for other in DATASETS if other.startswith(word) and word]
        near = near or difflib.get_close_matches(word, DATASETS, 1, 0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(
            f"--dataset={shown(name)}: allowed are {', '.join(DATASETS)}, and tfds/NAME of a data "
            f"set of your own{hint}"
        )
    if name == "digits" and input_ == "stream":
        raise DataError(
            "--input=stream reads files that tfds prepared, and digits comes in one piece with "
            "scikit-learn; give --input=memory, or another --dataset"
        )


def _default_root() -> Path:
    # As tfds has it, without importing tfds.
    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(os.path.expanduser(folder)).absolute()


def _roots(data_dir: str | os.PathLike | None) -> list[Path]:
    """The folders to look into, best first; the second is for what the first can't take."""
    if data_dir is not None:
        given = require_folder(data_dir, "data_dir (--data-dir)")
    elif os.environ.get(DATA_DIR_VARIABLE):
        given = require_folder(os.environ[DATA_DIR_VARIABLE], DATA_DIR_VARIABLE)
    else:
        return [_default_root()]
    return [given] if is_writable(given) else [given, _default_root()]


def _writable_root(roots: list[Path]) -> Path | None:
    for root in roots:
        if root == _default_root():
            with contextlib.suppress(OSError):
                root.mkdir(parents=True, exist_ok=True)
        if is_writable(root):
            return root
    return None


def cache_folder(spec: Spec, root: Path) -> Path:
    """Where the decoded arrays of a data set are kept under ``root``."""
    return root / "digits_jax_cache" / f"{spec.name.replace('/', '-')}-{spec.version}"


def _load_tfds(spec: Spec, data_dir: str | os.PathLike | None, input_: str) -> Dataset:
    roots = _roots(data_dir)
    held = _load_arrays(spec, roots)
    if input_ == "memory":
        return held
    for root in roots:
        if tfds_prepare.is_prepared(spec, root):
            return replace(held, train=prepared.stream_registered(spec, root))
    # Only what was decoded is there.
    target = _writable_root(roots)
    if target is None:
        raise DataError(
            f"--input=stream: {spec.name} isn't prepared in {' or '.join(map(str, roots))}, and "
            "nothing can be written there; give a folder that can as data_dir (--data-dir)"
        )
    tfds_prepare.prepare(spec, target, _find_files(spec, roots))
    return replace(held, train=prepared.stream_registered(spec, target))


def _load_arrays(spec: Spec, roots: list[Path]) -> Dataset:
    for root in roots:
        cached = _from_cache(spec, root)
        if cached is not None:
            return cached
    for root in roots:
        if tfds_prepare.is_prepared(spec, root):
            arrays = tfds_prepare.read_prepared(spec, root)
            return _finish(spec, arrays, root, _writable_root(roots))
    files = _find_files(spec, roots)
    target = _writable_root(roots)
    if target is not None:
        return _finish(spec, tfds_prepare.prepare(spec, target, files), target, target)
    return _from_temporary(spec, roots, files)


def _find_files(spec: Spec, roots: list[Path]) -> Path | None:
    """The folder of the original files; None where they can be downloaded instead."""
    for root in roots:
        files = tfds_prepare.find_files(spec, root)
        if files is not None:
            return files
    address = next(iter(spec.urls.values()))
    reason = why_unreachable(address)
    if not reason:
        return None
    raise UnavailableError(
        f"{spec.name} is not in {' or '.join(map(str, roots))}, and can't be downloaded from "
        f"{spec.url}: {reason}; put {', '.join(spec.urls)} into a folder and give it with "
        f"--data-dir (data_dir), or in {DATA_DIR_VARIABLE}"
    )


def _from_temporary(spec: Spec, roots: list[Path], files: Path | None) -> Dataset:
    places = ", ".join(map(str, roots))
    print(
        f"notice: {places} can't be written, so {spec.name} is prepared for this run only",
        file=sys.stderr,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="digits_jax-") as folder:
            arrays = tfds_prepare.prepare(spec, Path(folder), files)
            return _finish(spec, arrays, "a temporary folder", None)
    except OSError as error:
        raise DataError(
            f"{spec.name} can't be prepared: neither {places} nor the temporary folder can be "
            f"written ({error.strerror}); give a folder that can as data_dir (--data-dir)"
        ) from None


def _from_cache(spec: Spec, root: Path) -> Dataset | None:
    arrays, facts = read_cache(cache_folder(spec, root)) or ({}, {})
    if set(arrays) != {f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")}:
        return None
    if facts.keys() != {"name", "version", "source", "sha256"}:
        return None
    if (facts["name"], facts["version"]) != (spec.name, spec.version):
        return None
    return make_dataset(arrays, **facts, class_names=spec.class_names)


def _finish(
    spec: Spec, arrays: Mapping[str, np.ndarray], root: Path | str, writable: Path | None
) -> Dataset:
    """Splits what ``root`` has, and leaves a cache in ``writable`` where there is one."""
    train, validation = validation_indices(spec.train_count)
    rows = {"train": train, "validation": validation, "test": slice(None)}
    arrays = {
        f"{part}_{kind}": arrays[f"{'test' if part == 'test' else 'train'}_{kind}"][rows[part]]
        for part in PARTS
        for kind in ("images", "labels")
    }
    digest = sha256_of_arrays(arrays)
    source = f"tfds {spec.name} {spec.version}, prepared in {root}"
    facts = {"name": spec.name, "version": spec.version, "source": source}
    if writable is not None:
        try:
            write_cache(cache_folder(spec, writable), arrays, facts, digest)
        except OSError as error:
            print(f"notice: no cache in {writable}: {error.strerror or error}", file=sys.stderr)
        cached = _from_cache(spec, writable)
        if cached is not None:
            return cached
    return make_dataset(arrays, **facts, sha256=digest, class_names=spec.class_names)
