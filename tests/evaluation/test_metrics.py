"""Intervals and confusion, against statsmodels, scikit-learn and hand-worked tables."""

import numpy as np
import pytest
import sklearn.metrics
from statsmodels.stats.proportion import proportion_confint

from digits_jax.errors import DataError
from digits_jax.evaluation import (
    brier_score,
    class_accuracy,
    confusion_matrix,
    wilson_interval,
)

RNG = np.random.default_rng(7)
LABELS = RNG.integers(0, 10, 500)
PREDICTIONS = np.where(RNG.random(500) < 0.8, LABELS, RNG.integers(0, 10, 500))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (9987, 10_000)])
def test_wilson_is_statsmodels(k, n):
    expected = proportion_confint(k, n, method="wilson")
    np.testing.assert_allclose(wilson_interval(k, n), expected, atol=1e-12)
    assert wilson_interval(np.array([k]), n)[0] == wilson_interval(k, n)[0]


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0), (np.nan, 10)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(DataError):
        wilson_interval(k, n)


def test_confusion_is_sklearns_and_of_runs_the_mean():
    expected = sklearn.metrics.confusion_matrix(LABELS, PREDICTIONS)
    np.testing.assert_array_equal(confusion_matrix(LABELS, PREDICTIONS, 10), expected)
    np.testing.assert_array_equal(confusion_matrix([0, 1], [[0, 1], [0, 0]]), [[1, 0], [0.5, 0.5]])


def test_class_accuracy_is_sklearns_recall():
    found = class_accuracy(LABELS, PREDICTIONS, 11)
    recall = sklearn.metrics.recall_score(LABELS, PREDICTIONS, average=None)
    np.testing.assert_allclose(found.accuracy[:10], recall)
    assert np.isnan([found.accuracy[10], found.low[10], found.high[10]]).all()
    three = LABELS == 3
    expected = proportion_confint((PREDICTIONS[three] == 3).sum(), three.sum(), method="wilson")
    np.testing.assert_allclose((found.low[3], found.high[3]), expected)


def test_bad_arrays_are_refused_in_one_line():
    nan, infinite, two = np.nan, np.inf, [[0.0, 1.0]] * 2
    cases = [
        (confusion_matrix, ([], []), "labels has shape"),
        (confusion_matrix, ([[0]], [0]), "labels has shape"),
        (confusion_matrix, ([0.0, 1.0], [0, 1]), "dtype float64"),
        (confusion_matrix, ([0, -1], [0, 1]), "holds -1"),
        (confusion_matrix, ([0, 1], [0, 1, 1]), "3 predictions"),
        (confusion_matrix, ([0, 1], ["a", "b"]), "predictions has"),
        (confusion_matrix, ([0, 1], [[[0, 1]]]), "predictions has shape"),
        (confusion_matrix, ([0, 2], [0, 1], 2), "from 0 to 1"),
        (confusion_matrix, ([0, 1], [0, 2], 2), "from 0 to 1"),
        (brier_score, ([0, 1], [[0.0, 1.0]]), "1 rows"),
        (brier_score, ([0, 1], [[0.0, nan], [0.0, 1.0]]), "NaN"),
        (brier_score, ([0, 1], [[0.0, 1.0], [infinite, 1.0]]), "row 1"),
        (brier_score, ([0, 1], [[0.0], [1.0]]), "shape"),
        (brier_score, ([0, 1], [["a", "b"]]), "dtype"),
        (brier_score, ([0, 2], two), "holds 2"),
    ]
    for function, arguments, says in cases:
        with pytest.raises(DataError, match=says) as caught:
            function(*arguments)
        assert "\n" not in str(caught.value)
