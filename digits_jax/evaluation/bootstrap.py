"""Resampling: bootstrap intervals, and a permutation test of whether two kinds of runs differ.

Resampling n images with replacement means to draw how often each distinct outcome (which runs
were wrong, with which prediction) occurs: a multinomial over a few hundred patterns instead of
n indices, the same distribution and a thousand times less work. Arrays as in `metrics.py`.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from digits_jax.errors import DataError
from digits_jax.evaluation.metrics import as_labels, as_predictions, wilson_interval
from digits_jax.evaluation.overlap import WHY_UNDEFINED, cell_rates, pair_cells

_CHUNK = 1000  # resamples held at once: some 50 MB for ten runs


@dataclass(frozen=True)
class Bootstrap:
    """The result of `bootstrap`: name -> (low, high), or None with a reason in `undefined`."""

    intervals: dict[str, tuple[float, float] | None]
    undefined: dict[str, str]
    notes: dict[str, str]
    over: str
    resamples: int
    seed: int
    confidence: float


def bootstrap(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Computes percentile intervals of every count and rate of `error_overlap`.

    Each resample draws n images with replacement and, from a group of two or more runs, as
    many runs with replacement: the interval then covers another test set and another set of
    trainings. Runs are drawn in A and in B separately; the statistic is the mean over the
    drawn pairs.

    Args:
      labels: int [n].
      predictions_a: int [n] or [seeds_a, n].
      predictions_b: int [n] or [seeds_b, n].
      resamples: at least 100.
      seed: the same seed gives the same intervals.
      confidence: coverage, in (0, 1).

    Returns:
      A `Bootstrap`. A rate that is 0/0 in the data has no interval. Where every resample
      gives the same rate (no new error among 3, say) the percentiles would claim certainty:
      proportions then get their Wilson interval, and `notes` says so; others get None.

    Raises:
      DataError: the arrays don't match, or too few resamples.

    Example:
      >>> labels = [0] * 100
      >>> found = bootstrap(labels, [1] * 20 + [0] * 80, [1] * 10 + [0] * 90)
      >>> low, high = found.intervals["repair_rate"]
      >>> low < 0.5 < high
      True

    Reference:
      Efron (1979), Bootstrap methods: another look at the jackknife. Annals of Statistics 7.
      Efron, Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    if resamples < 100 or not 0 < confidence < 1:
        raise DataError(
            f"resamples={resamples}, confidence={confidence}: give at least 100 resamples "
            "and a confidence between 0 and 1"
        )
    counts, answers_a, answers_b = _patterns(labels, a, b)
    rng = np.random.default_rng(seed)
    chunks = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        images = rng.multinomial(labels.size, counts / labels.size, size=size)
        runs = [rng.multinomial(len(g), np.full(len(g), 1 / len(g)), size=size) for g in (a, b)]
        chunks.append(_statistics(images, answers_a, answers_b, *runs))
    ones = np.ones((1, len(a))), np.ones((1, len(b)))
    observed = {
        name: float(value[0])
        for name, value in _statistics(counts[None], answers_a, answers_b, *ones).items()
    }
    intervals, undefined, notes = {}, {}, {}
    for name, value in observed.items():
        interval = _percentiles(np.concatenate([chunk[name] for chunk in chunks]), confidence)
        if np.isnan(value) or interval is None:
            interval, undefined[name] = None, WHY_UNDEFINED[name]
        elif interval[0] == interval[1]:
            interval = _proportion_interval(name, observed, labels.size, confidence)
            if interval is None:
                undefined[name] = "every resample gives the same value: no interval by bootstrap"
            else:
                notes[name] = "Wilson interval: every bootstrap resample gives the same value"
        intervals[name] = interval
    several = [name for name, group in (("A", a), ("B", b)) if len(group) > 1]
    over = f"images and seeds of {' and '.join(several)}" if several else "images"
    return Bootstrap(intervals, undefined, notes, over, resamples, seed, confidence)


def _patterns(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct columns of wrong answers (-1 where right): counts [k], answers [seeds, k] twice."""
    answers = np.where(np.concatenate([a, b]) == labels, -1, np.concatenate([a, b])).T
    distinct, counts = np.unique(answers, axis=0, return_counts=True)
    # The most frequent first: a multinomial is drawn one category after another, and stops
    # early where nothing is left.
    order = np.argsort(-counts, kind="stable")
    return counts[order], distinct[order, : len(a)].T, distinct[order, len(a) :].T


def _statistics(
    images: np.ndarray,
    answers_a: np.ndarray,
    answers_b: np.ndarray,
    weights_a: np.ndarray,
    weights_b: np.ndarray,
) -> dict[str, np.ndarray]:
    """Means over pairs; images [r, k] and weights [r, seeds] say how often each counts."""
    cells = pair_cells(answers_a >= 0, answers_b >= 0, images)
    same = (answers_a[:, None] == answers_b[None]) & (answers_a[:, None] >= 0)
    same = images.astype(np.float64) @ same.reshape(-1, images.shape[1]).T.astype(np.float64)
    names = ("both_right", "only_a_wrong", "only_b_wrong", "both_wrong")
    values = dict(zip(names, cells, strict=True))
    values |= {"both_wrong_same_label": same.reshape(cells[0].shape), **cell_rates(*cells)}
    weights = (weights_a[:, :, None] * weights_b[:, None, :]).astype(np.float64)
    return {name: _weighted_mean(array, weights) for name, array in values.items()}


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over the pairs where a rate is defined, NaN where it is in none."""
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=(1, 2))
    top = (np.nan_to_num(values) * weights).sum(axis=(1, 2))
    return np.divide(top, total, out=np.full(len(top), np.nan), where=total > 0)


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _proportion_interval(
    name: str, observed: dict[str, float], n: int, confidence: float
) -> tuple[float, float] | None:
    """Wilson's interval for the rates that are proportions of a count, else None."""
    count = {
        **dict.fromkeys(("accuracy_a", "accuracy_b", "disagreement", "double_fault"), n),
        "repair_rate": observed["only_a_wrong"] + observed["both_wrong"],
        "new_error_rate": observed["only_b_wrong"] + observed["both_wrong"],
        "jaccard": n - observed["both_right"],
    }.get(name)
    return wilson_interval(observed[name] * count, count, confidence) if count else None


@dataclass(frozen=True)
class PermutationTest:
    """The result of `permutation_test`; see there."""

    measure: str
    matrix: np.ndarray
    within_a: float
    within_b: float
    between: float
    excess: float
    excess_ci95: tuple[float, float] | None
    p_value: float
    smallest_p: float
    labelings: int
    exact: bool


def permutation_test(
    labels: ArrayLike,
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    *,
    measure: str = "error_consistency",
    max_labelings: int = 20_000,
    resamples: int = 2_000,
    seed: int = 0,
) -> PermutationTest:
    """Tests whether runs of one kind share more errors with each other than with the other kind.

    The overlap of every two runs is averaged over the pairs within A, within B and between
    them; excess = (within_a + within_b) / 2 - between. If the kind made no difference, the
    names A and B could be given to the runs in any way: p is the fraction of all such
    labelings (each once, if there are at most `max_labelings`; 5 and 5 runs have 252) whose
    excess is at least the observed one.

    Args:
      labels: int [n].
      predictions_a: int [seeds_a, n], seeds_a >= 2.
      predictions_b: int [seeds_b, n], seeds_b >= 2.
      measure: "error_consistency" (corrected for accuracy) or "jaccard".
      max_labelings: above it, that many random labelings are drawn instead.
      resamples: bootstrap resamples of images, not of runs, for `excess_ci95`.
      seed: of the random numbers.

    Returns:
      A `PermutationTest`: matrix float64 [runs, runs], A's runs first; `smallest_p` is the
      smallest p that so few runs can reach, so that a large p can be told from a small study.

    Raises:
      DataError: fewer than two runs on a side, an unknown measure, or a run without errors
        (its overlap is undefined).

    Example:
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
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    if measure not in ("error_consistency", "jaccard"):
        raise DataError(f"measure={measure!r}: give 'error_consistency' or 'jaccard'")
    if min(len(a), len(b)) < 2:
        raise DataError(f"{len(a)} run(s) of A and {len(b)} of B: give at least two seeds of each")
    wrong = np.concatenate([a, b]) != labels
    matrix = cell_rates(*pair_cells(wrong, wrong))[measure]
    if np.isnan(matrix).any():
        raise DataError("two runs without errors: their overlap is undefined; leave one out")
    observed = np.zeros((1, len(wrong)), bool)
    observed[0, : len(a)] = True
    within_a, within_b, between = (mean.item() for mean in _group_means(matrix[None], observed))
    excess = (within_a + within_b) / 2 - between
    labelings, exact = _labelings(len(a), len(wrong), max_labelings, seed)

    counts, answers_a, answers_b = _patterns(labels, a, b)
    patterns = np.concatenate([answers_a, answers_b]) >= 0
    images = np.random.default_rng(seed).multinomial(
        labels.size, counts / labels.size, size=resamples
    )
    matrices = cell_rates(*pair_cells(patterns, patterns, images))[measure]
    return PermutationTest(
        measure=measure,
        matrix=matrix,
        within_a=within_a,
        within_b=within_b,
        between=between,
        excess=excess,
        excess_ci95=_percentiles(_excess(matrices, observed), 0.95),
        # The tolerance keeps labelings that tie with the observed one from rounding below it.
        p_value=float((_excess(matrix[None], labelings) >= excess - 1e-12).mean()),
        # With equally many runs, swapping A and B gives the same excess.
        smallest_p=(2 if exact and len(a) == len(b) else 1) / len(labelings),
        labelings=len(labelings),
        exact=exact,
    )


def _labelings(size_a: int, runs: int, most: int, seed: int) -> tuple[np.ndarray, bool]:
    """bool [labelings, runs], which runs are called A, the observed one among them; all or not."""
    exact = comb(runs, size_a) <= most
    if exact:
        chosen = np.array(list(combinations(range(runs), size_a)))
    else:
        rng = np.random.default_rng(seed)
        shuffled = [rng.permutation(runs)[:size_a] for _ in range(most - 1)]
        chosen = np.array([np.arange(size_a), *shuffled])
    labelings = np.zeros((len(chosen), runs), bool)
    np.put_along_axis(labelings, chosen, True, axis=1)
    return labelings, exact


def _group_means(
    matrices: np.ndarray, labelings: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean overlap within A, within B and between, [m, l], of [m, runs, runs] and [l, runs]."""
    pairs = matrices * (1 - np.eye(matrices.shape[1]))  # without a run's overlap with itself
    in_a, in_b = labelings.astype(np.float64), (~labelings).astype(np.float64)
    size_a, size_b = in_a.sum(axis=1), in_b.sum(axis=1)

    def total(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.einsum("li,mij,lj->ml", left, pairs, right, optimize=True)

    return (
        total(in_a, in_a) / (size_a * (size_a - 1)),
        total(in_b, in_b) / (size_b * (size_b - 1)),
        total(in_a, in_b) / (size_a * size_b),
    )


def _excess(matrices: np.ndarray, labelings: np.ndarray) -> np.ndarray:
    within_a, within_b, between = _group_means(matrices, labelings)
    return ((within_a + within_b) / 2 - between).ravel()
