"""How often a classifier is right: accuracy per class, the confusion matrix, Wilson intervals.

Arrays in this package:
  labels: int [n], the true classes, from 0
  predictions: int [n] for one run, [seeds, n] for several, whose mean is reported
  logits: float [n, classes], finite
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from digits_jax.errors import DataError


def as_labels(
    labels: ArrayLike, name: str = "labels", num_classes: int | None = None
) -> np.ndarray:
    """Converts labels to int64 [n].

    Args:
      name: of the array, for the message.
      num_classes: every label must be below it.

    Raises:
      DataError: not one-dimensional, empty, not integers, or out of range.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} has shape {array.shape}: give one integer for each image")
    return _as_classes(array, name, num_classes)


def as_predictions(predictions: ArrayLike, count: int, name: str = "predictions") -> np.ndarray:
    """Converts the predictions of one run or of several to int64 [seeds, n].

    Raises:
      DataError: another shape, not integers, a negative class, or n isn't `count`.
    """
    array = np.asarray(predictions)
    if array.ndim not in (1, 2) or array.size == 0:
        raise DataError(f"{name} has shape {array.shape}: give integers [n] or [seeds, n]")
    if array.shape[-1] != count:
        raise DataError(
            f"{name} has {array.shape[-1]} predictions for {count} labels: "
            "give those of the same images, in the same order"
        )
    return np.atleast_2d(_as_classes(array, name, None))


def as_logits(logits: ArrayLike, count: int, name: str = "logits") -> np.ndarray:
    """Converts logits to float64 [n, classes].

    Raises:
      DataError: another shape, fewer than two classes, not finite, or n isn't `count`.
    """
    array = np.asarray(logits)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: give float [n, classes]"
        )
    if array.shape[0] != count:
        raise DataError(
            f"{name} has {array.shape[0]} rows for {count} labels: "
            "give those of the same images, in the same order"
        )
    with np.errstate(invalid="ignore"):  # the conversion of a signalling NaN warns
        array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name} has NaN or infinity in {bad.size} of {count} rows, first in row {bad[0]}: "
            "give finite numbers; train or export that run again"
        )
    return array


def _as_classes(array: np.ndarray, name: str, num_classes: int | None) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} has dtype {array.dtype}: give class numbers as integers")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= (num_classes or 2**31):
        allowed = "at least 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        raise DataError(f"{name} holds {low if low < 0 else high}: a class number is {allowed}")
    return array.astype(np.int64)


def wilson_interval(
    successes: ArrayLike, count: ArrayLike, confidence: float = 0.95
) -> tuple[Any, Any]:
    """Computes the Wilson score interval of a proportion.

    With p = successes / count and z the normal quantile,
    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and has a
    width even without a single error, where the usual p ± 2 sd claims certainty.

    Args:
      successes: number or array, in [0, count]; a mean over seeds need not be whole.
      count: number or array of trials, above 0.
      confidence: coverage, in (0, 1).

    Returns:
      (low, high), floats, or arrays where arrays were given.

    Raises:
      DataError: counts or confidence out of range.

    Example:
      >>> low, high = wilson_interval(9987, 10_000)
      >>> print(f"{low:.4f} {high:.4f}")
      0.9978 0.9992

    Reference:
      Wilson (1927), Probable inference, the law of succession, and statistical inference.
      JASA 22.
    """
    k, n = np.asarray(successes, np.float64), np.asarray(count, np.float64)
    if not (np.all(n > 0) and np.all(k >= 0) and np.all(k <= n)):
        raise DataError(f"{successes} successes of {count}: give 0 <= successes <= count > 0")
    if not 0 < confidence < 1:
        raise DataError(f"confidence={confidence}: give a fraction between 0 and 1")
    z = ndtri(0.5 + confidence / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # Rounding would leave the ends a hair off 0 and 1, where the formula gives them exactly.
    low = np.where(k == 0, 0.0, np.clip(centre - half, 0, 1))
    high = np.where(k == n, 1.0, np.clip(centre + half, 0, 1))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


@dataclass(frozen=True)
class ClassAccuracy:
    """The result of `class_accuracy`, an entry per class; None for a class without images."""

    counts: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    accuracy_ci95: tuple[tuple[float, float] | None, ...]


def class_accuracy(
    labels: ArrayLike, predictions: ArrayLike, num_classes: int | None = None
) -> ClassAccuracy:
    """Computes the accuracy among the images of each class, with Wilson intervals over images.

    Args:
      num_classes: by default as many as the arrays show.

    Raises:
      DataError: the arrays don't match, or hold a class beyond num_classes.

    Example:
      >>> class_accuracy([0, 0, 1, 1], [0, 1, 1, 1]).accuracy
      (0.5, 1.0)
    """
    table = confusion_matrix(labels, predictions, num_classes)
    counts = np.rint(table.sum(axis=1)).astype(int).tolist()
    # A mean over seeds can be a rounding error above the count.
    right = [min(hits, count) for hits, count in zip(np.diag(table).tolist(), counts, strict=True)]
    both = list(zip(right, counts, strict=True))
    return ClassAccuracy(
        counts=tuple(counts),
        accuracy=tuple(hits / count if count else None for hits, count in both),
        accuracy_ci95=tuple(
            wilson_interval(hits, count) if count else None for hits, count in both
        ),
    )


def confusion_matrix(
    labels: ArrayLike, predictions: ArrayLike, num_classes: int | None = None
) -> np.ndarray:
    """Counts how many images of each class got each prediction; the mean over runs.

    Args:
      num_classes: by default as many as the arrays show.

    Returns:
      float64 [classes, classes], rows the labels, columns the predictions.

    Raises:
      DataError: the arrays don't match, or hold a class beyond num_classes.

    Example:
      >>> confusion_matrix([0, 1, 1], [0, 1, 0])
      array([[1., 0.],
             [1., 1.]])
    """
    labels = as_labels(labels, num_classes=num_classes)
    predictions = as_predictions(predictions, labels.size)
    size = num_classes or int(max(labels.max(), predictions.max())) + 1
    if predictions.max() >= size:
        raise DataError(
            f"predictions holds {predictions.max()}: a class number is from 0 to {size - 1}"
        )
    cells = (labels * size + predictions).ravel()
    return np.bincount(cells, minlength=size * size).reshape(size, size) / len(predictions)
