"""Error overlap, against statsmodels, scikit-learn, scipy and hand-worked tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, jaccard_score, matthews_corrcoef
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.contingency_tables import cochrans_q as statsmodels_q
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from digits_jax.errors import DataError
from digits_jax.evaluation import cochrans_q, error_overlap, mcnemar_p_value

CELLS = ("both_right", "only_a_wrong", "only_b_wrong", "both_wrong")
SWAPPED = {
    "only_a_wrong": "only_b_wrong",
    "accuracy_a": "accuracy_b",
    "errors_a": "errors_b",
    "repair_rate": "new_error_rate",
}
SYMMETRIC = (
    *("n", "both_right", "both_wrong", "both_wrong_same_label", "jaccard", "error_consistency"),
    *("yule_q", "phi", "disagreement", "double_fault", "mcnemar_p", "both_wrong_ratio"),
)


def from_table(both_right, only_a, only_b, both, same=0):
    """Labels and predictions with these cells; `same` of those both wrong agree."""
    labels = np.zeros(both_right + only_a + only_b + both, int)
    a = np.repeat([0, 1, 0, 1], [both_right, only_a, only_b, both])
    b = np.repeat([0, 0, 1, 2], [both_right, only_a, only_b, both])
    b[len(b) - same :] = 1
    return labels, a, b


@st.composite
def answers(draw, runs=2):
    n = draw(st.integers(1, 40))
    column = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    return [np.array(draw(column)) for _ in range(runs + 1)]


def test_the_table_worked_by_hand():
    # n = 100: A wrong on 10, B on 5, both on 3, one of these with the same answer.
    found = error_overlap(*from_table(88, 7, 2, 3, same=1))
    assert [getattr(found, name) for name in CELLS] == [88, 7, 2, 3]
    assert found.both_wrong_same_label == 1
    assert found.repair_rate == pytest.approx(7 / 10)
    assert found.new_error_rate == pytest.approx(2 / 5)
    assert found.jaccard == pytest.approx(3 / 12)
    assert found.expected_both_wrong == pytest.approx(0.5)
    assert found.both_wrong_ratio == pytest.approx(6)
    # Observed agreement 0.91, chance 0.9 x 0.95 + 0.1 x 0.05 = 0.86.
    assert found.error_consistency == pytest.approx((0.91 - 0.86) / 0.14)
    assert found.yule_q == pytest.approx((88 * 3 - 7 * 2) / (88 * 3 + 7 * 2))
    assert found.disagreement == pytest.approx(0.09)
    assert found.double_fault == pytest.approx(0.03)
    assert (found.accuracy_a, found.accuracy_b) == (0.9, 0.95)
    assert found.accuracy_gain == pytest.approx(0.05)
    assert found.undefined == {}


@pytest.mark.parametrize(
    "table", [(88, 7, 2, 3), (9000, 150, 60, 90), (50, 20, 20, 10), (1, 9, 5, 2), (300, 0, 40, 1)]
)
def test_rates_are_those_of_sklearn_scipy_and_statsmodels(table):
    labels, a, b = from_table(*table)
    found = error_overlap(labels, a, b)
    wrong_a, wrong_b = a != labels, b != labels
    assert found.error_consistency == pytest.approx(cohen_kappa_score(wrong_a, wrong_b))
    assert found.phi == pytest.approx(matthews_corrcoef(wrong_a, wrong_b))
    assert found.jaccard == pytest.approx(jaccard_score(wrong_a, wrong_b))
    square = [[table[0], table[2]], [table[1], table[3]]]
    exact = statsmodels_mcnemar(square, exact=True).pvalue
    assert found.mcnemar_p == pytest.approx(exact, rel=1e-9)
    if 0 not in table:
        odds = Table2x2(np.array(square)).oddsratio
        assert found.yule_q == pytest.approx((odds - 1) / (odds + 1))


def test_mcnemar_is_the_binomial_test_far_into_the_tail():
    found = mcnemar_p_value([9, 800, 0], [1, 100, 0])
    expected = [binomtest(1, 10).pvalue, binomtest(100, 900).pvalue, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0 < found[1] < 1e-100


@given(answers())
@settings(max_examples=25, deadline=None)
def test_cells_sum_to_n_and_swapping_swaps(arrays):
    labels, a, b = arrays
    there, back = error_overlap(labels, a, b), error_overlap(labels, b, a)
    assert sum(getattr(there, name) for name in CELLS) == there.n == len(labels)
    assert there.both_wrong_same_label <= there.both_wrong
    for left, right in SWAPPED.items():
        assert getattr(there, left) == pytest.approx(getattr(back, right))
        assert getattr(there, right) == pytest.approx(getattr(back, left))
    for name in SYMMETRIC:
        assert getattr(there, name) == pytest.approx(getattr(back, name))
    assert there.accuracy_gain == pytest.approx(-back.accuracy_gain)


@given(answers(runs=1))
@settings(max_examples=25, deadline=None)
def test_a_model_repairs_nothing_of_itself(arrays):
    labels, a = arrays
    found = error_overlap(labels, a, a)
    assert found.only_a_wrong == found.only_b_wrong == 0
    assert found.both_wrong_same_label == found.both_wrong == found.errors_a
    assert found.mcnemar_p == 1
    if found.errors_a:
        assert found.repair_rate == found.new_error_rate == 0
        assert found.jaccard == 1
    if 0 < found.errors_a < found.n:
        assert found.error_consistency == found.yule_q == pytest.approx(1)
        assert found.phi == pytest.approx(1)


@given(answers(runs=4))
@settings(max_examples=20, deadline=None)
def test_groups_are_means_over_pairs(arrays):
    labels, *runs = arrays
    a, b = np.array(runs[:2]), np.array(runs[2:])
    found = error_overlap(labels, a, b)
    pairs = [error_overlap(labels, x, y) for x in a for y in b]
    for name in (*CELLS, *SWAPPED, *SYMMETRIC):
        if name == "mcnemar_p":
            continue
        known = [getattr(p, name) for p in pairs if getattr(p, name) is not None]
        if known:
            assert getattr(found, name) == pytest.approx(np.mean(known))
        else:
            assert getattr(found, name) is None
        assert (name in found.undefined) == (len(known) < 4)
    combined = min(1, 2 * np.mean([p.mcnemar_p for p in pairs]))
    assert found.mcnemar_p == pytest.approx(combined)


@pytest.mark.parametrize(
    ("table", "undefined"),
    [
        ((10, 0, 0, 0), {"repair_rate", "new_error_rate", "jaccard", "both_wrong_ratio",
                         "error_consistency", "yule_q", "phi"}),
        ((8, 0, 2, 0), {"repair_rate", "both_wrong_ratio", "yule_q", "phi"}),
        ((8, 2, 0, 0), {"new_error_rate", "both_wrong_ratio", "yule_q", "phi"}),
        ((0, 0, 0, 5), {"error_consistency", "yule_q", "phi"}),
        ((5, 3, 2, 0), set()),
    ],
)  # fmt: skip
def test_undefined_is_none_with_a_reason(table, undefined):
    found = error_overlap(*from_table(*table))
    assert set(found.undefined) == undefined
    assert all(getattr(found, name) is None for name in undefined)


def test_cochrans_q_is_statsmodels():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 300)
    runs = [np.where(rng.random(300) < p, labels, (labels + 1) % 10) for p in (0.9, 0.8, 0.85, 0.9)]
    found = cochrans_q(labels, runs)
    expected = statsmodels_q(np.array([run == labels for run in runs]).T.astype(int))
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees_of_freedom == 3
    equal = cochrans_q([0, 1], [[0, 0], [0, 0]])
    assert equal.statistic is None
    assert equal.reason


def test_predictions_of_another_length_are_refused():
    with pytest.raises(DataError, match="3 predictions for 2 labels"):
        error_overlap([0, 1], [0, 1], [0, 1, 2])
