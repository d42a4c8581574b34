"""Shared by the contenders: data and turns. It imports NumPy, and not our package.

The peers' processes are timed from the start, so they don't import what they don't use.
"""

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ENDLESS = 10**6  # steps of the schedule of a worker, which is told how many to take
_SPLIT_KEY, _VALIDATION = 1998, 5000


def read_recipe(argv: list[str]) -> SimpleNamespace:
    """Reads the only argument: the recipe as JSON, which `compare.peer_recipe` writes."""
    return SimpleNamespace(**json.loads(argv[0]))


def read_mnist(folder: str | Path) -> tuple[np.ndarray, ...]:
    """Reads training and test images and labels, without the validation images of our runs.

    Args:
      folder: of MNIST's four original files.

    Returns:
      uint8 [55000, 28, 28], uint8 [55000], uint8 [10000, 28, 28], uint8 [10000].
    """
    images, labels = _read(folder, "train-images-idx3"), _read(folder, "train-labels-idx1")
    order = np.argsort(np.random.Philox(key=_SPLIT_KEY).random_raw(len(labels)), kind="stable")
    train = np.sort(order[_VALIDATION:])
    test = _read(folder, "t10k-images-idx3"), _read(folder, "t10k-labels-idx1")
    return images[train], labels[train], *test


def _read(folder: str | Path, name: str) -> np.ndarray:
    with gzip.open(Path(folder) / f"{name}-ubyte.gz") as file:
        data = file.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def serve(run_steps: Callable[[int], object], **facts: object) -> None:
    """Takes steps when asked to, until stdin ends.

    A line with a number asks for so many steps; the answer is a line of JSON with their seconds. In
    between the process sleeps, so that only one contender uses the cores at a time.

    Args:
      run_steps: takes the number of steps, and returns when the last has been computed.
      facts: about this process, sent when it is ready.
    """
    print(json.dumps({"ready": True, **facts}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run_steps(int(line))
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
