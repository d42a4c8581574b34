"""Intervals by the bootstrap, and whether two groups of runs fail on different images.

Arrays as in `checks.py`. Resampling n images with replacement is drawing how often each
distinct outcome (which runs were wrong, with which answer) occurs: a multinomial over a few
hundred patterns instead of n indices, the same distribution and a thousand times less work.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.checks import as_labels, as_plain, as_predictions
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.evaluation.overlap import WHY_UNDEFINED, cell_rates, pair_cells

_CHUNK = 1000  # resamples held at once: some 50 MB for ten runs
_MEASURES = ("error_consistency", "jaccard")


@dataclass(frozen=True)
class Bootstrap:
    """What `bootstrap` found: name -> (low, high), or None with a reason in `undefined`."""

    intervals: dict[str, tuple[float, float] | None]
    undefined: dict[str, str]
    notes: dict[str, str]
    over: str
    resamples: int
    seed: int
    confidence: float

    def to_dict(self) -> dict:
        return as_plain(vars(self))


@dataclass(frozen=True)
class BetweenOrWithin:
    """What `between_or_within` found; see there."""

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

    def to_dict(self) -> dict:
        return as_plain(vars(self))


def bootstrap(
    labels,
    predictions_a,
    predictions_b,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Percentile intervals of every count and rate of `error_overlap`.

    Each resample draws n images with replacement and, from a group of two or more runs, as
    many runs with replacement: the interval then covers another test set and another set of
    trainings. Runs are drawn in A and in B separately; the statistic is the mean over the
    drawn pairs.

    Args:
      labels: int [n].
      predictions_a: int [n] or [seeds_a, n].
      predictions_b: int [n] or [seeds_b, n].
      resamples: how many, at least 100.
      seed: of the random numbers; the same seed gives the same intervals.
      confidence: coverage, in (0, 1).

    Returns:
      A `Bootstrap`. A rate that is 0/0 in the data has no interval. Where every resample
      gives the same rate (no new error among 3, say) the percentiles would claim certainty:
      proportions then get their Wilson interval, and `notes` says so; others get None.

    Raises:
      DataError: the arrays don't fit each other, too few resamples.

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
            f"{resamples} resamples, confidence {confidence}: give at least 100, "
            "and a fraction between 0 and 1"
        )
    counts, answers_a, answers_b = _patterns(labels, a, b)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        chunk = _resample(rng, size, counts, answers_a, answers_b)
        for name, values in chunk.items():
            drawn.setdefault(name, []).append(values)
    observed = _statistics(
        counts[None], answers_a, answers_b, np.ones((1, len(a))), np.ones((1, len(b)))
    )
    intervals, undefined, notes = {}, {}, {}
    for name, parts in drawn.items():
        intervals[name] = _percentiles(np.concatenate(parts), confidence)
        if np.isnan(observed[name][0]) or intervals[name] is None:
            intervals[name], undefined[name] = None, WHY_UNDEFINED[name]
        elif intervals[name][0] == intervals[name][1]:
            intervals[name] = _proportion(name, observed, labels.size, confidence)
            if intervals[name] is None:
                undefined[name] = "every resample gives the same value: no interval by bootstrap"
            else:
                notes[name] = "Wilson interval: every bootstrap resample gives the same value"
    several = [name for name, group in (("A", a), ("B", b)) if len(group) > 1]
    over = f"images and seeds of {' and '.join(several)}" if several else "images"
    return Bootstrap(intervals, undefined, notes, over, resamples, seed, confidence)


def between_or_within(
    labels,
    predictions_a,
    predictions_b,
    *,
    measure: str = "error_consistency",
    max_labelings: int = 20_000,
    resamples: int = 2_000,
    seed: int = 0,
) -> BetweenOrWithin:
    """Do A's runs and B's fail on different images, or would any two trainings differ as much?

    The overlap of every two runs is averaged over the pairs within A, within B and between
    them. excess = (within_a + within_b) / 2 - between: positive if runs of one kind share
    more errors with each other than with the other kind. If kind made no difference the
    labels A and B could be dealt to the runs in any way: p is the fraction of all such
    labelings (each once, if there are at most `max_labelings`; 5 and 5 runs have 252) whose
    excess is at least the observed one.

    Args:
      labels: int [n].
      predictions_a: int [seeds_a, n], seeds_a >= 2.
      predictions_b: int [seeds_b, n], seeds_b >= 2.
      measure: "error_consistency" (corrected for accuracy, the default) or "jaccard".
      max_labelings: above it, that many random labelings are drawn instead.
      resamples: bootstrap resamples of images for `excess_ci95`, runs kept.
      seed: of the random numbers.

    Returns:
      A `BetweenOrWithin`: matrix float64 [runs, runs], A's runs first; `smallest_p` is the
      smallest p that so few runs can reach, so that a large p can be told from a small study.

    Raises:
      DataError: fewer than two runs on a side, an unknown measure, or a run without errors
        (its overlap is undefined).

    Example:
      >>> labels = [0] * 6
      >>> a = [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
      >>> b = [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
      >>> found = between_or_within(labels, a, b)
      >>> found.between < 0 < found.within_a, round(found.p_value, 3)
      (True, 0.333)

    Reference:
      Geirhos et al. (2020), see `error_overlap`, for the overlap. Fisher (1935), The design
      of experiments, for the permutation test.
    """
    labels = as_labels(labels)
    a = as_predictions(predictions_a, labels.size, "predictions_a")
    b = as_predictions(predictions_b, labels.size, "predictions_b")
    if measure not in _MEASURES:
        raise DataError(f"measure is {measure!r}; give one of {', '.join(_MEASURES)}")
    if min(len(a), len(b)) < 2:
        raise DataError(
            f"{len(a)} run(s) of A and {len(b)} of B: overlap within a group needs at least "
            "two seeds in each; give more runs"
        )
    wrong = np.concatenate([a, b]) != labels
    matrix = cell_rates(*pair_cells(wrong, wrong))[measure]
    if np.isnan(matrix).any():
        raise DataError("two runs without errors: their overlap is undefined; leave one out")
    first = np.zeros((1, len(wrong)), bool)
    first[0, : len(a)] = True
    labelings, exact = _labelings(len(a), len(wrong), max_labelings, seed)
    within_a, within_b, between = (x.item() for x in _group_means(matrix[None], first))
    dealt = _excess(matrix[None], labelings)
    excess = (within_a + within_b) / 2 - between
    mirrored = 2 if len(a) == len(b) else 1
    return BetweenOrWithin(
        measure=measure,
        matrix=matrix,
        within_a=within_a,
        within_b=within_b,
        between=between,
        excess=excess,
        excess_ci95=_excess_interval(labels, a, b, first, measure, resamples, seed),
        # The tolerance keeps labelings that tie with the observed one from rounding below it.
        p_value=float((dealt >= excess - 1e-12).mean()),
        smallest_p=mirrored / len(labelings) if exact else 1 / len(labelings),
        labelings=len(labelings),
        exact=exact,
    )


def _patterns(labels, a, b):
    """Distinct columns of wrong answers (-1 where right): counts [k], answers [k, seeds]."""
    answers = np.where(np.concatenate([a, b]) == labels, -1, np.concatenate([a, b])).T
    distinct, counts = np.unique(answers, axis=0, return_counts=True)
    # The most frequent first: a multinomial is drawn one category after another, and stops
    # early where nothing is left.
    order = np.argsort(-counts, kind="stable")
    return counts[order], distinct[order, : len(a)], distinct[order, len(a) :]


def _resample(rng, size, counts, answers_a, answers_b):
    images = rng.multinomial(counts.sum(), counts / counts.sum(), size=size)
    seeds = []
    for group in (answers_a, answers_b):
        runs = group.shape[1]
        seeds.append(rng.multinomial(runs, np.full(runs, 1 / runs), size=size))
    return _statistics(images, answers_a, answers_b, *seeds)


def _statistics(images, answers_a, answers_b, weights_a, weights_b) -> dict[str, np.ndarray]:
    """Means over pairs of runs; images [r, k] and weights [r, seeds] say how often each counts."""
    images = images.astype(np.float64)
    wrong_a, wrong_b = (answers_a >= 0).astype(np.float64), (answers_b >= 0).astype(np.float64)
    shape = (len(images), answers_a.shape[1], answers_b.shape[1])
    both = (wrong_a[:, :, None] * wrong_b[:, None, :]).reshape(len(wrong_a), -1)
    same = (answers_a[:, :, None] == answers_b[:, None, :]).reshape(both.shape) * both
    both_wrong, same_label = (images @ both).reshape(shape), (images @ same).reshape(shape)
    only_a = (images @ wrong_a)[:, :, None] - both_wrong
    only_b = (images @ wrong_b)[:, None, :] - both_wrong
    right = images.sum(axis=1)[:, None, None] - only_a - only_b - both_wrong
    values = {
        "both_right": right,
        "only_a_wrong": only_a,
        "only_b_wrong": only_b,
        "both_wrong": both_wrong,
        "both_wrong_same_label": same_label,
        **cell_rates(right, only_a, only_b, both_wrong),
    }
    weights = (weights_a[:, :, None] * weights_b[:, None, :]).astype(np.float64)
    return {name: _weighted_mean(array, weights) for name, array in values.items()}


def _weighted_mean(values, weights):
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=(1, 2))
    top = (np.nan_to_num(values) * weights).sum(axis=(1, 2))
    return np.divide(top, total, out=np.full(len(top), np.nan), where=total > 0)


def _percentiles(values, confidence):
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _proportion(name, observed, n, confidence):
    """Wilson's interval for the rates that are proportions of a count, else None."""
    value = {key: float(array[0]) for key, array in observed.items()}
    wrong_a = value["only_a_wrong"] + value["both_wrong"]
    wrong_b = value["only_b_wrong"] + value["both_wrong"]
    count = {
        "accuracy_a": n,
        "accuracy_b": n,
        "disagreement": n,
        "double_fault": n,
        "repair_rate": wrong_a,
        "new_error_rate": wrong_b,
        "jaccard": n - value["both_right"],
    }.get(name)
    return wilson_interval(value[name] * count, count, confidence) if count else None


def _labelings(size_a, runs, max_labelings, seed):
    """bool [labelings, runs]: which runs are called A; the true labeling is always among them."""
    if comb(runs, size_a) <= max_labelings:
        chosen = np.array(list(combinations(range(runs), size_a)))
    else:
        rng = np.random.default_rng(seed)
        shuffled = [rng.permutation(runs)[:size_a] for _ in range(max_labelings - 1)]
        chosen = np.array([np.arange(size_a), *shuffled])
    labelings = np.zeros((len(chosen), runs), bool)
    np.put_along_axis(labelings, chosen, True, axis=1)
    return labelings, comb(runs, size_a) <= max_labelings


def _group_means(matrices, labelings):
    """Mean overlap within A, within B, between, for matrices [m, s, s] and labelings [l, s]."""
    off = matrices * (1 - np.eye(matrices.shape[1]))
    in_a, in_b = labelings.astype(np.float64), (~labelings).astype(np.float64)

    def total(left, right):
        return np.einsum("li,mij,lj->ml", left, off, right, optimize=True)

    size_a, size_b = in_a.sum(axis=1), in_b.sum(axis=1)
    return (
        total(in_a, in_a) / (size_a * (size_a - 1)),
        total(in_b, in_b) / (size_b * (size_b - 1)),
        total(in_a, in_b) / (size_a * size_b),
    )


def _excess(matrices, labelings):
    within_a, within_b, between = _group_means(matrices, labelings)
    return (within_a + within_b) / 2 - between


def _excess_interval(labels, a, b, first, measure, resamples, seed):
    counts, answers_a, answers_b = _patterns(labels, a, b)
    wrong = (np.concatenate([answers_a, answers_b], axis=1) >= 0).astype(np.float64)
    rng = np.random.default_rng(seed)
    images = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    runs = wrong.shape[1]
    pairs = (wrong[:, :, None] * wrong[:, None, :]).reshape(len(wrong), -1)
    both = (images @ pairs).reshape(-1, runs, runs)
    errors = images @ wrong
    only_a, only_b = errors[:, :, None] - both, errors[:, None, :] - both
    rates = cell_rates(labels.size - only_a - only_b - both, only_a, only_b, both)[measure]
    return _percentiles(_excess(rates, first)[:, 0], 0.95)
