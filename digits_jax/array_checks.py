"""Checks and conversions of labels, predictions and logits, from any framework."""

import numpy as np
from numpy.typing import ArrayLike

from digits_jax.errors import DataError


def check_predictions(
    labels: ArrayLike, *predictions: ArrayLike, num_classes: int = 2**31
) -> list[np.ndarray]:
    """Converts labels to int64 [n], and the predictions of one run or several to [seeds, n].

    Raises:
      DataError: another shape or dtype, other lengths, or a class out of range.
    """
    truth = _classes(labels, "labels", (1,), num_classes)
    checked = [_classes(each, "predictions", (1, 2), num_classes) for each in predictions]
    for each in checked:
        if each.shape[-1] != truth.size:
            raise DataError(
                f"{each.shape[-1]} predictions for {truth.size} labels: "
                "give those of the same images, in the same order"
            )
    return [truth, *map(np.atleast_2d, checked)]


def check_logits(
    labels: ArrayLike, logits: ArrayLike, prefix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Converts labels to int64 [n] and logits to float64 [n, classes].

    Args:
      labels, logits: of one run.
      prefix: of the arrays' names in messages.

    Raises:
      DataError: another shape or dtype, other lengths, a label that has no logit, or logits
        that aren't finite.
    """
    array, name = np.asarray(logits), f"{prefix}logits"
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: give float [n, classes]"
        )
    labels = _classes(labels, f"{prefix}labels", (1,), array.shape[1])
    if len(array) != labels.size:
        raise DataError(
            f"{name} has {len(array)} rows for {labels.size} labels: "
            "give those of the same images, in the same order"
        )
    with np.errstate(invalid="ignore"):  # the conversion of a signalling NaN warns
        array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name} has NaN or infinity in {bad.size} of {labels.size} rows, first in row "
            f"{bad[0]}: give finite numbers; train or export that run again"
        )
    return labels, array


def _classes(values: ArrayLike, name: str, ndims: tuple[int, ...], num_classes: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim not in ndims or array.size == 0 or array.dtype.kind not in "iu":
        raise DataError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: "
            f"give class numbers, integers [n]{' or [seeds, n]' if 2 in ndims else ''}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{name} holds {low if low < 0 else high}: classes are from 0 to {num_classes - 1}"
        )
    return array.astype(np.int64)
