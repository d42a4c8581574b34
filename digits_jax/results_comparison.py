"""Compares trainings in a notebook or a script: `compare_results`."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy as np

from digits_jax.data.datasets import DATASETS, load_dataset
from digits_jax.data.splits import Dataset
from digits_jax.errors import DataError
from digits_jax.evaluation import plots, report
from digits_jax.evaluation.comparison import Comparison, compare
from digits_jax.formatting import to_html
from digits_jax.runs.folder import read_run
from digits_jax.runs.run import Run
from digits_jax.training.run_data import load_own_of_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from digits_jax.training.ensemble import EnsembleResult
    from digits_jax.training.fit_result import FitResult

Result: TypeAlias = Union["FitResult", "EnsembleResult", Run, str, Path]


def compare_results(
    a: Result | Sequence[Result],
    b: Result | Sequence[Result],
    *,
    names: tuple[str | None, str | None] = (None, None),
    dataset: Dataset | None = None,
    resamples: int = 10_000,
) -> "ResultsComparison":
    """Compares two trainings, or two groups of trainings that differ in their seeds.

    Args:
      a: what `fit` or `fit_ensemble` returned, a run's folder, a `Run`, or a list.
      b: likewise; it may repair the errors of A.
      names: of A and B; by default the architectures, if these differ, else the runs' names.
      dataset: for the images of `ResultsComparison.plot_errors`; by default loaded by its name.
      resamples: of the bootstrap.

    Raises:
      DataError: results on other images, a group of several architectures, or the same run twice.

    Examples:
      >>> import numpy as np
      >>> labels = np.arange(100) % 10
      >>> mlp = Run("mlp", labels, np.eye(10)[np.where(labels == 4, 9, labels)])
      >>> cnn = Run("cnn", labels, np.eye(10)[labels])
      >>> compare_results(mlp, cnn).overlap.repair_rate
      1.0
    """
    groups = [
        [to_run(r) for r in (side if isinstance(side, list | tuple) else (side,))]
        for side in (a, b)
    ]
    taken = [run.name for group in groups for run in group]
    if len(set(taken)) < len(taken):  # each has columns of its own in tables
        groups = [
            [
                dataclasses.replace(run, name=f"{run.name} {side}{i}")
                for i, run in enumerate(group, 1)
            ]
            for side, group in zip("AB", groups, strict=True)
        ]
    if dataset is not None:
        check_dataset(dataset, groups[0][0])
    classes = dataset.class_names if dataset else None
    found = compare(*groups, names=names, class_names=classes, resamples=resamples)
    return ResultsComparison(**vars(found), data=dataset)


@dataclass(frozen=True, eq=False, repr=False)
class ResultsComparison(Comparison):
    """What `compare_results` found: a `Comparison` with its figures, for a notebook.

    Attributes:
      data: the data set, where it was given.
    """

    data: Dataset | None = None

    @cached_property
    def _images(self) -> np.ndarray:
        return (self.data or find_dataset(self.runs[0][0])).test.images

    def report(self) -> "Report":
        """Returns the ten lines that matter, and all tables, which a notebook shows below them."""
        return Report(self)

    def write_report(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the report of ``digits_jax.compare``, with images where the data set is at hand.

        Raises:
          DataError: the folder holds something else.
        """
        images = None
        with contextlib.suppress(DataError):
            images = self._images
        return report.write_report(self, directory, images=images, overwrite=overwrite)

    def plot_errors(self, of: Literal["a", "b"] = "a") -> "Figure":
        """Draws the test images that one side misclassifies, framed where the other is right.

        Raises:
          DataError: the images aren't at hand; give compare_results the data set.
        """
        return plots.error_sheet(self, self._images, "ab".index(of))

    def plot_overlap(self) -> "Figure":
        """Draws both sets of errors as circles, and what they have in common."""
        return plots.overlap_circles(self)

    def plot_confusions(self) -> "Figure":
        """Draws the confusions with the largest gains and losses of B against A."""
        return plots.confusion_gains(self)

    def to_dataframe(self) -> "DataFrame":
        """Returns a row per test image: its label, and each run's prediction, confidence and loss.

        Raises:
          DataError: pandas isn't installed.
        """
        try:
            import pandas
        except ImportError:
            raise DataError("to_dataframe needs pandas; pip install pandas") from None
        return pandas.DataFrame(report.example_columns(self)).set_index("index")


class Report:
    """The summary as text, and with the tables as HTML."""

    def __init__(self, found: Comparison):
        self.lines = report.summary_lines(found)
        self._tables = report.tables_html(found)

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{to_html(line)}</li>" for line in self.lines)
        return f"<ul>{lines}</ul>{self._tables}"


def to_run(result: Any) -> Run:
    """Returns what `compare_results` compares as a run."""
    if isinstance(result, Run):
        return result
    if isinstance(result, str | Path):
        return read_run(Path(result))
    if hasattr(result, "members"):  # an ensemble's logits are in its folder
        return read_run(result.workdir)
    try:
        test, validation, results = result.test, result.validation, result.results
    except AttributeError:
        raise DataError(
            f"a {type(result).__name__} can't be compared: give what fit returned, a run's "
            "folder, or a Run"
        ) from None
    folder = result.workdir or Path(f"{results['arch']}-seed{results['seed']}")
    scores = (test.labels, test.logits, validation.labels, validation.logits)
    return Run(folder.resolve().name, *scores, results, source=str(folder))


def find_dataset(run: Run, name: str | None = None, data_dir: str | Path | None = None) -> Dataset:
    """Loads the data set that a run was scored on.

    Args:
      run: its ``results`` name the data set.
      name: instead of that.
      data_dir: as of `load_dataset`.

    Raises:
      DataError: it has no name, isn't at hand, or is another one.
    """
    own = None if name in DATASETS else load_own_of_run(run.source, name, data_dir)
    name = name or run.results.get("dataset")
    if not name:
        raise DataError(f"{run.source} names no data set; give it")
    # The test set is enough: prepared sets may be larger than memory.
    way = "stream" if name.startswith("tfds/") else "memory"
    dataset = own or load_dataset(name, data_dir, input=way)
    check_dataset(dataset, run)
    return dataset


def check_dataset(dataset: Dataset, run: Run) -> None:
    """Raises a DataError where a run was scored on other images."""
    same = np.array_equal(dataset.test.labels, run.labels)
    if run.results.get("dataset_sha256") not in (None, dataset.sha256) or not same:
        raise DataError(
            f"{run.source} is not of this {dataset.name}; give the data set that it is of"
        )
