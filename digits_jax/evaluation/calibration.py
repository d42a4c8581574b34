"""Does a classifier's confidence match its accuracy?

Probabilities are the softmax of the logits, in float64; the confidence is the largest of them;
losses are in nats. Arrays as in `metrics.py`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax

from digits_jax.array_checks import check_logits

BINS = 15  # as in Guo et al.


def negative_log_likelihood(labels: ArrayLike, logits: ArrayLike) -> np.ndarray:
    """Computes the loss of each image, -log p(label), in nats.

    Examples:
      >>> negative_log_likelihood([0], [[0.0, 0.0]]).round(4)
      array([0.6931])
    """
    truth, scores = check_logits(labels, logits)
    return -log_softmax(scores, axis=1)[np.arange(truth.size), truth]


def brier_score(labels: ArrayLike, logits: ArrayLike) -> np.ndarray:
    """Computes the Brier score of each image, sum_c (p_c - [c is the label])².

    Returns:
      float64 [n]: 0 is best, 2 is confident and wrong.

    Examples:
      >>> brier_score([0], [[0.0, 0.0]])
      array([0.5])

    Reference:
      Brier (1950), Verification of forecasts expressed in terms of probability.
      Monthly Weather Review 78.
    """
    truth, scores = check_logits(labels, logits)
    errors = softmax(scores, axis=1)
    errors[np.arange(truth.size), truth] -= 1
    return (errors**2).sum(axis=1)


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence in bins (lower, upper]; the result of `reliability`.

    edges: float [bins + 1]; counts: int [bins]; confidence, accuracy: float [bins], the mean
    of the bin, NaN where it is empty; ece: the expected calibration error.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def reliability(
    labels: ArrayLike,
    logits: ArrayLike,
    bins: int = BINS,
    equal: Literal["width", "mass"] = "width",
) -> Reliability:
    """Computes the reliability curve and ECE = sum_b (n_b / n) |accuracy_b - confidence_b|.

    Args:
      labels: int [n].
      logits: float [n, classes].
      bins: how many.
      equal: "width" divides [0, 1] evenly; "mass" takes quantiles of the confidences as edges,
        so that each bin holds as many images. Images of equal confidence share a bin, whatever
        their order: bins may then be empty or fuller.

    Examples:
      >>> curve = reliability([0, 1], [[0.0, 0.0], [0.0, 0.0]], bins=2)
      >>> curve.counts.tolist(), curve.ece
      ([2, 0], 0.0)

    Reference:
      Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using
      Bayesian binning. AAAI. Guo et al. (2017), On calibration of modern neural networks.
      ICML. Equal mass: Nixon et al. (2019), Measuring calibration in deep learning.
    """
    truth, scores = check_logits(labels, logits)
    confidence = softmax(scores, axis=1).max(axis=1)
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    places = np.linspace(0, 1, bins + 1)
    edges = places if equal == "width" else np.quantile(confidence, places)
    bin_of = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(bin_of, minlength=bins)
    confidence = np.bincount(bin_of, minlength=bins, weights=confidence)
    accuracy = np.bincount(bin_of, minlength=bins, weights=right)
    ece = float(np.abs(accuracy - confidence).sum() / truth.size)
    filled = np.where(counts, counts, np.nan)
    return Reliability(edges, counts, confidence / filled, accuracy / filled, ece)


@dataclass(frozen=True)
class Calibration:
    """The result of `calibration`: nll in nats, brier in [0, 2], the others in [0, 1]."""

    nll: float
    brier: float
    ece_equal_width: float
    ece_equal_mass: float
    mean_confidence: float
    accuracy: float
    equal_width: Reliability
    equal_mass: Reliability


def calibration(labels: ArrayLike, logits: ArrayLike) -> Calibration:
    """Computes NLL, Brier score, ECE and both reliability curves of one run.

    Examples:
      >>> calibration([0, 1], [[0.0, 0.0], [0.0, 0.0]]).brier
      0.5
    """
    width, mass = reliability(labels, logits), reliability(labels, logits, equal="mass")
    return Calibration(
        nll=float(negative_log_likelihood(labels, logits).mean()),
        brier=float(brier_score(labels, logits).mean()),
        ece_equal_width=width.ece,
        ece_equal_mass=mass.ece,
        mean_confidence=float(softmax(np.asarray(logits, np.float64), axis=1).max(axis=1).mean()),
        accuracy=float((np.argmax(logits, axis=1) == labels).mean()),
        equal_width=width,
        equal_mass=mass,
    )
