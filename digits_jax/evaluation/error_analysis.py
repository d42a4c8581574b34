"""Which errors: what B gets right that A doesn't, by class and confusion; what no run gets right.

For several runs counts are means over pairs of runs. As the pairs are all combinations, the
mean of a product over pairs is the product of the two means. Arrays as in `metrics.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from digits_jax.array_checks import check_logits, check_predictions
from digits_jax.evaluation.metrics import confusion_matrix

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


def error_changes(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    by: Literal["class", "confusion"] = "class",
) -> list[ErrorChange]:
    """Compares A's and B's errors in each class, or for each confusion that occurs.

    Args:
      labels: int [n].
      predictions_a, predictions_b: int [n] or [seeds, n].
      by: "confusion" tells apart the wrong answers to a label.

    Returns:
      The largest gain first.

    Examples:
      >>> found = error_changes([4, 4, 7], [9, 9, 7], [4, 4, 2], by="confusion")
      >>> [(change.label, change.answer, change.gain) for change in found]
      [(4, 9, 2.0), (7, 2, -1.0)]
    """
    truth, a, b = check_predictions(labels, predictions_a, predictions_b)
    right_a, right_b = (a == truth).mean(axis=0), (b == truth).mean(axis=0)
    if by == "class":
        kinds = [(label, None) for label in np.unique(truth).tolist()]
    else:
        kinds = np.argwhere(confusion_matrix(truth, np.concatenate([a, b]))).tolist()
    found = []
    for label, answer in kinds:
        if label == answer:
            continue
        of_a, of_b = (
            (run != truth if answer is None else run == answer).mean(axis=0) * (truth == label)
            for run in (a, b)
        )
        repaired, new = float((of_a * right_b).sum()), float((of_b * right_a).sum())
        errors = float(of_a.sum()), float(of_b.sum())
        found.append(ErrorChange(label, answer, *errors, repaired, new, repaired - new))
    # Rounded: sums of means in another order of images differ in their last bit. The sort is
    # stable: equals stay in the order of label and answer.
    return sorted(found, key=lambda c: (-round(c.gain, 9), -round(c.repaired, 9)))


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
      logits: float [n, classes] of each run.
      known: indices of images whose label is already known to be doubtful.

    Examples:
      >>> logits = [[[0.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]]]
      >>> [found] = hardest_images([0, 0], logits)
      >>> found.index, found.wrong_label, found.votes
      (0, 1, 2)
    """
    runs = np.stack([check_logits(labels, run)[1] for run in logits])
    truth, answers, known = np.asarray(labels), runs.argmax(axis=-1), set(known)
    indices = np.flatnonzero((answers != truth).all(axis=0))
    mean = softmax(runs[:, indices], axis=-1).mean(axis=0)
    mean[np.arange(indices.size), truth[indices]] = -1
    found = []
    for index, row in zip(indices.tolist(), mean, strict=True):
        wrong = int(row.argmax())
        votes = int((answers[:, index] == wrong).sum())
        label, share = int(truth[index]), float(row[wrong])
        found.append(HardImage(index, label, wrong, share, votes, len(runs), index in known))
    return sorted(found, key=lambda image: (-image.confidence, image.index))
