"""How often a classifier is right: accuracy per class, the confusion matrix, Wilson intervals.

Arrays in this package:
  labels: int [n], the true classes, from 0
  predictions: int [n] for one run, [seeds, n] for several, whose mean is reported
  logits: float [n, classes], finite
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from digits_jax.array_checks import check_predictions
from digits_jax.errors import DataError


def wilson_interval(successes: ArrayLike, count: ArrayLike) -> tuple[Any, Any]:
    """Computes the 95% Wilson score interval of a proportion.

    With p = successes / count and z the normal quantile,
    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and has a
    width even without a single error, where the usual p ± 2 sd claims certainty.

    Args:
      successes: in [0, count]; a mean over seeds need not be whole.
      count: number of trials, above 0.

    Returns:
      (low, high), floats, or arrays where arrays were given.

    Examples:
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
    z, p = ndtri(0.975), k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # Rounding would leave the ends a hair off 0 and 1, where the formula gives them exactly.
    low = np.where(k == 0, 0.0, np.clip(centre - half, 0, 1))
    high = np.where(k == n, 1.0, np.clip(centre + half, 0, 1))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def confusion_matrix(
    labels: ArrayLike, predictions: ArrayLike, num_classes: int | None = None
) -> np.ndarray:
    """Counts how many images of each class got each prediction; the mean over runs.

    Args:
      labels: int [n].
      predictions: int [n] or [seeds, n].
      num_classes: by default as many as the arrays show.

    Returns:
      float64 [classes, classes], rows the labels, columns the predictions.

    Examples:
      >>> confusion_matrix([0, 1, 1], [0, 1, 0])
      array([[1., 0.],
             [1., 1.]])
    """
    truth, runs = check_predictions(labels, predictions, num_classes=num_classes or 2**31)
    size = num_classes or int(max(truth.max(), runs.max())) + 1
    cells = (truth * size + runs).ravel()
    return np.bincount(cells, minlength=size * size).reshape(size, size) / len(runs)


class ClassAccuracy(NamedTuple):
    """The result of `class_accuracy`: arrays [classes], NaN for a class without images."""

    counts: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def class_accuracy(
    labels: ArrayLike, predictions: ArrayLike, num_classes: int | None = None
) -> ClassAccuracy:
    """Computes the accuracy among the images of each class, with 95% Wilson intervals.

    Args: as `confusion_matrix`.

    Examples:
      >>> class_accuracy([0, 0, 1, 1], [0, 1, 1, 1]).accuracy.tolist()
      [0.5, 1.0]
    """
    table = confusion_matrix(labels, predictions, num_classes)
    counts = np.rint(table.sum(axis=1)).astype(int)
    shown = np.maximum(counts, 1)
    right = np.minimum(np.diag(table), counts)  # a mean can be a rounding error above the count
    values = (right / shown, *wilson_interval(right, shown))
    return ClassAccuracy(counts, *(np.where(counts, value, np.nan) for value in values))
