"""Accuracy, intervals and confusion, against statsmodels, scikit-learn and hand-worked tables."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix
from statsmodels.stats.proportion import proportion_confint

from digits_jax.errors import DigitsError
from digits_jax.evaluation import accuracy, class_accuracy, confusion, wilson_interval

RNG = np.random.default_rng(7)
LABELS = RNG.integers(0, 10, 500)
PREDICTIONS = np.where(RNG.random(500) < 0.8, LABELS, RNG.integers(0, 10, 500))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (9987, 10_000), (250, 500)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_statsmodels(k, n, confidence):
    expected = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    np.testing.assert_allclose(wilson_interval(k, n, confidence), expected, atol=1e-12)


def test_wilson_of_arrays_is_elementwise():
    low, high = wilson_interval(np.array([0, 5]), np.array([10, 10]))
    assert low[0] == 0.0
    assert (low[1], high[1]) == wilson_interval(5, 10)


@pytest.mark.parametrize(
    "arguments", [(-1, 10), (11, 10), (0, 0), (1, 2, 0.0), (1, 2, 1.0), (np.nan, 10)]
)
def test_wilson_refuses(arguments):
    with pytest.raises(DigitsError):
        wilson_interval(*arguments)


def test_accuracy_is_sklearns():
    found = accuracy(LABELS, PREDICTIONS)
    assert found.accuracy == pytest.approx(accuracy_score(LABELS, PREDICTIONS))
    assert found.errors == (LABELS != PREDICTIONS).sum()
    assert found.to_dict()["accuracy_ci95"] == list(found.accuracy_ci95)


def test_accuracy_of_runs_is_the_mean():
    assert accuracy([0, 1], [[0, 1], [0, 0]]).accuracy == 0.75


def test_confusion_is_sklearns():
    np.testing.assert_array_equal(
        confusion(LABELS, PREDICTIONS, 10), confusion_matrix(LABELS, PREDICTIONS)
    )


def test_confusion_of_runs_is_the_mean():
    np.testing.assert_array_equal(confusion([0, 1], [[0, 1], [0, 0]]), [[1.0, 0.0], [0.5, 0.5]])


def test_class_accuracy_is_the_diagonal():
    table = confusion_matrix(LABELS, PREDICTIONS)
    found = class_accuracy(LABELS, PREDICTIONS, 10)
    np.testing.assert_allclose(found.accuracy, np.diag(table) / table.sum(axis=1))
    expected = proportion_confint(table[3, 3], table[3].sum(), method="wilson")
    np.testing.assert_allclose(found.accuracy_ci95[3], expected)


def test_a_class_without_images_has_none_and_a_reason():
    found = class_accuracy([0, 2], [0, 1], 3).to_dict()
    assert found["accuracy"] == [1.0, None, 0.0]
    assert found["accuracy_ci95"][1] is None
    assert "1" in found["undefined"]


@pytest.mark.parametrize(
    ("labels", "predictions", "says"),
    [
        ([], [], "shape"),
        ([[0]], [0], "shape"),
        ([0.0, 1.0], [0, 1], "dtype"),
        ([0, -1], [0, 1], "-1"),
        ([0, 1], [0, 1, 1], "3 answers"),
        ([0, 1], [0, -2], "-2"),
        ([0, 1], ["a", "b"], "dtype"),
        ([0, 1], [[[0, 1]]], "shape"),
    ],
)
@pytest.mark.parametrize("function", [accuracy, class_accuracy, confusion])
def test_bad_arrays_are_named(function, labels, predictions, says):
    with pytest.raises(DigitsError, match=says) as caught:
        function(labels, predictions)
    assert "\n" not in str(caught.value)


def test_classes_beyond_the_table_are_refused():
    with pytest.raises(DigitsError, match="from 0 to 1"):
        confusion([0, 2], [0, 1], 2)
    with pytest.raises(DigitsError, match="from 0 to 1"):
        confusion([0, 1], [0, 2], 2)
