"""A data set of 120 + 24 random images that stands in for a registered one."""

import gzip
import hashlib
import struct
import zipfile
from dataclasses import replace

import numpy as np

from digits_jax.data.originals import REGISTERED
from digits_jax.data.splits import validation_indices

TRAIN, TEST = 120, 24
NAMES = {  # the four names, written again
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def make_arrays(extra=0, classes=10, first=0):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", TRAIN + extra), ("test", TEST + extra)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes + first).astype(np.uint8)
    return arrays


def idx_bytes(array):
    header = struct.pack(f">2x2B{array.ndim}I", 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), 1, mtime=0)


FILES = {NAMES[part]: idx_bytes(array) for part, array in make_arrays().items()}


def arrays_sha256(arrays):
    """As `Dataset.sha256` is documented."""
    total, counts = hashlib.sha256(), {s: len(arrays[f"{s}_labels"]) for s in ("train", "test")}
    train, validation = validation_indices(counts["train"])
    for split, rows in (
        ("train", train),
        ("train", validation),
        ("test", np.arange(counts["test"])),
    ):
        images = arrays[f"{split}_images"][rows]
        labels = arrays[f"{split}_labels"][rows].astype("<i4")
        total.update(f"|u1[{len(rows)}, 28, 28, 1]".encode() + images.tobytes())
        total.update(f"<i4[{len(rows)}]".encode() + labels.tobytes())
    return total.hexdigest()


def stand_in(patch, name="mnist", url="http://127.0.0.1:9/", files=FILES):
    """Makes ``name`` the small data set for this process; ``patch`` is a MonkeyPatch."""
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    counts = {"train_count": TRAIN, "test_count": TEST}
    data = replace(REGISTERED[name], urls=(url,), sha256=sums, **counts)
    if name == "mnist":
        data = replace(data, arrays_sha256=arrays_sha256(make_arrays()))
    patch.setitem(REGISTERED, name, data)


def stand_in_emnist(patch, folder):
    """Makes emnist/letters the small data set, its archive in ``folder``; returns its arrays."""
    arrays = make_arrays(extra=5, classes=26, first=1)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for part, name in NAMES.items():
            name = f"gzip/emnist-letters-{name.replace('t10k', 'test')}"
            archive.writestr(name, idx_bytes(arrays[part]))
    files = {"gzip.zip": (folder / "gzip.zip").read_bytes()}
    stand_in(patch, "emnist/letters", files=files)
    return arrays


def write_files(folder, files=FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check(dataset):
    """The arrays are those of the files."""
    arrays = make_arrays()
    train, validation = validation_indices(TRAIN)
    images, labels = dataset.train.rows(np.arange(len(train)))
    np.testing.assert_array_equal(images[..., 0], arrays["train_images"][train])
    np.testing.assert_array_equal(labels, arrays["train_labels"][train])
    np.testing.assert_array_equal(
        dataset.validation.images[..., 0], arrays["train_images"][validation]
    )
    np.testing.assert_array_equal(dataset.validation.labels, arrays["train_labels"][validation])
    np.testing.assert_array_equal(dataset.test.images[..., 0], arrays["test_images"])
    np.testing.assert_array_equal(dataset.test.labels, arrays["test_labels"])
    assert dataset.test.labels.dtype == np.int32
    return dataset


def leftovers(folder):
    return [path for path in folder.rglob(".digits_jax-*")]
