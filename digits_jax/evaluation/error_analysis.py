"""Which errors: what B gets right that A doesn't, by class and confusion; what no run gets right.

For several runs counts are means over pairs of runs. As the pairs are all combinations, the
mean of a product over pairs is the product of the two means. Arrays as in `metrics.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from digits_jax.errors import DataError
from digits_jax.evaluation.metrics import as_labels, as_logits, as_predictions

# The test images whose published label is wrong or undecidable, by data set.
PUBLISHED_LABEL_ERRORS = {
    "mnist": (
        *(947, 1621, 1901, 2130, 2462, 2597, 2654, 3520),
        *(3558, 5937, 6651, 6783, 8527, 9679, 9729),
    ),
}


@dataclass(frozen=True)
class ErrorChange:
    """The errors on one class (`answer` is None) or one confusion of `label` with `answer`.

    Numbers of images: A makes errors_a, of which B gets `repaired` right; B makes errors_b, of
    which A gets `new_errors` right; gain = repaired - new_errors.
    """

    label: int
    answer: int | None
    errors_a: float
    errors_b: float
    repaired: float
    new_errors: float
    gain: float


def errors_by_class(
    labels: ArrayLike, predictions_a: ArrayLike, predictions_b: ArrayLike
) -> list[ErrorChange]:
    """Compares A's and B's errors in each class that occurs among the labels.

    Args:
      labels: int [n].
      predictions_a: int [n] or [seeds_a, n].
      predictions_b: int [n] or [seeds_b, n].

    Returns:
      The largest gain first.

    Raises:
      DataError: the arrays don't match.

    Example:
      >>> [found] = errors_by_class([4, 4, 4], [9, 9, 4], [4, 9, 4])
      >>> found.errors_a, found.repaired, found.gain
      (2.0, 1.0, 1.0)
    """
    kinds = [(int(label), None) for label in np.unique(as_labels(labels))]
    return _changes(labels, predictions_a, predictions_b, kinds)


def errors_by_confusion(
    labels: ArrayLike, predictions_a: ArrayLike, predictions_b: ArrayLike
) -> list[ErrorChange]:
    """Compares A's and B's errors for each confusion (a label and a wrong answer to it).

    Args, Returns, Raises: as `errors_by_class`, for every confusion that occurs.

    Example:
      >>> found = errors_by_confusion([4, 4, 7], [9, 9, 7], [4, 4, 2])
      >>> [(change.label, change.answer, change.gain) for change in found]
      [(4, 9, 2.0), (7, 2, -1.0)]
    """
    labels = as_labels(labels)
    kinds = {
        (int(label), int(answer))
        for predictions in (predictions_a, predictions_b)
        for run in as_predictions(predictions, labels.size)
        for label, answer in zip(labels[run != labels], run[run != labels], strict=True)
    }
    return _changes(labels, predictions_a, predictions_b, kinds)


def _changes(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    kinds: Iterable[tuple[int, int | None]],
) -> list[ErrorChange]:
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    right_a, right_b = 1 - (a != labels).mean(axis=0), 1 - (b != labels).mean(axis=0)
    found = []
    for label, answer in kinds:
        of_a, of_b = (
            (run != labels if answer is None else run == answer).mean(axis=0) * (labels == label)
            for run in (a, b)
        )
        repaired, new = float((of_a * right_b).sum()), float((of_b * right_a).sum())
        errors = float(of_a.sum()), float(of_b.sum())
        found.append(ErrorChange(label, answer, *errors, repaired, new, repaired - new))

    def order(change: ErrorChange) -> tuple:
        # Rounded: sums of means in another order of images differ in their last bit.
        gain, repaired = round(change.gain, 9), round(change.repaired, 9)
        return -gain, -repaired, change.label, -1 if change.answer is None else change.answer

    return sorted(found, key=order)


@dataclass(frozen=True)
class HardImage:
    """An image that every run gets wrong.

    wrong_label: the wrong class with the highest mean probability, `confidence`, over runs;
    votes: how many of the runs predict it; known: the label is already known to be doubtful.
    """

    index: int
    label: int
    wrong_label: int
    confidence: float
    votes: int
    runs: int
    known: bool


def hardest_images(
    labels: ArrayLike, logits: Sequence[ArrayLike], known: Iterable[int] = ()
) -> list[HardImage]:
    """Finds the images that every run gets wrong, the most confident error first.

    A wrong answer that many trainings give with confidence points at the label.

    Args:
      labels: int [n].
      logits: float [n, classes] of each run, one run or more.
      known: indices of images whose label is already known to be doubtful.

    Raises:
      DataError: the arrays don't match, or no run was given.

    Example:
      >>> logits = [[[0.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]]]
      >>> [found] = hardest_images([0, 0], logits)
      >>> found.index, found.wrong_label, found.votes
      (0, 1, 2)
    """
    labels = as_labels(labels)
    runs = [as_logits(run, labels.size, f"logits of run {i}") for i, run in enumerate(logits)]
    if not runs:
        raise DataError("logits holds no run: give at least one")
    answers = np.stack([run.argmax(axis=1) for run in runs])
    indices = np.flatnonzero((answers != labels).all(axis=0))
    mean = np.mean([softmax(run[indices], axis=1) for run in runs], axis=0)
    mean[np.arange(indices.size), labels[indices]] = -1
    known, found = set(known), []
    for index, row in zip(indices.tolist(), mean, strict=True):
        wrong = int(row.argmax())
        found.append(
            HardImage(
                index=index,
                label=int(labels[index]),
                wrong_label=wrong,
                confidence=float(row[wrong]),
                votes=int((answers[:, index] == wrong).sum()),
                runs=len(runs),
                known=index in known,
            )
        )
    return sorted(found, key=lambda image: (-image.confidence, image.index))


def plurality_vote(predictions: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the most frequent prediction of several runs for each image.

    Args:
      predictions: int [seeds, n].
      num_classes: above every prediction.

    Returns:
      (predictions int64 [n], votes int64 [n]); the smallest class wins a tie.

    Example:
      >>> plurality_vote(np.array([[1, 2], [1, 0], [0, 2]]), 3)
      (array([1, 2]), array([2, 2]))
    """
    votes = np.stack([(predictions == c).sum(axis=0) for c in range(num_classes)])
    return votes.argmax(axis=0), votes.max(axis=0)
