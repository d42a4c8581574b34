"""MNIST's four files into arrays, for the peers: NumPy, and nothing of our package.

Their processes are timed from the start, so they don't import what they don't use.
"""

import gzip
from pathlib import Path

import numpy as np

_SPLIT_KEY, _VALIDATION = 1998, 5000


def read_mnist(folder: str | Path) -> tuple[np.ndarray, ...]:
    """The training and test images and labels, the validation images left out as in our runs.

    Args:
      folder: of ``train-images-idx3-ubyte.gz`` and its like.

    Returns:
      uint8 [55000, 28, 28], uint8 [55000], uint8 [10000, 28, 28], uint8 [10000].
    """
    images, labels = _read(folder, "train-images-idx3"), _read(folder, "train-labels-idx1")
    order = np.argsort(np.random.Philox(key=_SPLIT_KEY).random_raw(len(labels)), kind="stable")
    train = np.sort(order[_VALIDATION:])
    test = _read(folder, "t10k-images-idx3"), _read(folder, "t10k-labels-idx1")
    return images[train], labels[train], *test


def _read(folder, name):
    with gzip.open(Path(folder) / f"{name}-ubyte.gz") as file:
        data = file.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
