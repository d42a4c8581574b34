"""The embedded data set: scikit-learn's 1,797 small digits, made to look like MNIST's."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from digits_jax.data.files import sha256_of_arrays
from digits_jax.data.splits import PARTS, Dataset, make_dataset, stratified_indices
from digits_jax.errors import DataError


def load_digits() -> Dataset:
    """The data set ``digits``: 1,257 images to train on, 180 to validate, 360 to test."""
    images, labels = _read_digits()
    images = enlarge_digits(images)
    arrays = {}
    for part, rows in zip(PARTS, stratified_indices(labels), strict=True):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[rows], labels[rows]
    return make_dataset(
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
        raise DataError("the data set digits comes with scikit-learn; install scikit-learn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        rows = np.array(gzip.decompress(path.read_bytes()).replace(b"\n", b",").split(b",")[:-1])
        table = rows.astype(np.uint8).reshape(-1, 65)
        return table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int32)
    from sklearn import datasets

    bunch = datasets.load_digits()
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
