"""The threshold below which a prediction isn't confident."""

import math

import numpy as np
from scipy.special import softmax

# The share of the correct predictions that may fall below the threshold of confidence.
MAX_BELOW_THRESHOLD = 0.02


def choose_threshold(
    labels: np.ndarray, logits: np.ndarray, max_below: float = MAX_BELOW_THRESHOLD
) -> tuple[float, float]:
    """Chooses the probability below which a prediction isn't confident.

    Args:
      labels: int32 [n], of a validation split.
      logits: float32 [n, classes].
      max_below: the share of the correct predictions that may fall below the threshold.

    Returns:
      The threshold, and the share of the correct predictions that does fall below it.

    Examples:
      >>> logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]]))
      >>> threshold, cost = choose_threshold(np.array([0, 0, 0, 1]), logits, max_below=0.34)
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
