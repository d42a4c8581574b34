"""Resampling: bootstrap intervals, and a permutation test of whether two kinds of runs differ.

Resampling n images with replacement means to draw how often each distinct outcome (which runs
were wrong, with which prediction) occurs: a multinomial over a few hundred patterns instead of
n indices, the same distribution and a thousand times less work. Arrays as in `metrics.py`.
"""

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from digits_jax.array_checks import check_predictions
from digits_jax.errors import DataError
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.evaluation.overlap import WHY_UNDEFINED, error_overlap, pair_values

_CHUNK = 1000  # resamples held at once: some 50 MB for ten runs
_MOST_LABELINGS = 20_000


@dataclass(frozen=True)
class Bootstrap:
    """The result of `bootstrap`: name -> (low, high), or None with a reason in `undefined`."""

    intervals: dict[str, tuple[float, float] | None]
    undefined: dict[str, str]
    notes: dict[str, str]
    over: str
    resamples: int
    seed: int


def bootstrap(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Bootstrap:
    """Computes 95% percentile intervals of every count and rate of `error_overlap`.

    Each resample draws n images with replacement and, from a group of two or more runs, as
    many runs with replacement: the interval then covers another test set and another set of
    trainings. Runs are drawn in A and in B separately; the statistic is the mean over the
    drawn pairs.

    Args:
      labels: int [n].
      predictions_a, predictions_b: int [n] or [seeds, n].
      resamples: at least 100.
      seed: the same seed gives the same intervals.

    Returns:
      A `Bootstrap`. A rate that is 0/0 in the data has no interval. Where every resample
      gives the same rate (no new error among 3, say) the percentiles would claim certainty:
      proportions then get their Wilson interval, and `notes` says so; others get None.

    Examples:
      >>> labels = [0] * 100
      >>> found = bootstrap(labels, [1] * 20 + [0] * 80, [1] * 10 + [0] * 90)
      >>> low, high = found.intervals["repair_rate"]
      >>> low < 0.5 < high
      True

    Reference:
      Efron (1979), Bootstrap methods: another look at the jackknife. Annals of Statistics 7.
      Efron, Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    truth, a, b = check_predictions(labels, predictions_a, predictions_b)
    if resamples < 100:
        raise DataError(f"resamples={resamples}: must be at least 100")
    counts, answers_a, answers_b = _patterns(truth, a, b)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        images = rng.multinomial(truth.size, counts / truth.size, size=size)
        runs = [rng.multinomial(len(g), np.full(len(g), 1 / len(g)), size=size) for g in (a, b)]
        weights = (runs[0][:, :, None] * runs[1][:, None, :]).astype(np.float64)
        for name, values in pair_values(answers_a, answers_b, images).items():
            drawn.setdefault(name, []).append(_weighted_mean(values, weights))
    observed = vars(error_overlap(truth, a, b))
    totals = {  # of the rates that are proportions of a count
        **dict.fromkeys(("accuracy_a", "accuracy_b", "disagreement", "double_fault"), truth.size),
        "repair_rate": observed["errors_a"],
        "new_error_rate": observed["errors_b"],
        "jaccard": truth.size - observed["both_right"],
    }
    intervals, undefined, notes = {}, {}, {}
    for name, chunks in drawn.items():
        interval = _interval95(np.concatenate(chunks))
        if observed[name] is None:
            interval, undefined[name] = None, WHY_UNDEFINED[name]
        elif interval[0] == interval[1] and name in totals:
            interval = wilson_interval(observed[name] * totals[name], totals[name])
            notes[name] = "Wilson interval: every bootstrap resample gives the same value"
        elif interval[0] == interval[1]:
            interval = None
            undefined[name] = "every resample gives the same value: no interval by bootstrap"
        intervals[name] = interval
    several = [name for name, group in (("A", a), ("B", b)) if len(group) > 1]
    over = f"images and seeds of {' and '.join(several)}" if several else "images"
    return Bootstrap(intervals, undefined, notes, over, resamples, seed)


def _patterns(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct columns of wrong answers (-1 where right): counts [k], answers [seeds, k] twice."""
    runs = np.concatenate([a, b])
    distinct, counts = np.unique(np.where(runs == labels, -1, runs), axis=1, return_counts=True)
    # The most frequent first: a multinomial is drawn one category after another, and stops
    # early where nothing is left.
    order = np.argsort(-counts, kind="stable")
    return counts[order], distinct[: len(a), order], distinct[len(a) :, order]


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over the pairs where a rate is defined, NaN where it is in none."""
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=(1, 2))
    top = (np.nan_to_num(values) * weights).sum(axis=(1, 2))
    return np.divide(top, total, out=np.full(len(top), np.nan), where=total > 0)


def _interval95(values: np.ndarray) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
    return float(low), float(high)


@dataclass(frozen=True)
class PermutationTest:
    """The result of `permutation_test`.

    matrix: float64 [runs, runs], A's runs first; smallest_p: the smallest p that so few runs can
    reach, so that a large p can be told from a small study; exact: whether all labelings were
    tried.
    """

    measure: str
    matrix: np.ndarray
    within_a: float
    within_b: float
    between: float
    excess: float
    excess_ci95: tuple[float, float]
    p_value: float
    smallest_p: float
    labelings: int
    exact: bool


def permutation_test(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    *,
    measure: Literal["error_consistency", "jaccard"] = "error_consistency",
    resamples: int = 2_000,
) -> PermutationTest:
    """Tests whether runs of one kind share more errors with each other than with the other kind.

    The overlap of every two runs is averaged over the pairs within A, within B and between
    them; excess = (within_a + within_b) / 2 - between. If the kind made no difference, the
    names A and B could be given to the runs in any way: p is the fraction of all such
    labelings (each once; 5 and 5 runs have 252; of more than 20,000, that many drawn at random)
    whose excess is at least the observed one.

    Args:
      labels: int [n].
      predictions_a, predictions_b: int [seeds, n], at least two seeds each.
      measure: "error_consistency" is corrected for accuracy.
      resamples: bootstrap resamples of images, not of runs, for `excess_ci95`.

    Raises:
      DataError: fewer than two runs on a side, or runs without errors.

    Examples:
      >>> labels = [0] * 6
      >>> a = [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
      >>> b = [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
      >>> found = permutation_test(labels, a, b)
      >>> found.between < 0 < found.within_a, round(found.p_value, 3)
      (True, 0.333)

    Reference:
      Geirhos et al. (2020), see `error_overlap`, for the overlap. Fisher (1935), The design
      of experiments, for the test.
    """
    from scipy import stats  # takes half a second; a pair of runs doesn't need it

    truth, a, b = check_predictions(labels, predictions_a, predictions_b)
    if min(len(a), len(b)) < 2:
        raise DataError(f"{len(a)} run(s) of A and {len(b)} of B: give at least two seeds of each")
    counts, *answers = _patterns(truth, a, b)
    everyone = np.concatenate(answers)
    matrix = pair_values(everyone, everyone, counts)[measure]
    if np.isnan(matrix).any():
        raise DataError("two runs without errors: their overlap is undefined; leave one out")
    sides = np.arange(len(a)), np.arange(len(a), len(everyone))
    within_a, within_b, between = (float(mean) for mean in _group_means(matrix, *sides))
    excess = (within_a + within_b) / 2 - between
    rng = np.random.default_rng(0)
    images = rng.multinomial(truth.size, counts / truth.size, size=resamples)
    resampled = pair_values(everyone, everyone, images)[measure]
    labelings = comb(len(everyone), len(a))
    exact = labelings <= _MOST_LABELINGS
    labelings = min(labelings, _MOST_LABELINGS)
    tested = stats.permutation_test(
        sides,
        # Rounded, so that labelings that tie with the observed one don't fall below it.
        lambda x, y, axis: _excess(matrix, x.astype(int), y.astype(int)).round(12),
        vectorized=True,
        n_resamples=labelings if exact else labelings - 1,  # the observed one counts, too
        alternative="greater",
        rng=rng,
    )
    return PermutationTest(
        measure=measure,
        matrix=matrix,
        within_a=within_a,
        within_b=within_b,
        between=between,
        excess=excess,
        excess_ci95=_interval95(_excess(resampled, *sides)),
        p_value=float(tested.pvalue),
        # With equally many runs, swapping A and B gives the same excess.
        smallest_p=(2 if exact and len(a) == len(b) else 1) / labelings,
        labelings=labelings,
        exact=exact,
    )


def _group_means(
    matrix: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean overlap within A, within B and between; matrix [..., runs, runs], a and b indices."""
    pairs = matrix * (1 - np.eye(matrix.shape[-1]))  # without a run's overlap with itself

    def mean(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return pairs[..., left[..., :, None], right[..., None, :]].mean(axis=(-2, -1))

    n_a, n_b = a.shape[-1], b.shape[-1]
    return mean(a, a) * n_a / (n_a - 1), mean(b, b) * n_b / (n_b - 1), mean(a, b)


def _excess(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    within_a, within_b, between = _group_means(matrix, a, b)
    return (within_a + within_b) / 2 - between
