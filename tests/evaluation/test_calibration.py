"""Calibration, against scipy, scikit-learn and hand-worked tables."""

import numpy as np
import pytest
import scipy.special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from digits_jax.evaluation import (
    brier_score,
    calibration,
    negative_log_likelihood,
    reliability,
)

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 5, 800)
LOGITS = (RNG.normal(size=(800, 5)) + 2.5 * np.eye(5)[LABELS]) * 2
PROBABILITIES = scipy.special.softmax(LOGITS, axis=1)
RIGHT = LOGITS.argmax(axis=1) == LABELS


def test_nll_is_sklearns_log_loss():
    found = negative_log_likelihood(LABELS, LOGITS)
    assert found.shape == (800,)
    assert found.mean() == pytest.approx(log_loss(LABELS, PROBABILITIES))
    np.testing.assert_allclose(negative_log_likelihood([1], [[1e4, 0.0]]), [1e4])


def test_brier_by_hand_and_by_sklearn():
    # p = (0.8, 0.2), label 1: 0.8² + 0.8² = 1.28.
    np.testing.assert_allclose(brier_score([1], [[np.log(4), 0.0]]), [1.28])
    one_hot = np.eye(5)[LABELS]
    expected = sum(brier_score_loss(one_hot[:, c], PROBABILITIES[:, c]) for c in range(5))
    assert brier_score(LABELS, LOGITS).mean() == pytest.approx(expected)


@pytest.mark.parametrize(("equal", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_is_sklearns_calibration_curve(equal, strategy):
    confidence = PROBABILITIES.max(axis=1)
    accuracy, mean = calibration_curve(RIGHT, confidence, n_bins=15, strategy=strategy)
    found = reliability(LABELS, LOGITS, 15, equal)
    full = found.counts > 0
    np.testing.assert_allclose(found.accuracy[full], accuracy)
    np.testing.assert_allclose(found.confidence[full], mean)
    expected = np.sum(found.counts[full] * np.abs(accuracy - mean)) / 800
    assert found.ece == pytest.approx(expected)


def test_ece_by_hand():
    # Confidence 0.8 four times, three right (gap 0.05); 0.6 once, wrong (gap 0.6).
    logits = [[np.log(4), 0]] * 4 + [[np.log(1.5), 0]]
    for equal, bins in (("width", 10), ("mass", 2)):
        found = reliability([0, 0, 0, 1, 1], logits, bins, equal)
        assert found.ece == pytest.approx((4 * 0.05 + 0.6) / 5)


def test_images_of_one_confidence_share_a_bin():
    found = reliability([0] * 9 + [1], [[np.log(9), 0]] * 10, 5, "mass")
    assert sorted(found.counts) == [0, 0, 0, 0, 10]
    assert found.ece == pytest.approx(0, abs=1e-12)


def test_permuting_images_changes_nothing():
    order = RNG.permutation(800)
    first, second = calibration(LABELS, LOGITS), calibration(LABELS[order], LOGITS[order])
    for name in ("nll", "brier", "ece_equal_width", "ece_equal_mass", "mean_confidence"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-9)
    assert first.accuracy == RIGHT.mean()
