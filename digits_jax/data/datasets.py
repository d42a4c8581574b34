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
import gzip
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from digits_jax.data import tfds_prepare
from digits_jax.data.files import (
    is_writable,
    read_cache,
    require_folder,
    sha256_of_arrays,
    write_cache,
)
from digits_jax.data.originals import why_unreachable
from digits_jax.data.tfds_prepare import SPECS, Spec, UnavailableError
from digits_jax.errors import InputError, shown

DATASETS = ("auto", *SPECS, "digits")
DATA_DIR_VARIABLE = "DIGITS_JAX_DATA_DIR"
_PARTS = ("train", "validation", "test")
VALIDATION_FRACTION = 12  # one in so many
# Fixed for ever: another key is another validation split, and no result compares.
_SPLIT_KEY = 1998


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


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, its parts and where it came from.

    Attributes:
      name: one of ``DATASETS``, never ``auto``.
      version: the version of its source.
      source: where it came from, for a person.
      sha256: over dtype, shape and bytes of all arrays, in a fixed order.
      class_names: a name for each label.
      train, validation, test: the parts.
      notice: why ``auto`` fell back to ``digits``; empty where it did not.
    """

    name: str
    version: str
    source: str
    sha256: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notice: str = ""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def load_dataset(name: str = "auto", data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set; prepares it first where that was never done.

    ``auto`` is ``mnist`` where it is prepared, lies as files in the folder or can be
    downloaded, else ``digits`` with :attr:`Dataset.notice` set. No other name falls back.

    In ``emnist`` the images are turned upright (tfds stores them transposed), and the labels
    of ``emnist/letters`` are counted from 0. Its size is that of stock tfds, which takes the
    first 88,800 and 14,800 entries of the original files, and no more.

    Args:
      name: one of ``DATASETS``.
      data_dir: an existing folder; see the top of this module.

    Returns:
      The data set. Its arrays can't be written to; those of tfds are memory maps.

    Raises:
      InputError: an unknown name, a folder that isn't there, files that are missing,
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
    if name not in DATASETS:
        word = shown(name).lower()
        near = [other for other in DATASETS if other.startswith(word) and word]
        near = near or difflib.get_close_matches(word, DATASETS, 1, 0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"--dataset={shown(name)}: allowed are {', '.join(DATASETS)}{hint}")
    if data_dir == "":  # how a command line says none
        data_dir = None
    if data_dir is not None:
        require_folder(data_dir, "data_dir (--data-dir)")
    if name == "digits":
        return _load_digits()
    if name != "auto":
        return _load_tfds(SPECS[name], data_dir)
    try:
        return _load_tfds(SPECS["mnist"], data_dir)
    except UnavailableError as error:
        notice = (
            "this is NOT MNIST: it could not be had, so the 1,797 small digits that come with "
            f"scikit-learn are used ({error})"
        )
        return replace(_load_digits(), notice=notice)


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


def _load_tfds(spec: Spec, data_dir: str | os.PathLike | None) -> Dataset:
    roots = _roots(data_dir)
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
        f"{spec.url}: {reason}; put {', '.join(spec.urls)} into a folder and give it as data_dir "
        f"(--data-dir) or {DATA_DIR_VARIABLE}"
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
        raise InputError(
            f"{spec.name} can't be prepared: neither {places} nor the temporary folder can be "
            f"written ({error.strerror}); give a folder that can as data_dir (--data-dir)"
        ) from None


def _from_cache(spec: Spec, root: Path) -> Dataset | None:
    arrays, facts = read_cache(cache_folder(spec, root)) or ({}, {})
    if set(arrays) != {f"{part}_{kind}" for part in _PARTS for kind in ("images", "labels")}:
        return None
    if facts.keys() != {"name", "version", "source", "sha256"}:
        return None
    if (facts["name"], facts["version"]) != (spec.name, spec.version):
        return None
    return _dataset(arrays, **facts, class_names=spec.class_names)


def _finish(
    spec: Spec, arrays: Mapping[str, np.ndarray], root: Path | str, writable: Path | None
) -> Dataset:
    """Splits what ``root`` has, and leaves a cache in ``writable`` where there is one."""
    train, validation = validation_indices(spec.train_count)
    rows = {"train": train, "validation": validation, "test": slice(None)}
    arrays = {
        f"{part}_{kind}": arrays[f"{'test' if part == 'test' else 'train'}_{kind}"][rows[part]]
        for part in _PARTS
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
    return _dataset(arrays, **facts, sha256=digest, class_names=spec.class_names)


def _load_digits() -> Dataset:
    images, labels = _read_digits()
    images = enlarge_digits(images)
    arrays = {}
    for part, rows in zip(_PARTS, stratified_indices(labels), strict=True):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[rows], labels[rows]
    return _dataset(
        arrays,
        name="digits",
        version=f"sklearn-{len(labels)}",
        source="scikit-learn's load_digits (8x8, from the UCI repository), enlarged",
        sha256=sha256_of_arrays(arrays),
        class_names=tuple("0123456789"),
    )


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [1797, 8, 8] with 17 levels, int32 [1797]."""
    # The file that scikit-learn reads too; importing scikit-learn takes two seconds.
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise InputError("the data set digits comes with scikit-learn; install scikit-learn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        rows = np.array(gzip.decompress(path.read_bytes()).replace(b"\n", b",").split(b",")[:-1])
        table = rows.astype(np.uint8).reshape(-1, 65)
        return table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int32)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int32)


def enlarge_digits(images: np.ndarray) -> np.ndarray:
    """Scales 8x8 digits of 17 levels to what MNIST looks like.

    As in MNIST, the digit fills a box of 20x20 pixels whose centre of mass is moved to the
    centre of 28x28. Bicubic (Catmull-Rom) weights at 2.5 times the size are multiples of
    1/2000, so all is done in integers: the same bytes on every machine.

    Args:
      images: uint8 [n, 8, 8], 0 to 16.

    Returns:
      uint8 [n, 28, 28, 1], 0 to 255.
    """
    weights = _cubic_weights(8, 20)
    large = np.einsum("ri,nij,cj->nrc", weights, images.astype(np.int64), weights, optimize=True)
    scale = 2000 * 2000 * 16
    box = np.clip((large * 255 + scale // 2) // scale, 0, 255).astype(np.uint8)
    result = np.zeros((len(images), 28, 28, 1), np.uint8)
    for image, digit in zip(result, box, strict=True):
        top, left = _offset(digit.sum(axis=1, dtype=np.int64)), _offset(digit.sum(0, np.int64))
        image[top : top + 20, left : left + 20, 0] = digit
    return result


def _cubic_weights(small: int, large: int) -> np.ndarray:
    """int64 [large, small]: interpolation weights in 1/2000, edge pixels repeated."""
    weights = np.zeros((large, small), np.int64)
    for row in range(large):
        position = (row + 0.5) * small / large - 0.5
        for neighbour in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            t = abs(position - neighbour)
            w = 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            weights[row, min(max(neighbour, 0), small - 1)] += round(2000 * w) if t < 2 else 0
    return weights


def _offset(profile: np.ndarray) -> int:
    """Where a box of 20 begins so that its centre of mass is at 14, not beyond 28."""
    total = int(profile.sum())
    if total == 0:
        return 4
    # Twice the centre, pixel centres at halves: rounded in integers.
    doubled = int((profile * (2 * np.arange(20) + 1)).sum())
    return min(max((28 * total - doubled + total) // (2 * total), 0), 8)


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
    order = _random_order(count)
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
    order = _random_order(len(labels))
    line = order[np.argsort(labels[order], kind="stable")]
    place = np.arange(len(labels)) % 10
    return (
        np.sort(line[~np.isin(place, (0, 3, 5))]),
        np.sort(line[place == 3]),
        np.sort(line[np.isin(place, (0, 5))]),
    )


def _random_order(count: int) -> np.ndarray:
    # NumPy promises the raw words of a bit generator for ever, its permutations not.
    words = np.random.Philox(key=_SPLIT_KEY).random_raw(count)
    return np.argsort(words, kind="stable")


def _dataset(arrays: Mapping[str, np.ndarray], **facts: object) -> Dataset:
    for array in arrays.values():
        array.flags.writeable = False
    parts = {part: Split(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in _PARTS}
    return Dataset(**facts, **parts)
