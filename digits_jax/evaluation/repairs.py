"""Which images: what B repairs by class and by confusion, and what nobody gets right.

Arrays as in `checks.py`. For several runs counts are means over pairs of runs. As the pairs
are all combinations, the mean of a product over pairs is the product of the two means, which
is what the code uses.
"""

from dataclasses import asdict, dataclass

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.calibration import softmax
from digits_jax.evaluation.checks import as_labels, as_logits, as_plain, as_predictions

# The test images whose published label is wrong or undecidable, by data set.
PUBLISHED_LABEL_ERRORS = {
    "mnist": (
        *(947, 1621, 1901, 2130, 2462, 2597, 2654, 3520),
        *(3558, 5937, 6651, 6783, 8527, 9679, 9729),
    ),
}


@dataclass(frozen=True)
class Repair:
    """One class (`answer` is None) or one confusion of `label` with `answer`; counts of images.

    errors_a of the kind that A makes, of which B gets `repaired` right; errors_b of the kind
    that B makes, of which A gets `new_errors` right; gain = repaired - new_errors.
    """

    label: int
    answer: int | None
    errors_a: float
    errors_b: float
    repaired: float
    new_errors: float
    gain: float

    def to_dict(self) -> dict:
        return as_plain(asdict(self))


@dataclass(frozen=True)
class HardImage:
    """An image that every run gets wrong.

    wrong_label: the wrong class with the highest mean probability, `confidence`, over runs;
    votes: how many of the runs answer it; known: it is in the published list that was given.
    """

    index: int
    label: int
    wrong_label: int
    confidence: float
    votes: int
    runs: int
    known: bool

    def to_dict(self) -> dict:
        return as_plain(asdict(self))


def repairs_by_class(labels, predictions_a, predictions_b) -> list[Repair]:
    """For each class: A's errors, those that B repairs, and B's new ones.

    Args:
      labels: int [n].
      predictions_a: int [n] or [seeds_a, n].
      predictions_b: int [n] or [seeds_b, n].

    Returns:
      A `Repair` for every class among the labels, largest gain first.

    Raises:
      DataError: the arrays don't fit each other.

    Example:
      >>> [found] = repairs_by_class([4, 4, 4], [9, 9, 4], [4, 9, 4])
      >>> found.errors_a, found.repaired, found.gain
      (2.0, 1.0, 1.0)
    """
    labels, a, b = _checked(labels, predictions_a, predictions_b)
    wrong_a, wrong_b = (a != labels).mean(axis=0), (b != labels).mean(axis=0)
    found = []
    for label in np.unique(labels):
        here = labels == label
        found.append(_repair(label, None, wrong_a, wrong_b, wrong_a * here, wrong_b * here))
    return _by_gain(found)


def repairs_by_confusion(labels, predictions_a, predictions_b) -> list[Repair]:
    """For each confusion (a label and the wrong answer to it): what B repairs, what it adds.

    Args:
      labels: int [n].
      predictions_a: int [n] or [seeds_a, n].
      predictions_b: int [n] or [seeds_b, n].

    Returns:
      A `Repair` for every confusion that occurs in either, largest gain first.

    Raises:
      DataError: the arrays don't fit each other.

    Example:
      >>> found = repairs_by_confusion([4, 4, 7], [9, 9, 7], [4, 4, 2])
      >>> [(r.label, r.answer, r.gain) for r in found]
      [(4, 9, 2.0), (7, 2, -1.0)]
    """
    labels, a, b = _checked(labels, predictions_a, predictions_b)
    wrong_a, wrong_b = (a != labels).mean(axis=0), (b != labels).mean(axis=0)
    kinds = {
        (int(label), int(answer))
        for group in (a, b)
        for run in group
        for label, answer in zip(labels[run != labels], run[run != labels], strict=True)
    }
    found = []
    for label, answer in sorted(kinds):
        said_a = (a == answer).mean(axis=0) * (labels == label)
        said_b = (b == answer).mean(axis=0) * (labels == label)
        found.append(_repair(label, answer, wrong_a, wrong_b, said_a, said_b))
    return _by_gain(found)


def hardest_images(labels, logits, known=()) -> list[HardImage]:
    """The images that every run gets wrong, the most confident error first.

    A wrong answer that many trainings give with confidence points at the label.

    Args:
      labels: int [n].
      logits: float [runs, n, classes], or a sequence of [n, classes]; one run is enough, but
        says little.
      known: indices of images whose label is already known to be doubtful.

    Returns:
      A `HardImage` each, by falling confidence, then by index.

    Raises:
      DataError: the arrays don't fit each other, or no run was given.

    Example:
      >>> logits = [[[0.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]]]
      >>> [found] = hardest_images([0, 0], logits)
      >>> found.index, found.wrong_label, found.votes
      (0, 1, 2)
    """
    labels = as_labels(labels)
    runs = [as_logits(run, labels.size, f"logits of run {i}") for i, run in enumerate(logits)]
    if not runs:
        raise DataError("no run was given; the hardest images need at least one")
    answers = np.stack([run.argmax(axis=1) for run in runs])
    indices = np.flatnonzero((answers != labels).all(axis=0))
    mean = np.mean([softmax(run[indices]) for run in runs], axis=0)
    mean[np.arange(indices.size), labels[indices]] = -1
    known, found = set(known), []
    for row, index in enumerate(indices):
        wrong = int(mean[row].argmax())
        votes = int((answers[:, index] == wrong).sum())
        confidence = float(mean[row, wrong])
        listed = int(index) in known
        found.append(
            HardImage(int(index), int(labels[index]), wrong, confidence, votes, len(runs), listed)
        )
    return sorted(found, key=lambda image: (-image.confidence, image.index))


def plurality(predictions, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent answer of several runs to each image, and how many gave it.

    Args:
      predictions: int [seeds, n].
      num_classes: above every prediction.

    Returns:
      (answers int64 [n], votes int64 [n]); the smallest class wins a tie.

    Example:
      >>> plurality(np.array([[1, 2], [1, 0], [0, 2]]), 3)
      (array([1, 2]), array([2, 2]))
    """
    votes = np.stack([(predictions == c).sum(axis=0) for c in range(num_classes)])
    return votes.argmax(axis=0), votes.max(axis=0)


def _checked(labels, predictions_a, predictions_b):
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    return labels, a, b


def _repair(label, answer, wrong_a, wrong_b, kind_a, kind_b) -> Repair:
    repaired, new = float((kind_a * (1 - wrong_b)).sum()), float((kind_b * (1 - wrong_a)).sum())
    return Repair(
        int(label),
        None if answer is None else int(answer),
        float(kind_a.sum()),
        float(kind_b.sum()),
        repaired,
        new,
        repaired - new,
    )


def _by_gain(found: list[Repair]) -> list[Repair]:
    def order(repair):
        answer = -1 if repair.answer is None else repair.answer
        # Rounded: sums of means in another order of images differ in their last bit.
        return (-round(repair.gain, 9), -round(repair.repaired, 9), repair.label, answer)

    return sorted(found, key=order)
