"""The embedded data set: 1,797 small handwritten digits, enlarged to look like MNIST's."""

from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.splits import SPLITS, Dataset, Split, sha256_of_splits, stratified_indices

# uint8 [1797, 8, 8] with 17 levels and labels uint8 [1797]: the test set of "Optical Recognition
# of Handwritten Digits" (Alpaydin and Kaynak, UCI repository, CC BY 4.0,
# https://doi.org/10.24432/C50P49), as in scikit-learn's `load_digits`.
FILE = Path(__file__).with_name("digits.npz")
_PARTS = ["test", "train", "train", "validation", "train"] + ["test"] + ["train"] * 4


def load_digits() -> Dataset:
    """Loads ``digits``: 1,257 training, 180 validation and 360 test images."""
    with np.load(FILE) as file:
        images, labels = enlarge_digits(file["images"]), file["labels"].astype(np.int32)
    rows = stratified_indices(labels, _PARTS, begin_again=False)
    splits: Any = {part: Split(images[rows[part]], labels[rows[part]]) for part in SPLITS}
    return Dataset(
        name="digits",
        version="sklearn-1797",
        source="scikit-learn's load_digits (8x8, from the UCI repository), enlarged",
        sha256=sha256_of_splits(splits.values()),
        class_names=tuple("0123456789"),
        **splits,
    )


def enlarge_digits(images: np.ndarray) -> np.ndarray:
    """Scales 8x8 digits of 17 levels to the format of MNIST.

    As in MNIST, the digit fills a box of 20x20 pixels whose centre of mass is moved to the
    centre of 28x28. Bicubic (Catmull-Rom) weights at 2.5 times the size are multiples of
    1/2000, so integers compute it exactly: the same bytes on every machine.

    Args:
      images: uint8 [n, 8, 8], 0 to 16.

    Returns:
      uint8 [n, 28, 28, 1], 0 to 255.
    """
    weights = np.zeros((20, 8), np.int64)  # in 1/2000; the pixels at the edges are repeated
    for row in range(20):
        position = (row + 0.5) * 8 / 20 - 0.5
        for neighbour in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            t = abs(position - neighbour)
            w = 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            weights[row, min(max(neighbour, 0), 7)] += round(2000 * w) if t < 2 else 0
    large = np.einsum("ri,nij,cj->nrc", weights, images.astype(np.int64), weights, optimize=True)
    scale = 2000 * 2000 * 16
    box = np.clip((large * 255 + scale // 2) // scale, 0, 255).astype(np.uint8)
    result = np.zeros((len(images), 28, 28, 1), np.uint8)
    for image, digit in zip(result, box, strict=True):
        top, left = _offset(digit.sum(1, np.int64)), _offset(digit.sum(0, np.int64))
        image[top : top + 20, left : left + 20, 0] = digit
    return result


def _offset(profile: np.ndarray) -> int:
    """Where a box of 20 begins so that its centre of mass is at 14, within 28."""
    total = int(profile.sum())
    if total == 0:
        return 4
    # Twice the centre, with pixel centres at halves: rounded in integers.
    doubled = int((profile * (2 * np.arange(20) + 1)).sum())
    return min(max((28 * total - doubled + total) // (2 * total), 0), 8)
