"""Compares two runs, or two groups of runs, with every statistic of this package.

`compare` checks that the runs belong together, calls the other files and gathers what they
return; `Comparison.to_dict` is what ``overlap.json`` holds.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.bootstrap import Bootstrap, PermutationTest, bootstrap, permutation_test
from digits_jax.evaluation.calibration import Calibration, calibration, negative_log_likelihood
from digits_jax.evaluation.error_analysis import (
    PUBLISHED_LABEL_ERRORS,
    ErrorChange,
    HardImage,
    error_changes,
    hardest_images,
)
from digits_jax.evaluation.overlap import (
    CochransQ,
    ErrorOverlap,
    cochrans_q,
    error_overlap,
    mcnemar_p_value,
    pair_cells,
)
from digits_jax.formatting import html_table, mean_sd, p_value, percent, plain
from digits_jax.runs.run import Run
from digits_jax.temperature import fit_temperature

ALPHA = 0.05  # the level of significance of titles and sentences
_LONGEST_NAME = 24  # letters; what the figures have room for


@dataclass(frozen=True)
class Temperature:
    """A temperature, and the loss on the validation split before and after the scaling by it.

    Without a finite temperature `reason` says why.
    """

    temperature: float | None
    nll_before: float
    nll_after: float | None
    reason: str | None


@dataclass(frozen=True)
class RunCalibration:
    """One run's calibration as it is, and at the temperature fitted on its validation split."""

    name: str
    before: Calibration
    temperature: Temperature | None
    after: Calibration | None
    reason: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The result of `compare`; pairs are of A and of B.

    ``predictions`` are int [seeds, n]; ``mcnemar_p_pairs`` is float [seeds_a, seeds_b];
    ``class_names`` are printable.
    """

    labels: np.ndarray
    class_names: list[str]
    names: tuple[str, str]
    runs: tuple[list[Run], list[Run]]
    predictions: tuple[np.ndarray, np.ndarray]
    dataset: str | None
    dataset_sha256: str | None
    overlap: ErrorOverlap
    bootstrap: Bootstrap
    mcnemar_p_pairs: np.ndarray
    cochrans_q: CochransQ
    between_or_within: dict[str, PermutationTest]
    between_or_within_reason: str | None
    by_class: list[ErrorChange]
    by_confusion: list[ErrorChange]
    calibration: tuple[list[RunCalibration], list[RunCalibration]]
    hardest: list[HardImage]
    published_label_errors: tuple[int, ...]
    without_published_label_errors: ErrorOverlap | None

    @property
    def grouped(self) -> bool:
        """Whether there is more than one run on a side."""
        return len(self.runs[0]) + len(self.runs[1]) > 2

    @property
    def significant(self) -> bool:
        """Whether A and B differ in accuracy by McNemar's test."""
        return self.overlap.mcnemar_p <= ALPHA

    @property
    def accuracies(self) -> tuple[np.ndarray, np.ndarray]:
        """The accuracy of each run of A and of B."""
        a, b = ((predictions == self.labels).mean(axis=1) for predictions in self.predictions)
        return a, b

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{k} {v}' for k, v in self._summary().items())})"

    def _repr_html_(self) -> str:
        return html_table(self._summary(), "Comparison")

    def _summary(self) -> dict[str, str]:
        shown = [mean_sd(100 * values) for values in self.accuracies]
        return {
            **{name: f"{text}%" for name, text in zip(self.names, shown, strict=True)},
            "images": f"{self.labels.size:,}",
            "repair rate": percent(self.overlap.repair_rate),
            "new-error rate": percent(self.overlap.new_error_rate),
            "McNemar's p": p_value(self.overlap.mcnemar_p),
        }

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95% interval of a count or rate of `ErrorOverlap`.

        It is Wilson's, over images, for the accuracy of a single run, else the bootstrap's.
        """
        for side, runs in zip("ab", self.runs, strict=True):
            if name == f"accuracy_{side}" and len(runs) == 1:
                return getattr(self.overlap, f"{name}_ci95")
        return self.bootstrap.intervals[name]

    def to_dict(self) -> dict[str, Any]:
        """Returns what overlap.json holds: the same keys for two runs and for groups."""
        overlap, boot, cleaned = vars(self.overlap), self.bootstrap, None
        if self.without_published_label_errors:
            kept = ("n", "accuracy_a", "accuracy_b", "accuracy_a_ci95", "accuracy_b_ci95")
            everything = vars(self.without_published_label_errors)
            cleaned = {name: everything[name] for name in (*kept, "repair_rate")}
        return to_plain(
            {
                "name_a": self.names[0],
                "name_b": self.names[1],
                "runs_a": [run.name for run in self.runs[0]],
                "runs_b": [run.name for run in self.runs[1]],
                "dataset": self.dataset,
                "dataset_sha256": self.dataset_sha256,
                **{name: value for name, value in overlap.items() if name != "undefined"},
                **{f"{name}_ci95": self.interval(name) for name in boot.intervals},
                "undefined": overlap["undefined"],
                "accuracies_a": self.accuracies[0],
                "accuracies_b": self.accuracies[1],
                "mcnemar_p_pairs": self.mcnemar_p_pairs,
                "cochrans_q": self.cochrans_q,
                "between_or_within": self.between_or_within,
                "between_or_within_reason": self.between_or_within_reason,
                "by_class": self.by_class,
                "by_confusion": self.by_confusion,
                "calibration": {"a": self.calibration[0], "b": self.calibration[1]},
                "hardest_images": self.hardest,
                "published_label_errors": self.published_label_errors,
                "without_published_label_errors": cleaned,
                "intervals": {
                    "confidence": 0.95,
                    "method": f"percentile bootstrap over {boot.over}; "
                    "Wilson for the accuracy of a single run",
                    "resamples": boot.resamples,
                    "seed": boot.seed,
                    "undefined": boot.undefined,
                    "notes": boot.notes,
                },
            }
        )


def to_plain(value: Any) -> Any:
    """Converts results to what JSON holds: dataclasses, arrays and tuples; NaN becomes None.

    Examples:
      >>> to_plain({"counts": np.array([1, 2]), "ci95": (np.float64(0.5), np.nan)})
      {'counts': [1, 2], 'ci95': [0.5, None]}
    """
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value


def compare(
    a: Sequence[Run],
    b: Sequence[Run],
    *,
    names: tuple[str | None, str | None] = (None, None),
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
    resamples: int = 10_000,
) -> Comparison:
    """Compares two groups of runs on the same images.

    Args:
      a: the runs of A, one or more.
      b: the runs of B, which may repair the errors of A.
      names: of A and B; by default the architectures, if these differ, else the runs' names.
      dataset: its name, for runs whose results don't say; for "mnist" the published label
        errors are looked at.
      class_names: a name for each label; by default those of the runs' results, or numbers.
      resamples: of the bootstrap.

    Raises:
      DataError: arrays that don't match, runs on other images, a group of several
        architectures, or, in groups, the same run twice.

    Examples:
      >>> labels = [0, 1, 2, 0]
      >>> mlp = Run("mlp", labels, np.eye(3)[[0, 1, 1, 2]])
      >>> cnn = Run("cnn", labels, np.eye(3)[[0, 1, 2, 2]])
      >>> compare([mlp], [cnn], resamples=100).overlap.repair_rate
      0.5
    """
    if not a or not b:
        raise DataError(f"{len(a)} run(s) of A and {len(b)} of B: give at least one of each")
    runs = [*a, *b]
    for one, other in combinations(runs, 2):
        _check_pair(one, other)
        # A copy would count as another seed, and make every interval too narrow.
        if len(runs) > 2 and np.array_equal(one.logits, other.logits):
            raise DataError(
                f"{one.source} and {other.source} have the same logits: give each run once"
            )
    labels, dataset = runs[0].labels, dataset or runs[0].results.get("dataset")
    p, q = (np.stack([run.logits.argmax(axis=1) for run in side]) for side in (a, b))
    tests, reason = {}, None
    try:
        if min(len(a), len(b)) < 2:
            reason = "overlap within a group needs at least two seeds of each; not computed"
        else:
            tests = {
                measure: permutation_test(labels, p, q, measure=measure)
                for measure in ("error_consistency", "jaccard")
            }
    except DataError as error:
        reason = str(error)
    listed = PUBLISHED_LABEL_ERRORS.get(dataset or "", ())
    known = tuple(index for index in listed if index < labels.size)
    kept = np.setdiff1d(np.arange(labels.size), known)
    _, only_a, only_b, _ = pair_cells(p != labels, q != labels)
    return Comparison(
        labels=labels,
        class_names=_class_names(runs[0], class_names),
        names=_group_names((a, b), names),
        runs=(list(a), list(b)),
        predictions=(p, q),
        dataset=dataset,
        dataset_sha256=runs[0].results.get("dataset_sha256"),
        overlap=error_overlap(labels, p, q),
        bootstrap=bootstrap(labels, p, q, resamples=resamples),
        mcnemar_p_pairs=mcnemar_p_value(only_a, only_b),
        cochrans_q=cochrans_q(labels, np.concatenate([p, q])),
        between_or_within=tests,
        between_or_within_reason=reason,
        by_class=error_changes(labels, p, q),
        by_confusion=error_changes(labels, p, q, by="confusion"),
        calibration=([_calibrate(run) for run in a], [_calibrate(run) for run in b]),
        hardest=hardest_images(labels, [run.logits for run in runs], known),
        published_label_errors=known,
        without_published_label_errors=(
            error_overlap(labels[kept], p[:, kept], q[:, kept]) if known else None
        ),
    )


def _check_pair(one: Run, other: Run) -> None:
    shas = {run.results.get("dataset_sha256") for run in (one, other)} - {None}
    data = [run.results.get("dataset") for run in (one, other)]
    if len(shas) > 1:
        problem = f"are of different data sets ({data[0]} and {data[1]}, by SHA-256)"
    elif one.logits.shape != other.logits.shape:
        problem = f"have logits of shapes {one.logits.shape} and {other.logits.shape}"
    elif (wrong := one.labels != other.labels).any():
        problem = f"have other labels or another order ({wrong.sum()} of {wrong.size} differ, "
        problem += f"first at image {wrong.argmax()})"
    else:
        return
    raise DataError(f"{one.source} and {other.source} {problem}: give runs on one test set")


def _class_names(run: Run, given: Sequence[str] | None) -> list[str]:
    count = run.logits.shape[1]
    if given and len(given) != count:
        raise DataError(f"{len(given)} class names: give {count}, one per class")
    names = given or run.results.get("class_names")
    if not isinstance(names, list | tuple) or len(names) != count:
        names = range(count)
    return [plain(name) for name in names]


def _group_names(
    groups: tuple[Sequence[Run], Sequence[Run]],
    given: tuple[str | None, str | None],
) -> tuple[str, str]:
    if given[0] and given[0] == given[1]:
        raise DataError(f"A and B are both named {given[0]!r}: give two different names")
    names = []
    for side, group, name in zip("AB", groups, given, strict=True):
        kinds = sorted({run.kind for run in group})
        if len(kinds) > 1:
            raise DataError(f"{side} mixes {' and '.join(kinds)}: give runs of one architecture")
        names.append(plain(name or kinds[0]))
    if names[0] == names[1] and len(groups[0]) == len(groups[1]) == 1:
        names = [group[0].name for group in groups]
    a, b = (_shortened(name, _LONGEST_NAME) for name in names)
    if a == b:
        a, b = (f"{_shortened(a, _LONGEST_NAME - 2)} {side}" for side in "AB")
    return a, b


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _calibrate(run: Run) -> RunCalibration:
    before = calibration(run.labels, run.logits)
    labels, logits = run.validation_labels, run.validation_logits
    if labels is None or logits is None:
        reason = "no validation logits in predictions.npz: temperature scaling left out"
        return RunCalibration(run.name, before, None, None, reason)
    temperature, nll = fit_temperature(labels, logits), _mean_nll(labels, logits)
    if 0 < temperature < math.inf:
        scaled = Temperature(temperature, nll, _mean_nll(labels, logits / temperature), None)
        after = calibration(run.labels, run.logits / temperature)
        return RunCalibration(run.name, before, scaled, after, None)
    reason = "no finite temperature is best: " + (
        "the logits are no better than a uniform guess"
        if temperature
        else "every image that decides it is right"
    )
    return RunCalibration(run.name, before, Temperature(None, nll, None, reason), None, reason)


def _mean_nll(labels: np.ndarray, logits: np.ndarray) -> float:
    return float(negative_log_likelihood(labels, logits).mean())
