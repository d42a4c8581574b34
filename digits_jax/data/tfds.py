"""Prepared tfds data sets: read by index without TensorFlow, and prepared for the registered names.

``tfds/NAME`` (the newest version), ``tfds/NAME:VERSION`` and ``tfds/NAME/CONFIG:VERSION`` name any
data set that tfds prepared in the array_record format under the data folder, with the features
image (``Image(shape=(28, 28, 1))``, uint8) and label (a ``ClassLabel``) and the splits train and
test. Their original order is the order in which they are stored. Their validation split is a
twelfth of train, at most 10,000 examples. It and the test split are held in memory.

A SHA-256 over all pixels of a large set would take minutes. Theirs covers the class names; for
both splits the number of examples in each file and the file's size; all validation and test
examples; and 1,000 training examples at even distances. So it tells apart versions, a set that was
prepared again or has grown, and anything that would change a score; it does not promise to notice
that one training image among millions was exchanged for another of the same size.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from digits_jax.data.originals import REGISTERED, Registered, folders_searched
from digits_jax.data.splits import Dataset, Split, sha256_of_splits, validation_indices
from digits_jax.errors import DataError
from digits_jax.files import first_writable, scratch_folder

MAX_VALIDATION = 10_000
MAX_TEST = 500_000  # 400 MB
STOCK_BUILDERS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
}
_SIZE = (28, 28)
_CHUNK = 10_000
_MAX_TEXT_BYTES = 50_000_000
_FEATURES = {  # under tensorflow_datasets.core.features
    "features_dict.FeaturesDict",
    "image_feature.Image",
    "class_label_feature.ClassLabel",
}

tfds: Any = tensorflow_datasets  # types would be in the way of its lazy and generated modules
proto: Any = tf_example_pb2
logging.getLogger("absl").setLevel(logging.ERROR)
tfds.disable_progress_bar()


class RecordSplit:
    """Examples of a prepared tfds data set, read from its files when they are needed.

    Several threads may read at once. array_record keeps a hash of each record's bytes: damage is
    noticed when a record is read, a file that is missing or cut already here.

    Reading a list of 4,096 records, parsing them and decoding each PNG with Pillow gives 25,000
    images/s on one core; tfds's own decoding gives 10,000, and a standard CNN trains on 5,000 to
    15,000. It costs half a millisecond a file and list, so that lists should be long.

    Args:
      builder: of tfds.
      split: "train" or "test".
      places: int64 [n], which of the stored examples are these; None for all.
      layout: of a registered data set, to turn its images upright and count its labels from 0.

    Raises:
      DataError: a file is missing or damaged.
    """

    def __init__(
        self,
        builder: Any,
        split: str,
        places: np.ndarray | None = None,
        layout: Registered | None = None,
    ):
        info = builder.info.splits[split]
        names = layout.class_names if layout else builder.info.features["label"].names
        first = layout.first_label if layout else 0
        self._labels, self._layout = range(first, first + len(names)), layout
        self.paths = tuple(map(Path, info.filepaths))
        self._ends = np.cumsum(info.shard_lengths)
        self._places = np.arange(info.num_examples)
        for path in self.paths:
            if not os.path.isfile(path):
                raise DataError(f"{path} is missing; put it back, or prepare that data set again")
        try:
            self._source = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except Exception as error:
            raise self._unreadable(0, error) from None
        # A file that was cut has lost its last record.
        self.rows(np.unique(self._ends[self._ends > 0]) - 1)
        if places is not None:
            self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads the images (uint8 [n, 28, 28, 1]) and labels (int32 [n]) at some indices.

        Raises:
          DataError: a record can't be read; the message names its file.
        """
        places = self._places[indices].tolist()
        images, labels = np.empty((len(places), *_SIZE), np.uint8), np.empty(len(places), np.int32)
        try:
            records = iter(self._source.__getitems__(places))
        except Exception:  # one by one, to find the file
            records = map(self._source.__getitem__, places)
        for row, place in enumerate(places):
            try:
                feature = proto.Example.FromString(next(records)).features.feature
                (png,) = feature["image"].bytes_list.value
                (label,) = feature["label"].int64_list.value
                image = Image.open(io.BytesIO(png), formats=("PNG", "JPEG"))
                if image.size != _SIZE or image.mode not in ("1", "L"):
                    raise ValueError(f"{image.size} of mode {image.mode}, not 28x28 grey")
                if label not in self._labels:
                    raise ValueError(f"label {label}, not one of {len(self._labels)} classes")
                # Half the time of np.asarray(image).
                pixels = (image if image.mode == "L" else image.convert("L")).tobytes()
                images[row], labels[row] = np.frombuffer(pixels, np.uint8).reshape(_SIZE), label
            except Exception as error:
                raise self._unreadable(place, error) from None
        return self._layout.upright(images, labels) if self._layout else (images[..., None], labels)

    def read_all(self) -> Split:
        """Reads all examples into memory."""
        images, labels = np.empty((len(self), *_SIZE, 1), np.uint8), np.empty(len(self), np.int32)
        with tqdm(total=len(self), desc="reading", leave=False, disable=None) as bar:
            for start in range(0, len(self), _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, len(self)))
                images[rows], labels[rows] = self.rows(rows)
                bar.update(len(rows))
        return Split(images, labels)

    def _unreadable(self, place: int, error: Exception) -> DataError:
        path = self.paths[int(np.searchsorted(self._ends, place, side="right"))]
        # array_record says nothing about a file that ends too early.
        return DataError(
            f"{path} can't be read ({_one_line(error) or 'it ends too early'}): it is damaged, or "
            "has changed; put an intact copy there, or prepare that data set again"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]


# --- data sets of the user's own -----------------------------------------------------------


def load_prepared(name: str, roots: list[Path], *, in_memory: bool) -> Dataset:
    """Loads ``tfds/NAME[:VERSION]`` from one of ``roots``; see the top of this module.

    Raises:
      DataError: it isn't there, or can't be used.
    """
    folder, full_name = _find(name, roots)
    builder = _open_builder(folder)
    info = builder.info
    class_names = tuple(info.features["label"].names)
    counts = {split: info.splits[split].num_examples for split in ("train", "test")}
    train, validation = validation_indices(counts["train"], MAX_VALIDATION)
    if not len(validation) or not 0 < counts["test"] <= MAX_TEST:
        raise DataError(
            f"{folder} has {counts['train']:,} training and {counts['test']:,} test examples; "
            f"needed are at least 12, and 1 to {MAX_TEST:,} (those are held in memory)"
        )
    streamed = RecordSplit(builder, "train", train)
    held = RecordSplit(builder, "train", validation).read_all()
    test = RecordSplit(builder, "test").read_all()
    total = hashlib.sha256("\n".join(class_names).encode())
    for split in counts:
        shards = zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True)
        for path, length in shards:
            total.update(f"{split} {length} {os.path.getsize(path)}\n".encode())
    sample = np.linspace(0, len(train) - 1, min(1_000, len(train))).astype(np.int64)
    total.update(sha256_of_splits([test, held, Split(*streamed.rows(sample))]).encode())
    return Dataset(
        name=full_name,
        version=str(info.version),
        source=f"{full_name}, prepared in {folder}",
        sha256=total.hexdigest(),
        class_names=class_names,
        train=streamed.read_all() if in_memory else streamed,
        validation=held,
        test=test,
    )


def _find(name: str, roots: list[Path]) -> tuple[Path, str]:
    """The folder of a prepared data set, and its full name."""
    base, _, version = name.partition(":")
    if base.removeprefix("tfds/") in REGISTERED:
        raise DataError(f"dataset={name}: has a name here; give dataset={base[5:]}")
    there = [
        (f"tfds/{path.parent.parent.relative_to(root)}", path.parent)
        for root in roots
        for depth in ("*/*", "*/*/*")
        for path in root.glob(f"{depth}/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    found = [folder for known, folder in there if known == base and version in ("", folder.name)]
    if not found:
        names = sorted(f"{known}:{folder.name}" for known, folder in there)
        raise DataError(
            f"dataset={name}: no such prepared data set in {folders_searched(roots)} (there: "
            f"{', '.join(names[:10]) or 'none'}); give tfds/NAME or tfds/NAME:VERSION of one, or "
            "its folder as data_dir"
        )
    newest = max(found, key=lambda folder: [int(n) for n in folder.name.split(".")])
    return newest, f"{base}:{newest.name}"


def _open_builder(folder: Path) -> Any:
    """The tfds builder of a folder, checked to hold images and labels with random access."""
    files = (folder / "features.json", folder / "dataset_info.json")
    try:
        for path in {*files, *folder.iterdir()}:  # a pipe would block
            is_text = path.suffix in (".json", ".txt")
            if not os.path.isfile(path) or (is_text and os.path.getsize(path) > _MAX_TEXT_BYTES):
                raise ValueError(f"{path.name} is missing, no regular file or too large")
        # tfds imports, that is runs, whatever module a file names as the class of a feature.
        found = _feature_classes(json.loads(files[0].read_text()))
        names = {name.removeprefix("tensorflow_datasets.core.features.") for name in found}
        builder = tfds.builder_from_directory(folder) if names <= _FEATURES else None
    except (AttributeError, ImportError, TypeError) as error:  # of packages that don't fit
        versions = [f"{name} {version(name)}" for name in ("tensorflow-datasets", "protobuf")]
        raise DataError(
            f"{folder} can't be read by {' with '.join(versions)} ({_one_line(error)}); install "
            "versions that fit together, and prepare that data set again only if it still fails"
        ) from None
    except Exception as error:
        raise DataError(
            f"{folder} can't be read ({type(error).__name__}: {_one_line(error)}); delete it and "
            "prepare that data set again, or give another folder as data_dir"
        ) from None
    features = dict(builder.info.features) if builder else {}
    if not builder or "image" not in features or not getattr(features.get("label"), "names", ()):
        raise DataError(
            f"{folder} has other features ({', '.join(sorted(names))}): they must be image, an "
            "Image(shape=(28, 28, 1)), and label, a ClassLabel with its classes"
        )
    kind = builder.info.file_format.value
    if kind != "array_record" or not {"train", "test"} <= set(builder.info.splits):
        raise DataError(
            f"{folder} has the splits {', '.join(builder.info.splits) or 'none'} in the {kind} "
            "format: needed are train and test, and random access; prepare it with both and "
            'file_format="array_record"'
        )
    return builder


def _feature_classes(value: Any) -> set[str]:
    """The Python classes that a features.json names, under any key that tfds knows."""
    if isinstance(value, list):
        return set().union(*map(_feature_classes, value))
    if not isinstance(value, dict):
        return set()
    keys = value.keys() & {"pythonClassName", "python_class_name", "type"}
    return {str(value[key]) for key in keys}.union(*map(_feature_classes, value.values()))


# --- the registered data sets --------------------------------------------------------------


def stored_order(split: str, count: int) -> np.ndarray:
    """Returns the original index of every stored example: int64 [count].

    tfds sorts examples by the MD5 sum of the split's name and their key, which in these data sets
    is the index in the original file. It promises a new major version of every data set should it
    ever change that.
    """

    def digest(index: int) -> bytes:
        return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()

    return np.array(sorted(range(count), key=digest), np.int64)


def open_registered(
    data: Registered, folder: Path, split: str, *, training_only: bool = False
) -> RecordSplit:
    """Opens what tfds, ours or anybody's, prepared in ``folder``, in the order of the originals.

    With ``training_only`` it leaves the validation examples out.

    Raises:
      DataError: it can't be read, or has another number of examples.
    """
    builder = _open_builder(folder)
    stored = builder.info.splits[split].num_examples
    count = data.train_count if split == "train" else data.test_count
    if stored != count:
        raise DataError(
            f"{folder} has {stored} examples in {split}, not {count}; delete that folder, and it "
            "is prepared again"
        )
    places = np.argsort(stored_order(split, count))
    if training_only:
        places = places[validation_indices(count)[0]]
    return RecordSplit(builder, split, places, data)


def prepare(data: Registered, roots: list[Path], dataset: Dataset) -> Path:
    """Prepares the stock tfds data set without TensorFlow, as ``NAME/VERSION`` in one of ``roots``.

    The stock builders extract, read and encode with TensorFlow. Here they are subclassed under
    their own name, so that only those steps differ: the result is the stock data set, and
    ``tfds.load`` or ``tfds.data_source`` read it. It is written aside and renamed, so that a
    process that dies leaves nothing half done, and of two that prepare at once the second takes
    the result of the first.

    Raises:
      DataError: it can't be written.
    """
    root, reason = first_writable(roots), "no folder can be written"
    try:
        if root is not None:
            target = root / data.name / data.version
            print(f"preparing {data.name} in {root} (once) ...", file=sys.stderr, flush=True)
            with scratch_folder(root) as scratch, contextlib.redirect_stdout(io.StringIO()):
                builder = _builder_class(data, dataset)(
                    data_dir=scratch, file_format="array_record", config=data.config
                )
                builder.download_and_prepare(download_dir=scratch / "downloads")
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    (scratch / data.name / data.version).rename(target)
                if (target / "dataset_info.json").is_file():
                    return target
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError for a full disk
        reason = _one_line(error)
    raise DataError(
        f"{data.name} can't be prepared in {folders_searched(roots)}: {reason}; make room there, "
        "or give another folder as data_dir"
    )


def _builder_class(data: Registered, dataset: Any) -> type:
    """The stock builder, fed from arrays."""
    train, validation = validation_indices(data.train_count)
    # Keys of the examples: the indices in the original files. Their order is tfds's.
    parts = {
        "train": ((train, dataset.train), (validation, dataset.validation)),
        "test": ((np.arange(data.test_count), dataset.test),),
    }

    def examples(split: str) -> Iterator[tuple[int, dict]]:
        for keys, part in parts[split]:
            bar = tqdm(keys.tolist(), f"{data.name} {split}", leave=False, disable=None)
            for key, image, label in zip(bar, part.images[..., 0], part.labels, strict=True):
                file = io.BytesIO()
                Image.fromarray(image.T if data.transposed else image).save(file, "PNG")
                file.seek(0)
                yield key, {"image": file, "label": int(label) + data.first_label}

    with tfds.core.registered.skip_registration():

        class Builder(getattr(tfds.image_classification, STOCK_BUILDERS[data.base_name])):
            name = data.base_name

            def _info(self) -> Any:
                info = super()._info()
                # It would ask a bucket that is disabled, and leave a folder in /tmp each time.
                info.initialize_from_bucket = lambda: None
                return info

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
                return {split: examples(split) for split in parts}

    return Builder
