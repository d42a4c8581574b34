"""Everything that two runs, or two groups of runs, have to say about each other: numbers.

`compare` calls the rest of this room and gathers what it found; `report.py` writes it down.
Arrays as in `checks.py`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from digits_jax.errors import DataError, DigitsError
from digits_jax.evaluation.calibration import (
    Calibration,
    Reliability,
    Temperature,
    calibration,
    fit_temperature,
    reliability,
)
from digits_jax.evaluation.checks import as_labels, as_logits, as_plain
from digits_jax.evaluation.overlap import (
    CochransQ,
    ErrorOverlap,
    cochrans_q,
    error_overlap,
    mcnemar,
)
from digits_jax.evaluation.repairs import (
    PUBLISHED_LABEL_ERRORS,
    HardImage,
    Repair,
    hardest_images,
    repairs_by_class,
    repairs_by_confusion,
)
from digits_jax.evaluation.resampling import (
    BetweenOrWithin,
    Bootstrap,
    between_or_within,
    bootstrap,
)


@dataclass(frozen=True)
class Run:
    """One run's answers: logits float [n, classes]; the validation pair may be missing."""

    name: str
    logits: np.ndarray
    validation_labels: np.ndarray | None = None
    validation_logits: np.ndarray | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Group:
    """One or more runs of one kind."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def predictions(self) -> np.ndarray:
        """int64 [seeds, n]; the smallest class wins a tie."""
        return np.stack([np.asarray(run.logits).argmax(axis=1) for run in self.runs])


@dataclass(frozen=True)
class RunCalibration:
    """One run's calibration, as it is and at the temperature its validation split asks for."""

    name: str
    before: Calibration
    temperature: Temperature | None
    after: Calibration | None
    reason: str | None

    def to_dict(self) -> dict:
        parts = (("before", self.before), ("temperature", self.temperature), ("after", self.after))
        return {
            "name": self.name,
            **{key: None if part is None else part.to_dict() for key, part in parts},
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `to_dict` is what overlap.json holds."""

    labels: np.ndarray
    num_classes: int
    a: Group
    b: Group
    dataset: str | None
    dataset_sha256: str | None
    overlap: ErrorOverlap
    intervals: Bootstrap
    pair_p_values: np.ndarray
    cochran: CochransQ
    overlap_of_runs: dict[str, BetweenOrWithin]
    overlap_of_runs_reason: str | None
    by_class: list[Repair]
    by_confusion: list[Repair]
    calibration_a: list[RunCalibration]
    calibration_b: list[RunCalibration]
    hardest: list[HardImage]
    known: tuple[int, ...]
    cleaned: ErrorOverlap | None

    @property
    def groups(self) -> bool:
        """More than one run on a side."""
        return len(self.a.runs) + len(self.b.runs) > 2

    def accuracies(self, side: str) -> np.ndarray:
        """Each run's accuracy, float64 [seeds]; side is "a" or "b"."""
        group = self.a if side == "a" else self.b
        return (group.predictions == self.labels).mean(axis=1)

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95% interval that is reported under `name`_ci95.

        One run's accuracy has Wilson's, over images; all else has the bootstrap's.
        """
        side = name.removeprefix("accuracy_")
        if side in ("a", "b") and len(getattr(self, side).runs) == 1:
            return getattr(self.overlap, f"{name}_ci95")
        return self.intervals.intervals.get(name)

    def to_dict(self) -> dict:
        """JSON-able, without NaN; the same keys for two runs and for groups."""
        overlap = self.overlap.to_dict()
        undefined = overlap.pop("undefined")
        rates = {k: v for k, v in overlap.items() if not k.endswith("_ci95")}
        intervals = {f"{name}_ci95": self.interval(name) for name in self.intervals.intervals}
        both = {"a": self.calibration_a, "b": self.calibration_b}
        return as_plain(
            {
                "name_a": self.a.name,
                "name_b": self.b.name,
                "runs_a": [run.name for run in self.a.runs],
                "runs_b": [run.name for run in self.b.runs],
                "dataset": self.dataset,
                "dataset_sha256": self.dataset_sha256,
                **rates,
                **intervals,
                "undefined": undefined,
                "accuracies_a": self.accuracies("a"),
                "accuracies_b": self.accuracies("b"),
                "mcnemar_p_pairs": self.pair_p_values,
                "cochrans_q": self.cochran.to_dict(),
                "between_or_within": {k: v.to_dict() for k, v in self.overlap_of_runs.items()},
                "between_or_within_reason": self.overlap_of_runs_reason,
                "by_class": [repair.to_dict() for repair in self.by_class],
                "by_confusion": [repair.to_dict() for repair in self.by_confusion],
                "calibration": {k: [c.to_dict() for c in v] for k, v in both.items()},
                "hardest_images": [image.to_dict() for image in self.hardest],
                "published_label_errors": list(self.known),
                "without_published_label_errors": _accuracies_only(self.cleaned),
                "intervals": {
                    "confidence": self.intervals.confidence,
                    "method": f"percentile bootstrap over {self.intervals.over}; "
                    "Wilson for the accuracy of a single run",
                    "resamples": self.intervals.resamples,
                    "seed": self.intervals.seed,
                    "undefined": self.intervals.undefined,
                    "notes": self.intervals.notes,
                },
            }
        )


def compare(
    labels,
    a: Group,
    b: Group,
    *,
    dataset: str | None = None,
    dataset_sha256: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two groups of runs on the same images: every statistic of this room.

    Args:
      labels: int [n].
      a: the first group, one run or more.
      b: the second; what "repairs" is said of.
      dataset: its name; for "mnist" the published label errors are looked at.
      dataset_sha256: passed on to `to_dict`.
      resamples: bootstrap resamples.
      seed: of the bootstrap.

    Returns:
      A `Comparison`.

    Raises:
      DataError: arrays that don't fit each other; the message names the run.

    Example:
      >>> logits = np.eye(3)[[0, 1, 1, 2]]
      >>> better = np.eye(3)[[0, 1, 2, 2]]
      >>> found = compare([0, 1, 2, 0], Group("A", (Run("a", logits),)),
      ...                 Group("B", (Run("b", better),)), resamples=100)
      >>> found.overlap.repair_rate
      0.5

    Reference:
      See the functions it calls.
    """
    labels = as_labels(labels)
    a, b = _checked(labels, a), _checked(labels, b)
    num_classes = a.runs[0].logits.shape[1]
    if any(run.logits.shape[1] != num_classes for run in (*a.runs, *b.runs)):
        raise DataError("the runs have different numbers of classes; compare runs of one data set")
    as_labels(labels, num_classes=num_classes)
    of_runs, reason = _overlap_of_runs(labels, a, b)
    known = PUBLISHED_LABEL_ERRORS.get(dataset or "", ())
    known = tuple(index for index in known if index < labels.size)
    kept = np.setdiff1d(np.arange(labels.size), known)
    p, q = a.predictions, b.predictions
    return Comparison(
        labels=labels,
        num_classes=num_classes,
        a=a,
        b=b,
        dataset=dataset,
        dataset_sha256=dataset_sha256,
        overlap=error_overlap(labels, p, q),
        intervals=bootstrap(labels, p, q, resamples=resamples, seed=seed),
        pair_p_values=np.array([[mcnemar(labels, x, y) for y in q] for x in p]),
        cochran=cochrans_q(labels, np.concatenate([p, q])),
        overlap_of_runs=of_runs,
        overlap_of_runs_reason=reason,
        by_class=repairs_by_class(labels, p, q),
        by_confusion=repairs_by_confusion(labels, p, q),
        calibration_a=[_calibrate(labels, run) for run in a.runs],
        calibration_b=[_calibrate(labels, run) for run in b.runs],
        hardest=hardest_images(labels, [run.logits for run in (*a.runs, *b.runs)], known),
        known=known,
        cleaned=error_overlap(labels[kept], p[:, kept], q[:, kept]) if known else None,
    )


def pooled_reliability(
    labels, runs: tuple[Run, ...], temperatures=None, bins: int = 15
) -> Reliability:
    """The reliability curve of a group: all answers of all its runs in one set of bins.

    Args:
      labels: int [n].
      runs: one or more.
      temperatures: one for each run, by which its logits are divided; by default 1.
      bins: number of bins of equal width.

    Returns:
      A `Reliability` of seeds x n answers.

    Raises:
      DataError: arrays that don't fit each other.

    Example:
      >>> run = Run("a", np.zeros((2, 2)))
      >>> int(pooled_reliability(np.array([0, 1]), (run, run)).counts.sum())
      4

    Reference:
      See `digits_jax.evaluation.reliability`.
    """
    temperatures = temperatures or [1.0] * len(runs)
    logits = [run.logits / t for run, t in zip(runs, temperatures, strict=True)]
    return reliability(np.tile(labels, len(runs)), np.concatenate(logits), bins)


def _checked(labels: np.ndarray, group: Group) -> Group:
    if not group.runs:
        raise DataError(f"{group.name} has no run; give at least one")
    runs = []
    for run in group.runs:
        logits = as_logits(run.logits, labels.size, f"{run.name}: logits")
        validation = (run.validation_labels, run.validation_logits)
        if any(array is None for array in validation):
            runs.append(Run(run.name, logits, seed=run.seed))
            continue
        name = f"{run.name}: validation"
        known = as_labels(validation[0], f"{name}_labels", logits.shape[1])
        fitted = as_logits(validation[1], known.size, f"{name}_logits")
        runs.append(Run(run.name, logits, known, fitted, run.seed))
    return Group(group.name, tuple(runs))


def _overlap_of_runs(labels, a: Group, b: Group):
    if min(len(a.runs), len(b.runs)) < 2:
        return {}, "overlap within a group needs at least two seeds of each; not computed"
    try:
        measures = ("error_consistency", "jaccard")
        return {
            m: between_or_within(labels, a.predictions, b.predictions, measure=m) for m in measures
        }, None
    except DigitsError as error:
        return {}, str(error)


def _calibrate(labels: np.ndarray, run: Run) -> RunCalibration:
    before = calibration(labels, run.logits)
    if run.validation_logits is None:
        reason = "no validation logits in predictions.npz: temperature scaling left out"
        return RunCalibration(run.name, before, None, None, reason)
    fitted = fit_temperature(run.validation_labels, run.validation_logits)
    if fitted.temperature is None:
        return RunCalibration(run.name, before, fitted, None, fitted.reason)
    after = calibration(labels, run.logits / fitted.temperature)
    return RunCalibration(run.name, before, fitted, after, None)


def _accuracies_only(overlap: ErrorOverlap | None) -> dict | None:
    if overlap is None:
        return None
    names = ("n", "accuracy_a", "accuracy_b", "accuracy_a_ci95", "accuracy_b_ci95", "repair_rate")
    return {name: getattr(overlap, name) for name in names}
