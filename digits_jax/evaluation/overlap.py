"""Do two classifiers fail on the same images?

Arrays as in `checks.py`. A and B are one run each ([n]) or several ([seeds, n]); for several,
every number is the mean over all pairs of a run of A and a run of B.

Everything here follows from four counts, the 2x2 table of an A and a B:

                    B right          B wrong
    A right         both_right       only_b_wrong
    A wrong         only_a_wrong     both_wrong
"""

from dataclasses import dataclass, fields

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.checks import as_labels, as_plain, as_predictions
from digits_jax.evaluation.metrics import wilson_interval

WHY_UNDEFINED = {
    "repair_rate": "A makes no errors that could be repaired",
    "new_error_rate": "B makes no errors",
    "jaccard": "neither makes an error: the two error sets are empty",
    "both_wrong_ratio": "no common error is expected, because one of the two makes none",
    "error_consistency": "both are always right, or both always wrong: chance agreement is 1",
    "yule_q": "a row or column of the 2x2 table is empty: Q is 0/0",
    "phi": "one of the two is always right or always wrong: no correlation with a constant",
}


@dataclass(frozen=True)
class ErrorOverlap:
    """What `error_overlap` found. Counts are images; rates are fractions; None is undefined.

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

    def to_dict(self) -> dict:
        return as_plain({f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class CochransQ:
    """What `cochrans_q` found; both None, with a reason, where no image tells runs apart."""

    statistic: float | None
    p_value: float | None
    degrees_of_freedom: int
    reason: str | None

    def to_dict(self) -> dict:
        return as_plain(vars(self))


def error_overlap(labels, predictions_a, predictions_b) -> ErrorOverlap:
    """The 2x2 table of right and wrong, and what it says about two classifiers.

    With a = both_right, b = only_b_wrong, c = only_a_wrong, d = both_wrong, n their sum:

    - repair_rate = c / (c + d): of A's errors, the fraction that B gets right;
    - new_error_rate = b / (b + d): of B's errors, the fraction that A gets right;
    - jaccard = d / (b + c + d), of the two sets of errors;
    - expected_both_wrong = (c + d)(b + d) / n, were errors independent;
      both_wrong_ratio = d / that;
    - error_consistency = (observed - chance) / (1 - chance), Cohen's kappa of right and
      wrong: 1 the same images, 0 as independent, below 0 different images;
    - yule_q = (ad - bc) / (ad + bc); phi = (ad - bc) / sqrt of the product of the margins;
    - disagreement = (b + c) / n; double_fault = d / n;
    - mcnemar_p, see `mcnemar_p_value`. For groups min(1, 2 x the mean over pairs), which is
      a p-value however the pairs depend on each other.

    Args:
      labels: int [n].
      predictions_a: int [n] or [seeds_a, n].
      predictions_b: int [n] or [seeds_b, n].

    Returns:
      An `ErrorOverlap`. Where a ratio is 0/0 it is None, with the reason in `undefined`;
      among groups the mean is over the pairs where it is defined, and `undefined` counts
      the others. `accuracy_a_ci95` and `accuracy_b_ci95` are Wilson intervals over images.

    Raises:
      DataError: the arrays don't fit each other.

    Example:
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
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    cells = pair_cells(a != labels, b != labels)
    rates, undefined = {}, {}
    for name, values in cell_rates(*cells).items():
        rates[name], reason = _mean_of_defined(name, values)
        if reason:
            undefined[name] = reason
    same = [((x == y) & (x != labels)).sum() for x in a for y in b]
    counts = np.array([*(c.mean() for c in cells), np.mean(same)])
    if len(same) == 1:
        counts = counts.astype(int)
    names = ("both_right", "only_a_wrong", "only_b_wrong", "both_wrong", "both_wrong_same_label")
    counted = dict(zip(names, counts.tolist(), strict=True))
    p_values = mcnemar_p_value(cells[1], cells[2])
    n = labels.size
    return ErrorOverlap(
        n=n,
        **counted,
        errors_a=counted["only_a_wrong"] + counted["both_wrong"],
        errors_b=counted["only_b_wrong"] + counted["both_wrong"],
        **rates,
        mcnemar_p=float(p_values.mean() if p_values.size == 1 else min(1, 2 * p_values.mean())),
        accuracy_a_ci95=wilson_interval((a == labels).sum(axis=1).mean(), n),
        accuracy_b_ci95=wilson_interval((b == labels).sum(axis=1).mean(), n),
        undefined=undefined,
    )


def pair_cells(wrong_a: np.ndarray, wrong_b: np.ndarray) -> tuple[np.ndarray, ...]:
    """The four counts of every pair of runs.

    Args:
      wrong_a: bool [seeds_a, n].
      wrong_b: bool [seeds_b, n].

    Returns:
      (both_right, only_a_wrong, only_b_wrong, both_wrong), each int64 [seeds_a, seeds_b].

    Example:
      >>> [int(c.item()) for c in pair_cells(np.array([[True, False]]), np.array([[True, True]]))]
      [0, 0, 1, 1]
    """
    wrong_a, wrong_b = wrong_a.astype(np.int64), wrong_b.astype(np.int64)
    both_wrong = wrong_a @ wrong_b.T
    only_a = wrong_a.sum(axis=1)[:, None] - both_wrong
    only_b = wrong_b.sum(axis=1)[None, :] - both_wrong
    return wrong_a.shape[1] - only_a - only_b - both_wrong, only_a, only_b, both_wrong


def cell_rates(both_right, only_a_wrong, only_b_wrong, both_wrong) -> dict[str, np.ndarray]:
    """Every rate that the four counts give, elementwise; see `error_overlap`.

    Args:
      both_right, only_a_wrong, only_b_wrong, both_wrong: arrays of one shape.

    Returns:
      Name -> float64 of that shape, NaN where a rate is 0/0 (turned into None with a reason
      before anyone outside this room sees it).

    Example:
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


def mcnemar_p_value(only_a_wrong, only_b_wrong):
    """McNemar's exact test: is one of two classifiers better on the same images?

    Among the images that exactly one gets wrong, each is as likely to be A's as B's if the
    two are equally good: p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2). Without
    any such image, p is 1.

    Args:
      only_a_wrong, only_b_wrong: counts, numbers or arrays of one shape.

    Returns:
      The two-sided p-value, float64 of that shape.

    Example:
      >>> round(float(mcnemar_p_value(9, 1)), 5)
      0.02148

    Reference:
      McNemar (1947), Note on the sampling error of the difference between correlated
      proportions or percentages. Psychometrika 12.
    """
    from scipy.special import bdtr

    b, c = np.asarray(only_a_wrong, np.int64), np.asarray(only_b_wrong, np.int64)
    return np.minimum(1.0, 2 * bdtr(np.minimum(b, c).astype(np.float64), b + c, 0.5))


def mcnemar(labels, predictions_a, predictions_b) -> float:
    """McNemar's exact two-sided p-value for one run against another.

    Args:
      labels: int [n].
      predictions_a: int [n].
      predictions_b: int [n].

    Returns:
      p in (0, 1]; 1 where no image tells the two apart.

    Raises:
      DataError: the arrays don't fit each other, or hold several runs (for those
        `cochrans_q`, or `error_overlap`, which combines the pairs).

    Example:
      >>> mcnemar([0, 0, 0], [1, 1, 0], [0, 0, 0])
      0.5

    Reference:
      See `mcnemar_p_value`.
    """
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    if len(a) != 1 or len(b) != 1:
        raise DataError(
            f"McNemar's test is of one run against one, not {len(a)} against {len(b)}; "
            "use cochrans_q or error_overlap for several"
        )
    _, only_a, only_b, _ = pair_cells(a != labels, b != labels)
    return float(mcnemar_p_value(only_a, only_b).item())


def cochrans_q(labels, predictions) -> CochransQ:
    """Cochran's Q: are several runs equally accurate on the same images?

    With R_j the images that run j gets right, C_i the runs that get image i right, k runs:
    Q = (k - 1)(k sum R_j² - (sum R_j)²) / (k sum C_i - sum C_i²), chi-squared with k - 1
    degrees of freedom.

    Args:
      labels: int [n].
      predictions: int [runs, n], at least two runs.

    Returns:
      A `CochransQ`; where every image is right in all runs or in none, Q is 0/0: None.

    Raises:
      DataError: the arrays don't fit each other, or fewer than two runs.

    Example:
      >>> found = cochrans_q([0, 0, 0], [[0, 0, 1], [0, 1, 1], [0, 0, 0]])
      >>> found.statistic, round(found.p_value, 3)
      (3.0, 0.223)

    Reference:
      Cochran (1950), The comparison of percentages in matched samples. Biometrika 37.
    """
    from scipy.special import chdtrc

    labels = as_labels(labels)
    predictions = as_predictions(predictions, labels.size)
    k = len(predictions)
    if k < 2:
        raise DataError("Cochran's Q compares at least two runs; 1 was given")
    right = (predictions == labels).astype(np.int64)
    by_run, by_image = right.sum(axis=1), right.sum(axis=0)
    divisor = int(k * by_image.sum() - (by_image**2).sum())
    if divisor == 0:
        return CochransQ(None, None, k - 1, "every image is right in all runs or wrong in all")
    q = (k - 1) * int(k * (by_run**2).sum() - by_run.sum() ** 2) / divisor
    return CochransQ(q, float(chdtrc(k - 1, q)), k - 1, None)


def _ratio(top, bottom) -> np.ndarray:
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def _mean_of_defined(name: str, values: np.ndarray) -> tuple[float | None, str | None]:
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None, WHY_UNDEFINED[name]
    if known.size == values.size:
        return float(values.mean()), None
    left_out = values.size - known.size
    return float(known.mean()), (
        f"left out of the mean in {left_out} of {values.size} pairs: {WHY_UNDEFINED[name]}"
    )
