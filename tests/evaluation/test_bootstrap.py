"""The bootstrap and the permutation test, against plain loops, scipy and known answers."""

from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import cohen_kappa_score, jaccard_score

from digits_jax.errors import DataError
from digits_jax.evaluation import bootstrap, error_overlap, permutation_test


def runs(rng, labels, rates, classes=10):
    """One run per error rate, with independent errors."""
    wrong = rng.random((len(rates), len(labels))) < np.array(rates)[:, None]
    return np.where(wrong, (labels + rng.integers(1, classes, wrong.shape)) % classes, labels)


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600)
    return labels, runs(rng, labels, [0.1, 0.12, 0.08]), runs(rng, labels, [0.05, 0.07])


def two_kinds(rng, n=2000, seeds=5):
    """Runs of a kind share hard images; the kinds don't."""
    labels = rng.integers(0, 10, n)
    kinds = []
    for _ in range(2):
        hard = np.where(rng.random(n) < 0.05, 0.8, 0.002)
        wrong = rng.random((seeds, n)) < hard
        kinds.append(np.where(wrong, (labels + 1) % 10, labels))
    return labels, *kinds


def test_the_interval_is_scipys():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 2000)
    a, b = runs(rng, labels, [0.1])[0], runs(rng, labels, [0.05])[0]
    found = bootstrap(labels, a, b, resamples=4000)
    wrong_a, wrong_b = a != labels, b != labels

    def repair_rate(x, y, axis):
        return np.sum(x & ~y, axis=axis) / np.sum(x, axis=axis)

    expected = scipy.stats.bootstrap(
        (wrong_a, wrong_b),
        repair_rate,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = expected.high - expected.low
    np.testing.assert_allclose(
        found.intervals["repair_rate"], tuple(expected), atol=float(0.08 * width)
    )


def test_images_and_seeds_are_resampled_as_a_loop_does(groups):
    labels, a, b = groups
    rng, drawn = np.random.default_rng(4), []
    for _ in range(600):
        images, i, j = rng.integers(0, 600, 600), rng.integers(0, 3, 3), rng.integers(0, 2, 2)
        drawn.append(error_overlap(labels[images], a[i][:, images], b[j][:, images]))
    found = bootstrap(labels, a, b, resamples=3000).intervals
    for name in ("both_wrong", "both_wrong_same_label", "repair_rate", "phi", "accuracy_gain"):
        expected = np.quantile([getattr(one, name) for one in drawn], [0.025, 0.975])
        tolerance = 0.16 * float(np.diff(expected)[0])
        np.testing.assert_allclose(found[name], expected, atol=tolerance, err_msg=name)


def test_intervals_hold_the_estimate_and_widen_with_seeds(groups):
    labels, a, b = groups
    found = bootstrap(labels, a, b, resamples=1000)
    estimate = error_overlap(labels, a, b)
    for name, (low, high) in found.intervals.items():
        assert low <= getattr(estimate, name) <= high, name
    assert found.over == "images and seeds of A and B"
    assert bootstrap(labels, a[0], b, resamples=200).over == "images and seeds of B"
    assert bootstrap(labels, a[0], b[0], resamples=200).over == "images"
    # Runs that differ a lot make the interval wider than images alone do.
    spread = np.stack([a[0], labels])
    wide = bootstrap(labels, spread, b[0], resamples=2000).intervals["accuracy_a"]
    narrow = bootstrap(labels, a[0], b[0], resamples=2000).intervals["accuracy_a"]
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_coverage_of_the_repair_rate():
    # 100 worlds in which the truth is 0.6: an honest 95% interval holds it in about 95.
    rng = np.random.default_rng(12)
    labels = np.zeros(1000, int)
    held = 0
    for _ in range(100):
        a = (rng.random(1000) < 0.15).astype(int)
        b = np.where(a == 1, rng.random(1000) < 0.4, rng.random(1000) < 0.03).astype(int)
        low, high = bootstrap(labels, a, b, resamples=200).intervals["repair_rate"]
        held += low <= 0.6 <= high
    assert 87 <= held <= 99


def test_rates_at_their_end_claim_no_certainty():
    perfect = bootstrap([0] * 50, [0] * 50, [0] * 50, resamples=100)
    assert perfect.intervals["repair_rate"] is None
    assert "no errors" in perfect.undefined["repair_rate"]
    assert perfect.intervals["accuracy_a"] == pytest.approx((0.9286, 1.0), abs=1e-3)
    repaired = bootstrap([0] * 100, [1] * 5 + [0] * 95, [0] * 100, resamples=200)
    low, high = repaired.intervals["repair_rate"]
    assert (round(low, 3), high) == (0.566, 1.0)
    assert "Wilson" in repaired.notes["repair_rate"]


def test_the_matrix_is_sklearns(groups):
    labels, a, b = groups
    everyone = np.concatenate([a, b])
    for measure, score in (("error_consistency", cohen_kappa_score), ("jaccard", jaccard_score)):
        found = permutation_test(labels, a, b, measure=measure, resamples=100)
        expected = [[score(x != labels, y != labels) for x in everyone] for y in everyone]
        np.testing.assert_allclose(found.matrix, expected)


def test_the_permutation_test_is_a_loop_over_all_labelings(groups):
    labels, a, b = groups
    found = permutation_test(labels, a, b, resamples=100)
    matrix = found.matrix

    def excess(first):
        other = [i for i in range(5) if i not in first]
        within = [np.mean([matrix[i, j] for i, j in combinations(g, 2)]) for g in (first, other)]
        return np.mean(within) - np.mean([matrix[i, j] for i in first for j in other])

    observed = excess((0, 1, 2))
    dealt = [excess(first) for first in combinations(range(5), 3)]
    assert found.excess == pytest.approx(observed)
    assert found.labelings == len(dealt) == 10
    assert found.p_value == np.mean(np.array(dealt) >= observed - 1e-12)
    assert found.smallest_p == 0.1


def test_two_kinds_differ_and_one_kind_does_not():
    labels, a, b = two_kinds(np.random.default_rng(3))
    found = permutation_test(labels, a, b, resamples=200)
    assert found.labelings == 252
    assert found.exact
    assert found.p_value == found.smallest_p == pytest.approx(2 / 252)
    assert found.excess_ci95[0] > 0
    mixed_a = np.concatenate([a[:3], b[:2]])
    mixed_b = np.concatenate([a[3:], b[2:]])
    assert permutation_test(labels, mixed_a, mixed_b, resamples=200).p_value > 0.2


def test_many_runs_are_permuted_at_random():
    labels, a, b = two_kinds(np.random.default_rng(3), n=500, seeds=9)
    found = permutation_test(labels, a, b, resamples=10)
    assert (found.exact, found.labelings) == (False, 20_000)
    assert found.p_value <= 0.002


def test_too_few_runs_or_resamples_are_refused():
    with pytest.raises(DataError, match="two seeds"):
        permutation_test([0, 1], [0, 1], [[0, 0], [1, 1]])
    with pytest.raises(DataError, match="without errors"):
        permutation_test([0, 0], [[0, 0]] * 2, [[0, 0]] * 2)
    with pytest.raises(DataError, match="at least 100"):
        bootstrap([0], [0], [0], resamples=5)
