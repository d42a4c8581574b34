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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.files import first_writable, is_prepared, scratch_folder
from digits_jax.data.originals import REGISTERED, Registered
from digits_jax.data.splits import (
    Dataset,
    Split,
    make_dataset,
    sha256_of_arrays,
    validation_indices,
)
from digits_jax.errors import DataError

MAX_VALIDATION = 10_000
MAX_TEST = 500_000  # 400 MB
_SIZE = (28, 28)
_SAMPLE = 1_000
_CHUNK = 10_000
_NAME = re.compile(r"tfds/(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
STOCK_BUILDERS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
}
_FEATURES = {
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "class_label_feature.ClassLabel",
    )
}


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
      num_classes: labels are below it.
      layout: of a registered data set, to turn its images upright and count its labels from 0.
      places: int64 [n], which of the stored examples are these; None for all.

    Raises:
      DataError: a file is missing or damaged.
    """

    def __init__(
        self,
        builder: Any,
        split: str,
        num_classes: int,
        layout: Registered | None = None,
        places: np.ndarray | None = None,
    ):
        from tensorflow_datasets import decode

        info = builder.info.splits[split]
        self._num_classes, self._layout = num_classes, layout
        self._first_label = layout.first_label if layout else 0
        self.paths = tuple(map(Path, info.filepaths))
        self._ends = np.cumsum(info.shard_lengths)
        self._places = np.arange(info.num_examples)
        for path in self.paths:
            if not os.path.isfile(path):
                raise DataError(f"{path} is missing; put it back, or prepare that data set again")
        try:
            self._source = builder.as_data_source(
                split, deserialize_method=decode.DeserializeMethod.RAW_BYTES
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
        from tensorflow_datasets.proto import tf_example_pb2

        proto: Any = tf_example_pb2  # generated, without types
        places = self._places[indices].tolist()
        images, labels = np.empty((len(places), *_SIZE), np.uint8), np.empty(len(places), np.int32)
        try:
            records = self._source.__getitems__(places)
        except Exception:
            records = None  # they are read one by one, to find the file
        for row, place in enumerate(places):
            try:
                record = self._source[place] if records is None else records[row]
                feature = proto.Example.FromString(record).features.feature
                (png,) = feature["image"].bytes_list.value
                (labels[row],) = feature["label"].int64_list.value
                images[row] = _decode(png)
                if not 0 <= labels[row] - self._first_label < self._num_classes:
                    raise ValueError(f"a label is not one of {self._num_classes} classes")
            except Exception as error:
                raise self._unreadable(place, error) from None
        if self._layout is None:
            return images[..., None], labels
        return self._layout.upright(images, labels)

    def _unreadable(self, place: int, error: Exception) -> DataError:
        path = self.paths[int(np.searchsorted(self._ends, place, side="right"))]
        line = " ".join(str(error).split())[:200] or "it ends too early"  # array_record is silent
        return DataError(
            f"{path} can't be read ({line}): it is damaged, or has changed; put an intact copy "
            "there, or prepare that data set again"
        )


def _decode(png: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(png), formats=("PNG", "JPEG"))
    if image.size != _SIZE or image.mode not in ("1", "L"):
        width, height = image.size
        raise ValueError(f"an image is {width}x{height} of mode {image.mode}, not 28x28 grey")
    image = image if image.mode == "L" else image.convert("L")
    # Half the time of np.asarray(image).
    return np.frombuffer(image.tobytes(), np.uint8).reshape(_SIZE)


def _read_all(split: RecordSplit, name: str) -> Split:
    from tqdm import tqdm

    images, labels = np.empty((len(split), *_SIZE, 1), np.uint8), np.empty(len(split), np.int32)
    with tqdm(total=len(split), desc=f"reading {name}", leave=False, disable=None) as bar:
        for start in range(0, len(split), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(split)))
            images[rows], labels[rows] = split.rows(rows)
            bar.update(len(rows))
    return Split(images, labels)


# --- data sets of the user's own -----------------------------------------------------------


def load_prepared(name: str, roots: Sequence[Path], *, in_memory: bool) -> Dataset:
    """Loads ``tfds/NAME[:VERSION]`` from one of ``roots``; see the top of this module.

    Raises:
      DataError: it isn't there, or can't be used.
    """
    folder, title = _find(name, roots)
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
    streamed = RecordSplit(builder, "train", len(class_names), places=train)
    held = {
        "validation": _read_all(
            RecordSplit(builder, "train", len(class_names), places=validation), "validation"
        ),
        "test": _read_all(RecordSplit(builder, "test", len(class_names)), "test"),
    }
    digest = _sha256(info, class_names, held, streamed)
    if in_memory:
        held["train"] = _read_all(streamed, "train")
    arrays = {
        f"{split}_{kind}": getattr(part, kind)
        for split, part in held.items()
        for kind in ("images", "labels")
    }
    return make_dataset(
        arrays,
        **({} if in_memory else {"train": streamed}),
        name=title,
        version=str(info.version),
        source=f"{title}, prepared in {folder}",
        sha256=digest,
        class_names=class_names,
    )


def _sha256(
    info: Any, class_names: Sequence[str], held: dict[str, Split], train: RecordSplit
) -> str:
    total = hashlib.sha256("\n".join(class_names).encode())
    for split in ("train", "test"):
        shards = zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True)
        for path, length in shards:
            total.update(f"{split} {length} {os.path.getsize(path)}\n".encode())
    sample = np.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).astype(np.int64)
    arrays = [
        a for split in ("test", "validation") for a in (held[split].images, held[split].labels)
    ]
    total.update(sha256_of_arrays([*arrays, *train.rows(sample)]).encode())
    return total.hexdigest()


def _find(name: str, roots: Sequence[Path]) -> tuple[Path, str]:
    """The folder of a prepared data set, and its full name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(
            f"dataset={name}: must be tfds/NAME or tfds/NAME:VERSION, as tensorflow-datasets names "
            "a prepared data set, such as tfds/large_digits:1.0.0"
        )
    base, wanted = match["name"], match["version"]
    if base in REGISTERED:
        raise DataError(f"dataset={name}: has a name of its own here; give dataset={base}")
    there = [
        (str(path.parent.parent.relative_to(root)), path.parent)
        for root in roots
        for depth in ("*/*", "*/*/*")
        for path in root.glob(f"{depth}/dataset_info.json")
    ]
    versions = {
        folder.name: folder
        for found, folder in reversed(there)
        if found == base and re.fullmatch(r"\d+\.\d+\.\d+", folder.name)
    }
    newest = max(versions, key=lambda v: [int(n) for n in v.split(".")], default=None)
    version = wanted or newest
    if version in versions:
        return versions[version], f"tfds/{base}:{version}"
    names = sorted({f"tfds/{found}:{at.name}" for found, at in there if found not in REGISTERED})
    raise DataError(
        f"dataset={name}: no such prepared data set in {' or '.join(map(str, roots))} (there: "
        f"{', '.join(names[:10]) or 'none'}); give another name, or its folder as data_dir"
    )


# --- what tfds knows -----------------------------------------------------------------------


def _open_builder(folder: Path) -> Any:
    """The tfds builder of a folder, checked to hold images and labels with random access."""
    tfds = _import_tfds()
    try:
        # tfds imports, that is runs, whatever module a file names as the class of a feature.
        classes = _feature_classes(json.loads((folder / "features.json").read_text()))
        builder = tfds.builder_from_directory(folder) if classes <= _FEATURES else None
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise DataError(
            f"{folder} can't be read ({type(error).__name__}: {line}); delete it and prepare "
            "that data set again, or give another folder as data_dir"
        ) from None
    features = dict(builder.info.features) if builder else {}
    if not builder or "image" not in features or not getattr(features.get("label"), "names", ()):
        names = ", ".join(sorted(name.rpartition(".")[2] for name in classes))
        raise DataError(
            f"{folder} has other features ({names or 'none'}): they must be image, an "
            "Image(shape=(28, 28, 1)), and label, a ClassLabel with its classes"
        )
    info = builder.info
    if info.file_format.value != "array_record":
        raise DataError(
            f"{folder} is in the {info.file_format.value} format, which has no random access; "
            'prepare it with file_format="array_record", or give another folder as data_dir'
        )
    missing = {"train", "test"}.difference(info.splits)
    if missing:
        raise DataError(f"{folder} has no split {' and no '.join(sorted(missing))}; prepare both")
    return builder


def _feature_classes(value: Any) -> set[str]:
    """The Python classes that a features.json names, under any key that tfds knows."""
    if isinstance(value, list):
        return set().union(*map(_feature_classes, value))
    if not isinstance(value, dict):
        return set()
    keys = value.keys() & {"pythonClassName", "python_class_name", "type"}
    return {str(value[key]) for key in keys}.union(*map(_feature_classes, value.values()))


def _import_tfds() -> Any:
    """Imports tfds, without its log and its progress bars."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    return tfds


# --- the registered data sets --------------------------------------------------------------


def read_registered(data: Registered, folder: Path) -> dict[str, np.ndarray]:
    """Reads what tfds, ours or anybody's, prepared in ``folder``: as `read_originals` does."""
    arrays = {}
    for split, count in (("train", data.train_count), ("test", data.test_count)):
        stored = _read_all(_open_registered(data, folder, split), split)
        order = np.argsort(stored_order(split, count))
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = stored.rows(order)
    return arrays


def stream_registered(data: Registered, roots: list[Path], dataset: Dataset) -> RecordSplit:
    """Opens the files of ``dataset.train``, in its order, and prepares them if necessary."""
    folders = [root / data.name / data.version for root in roots]
    folder = next(filter(is_prepared, folders), None)
    if folder is None:
        root = first_writable(roots)
        if root is None:
            raise DataError(
                f"input=stream: {data.name} isn't prepared in {' or '.join(map(str, roots))}, and "
                "nothing can be written there; give another folder as data_dir"
            )
        folder = prepare(data, root, dataset)
    train, _ = validation_indices(data.train_count)
    places = np.argsort(stored_order("train", data.train_count))[train]
    return _open_registered(data, folder, "train", places)


def _open_registered(
    data: Registered, folder: Path, split: str, places: np.ndarray | None = None
) -> RecordSplit:
    builder = _open_builder(folder)
    stored = builder.info.splits[split].num_examples
    expected = data.train_count if split == "train" else data.test_count
    if stored != expected:
        raise DataError(
            f"{folder} has {stored} examples in {split}, not {expected}; "
            "delete that folder, and it is prepared again"
        )
    return RecordSplit(builder, split, len(data.class_names), data, places)


def stored_order(split: str, count: int) -> np.ndarray:
    """Returns the original index of every stored example: int64 [count].

    tfds sorts examples by the MD5 sum of the split's name and their key, which in these data sets
    is the index in the original file. It promises a new major version of every data set should it
    ever change that.
    """

    def digest(index: int) -> bytes:
        return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()

    return np.array(sorted(range(count), key=digest), np.int64)


def prepare(data: Registered, root: Path, dataset: Dataset) -> Path:
    """Prepares the stock tfds data set without TensorFlow, as ``root/NAME/VERSION``.

    The stock builders extract, read and encode with TensorFlow. Here they are subclassed under
    their own name, so that only those steps differ: the result is the stock data set, and
    ``tfds.load`` or ``tfds.data_source`` read it. It is written aside and renamed, so that a
    process that dies leaves nothing half done, and of two that prepare at once the second takes
    the result of the first.

    Raises:
      DataError: it can't be written.
    """
    target = root / data.name / data.version
    print(f"preparing {data.name} in {root} (once) ...", file=sys.stderr, flush=True)
    try:
        with scratch_folder(root) as scratch, contextlib.redirect_stdout(io.StringIO()):
            builder = _builder_class(data, dataset)(
                data_dir=scratch, file_format="array_record", config=data.config
            )
            builder.download_and_prepare(download_dir=scratch / "downloads")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                (scratch / data.name / data.version).rename(target)
            except OSError:
                if not is_prepared(target):
                    raise
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError for a full disk
        line = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise DataError(
            f"{data.name} can't be prepared in {target}: {line}; make room there, or give another "
            "folder as data_dir"
        ) from None
    return target


def _builder_class(data: Registered, dataset: Any) -> type:
    """The stock builder, fed from arrays."""
    from PIL import Image
    from tqdm import tqdm

    tfds = _import_tfds()
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
