"""Prepares and reads the stock tfds data sets without TensorFlow.

The stock builders extract, read and encode with TensorFlow. Here they are subclassed under
their own name, so that only those three steps differ: what lies on disk afterwards is the
stock data set, and ``tfds.load`` or ``tfds.data_source`` read it.

Arrays: images uint8 [n, 28, 28, 1], labels int32 [n] from 0, both in the order of the
original files (tfds stores them shuffled by a hash of their index; the shuffle is undone).
"""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digits_jax.data.files import install_folder, scratch_folder
from digits_jax.data.originals import (
    encode_png,
    find_originals,
    read_idx,
    read_tfrecords,
    refuse_unpacked,
)
from digits_jax.errors import DataError, DigitsError

IMAGE_SIZE = 28
_DIGITS = "0123456789"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CLOTHES = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot"
_HIRAGANA_ROWS = "o|ki|su|tsu|na|ha|ma|ya|re|wo"


class UnavailableError(DigitsError):
    """Neither prepared, nor there as files, nor to be downloaded: ``auto`` may fall back."""


@dataclass(frozen=True)
class Spec:
    """What must be known of a tfds data set before tfds itself is imported (a second)."""

    name: str  # with the config after a slash
    version: str
    builder: str  # the class in tfds.image_classification
    url: str  # of the folder of the original files, or of the one archive
    train_count: int
    test_count: int
    class_names: tuple[str, ...]
    first_label: int = 0  # what tfds gives to the first class
    transposed: bool = False  # rows and columns exchanged in tfds

    @property
    def base_name(self) -> str:
        """The name without the config: ``emnist`` of ``emnist/letters``."""
        return self.name.partition("/")[0]

    @property
    def config(self) -> str | None:
        """The config: ``letters`` of ``emnist/letters``, None where there is none."""
        return self.name.partition("/")[2] or None

    @property
    def urls(self) -> dict[str, str]:
        """File name -> address of every original file."""
        if self.url.endswith(".zip"):
            return {self.url.rpartition("/")[2]: self.url}
        return {name: self.url + name for name in idx_names().values()}


def idx_names(prefix: tuple[str, str] = ("train", "t10k")) -> dict[str, str]:
    """The names of the four IDX files by the part they hold."""
    return {
        "train_images": f"{prefix[0]}-images-idx3-ubyte.gz",
        "train_labels": f"{prefix[0]}-labels-idx1-ubyte.gz",
        "test_images": f"{prefix[1]}-images-idx3-ubyte.gz",
        "test_labels": f"{prefix[1]}-labels-idx1-ubyte.gz",
    }


def _like_mnist(name: str, builder: str, url: str, names: str) -> Spec:
    return Spec(name, "3.0.1", builder, url, 60_000, 10_000, tuple(names.split("|")))


def _emnist(config: str, train: int, test: int, names: str, first: int = 0) -> Spec:
    url = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
    return Spec(f"emnist/{config}", "3.1.0", "EMNIST", url, train, test, tuple(names), first, True)


_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_KMNIST_URL = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
SPECS = {
    spec.name: spec
    for spec in (
        _like_mnist("mnist", "MNIST", _MNIST_URL, "|".join(_DIGITS)),
        _like_mnist("fashion_mnist", "FashionMNIST", _FASHION_URL, _CLOTHES),
        _like_mnist("kmnist", "KMNIST", _KMNIST_URL, _HIRAGANA_ROWS),
        _emnist("letters", 88_800, 14_800, _LETTERS, first=1),
        _emnist("balanced", 112_800, 18_800, _DIGITS + _LETTERS + "abdefghnqrt"),
        _emnist("digits", 240_000, 40_000, _DIGITS),
    )
}


def prepared_folder(spec: Spec, root: Path) -> Path:
    """Where tfds keeps the data set under ``root``."""
    return root / spec.name / spec.version


def is_prepared(spec: Spec, root: Path) -> bool:
    """Whether ``root`` holds the prepared data set."""
    # os.path says no where pathlib raises: in folders that may not be entered.
    return os.path.isfile(prepared_folder(spec, root) / "dataset_info.json")


def expected_sums(spec: Spec) -> dict[str, tuple[str, int]]:
    """File name -> (SHA-256, bytes) of the original files, as tfds registers them."""
    from tensorflow_datasets.core.download import checksums

    known = checksums.get_all_url_infos()
    return {
        name: (known[url].checksum, int(known[url].size))
        for name, url in spec.urls.items()
        if url in known
    }


def find_files(spec: Spec, folder: Path) -> Path | None:
    """The folder of the verified original files; None where there are none in ``folder``."""
    places = (folder / spec.base_name, folder)
    if not any(os.path.isfile(place / file) for place in places for file in spec.urls):
        for place in places:
            refuse_unpacked(place, spec.urls)
        return None  # and tfds, which knows the sums, need not be imported
    foreign = {
        digest
        for other in SPECS.values()
        if other.base_name != spec.base_name
        for digest, _ in expected_sums(other).values()
    }
    return find_originals(spec.base_name, folder, spec.urls, expected_sums(spec), foreign)


def _read_original(spec: Spec, paths: dict[str, Path]) -> dict[str, np.ndarray]:
    """The four arrays as in the original files, from the downloaded paths by file name."""
    counts = {"train": spec.train_count, "test": spec.test_count}
    if spec.config is None:
        blobs = {part: Path(paths[name]).read_bytes() for part, name in idx_names().items()}
    else:
        prefixes = (f"emnist-{spec.config}-train", f"emnist-{spec.config}-test")
        (archive,) = paths.values()
        try:
            with zipfile.ZipFile(archive) as members:
                blobs = {
                    part: members.read(f"gzip/{name}") for part, name in idx_names(prefixes).items()
                }
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{archive} isn't the archive of EMNIST ({error})") from None
    return {
        part: read_idx(blob, counts[part.partition("_")[0]], f"the {part} of {spec.name}")
        for part, blob in blobs.items()
    }


def prepare(spec: Spec, root: Path, files: Path | None) -> dict[str, np.ndarray]:
    """Prepares the stock data set under ``root``, from local files or by a download.

    It is written aside and renamed, so that a process that dies leaves nothing half done and
    of two that prepare at once the second to finish takes the result of the first.

    Args:
      spec: the data set.
      root: a folder that can be written; the result is ``root/<name>/<version>``.
      files: the folder of the original files, verified; None to download them.

    Returns:
      What :func:`read_prepared` would read from it, which takes as long again.

    Raises:
      UnavailableError: the download failed.
      DataError: a file can't be used, or ``root`` can't be written.
    """
    print(f"preparing {spec.name} in {root} (once) ...", file=sys.stderr, flush=True)
    try:
        with scratch_folder(root) as scratch, quiet_tfds(download=files is None) as tfds:
            builder = _builder_class(spec, tfds)(
                data_dir=scratch, file_format="array_record", config=spec.config
            )
            # A download is worth keeping (EMNIST's serves all its configs), its empty
            # folders are not.
            downloads = scratch / "downloads" if files else root / "downloads"
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=files, try_download_gcs=False, force_checksums_validation=True
                ),
            )
            _install(spec, scratch, root)
            return _as_ours(spec, builder.originals)
    except Exception as error:
        _raise_clearly(spec, root, error)


def _install(spec: Spec, scratch: Path, root: Path) -> None:
    target = prepared_folder(spec, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    install_folder(prepared_folder(spec, scratch), target, lambda: is_prepared(spec, root))
    # What tfds notes beside the configs: which of them is the default.
    note, kept = (folder / spec.base_name / ".config" for folder in (scratch, root))
    if note.is_dir() and not kept.exists():
        shutil.copytree(note, kept, dirs_exist_ok=True)


def _raise_clearly(spec: Spec, root: Path, error: Exception) -> None:
    """Turns what the user can mend into one line; anything else is a bug and keeps its trace."""
    import requests
    from tensorflow_datasets.core.download import download_manager, util

    if isinstance(error, DigitsError):
        raise error
    line = " ".join(str(error).split())[:300]
    failures = (requests.RequestException, util.DownloadError)
    if isinstance(error, (*failures, download_manager.NonMatchingChecksumError)):
        raise UnavailableError(
            f"{spec.name} can't be downloaded from {spec.url}: {line}; "
            "put the files into a folder and give it as data_dir (--data-dir)"
        ) from None
    # array_record, which is C++, raises RuntimeError for a disk that is full.
    full = isinstance(error, RuntimeError) and "No space left" in line
    if full or isinstance(error, OSError):
        why = getattr(error, "strerror", None) or ("the disk is full" if full else line)
        raise DataError(
            f"{spec.name} can't be prepared in {root}: {why}; "
            "give another folder as data_dir (--data-dir), or make room there"
        ) from None
    raise error


@contextlib.contextmanager
def quiet_tfds(*, download: bool = False) -> Iterator[object]:
    """Imports tfds, and keeps its bars and its log to itself."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import tqdm_utils

    log = logging.getLogger("absl")
    level, bars = log.level, tqdm_utils._active
    log.setLevel(logging.ERROR)
    tqdm_utils.display_progress_bar(download and sys.stderr.isatty())
    try:
        yield tfds
    finally:
        log.setLevel(level)
        tqdm_utils.display_progress_bar(bars)


def _builder_class(spec: Spec, tfds: object) -> type:
    """The stock builder with the three steps replaced that need TensorFlow."""
    from tqdm import tqdm

    stock = getattr(tfds.image_classification, spec.builder)

    with tfds.core.registered.skip_registration():

        class Builder(stock):
            name = spec.base_name

            def _info(self):
                info = super()._info()
                # It would ask a bucket that is disabled, and leave a folder in /tmp each time.
                info.initialize_from_bucket = lambda: None
                return info

            def _log_download_bytes(self):
                """The stock line goes to stdout, where a program's result belongs."""

            def _log_download_done(self):
                """As above."""

            def _split_generators(self, dl_manager):
                arrays = _read_original(spec, dl_manager.download(spec.urls))
                self.originals = arrays
                return {
                    split: self._generate_examples(
                        split, arrays[f"{split}_images"], arrays[f"{split}_labels"]
                    )
                    for split in ("train", "test")
                }

            def _generate_examples(self, split, images, labels):
                bar = tqdm(images, f"{spec.name} {split}", leave=False, disable=None)
                for index, (image, label) in enumerate(zip(bar, labels.tolist(), strict=True)):
                    yield index, {"image": io.BytesIO(encode_png(image)), "label": label}

    return Builder


def read_prepared(spec: Spec, root: Path) -> dict[str, np.ndarray]:
    """Reads a prepared data set, ours or anybody's, into arrays.

    Args:
      spec: the data set.
      root: the folder that holds ``<name>/<version>``.

    Returns:
      ``train_images``, ``test_images`` uint8 [n, 28, 28, 1], upright, and ``train_labels``,
      ``test_labels`` int32 [n] from 0, in the order of the original files.

    Raises:
      DataError: what is there is damaged, or in a format that can't be read.
    """
    folder = prepared_folder(spec, root)
    arrays = {}
    with quiet_tfds() as tfds:
        try:
            builder = tfds.builder_from_directory(folder)
            for split, count in (("train", spec.train_count), ("test", spec.test_count)):
                images, labels = _read_split(builder, split, count)
                arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
            return _as_ours(spec, arrays)
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise DataError(
                f"{folder} can't be read ({type(error).__name__}: {line}); delete that folder, "
                "and it is prepared anew, or give another one as data_dir (--data-dir)"
            ) from error


def _read_split(builder: object, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    labels = np.empty(count, np.int64)
    order = stored_order(split, count)
    start = 0
    for examples in _examples(builder, split):
        rows = order[start : start + len(examples)]
        if len(rows) < len(examples):
            break
        images[rows] = [example["image"][..., 0] for example in examples]
        labels[rows] = [example["label"] for example in examples]
        start += len(examples)
    if start != count or builder.info.splits[split].num_examples != count:
        raise ValueError(f"there are not {count} examples in {split}")
    return images, labels


def _examples(builder: object, split: str, chunk: int = 5_000) -> Iterator[list[dict]]:
    """The decoded examples in the order in which they are stored, some at a time."""
    info = builder.info
    if info.file_format.value == "tfrecord":  # as tfds with TensorFlow prepares them
        for path in info.splits[split].filepaths:
            yield [info.features.deserialize_example_np(data) for data in read_tfrecords(path)]
        return
    source = builder.as_data_source(split)
    for start in range(0, len(source), chunk):
        yield source.__getitems__(list(range(start, min(start + chunk, len(source)))))


def _as_ours(spec: Spec, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Upright images with a channel, labels from 0."""
    ours = {}
    for split in ("train", "test"):
        images = arrays[f"{split}_images"]
        if spec.transposed:
            images = images.transpose(0, 2, 1)
        ours[f"{split}_images"] = np.ascontiguousarray(images)[..., None]
        labels = arrays[f"{split}_labels"].astype(np.int32) - np.int32(spec.first_label)
        if not 0 <= labels.min() <= labels.max() < len(spec.class_names):
            raise DataError(
                f"{spec.name} ({split}) has labels from {labels.min()} to {labels.max()}, not from "
                f"0 to {len(spec.class_names) - 1}; give another folder as data_dir (--data-dir)"
            )
        ours[f"{split}_labels"] = labels
    return ours


def stored_order(split: str, count: int) -> np.ndarray:
    """The original index of every stored example.

    tfds sorts the examples by the MD5 sum of the split's name and their key, which in these
    data sets is the index in the original file. It promises a new major version of every
    data set should it ever change that.

    Args:
      split: ``train`` or ``test``.
      count: the number of examples.

    Returns:
      int64 [count]: the entry at i is the original index of the i-th stored example.
    """
    salted = hashlib.md5(split.encode(), usedforsecurity=False)

    def digest(index: int) -> bytes:
        copy = salted.copy()
        copy.update(b"%d" % index)
        return copy.digest()

    return np.array(sorted(range(count), key=digest), np.int64)
