"""Do two classifiers fail on the same images?

Everything here follows from four counts, the 2x2 table of a classifier A and a classifier B:

                    B right          B wrong
    A right         both_right       only_b_wrong
    A wrong         only_a_wrong     both_wrong

`pair_cells` counts them, `cell_rates` turns them into rates, and `error_overlap` reports both.
A and B are one run each ([n]) or several seeds ([seeds, n]); then every number is the mean over
all pairs of a run of A and a run of B. Arrays as in `metrics.py`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, chdtrc

from digits_jax.array_checks import check_predictions
from digits_jax.evaluation.metrics import wilson_interval

COUNTS = ("both_right", "only_a_wrong", "only_b_wrong", "both_wrong", "both_wrong_same_label")
# Why a rate can be 0/0. An undefined number is None in every result, with its reason beside it.
WHY_UNDEFINED = {
    "repair_rate": "A makes no errors that could be repaired",
    "new_error_rate": "B makes no errors",
    "jaccard": "neither makes an error: the two error sets are empty",
    "both_wrong_ratio": "no common error is expected, because one of the two makes none",
    "error_consistency": "both are always right, or both always wrong: chance agreement is 1",
    "yule_q": "a row or column of the 2x2 table is empty: Q is 0/0",
    "phi": "one of the two is always right or always wrong: no correlation with a constant",
}


def pair_cells(
    wrong_a: np.ndarray, wrong_b: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts the four cells for every pair of a run of A and a run of B.

    Args:
      wrong_a: bool [seeds_a, n].
      wrong_b: bool [seeds_b, n].
      counts: [..., n], how often each image counts; by default once.

    Returns:
      (both_right, only_a_wrong, only_b_wrong, both_wrong), float64 [..., seeds_a, seeds_b].

    Examples:
      >>> [int(c.item()) for c in pair_cells(np.array([[True, False]]), np.array([[True, True]]))]
      [0, 0, 1, 1]
    """
    wrong_a, wrong_b = wrong_a.astype(np.float64), wrong_b.astype(np.float64)
    weights = np.ones(wrong_a.shape[1]) if counts is None else counts.astype(np.float64)
    pairs = (wrong_a[:, None, :] * wrong_b[None, :, :]).reshape(-1, wrong_a.shape[1])
    shape = (*weights.shape[:-1], len(wrong_a), len(wrong_b))
    both_wrong = (weights @ pairs.T).reshape(shape)
    only_a = (weights @ wrong_a.T)[..., :, None] - both_wrong
    only_b = (weights @ wrong_b.T)[..., None, :] - both_wrong
    both_right = weights.sum(axis=-1)[..., None, None] - only_a - only_b - both_wrong
    return both_right, only_a, only_b, both_wrong


def cell_rates(
    both_right: ArrayLike, only_a_wrong: ArrayLike, only_b_wrong: ArrayLike, both_wrong: ArrayLike
) -> dict[str, np.ndarray]:
    """Computes every rate of `error_overlap` from the four counts, elementwise; 0/0 is NaN.

    Examples:
      >>> rates = cell_rates(90, 6, 3, 1)
      >>> round(float(rates["repair_rate"]), 3), float(rates["new_error_rate"])
      (0.857, 0.75)
    """
    a, c, b, d = (
        np.asarray(x, np.float64) for x in (both_right, only_a_wrong, only_b_wrong, both_wrong)
    )
    n, wrong_a, wrong_b = a + b + c + d, c + d, b + d
    right_a, right_b = n - wrong_a, n - wrong_b
    expected = wrong_a * wrong_b / n
    cross = a * d - b * c
    return {
        "accuracy_a": right_a / n,
        "accuracy_b": right_b / n,
        "accuracy_gain": (wrong_a - wrong_b) / n,
        "repair_rate": _ratio(c, wrong_a),
        "new_error_rate": _ratio(b, wrong_b),
        "jaccard": _ratio(d, b + c + d),
        "expected_both_wrong": expected,
        "both_wrong_ratio": _ratio(d, expected),
        # Kappa multiplied out: the denominator is a whole number, so that 0/0 shows exactly.
        "error_consistency": _ratio(2 * cross, right_a * wrong_b + right_b * wrong_a),
        "yule_q": _ratio(cross, a * d + b * c),
        "phi": _ratio(cross, np.sqrt(right_a * right_b) * np.sqrt(wrong_a * wrong_b)),
        "disagreement": (b + c) / n,
        "double_fault": d / n,
    }


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def pair_values(
    answers_a: np.ndarray, answers_b: np.ndarray, counts: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Computes every count and rate for every pair of runs; a right answer is marked by -1.

    Args:
      answers_a, answers_b: int [seeds_a, n], [seeds_b, n].
      counts: [..., n], how often each image counts; by default once.

    Returns:
      Name in `ErrorOverlap` -> float64 [..., seeds_a, seeds_b], NaN where a rate is 0/0.
    """
    cells = pair_cells(answers_a >= 0, answers_b >= 0, counts)
    same = (answers_a[:, None] == answers_b) & (answers_a[:, None] >= 0)
    weights = np.ones(same.shape[-1]) if counts is None else counts.astype(np.float64)
    same = weights @ same.reshape(-1, same.shape[-1]).T.astype(np.float64)
    counted = (*cells, same.reshape(cells[0].shape))
    return dict(zip(COUNTS, counted, strict=True)) | cell_rates(*cells)


@dataclass(frozen=True)
class ErrorOverlap:
    """The result of `error_overlap`. Counts are images, rates fractions; None is undefined.

    `undefined` gives the reason for each None. Counts are whole for one pair of runs, and
    means over pairs for groups.
    """

    n: int
    both_right: float
    only_a_wrong: float
    only_b_wrong: float
    both_wrong: float
    both_wrong_same_label: float
    errors_a: float
    errors_b: float
    accuracy_a: float
    accuracy_b: float
    accuracy_gain: float
    repair_rate: float | None
    new_error_rate: float | None
    jaccard: float | None
    expected_both_wrong: float
    both_wrong_ratio: float | None
    error_consistency: float | None
    yule_q: float | None
    phi: float | None
    disagreement: float
    double_fault: float
    mcnemar_p: float
    accuracy_a_ci95: tuple[float, float]
    accuracy_b_ci95: tuple[float, float]
    undefined: dict[str, str]


def error_overlap(
    labels: ArrayLike, predictions_a: ArrayLike, predictions_b: ArrayLike
) -> ErrorOverlap:
    """Compares the errors of two classifiers.

    With a = both_right, b = only_b_wrong, c = only_a_wrong, d = both_wrong, n their sum:

    - repair_rate = c / (c + d): of A's errors, the fraction that B gets right;
    - new_error_rate = b / (b + d): of B's errors, the fraction that A gets right;
    - jaccard = d / (b + c + d), of the two sets of errors;
    - expected_both_wrong = (c + d)(b + d) / n, if errors were independent;
      both_wrong_ratio = d / expected_both_wrong;
    - error_consistency = (observed - chance) / (1 - chance), Cohen's kappa of right and
      wrong: 1 for the same images, 0 for independent errors, below 0 for different images;
    - yule_q = (ad - bc) / (ad + bc); phi = (ad - bc) / sqrt of the product of the margins;
    - disagreement = (b + c) / n; double_fault = d / n;
    - mcnemar_p, see `mcnemar_p_value`; for groups min(1, 2 x the mean over pairs), which is
      a valid p-value however the pairs depend on each other.

    A ratio of 0/0 is None, with the reason in `undefined`; for groups the mean is over the
    pairs where it is defined, and `undefined` counts the others. `accuracy_a_ci95` and
    `accuracy_b_ci95` are Wilson intervals over images.

    Args:
      labels: int [n].
      predictions_a, predictions_b: int [n] or [seeds, n].

    Examples:
      >>> found = error_overlap([0, 1, 2, 3], [0, 0, 0, 3], [0, 1, 0, 0])
      >>> found.both_right, found.only_a_wrong, found.only_b_wrong, found.both_wrong
      (1, 1, 1, 1)
      >>> found.repair_rate
      0.5

    Reference:
      Kuncheva, Whitaker (2003), Measures of diversity in classifier ensembles. Machine
      Learning 51 (Q, phi, disagreement, double fault). Geirhos, Meding, Wichmann (2020),
      Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by measuring
      error consistency. NeurIPS. Vovk, Wang (2020), Combining p-values via averaging.
      Biometrika 107.
    """
    truth, a, b = check_predictions(labels, predictions_a, predictions_b)
    values = pair_values(np.where(a == truth, -1, a), np.where(b == truth, -1, b))
    means: dict[str, Any] = {}
    undefined: dict[str, str] = {}
    for name, pairs in values.items():
        known = pairs[~np.isnan(pairs)]
        means[name] = float(known.mean()) if known.size else None
        if known.size < pairs.size:
            undefined[name] = WHY_UNDEFINED[name]
            if known.size:
                left_out = f"{pairs.size - known.size} of {pairs.size} pairs"
                undefined[name] = f"left out of the mean in {left_out}: {WHY_UNDEFINED[name]}"
    if len(a) == len(b) == 1:
        means |= {name: int(means[name]) for name in COUNTS}
    p_values = mcnemar_p_value(values["only_a_wrong"], values["only_b_wrong"])
    return ErrorOverlap(
        n=truth.size,
        errors_a=means["only_a_wrong"] + means["both_wrong"],
        errors_b=means["only_b_wrong"] + means["both_wrong"],
        **means,
        mcnemar_p=float(p_values.mean() if p_values.size == 1 else min(1, 2 * p_values.mean())),
        accuracy_a_ci95=wilson_interval((a == truth).sum(axis=1).mean(), truth.size),
        accuracy_b_ci95=wilson_interval((b == truth).sum(axis=1).mean(), truth.size),
        undefined=undefined,
    )


def mcnemar_p_value(only_a_wrong: ArrayLike, only_b_wrong: ArrayLike) -> np.ndarray:
    """Computes McNemar's exact test: is one of two classifiers better on the same images?

    If the two are equally good, each image that exactly one gets wrong is as likely to be A's
    error as B's: p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2). Without any such
    image, p is 1.

    Returns:
      The two-sided p-value, float64 of the counts' shape.

    Examples:
      >>> round(float(mcnemar_p_value(9, 1)), 5)
      0.02148

    Reference:
      McNemar (1947), Note on the sampling error of the difference between correlated
      proportions or percentages. Psychometrika 12.
    """
    b, c = np.asarray(only_a_wrong, np.int64), np.asarray(only_b_wrong, np.int64)
    return np.minimum(1.0, 2 * bdtr(np.minimum(b, c).astype(np.float64), b + c, 0.5))


@dataclass(frozen=True)
class CochransQ:
    """The result of `cochrans_q`; `reason` says why the first two are None."""

    statistic: float | None
    p_value: float | None
    degrees_of_freedom: int
    reason: str | None


def cochrans_q(labels: ArrayLike, predictions: ArrayLike) -> CochransQ:
    """Computes Cochran's Q: are several runs equally accurate on the same images?

    With R_j the images that run j gets right, C_i the runs that get image i right, k runs:
    Q = (k - 1)(k sum R_j² - (sum R_j)²) / (k sum C_i - sum C_i²), chi-squared with k - 1
    degrees of freedom.

    Args:
      labels: int [n].
      predictions: int [runs, n], at least two runs.

    Examples:
      >>> found = cochrans_q([0, 0, 0], [[0, 0, 1], [0, 1, 1], [0, 0, 0]])
      >>> found.statistic, round(found.p_value, 3)
      (3.0, 0.223)

    Reference:
      Cochran (1950), The comparison of percentages in matched samples. Biometrika 37.
    """
    truth, runs = check_predictions(labels, predictions)
    right, k = (runs == truth).astype(np.int64), len(runs)
    by_run, by_image = right.sum(axis=1), right.sum(axis=0)
    divisor = int(k * by_image.sum() - (by_image**2).sum())
    if divisor == 0:
        return CochransQ(None, None, k - 1, "every image is right in all runs or wrong in all")
    q = (k - 1) * int(k * (by_run**2).sum() - by_run.sum() ** 2) / divisor
    return CochransQ(q, float(chdtrc(k - 1, q)), k - 1, None)
