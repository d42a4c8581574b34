"""What may come in: every public function of this room checks its arrays here.

Shapes and dtypes, in the words of the whole room:
  labels: int [n], the true classes, from 0
  predictions: int [n], one run's answers, or [seeds, n], those of several runs
  logits: float [n, classes], finite
"""

import numpy as np

from digits_jax.errors import DataError


def as_labels(labels, name: str = "labels", num_classes: int | None = None) -> np.ndarray:
    """Labels as int64 [n], or an error that names what is wrong with them.

    Args:
      labels: int [n], n >= 1, each at least 0.
      name: what the message calls the array.
      num_classes: where given, every label must be below it.

    Returns:
      int64 [n].

    Raises:
      DataError: not one-dimensional, empty, not integers, or out of range.

    Example:
      >>> as_labels([3, 1])
      array([3, 1])
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise DataError(
            f"{name} has shape {array.shape}; give one integer per image, at least one image"
        )
    return _as_classes(array, name, num_classes)


def as_predictions(predictions, count: int, name: str = "predictions") -> np.ndarray:
    """Predictions of one run or of several as int64 [seeds, n].

    Args:
      predictions: int [n] or [seeds, n].
      count: n, the number of labels.
      name: what the message calls the array.

    Returns:
      int64 [seeds, n]; seeds is 1 where one run was given.

    Raises:
      DataError: another shape, not integers, or a negative class.

    Example:
      >>> as_predictions([3, 1], count=2)
      array([[3, 1]])
    """
    array = np.asarray(predictions)
    if array.ndim not in (1, 2) or array.size == 0:
        raise DataError(f"{name} has shape {array.shape}; give [n] or [seeds, n] integers")
    if array.shape[-1] != count:
        raise DataError(
            f"{name} has {array.shape[-1]} answers and there are {count} labels; "
            "both must be of the same images, in the same order"
        )
    return np.atleast_2d(_as_classes(array, name, None))


def as_logits(logits, count: int, name: str = "logits") -> np.ndarray:
    """Logits as float64 [n, classes].

    Args:
      logits: float [n, classes], at least two classes, all finite.
      count: n, the number of labels.
      name: what the message calls the array.

    Returns:
      float64 [n, classes].

    Raises:
      DataError: another shape, not numbers, or NaN or infinity among them.

    Example:
      >>> as_logits([[0, 2], [1, 0]], count=2).dtype
      dtype('float64')
    """
    array = np.asarray(logits)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; "
            "give one number per image and class: float [n, classes]"
        )
    if array.shape[0] != count:
        raise DataError(
            f"{name} has {array.shape[0]} rows and there are {count} labels; "
            "both must be of the same images, in the same order"
        )
    with np.errstate(invalid="ignore"):  # some NaN warn of themselves
        array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name} has NaN or infinity in {bad.size} of {count} rows, the first is row "
            f"{bad[0]}; only finite numbers can be compared: train or export that run again"
        )
    return array


def _as_classes(array: np.ndarray, name: str, num_classes: int | None) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} has dtype {array.dtype}; give class numbers as integers")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= (num_classes or 2**31):
        allowed = "at least 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        wrong = low if low < 0 else high
        raise DataError(f"{name} holds {wrong}; a class number is {allowed}: check the labels")
    return array.astype(np.int64)


def as_plain(value):
    """Numbers, tuples, arrays and dicts as what JSON can hold; NaN and infinity are refused.

    Args:
      value: a number, string, None, or any nesting of them in dict, list, tuple or array.

    Returns:
      The same in dict, list, int, float, str, bool and None.

    Raises:
      ValueError: a float is not finite: an undefined number must be None, with a reason.

    Example:
      >>> as_plain({"counts": np.array([1, 2]), "ci95": (np.float64(0.5), 1.0)})
      {'counts': [1, 2], 'ci95': [0.5, 1.0]}
    """
    if isinstance(value, dict):
        return {str(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return as_plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{value} can't be written as JSON; say None and why")
    return value
