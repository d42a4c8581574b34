"""How often one classifier is right: accuracy, by class, by confusion, with intervals.

Arrays as in `checks.py`. Accuracy is a fraction in [0, 1]; several runs ([seeds, n])
give the mean over runs.
"""

from dataclasses import dataclass

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.checks import as_labels, as_plain, as_predictions


@dataclass(frozen=True)
class Accuracy:
    """What `accuracy` found: a fraction in [0, 1], its 95% interval, errors of count images."""

    accuracy: float
    accuracy_ci95: tuple[float, float]
    errors: float
    count: int

    def to_dict(self) -> dict:
        return as_plain(vars(self))


@dataclass(frozen=True)
class ClassAccuracy:
    """What `class_accuracy` found, an entry per class; None for a class without images."""

    counts: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    accuracy_ci95: tuple[tuple[float, float] | None, ...]
    undefined: dict[str, str]

    def to_dict(self) -> dict:
        return as_plain(vars(self))


def wilson_interval(successes, count, confidence: float = 0.95):
    """The Wilson score interval of a proportion.

    With p = successes / count and z the normal quantile,
    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and has a
    width even at no errors at all, where the usual p ± 2 sd would claim certainty.

    Args:
      successes: number or array, in [0, count]; a mean over seeds need not be whole.
      count: number or array of trials, above 0.
      confidence: coverage, in (0, 1).

    Returns:
      (low, high), each a float, or an array where arrays were given.

    Raises:
      DataError: counts out of range.

    Example:
      >>> low, high = wilson_interval(9987, 10_000)
      >>> print(f"{low:.4f} {high:.4f}")
      0.9978 0.9992

    Reference:
      Wilson (1927), Probable inference, the law of succession, and statistical inference.
      JASA 22.
    """
    from scipy.special import ndtri

    k, n = np.asarray(successes, np.float64), np.asarray(count, np.float64)
    if not (np.all(n > 0) and np.all(k >= 0) and np.all(k <= n)):
        raise DataError(
            f"{successes} successes of {count}: give 0 <= successes <= count, count above 0"
        )
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}; give a fraction between 0 and 1")
    z = ndtri(0.5 + confidence / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # Rounding would leave the ends a hair off 0 and 1, where the formula gives them exactly.
    low = np.where(k == 0, 0.0, np.clip(centre - half, 0, 1))
    high = np.where(k == n, 1.0, np.clip(centre + half, 0, 1))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def accuracy(labels, predictions) -> Accuracy:
    """The fraction of images answered right, with its Wilson interval over images.

    Args:
      labels: int [n].
      predictions: int [n], or [seeds, n] for the mean over runs (the interval is then still
        that of n images: runs on the same images are not independent trials).

    Returns:
      An `Accuracy`.

    Raises:
      DataError: the arrays don't fit each other.

    Example:
      >>> accuracy([0, 1, 2, 2], [0, 1, 2, 1]).accuracy
      0.75

    Reference:
      The interval: Wilson (1927), see `wilson_interval`.
    """
    labels = as_labels(labels)
    predictions = as_predictions(predictions, labels.size)
    errors = int((predictions != labels).sum()) / len(predictions)
    right = labels.size - errors
    interval = wilson_interval(right, labels.size)
    return Accuracy(right / labels.size, interval, errors, labels.size)


def class_accuracy(labels, predictions, num_classes: int | None = None) -> ClassAccuracy:
    """Accuracy among the images of each class, with Wilson intervals over images.

    Args:
      labels: int [n].
      predictions: int [n] or [seeds, n]; several runs give the mean over runs.
      num_classes: classes to report; by default as many as the arrays show.

    Returns:
      A `ClassAccuracy`; a class without images has None and a reason in `undefined`.

    Raises:
      DataError: the arrays don't fit each other, or hold a class beyond num_classes.

    Example:
      >>> class_accuracy([0, 0, 1, 1], [0, 1, 1, 1]).accuracy
      (0.5, 1.0)
    """
    table = confusion(labels, predictions, num_classes)
    counts = np.rint(table.sum(axis=1)).astype(int)
    shares, intervals, undefined = [], [], {}
    for label, (right, count) in enumerate(zip(np.diag(table), counts, strict=True)):
        if count == 0:
            undefined[str(label)] = "no image has this label"
        shares.append(float(right / count) if count else None)
        # min: a mean over seeds can be a rounding error above the count.
        intervals.append(wilson_interval(min(right, count), count) if count else None)
    return ClassAccuracy(tuple(counts.tolist()), tuple(shares), tuple(intervals), undefined)


def confusion(labels, predictions, num_classes: int | None = None) -> np.ndarray:
    """How many images of each class got each answer.

    Args:
      labels: int [n].
      predictions: int [n] or [seeds, n].
      num_classes: size of the table; by default as large as the arrays need.

    Returns:
      [classes, classes], rows the labels, columns the answers: int64 for one run, the mean
      over runs as float64 for several.

    Raises:
      DataError: the arrays don't fit each other, or hold a class beyond num_classes.

    Example:
      >>> confusion([0, 1, 1], [0, 1, 0])
      array([[1, 0],
             [1, 1]])
    """
    one_run = np.ndim(predictions) == 1
    labels = as_labels(labels, num_classes=num_classes)
    predictions = as_predictions(predictions, labels.size)
    size = num_classes or int(max(labels.max(), predictions.max())) + 1
    if predictions.max() >= size:
        raise DataError(
            f"predictions holds {predictions.max()}; a class number is from 0 to {size - 1}"
        )
    cells = (labels * size + predictions).ravel()
    table = np.bincount(cells, minlength=size * size).reshape(size, size)
    return table if one_run else table / len(predictions)
