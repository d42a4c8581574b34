"""Calibrates probabilities by a temperature, and chooses the threshold of confidence."""

import math
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

# The share of the correct predictions that may fall below the threshold of confidence.
MAX_BELOW_THRESHOLD = 0.02


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature: the softmax of the logits divided by it is the expected accuracy.

    Smoothed labels teach a network a probability of 90% where its accuracy is 99%.

    Args:
      logits: float32 [n, classes].
      labels: int32 [n].

    Returns:
      The temperature of the least cross-entropy in [0.25, 4]; without errors 0 would be best.

    Examples:
      >>> logits = 3 * np.eye(2)[[0, 0, 0, 1]]  # a confidence of 95%; the accuracy is 75%
      >>> round(3 / fit_temperature(logits, np.array([0, 0, 1, 1])), 2)  # log(3), that is 75%
      1.1

    Reference:
      Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    logits = np.asarray(logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return -log_softmax(scaled, -1)[np.arange(len(labels)), labels].mean()

    bounds = (-math.log(4), math.log(4))
    found: Any = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def choose_threshold(
    logits: np.ndarray, labels: np.ndarray, max_below: float = MAX_BELOW_THRESHOLD
) -> tuple[float, float]:
    """Chooses the probability below which a prediction isn't confident.

    Args:
      logits: float32 [n, classes], of a validation split.
      labels: int32 [n].
      max_below: the share of the correct predictions that may fall below the threshold.

    Returns:
      The threshold, and the share of the correct predictions that does fall below it.

    Examples:
      >>> logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]]))
      >>> threshold, cost = choose_threshold(logits, np.array([0, 0, 0, 1]), max_below=0.34)
      >>> round(threshold, 3), round(cost, 3)
      (0.8, 0.333)

    Reference:
      Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution
      Examples in Neural Networks, 2017: the largest probability as the confidence.
    """
    confidence = softmax(logits, -1).max(-1)
    correct = np.sort(confidence[np.argmax(logits, -1) == labels])
    if not len(correct):
        return 1.0, 0.0
    threshold = float(correct[math.floor(max_below * len(correct))])
    return threshold, float(np.mean(correct < threshold))
