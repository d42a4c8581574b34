"""Whether a classifier's confidence can be believed, and the one number that mends it.

Arrays as in `checks.py`. Probabilities are the softmax of the logits, in float64;
confidence is the largest of them; losses are in nats.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.checks import as_labels, as_logits, as_plain


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence in bins (lower, upper].

    edges: float [bins + 1]; counts: int [bins]; confidence, accuracy: float [bins], the mean
    of the bin, NaN where it is empty (None in `to_dict`); ece: the expected calibration error.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float

    def to_dict(self) -> dict:
        def known(values):
            return [None if np.isnan(v) else float(v) for v in values]

        return {
            "edges": as_plain(self.edges),
            "counts": as_plain(self.counts),
            "confidence": known(self.confidence),
            "accuracy": known(self.accuracy),
            "ece": self.ece,
        }


@dataclass(frozen=True)
class Calibration:
    """What `calibration` found; nll in nats, brier in [0, 2], ece and confidence in [0, 1]."""

    nll: float
    brier: float
    ece_equal_width: float
    ece_equal_mass: float
    mean_confidence: float
    accuracy: float
    equal_width: Reliability
    equal_mass: Reliability

    def to_dict(self) -> dict:
        plain = {k: v for k, v in vars(self).items() if not isinstance(v, Reliability)}
        curves = {k: v.to_dict() for k, v in vars(self).items() if isinstance(v, Reliability)}
        return as_plain(plain | curves)


@dataclass(frozen=True)
class Temperature:
    """What `fit_temperature` found; temperature is None where no finite one is best."""

    temperature: float | None
    nll_before: float
    nll_after: float | None
    reason: str | None

    def to_dict(self) -> dict:
        return as_plain(vars(self))


def softmax(logits) -> np.ndarray:
    """Probabilities, exp(z_c) / sum_k exp(z_k), in float64.

    Args:
      logits: float [..., classes], finite.

    Returns:
      float64 of the same shape; the last axis sums to 1.

    Example:
      >>> softmax([[1000.0, 1000.0]])
      array([[0.5, 0.5]])
    """
    return np.exp(_log_softmax(np.asarray(logits, np.float64)))


def negative_log_likelihood(labels, logits) -> np.ndarray:
    """The loss of each image, -log p(label), unreduced.

    Args:
      labels: int [n].
      logits: float [n, classes].

    Returns:
      float64 [n], nats; 0 is best.

    Raises:
      DataError: the arrays don't fit each other, or the logits aren't finite.

    Example:
      >>> negative_log_likelihood([0], [[0.0, 0.0]]).round(4)
      array([0.6931])
    """
    labels, logits = _checked(labels, logits)
    return -_log_softmax(logits)[np.arange(labels.size), labels]


def brier_score(labels, logits) -> np.ndarray:
    """The squared distance of each image's probabilities from the truth, unreduced.

    sum_c (p_c - [c is the label])², Brier's own sum over classes: 0 is best, 2 is a
    certain and wrong answer.

    Args:
      labels: int [n].
      logits: float [n, classes].

    Returns:
      float64 [n], in [0, 2].

    Raises:
      DataError: the arrays don't fit each other, or the logits aren't finite.

    Example:
      >>> brier_score([0], [[0.0, 0.0]])
      array([0.5])

    Reference:
      Brier (1950), Verification of forecasts expressed in terms of probability.
      Monthly Weather Review 78.
    """
    labels, logits = _checked(labels, logits)
    errors = softmax(logits)
    errors[np.arange(labels.size), labels] -= 1
    return (errors**2).sum(axis=1)


def reliability(labels, logits, bins: int = 15, equal: str = "width") -> Reliability:
    """Accuracy against confidence, and the expected calibration error between them.

    ECE = sum_b (n_b / n) |accuracy_b - confidence_b|. A bin holds lower < confidence <= upper.

    Args:
      labels: int [n].
      logits: float [n, classes].
      bins: number of bins, at least 1.
      equal: "width": the edges divide [0, 1] evenly; "mass": the edges are quantiles of the
        confidences, so that each bin holds as many images. Images of equal confidence share a
        bin, whatever their order: bins may then be empty or fuller.

    Returns:
      A `Reliability`.

    Raises:
      DataError: the arrays don't fit each other, no bins, or another word for `equal`.

    Example:
      >>> curve = reliability([0, 1], [[0.0, 0.0], [0.0, 0.0]], bins=2)
      >>> curve.counts.tolist(), curve.ece
      ([2, 0], 0.0)

    Reference:
      Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using
      Bayesian binning. AAAI. Guo et al. (2017), On calibration of modern neural networks.
      ICML. Equal mass: Nixon et al. (2019), Measuring calibration in deep learning.
    """
    labels, logits = _checked(labels, logits)
    if bins < 1 or equal not in ("width", "mass"):
        raise DataError(f"{bins} bins of equal {equal!r}: give at least 1, 'width' or 'mass'")
    confidence = softmax(logits).max(axis=1)
    right = (logits.argmax(axis=1) == labels).astype(np.float64)
    places = np.linspace(0, 1, bins + 1)
    edges = places if equal == "width" else np.quantile(confidence, places)
    bin_of = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(bin_of, minlength=bins)
    total = partial(np.bincount, bin_of, minlength=bins)
    empty = np.where(counts, counts, np.nan)
    means = total(weights=confidence) / empty
    shares = total(weights=right) / empty
    gaps = np.abs(total(weights=right) - total(weights=confidence))
    return Reliability(edges, counts, means, shares, float(gaps.sum() / labels.size))


def calibration(labels, logits, bins: int = 15) -> Calibration:
    """Everything about one run's confidence: NLL, Brier score, ECE and its two diagrams.

    Args:
      labels: int [n].
      logits: float [n, classes].
      bins: number of bins of both diagrams.

    Returns:
      A `Calibration`; the losses are means over images.

    Raises:
      DataError: the arrays don't fit each other, or the logits aren't finite.

    Example:
      >>> calibration([0, 1], [[0.0, 0.0], [0.0, 0.0]]).brier
      0.5

    Reference:
      See `negative_log_likelihood`, `brier_score` and `reliability`.
    """
    width = reliability(labels, logits, bins, "width")
    mass = reliability(labels, logits, bins, "mass")
    right = np.asarray(logits).argmax(axis=1) == np.asarray(labels)
    return Calibration(
        nll=float(negative_log_likelihood(labels, logits).mean()),
        brier=float(brier_score(labels, logits).mean()),
        ece_equal_width=width.ece,
        ece_equal_mass=mass.ece,
        mean_confidence=float(softmax(logits).max(axis=1).mean()),
        accuracy=float(right.mean()),
        equal_width=width,
        equal_mass=mass,
    )


def fit_temperature(labels, logits) -> Temperature:
    """The temperature T at which softmax(logits / T) has the smallest NLL.

    The NLL is convex in 1/T with derivative mean(E_p[z] - z_label): bisection on its sign
    finds the one minimum. Dividing by T changes no answer, only the confidence.

    Args:
      labels: int [n], of a validation split (never of the test set).
      logits: float [n, classes].

    Returns:
      A `Temperature`, nll in nats. Where every image is right with room to spare, a colder
      softmax is always better, and where the logits say less than nothing a hotter one is:
      then the temperature is None and `reason` says which.

    Raises:
      DataError: the arrays don't fit each other, or the logits aren't finite.

    Example:
      >>> labels = [0, 0, 0, 1]
      >>> logits = np.array([[5.0, 0.0]] * 4)
      >>> round(fit_temperature(labels, logits).temperature, 4)  # 5 / ln 3
      4.5512

    Reference:
      Guo et al. (2017), On calibration of modern neural networks. ICML.
    """
    labels, logits = _checked(labels, logits)
    rows = np.arange(labels.size)

    def nll(inverse):
        return float(-_log_softmax(logits * inverse)[rows, labels].mean())

    def slope(inverse):
        expected = (softmax(logits * inverse) * logits).sum(axis=1)
        return float((expected - logits[rows, labels]).mean())

    cold, hot = 1e4, 1e-4
    if slope(cold) <= 0:
        reason = "no finite temperature is best: every image that decides it is right"
        return Temperature(None, nll(1.0), None, reason)
    if slope(hot) >= 0:
        reason = "no finite temperature is best: the logits are no better than a uniform guess"
        return Temperature(None, nll(1.0), None, reason)
    low, high = np.log(hot), np.log(cold)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    inverse = float(np.exp((low + high) / 2))
    return Temperature(1 / inverse, nll(1.0), nll(inverse), None)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _checked(labels, logits):
    labels = as_labels(labels)
    logits = as_logits(logits, labels.size)
    return as_labels(labels, num_classes=logits.shape[1]), logits
