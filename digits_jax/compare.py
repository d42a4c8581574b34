"""Compares the errors of two runs or groups of runs: python -m digits_jax.compare RUN_A RUN_B"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError, DataError
from digits_jax.fields import Optional, Switch
from digits_jax.files import read_npz
from digits_jax.runs import folder

if TYPE_CHECKING:  # `--help` needs no NumPy
    from digits_jax.evaluation import Run


@dataclass(frozen=True)
class Arguments:
    """What to compare: RUN_A RUN_B, or groups by --a and --b, or --predictions."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")
    ] = ()
    """Folders of two finished runs, A and B."""
    a: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...", help_behavior_hint="")] = ()
    """Folders of A's runs, one per seed, at least two."""
    b: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...", help_behavior_hint="")] = ()
    """Folders of B's runs, at least two."""
    predictions: Annotated[
        tuple[Path, ...], tyro.conf.arg(metavar="A.npz B.npz", help_behavior_hint="")
    ] = ()
    """Instead of runs: two files of any framework with labels int [n], logits [n, classes]."""
    name_a: Optional[str] = None
    """What the report calls A (default: its architecture)."""
    name_b: Optional[str] = None
    """What the report calls B."""
    dataset: Optional[str] = None
    """The data set, for its images (default: that of the runs)."""
    data_dir: Optional[str] = None
    """Folder of the data set (default: as in training)."""
    output: Annotated[
        Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR", help_behavior_hint="")
    ] = None
    """Folder of the report (default: comparison, or none with --json)."""
    overwrite: Switch = False
    """Replace an older comparison in the folder."""
    json: Switch = False
    """Print overlap.json; a report only with -o."""
    resamples: int = 10_000
    """Resamples of the bootstrap."""


def read_finished(path: Path, name: str) -> "Run":
    """Reads a finished run; tables call it `name`."""
    from digits_jax.runs.folder import read_run

    run = read_run(path)
    facts = ("arch", "dataset", "dataset_sha256")
    if not all(isinstance(run.results.get(fact), str) for fact in facts):
        raise ConfigError(
            f"{path / folder.RESULTS} doesn't hold {', '.join(facts)}: give the folder of a "
            "finished run, or other files by --predictions"
        )
    return dataclasses.replace(run, name=name)


def read_predictions(path: Path, name: str) -> "Run":
    """Reads an .npz file of any framework; tables call it `name`."""
    from digits_jax.evaluation import Run

    hint = "write it with numpy.savez(FILE, labels=..., logits=...)"
    try:
        arrays = read_npz(path)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); give an .npz file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: isn't an intact .npz file ({error}); {hint}") from None
    missing = {"labels", "logits"} - arrays.keys()
    if missing:
        raise ConfigError(f"{path}: has no {' and '.join(sorted(missing))}; {hint}")
    validation = arrays.get("validation_labels"), arrays.get("validation_logits")
    return Run(name, arrays["labels"], arrays["logits"], *validation, source=str(path))


def read_groups(arguments: Arguments) -> tuple[list["Run"], list["Run"]]:
    """Reads the runs of A and of B."""
    runs, a, b, files = arguments.runs, arguments.a, arguments.b, arguments.predictions
    if [bool(runs), bool(a or b), bool(files)].count(True) != 1:
        raise ConfigError(
            "give RUN_A RUN_B, or --a RUN... --b RUN..., or --predictions A.npz B.npz"
        )
    if not (a or b) and len(runs or files) != 2:
        raise ConfigError(f"{len(runs or files)} to compare: give two")
    if (a or b) and min(len(a), len(b)) < 2:
        raise ConfigError(
            f"{len(a)} run(s) in --a and {len(b)} in --b: give two seeds or more of each, "
            "or just RUN_A RUN_B"
        )
    paths = [*runs, *a, *b, *files]
    names = [path.stem if files else path.resolve().name for path in paths]
    if len(set(names)) < len(names):  # files of one name are told apart by their folders
        names = [path.resolve().parent.name if files else str(path) for path in paths]
    read = read_predictions if files else read_finished
    found = [read(path, name) for path, name in zip(paths, names, strict=True)]
    split = len(a) or 1
    return found[:split], found[split:]


def main(argv: Sequence[str]) -> int:
    """Reads, compares, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    from digits_jax.evaluation import compare, report
    from digits_jax.results_comparison import find_dataset

    output = arguments.output or (None if arguments.json else Path("comparison"))
    if output:
        report.check_output(output, arguments.overwrite)
    a, b = read_groups(arguments)
    notes = []
    for flag, group in (("--a", a), ("--b", b)):
        presets = sorted({str(run.results["preset"]) for run in group if "preset" in run.results})
        if len(presets) > 1:
            notes.append(
                f"The runs of {flag} were trained with several presets ({', '.join(presets)}): "
                "their spread is not that of seeds alone."
            )
            print(f"note: {notes[-1]}", file=sys.stderr)
    data = None
    try:
        if output and (arguments.dataset or a[0].results.get("dataset")):
            data = find_dataset(a[0], arguments.dataset, arguments.data_dir)
    except DataError as error:
        if arguments.dataset or arguments.data_dir:
            raise
        notes.append(f"The misclassified images aren't shown: {error}")
        print(f"note: {notes[-1]}", file=sys.stderr)
    found = compare(
        a,
        b,
        names=(arguments.name_a, arguments.name_b),
        dataset=data.name if data else arguments.dataset,
        class_names=data.class_names if data else None,
        resamples=arguments.resamples,
    )
    if output:
        notes.append(f"Made with: {shlex.join(['python', '-m', 'digits_jax.compare', *argv])}")
        report.write_report(
            found,
            output,
            images=data.test.images if data else None,
            notes=notes,
            overwrite=arguments.overwrite,
        )
    if arguments.json:
        print(report.overlap_json(found), end="")
    else:
        print("\n".join(report.summary_lines(found)))
        print(f"report: {output and output / 'report.html'}")
    return 0


if __name__ == "__main__":
    leave(run_program(main))
