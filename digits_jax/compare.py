"""Where is one run better than another, on which images, by how much, and is it sure?"""

import argparse
import errno
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from digits_jax.cli import Parser, leave, run_program
from digits_jax.errors import ConfigError, DigitsError
from digits_jax.runs.folder import PREDICTIONS, RESULTS, read_results

# NumPy and what needs it are imported by the functions: Ctrl-C is then one line from the start.
if TYPE_CHECKING:
    import numpy as np

    from digits_jax.evaluation.sources import Source

_FACTS = ("arch", "dataset", "dataset_sha256")  # what a comparison reads of results.json
# Full disks are nobody's input: `run_program` has a line and a status for them.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python -m digits_jax.compare", description=__doc__)
    add = made.add_argument
    add("runs", nargs="*", metavar="RUN", help="folders of two finished runs, A and B")
    add("--a", nargs="+", metavar="RUN", help="folders of A's runs, a seed each, at least two")
    add("--b", nargs="+", metavar="RUN", help="folders of B's runs, at least two")
    files = "instead of runs: files of any framework with labels int [n], logits [n, classes]"
    add("--predictions", nargs=2, metavar=("A.npz", "B.npz"), help=files)
    add("--name-a", metavar="NAME", help="what the report calls A (default: its architecture)")
    add("--name-b", metavar="NAME", help="what the report calls B")
    add("--dataset", help="with --predictions: the data set, for the pictures (default: none)")
    add("--data-dir", metavar="DIR", help="folder of the data set (default: as in training)")
    add("-o", "--output", metavar="DIR", help="folder of the report (default: comparison)")
    add("--overwrite", action="store_true", help="replace an older comparison in the folder")
    add("--json", action="store_true", help="print overlap.json; a report only with -o")
    add("--resamples", type=int, default=10_000, help="of the bootstrap (default: %(default)s)")
    return made


def read_arrays(path: Path, hint: str = "name another") -> dict[str, "np.ndarray"]:
    """The arrays of an .npz file; hint: what to do where there is none."""
    from digits_jax.runs.arrays import read_npz

    try:
        with path.open("rb") as opened:
            if opened.read(2) != b"PK":  # how a zip file begins
                raise ConfigError(
                    f"{path} isn't an .npz file; write one with "
                    "numpy.savez(FILE, labels=..., logits=...)"
                )
        return read_npz(path)
    except DigitsError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {hint}") from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path}: can't be read as .npz, it is a folder; give a file, or leave out "
            "--predictions for folders of runs"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: can't be read as .npz ({error}); is it whole?") from None


def read_run(path: Path, short: str) -> "Source":
    """A finished run of ours; short: what tables call it."""
    from digits_jax.evaluation.sources import source_of

    results = read_results(path)
    if not isinstance(results, dict) or not all(map(_is_a_word, map(results.get, _FACTS))):
        raise ConfigError(
            f"{path / RESULTS} doesn't hold {', '.join(_FACTS)} of a run; give the folder of a "
            "finished run, or --predictions for other files"
        )
    hint = f"write it with python -m digits_jax.train --resume --workdir={path}, or name another"
    return source_of(str(path), short, read_arrays(path / PREDICTIONS, hint), results)


def _is_a_word(value):
    # The report names them: what can't be written would end it with a traceback.
    return isinstance(value, str) and value != "" and value.isprintable()


def read_sources(args: argparse.Namespace) -> tuple[list["Source"], list["Source"]]:
    """A's runs and B's, from whichever way they were given."""
    from digits_jax.evaluation.sources import check_distinct, source_of

    if [bool(args.runs), bool(args.a or args.b), bool(args.predictions)].count(True) != 1:
        raise ConfigError(
            "give RUN_A RUN_B, or --a RUN... --b RUN..., or --predictions A.npz B.npz"
        )
    if args.predictions:
        paths = [Path(name) for name in args.predictions]
        # Files of one name are told apart by their folders.
        shorts = [
            p.resolve().parent.name if paths[0].stem == paths[1].stem else p.stem for p in paths
        ]
        one, two = (
            source_of(str(p), s, read_arrays(p)) for p, s in zip(paths, shorts, strict=True)
        )
        return [one], [two]
    if args.dataset:
        raise ConfigError("--dataset goes with --predictions; a run knows its own data set")
    if args.runs and len(args.runs) != 2:
        raise ConfigError(f"runs given: {len(args.runs)}; give two, or groups by --a and --b")
    groups = [args.runs[:1], args.runs[1:]] if args.runs else [args.a or [], args.b or []]
    if not args.runs and min(map(len, groups)) < 2:
        counts = f"{len(groups[0])} run(s) in --a and {len(groups[1])} in --b"
        raise ConfigError(f"{counts}; groups need two seeds each, or give just RUN_A RUN_B")
    paths = [Path(name) for group in groups for name in group]
    if not args.runs:
        _check_each_once(paths)
    unique = len({path.resolve().name for path in paths}) == len(paths)
    found = [read_run(p, p.resolve().name if unique else str(p)) for p in paths]
    a, b = found[: len(groups[0])], found[len(groups[0]) :]
    if not args.runs:  # one run with itself is allowed: it repairs nothing
        check_distinct(a, b)
    return a, b


def _check_each_once(paths: list[Path]) -> None:
    """Before anything is read: a folder that is given twice needs no other check."""
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise ConfigError(f"{path} is given twice; a run counts once: give each run once")
        seen.add(path.resolve())


def run(args: argparse.Namespace, command: str) -> None:
    """Read, compare, write, print."""
    import numpy as np

    from digits_jax.data.datasets import load_dataset
    from digits_jax.evaluation.comparison import compare
    from digits_jax.evaluation.report import check_output, overlap_json
    from digits_jax.evaluation.sources import groups_of, mixed_presets
    from digits_jax.evaluation.summary import summary_lines

    output = args.output
    if output is None and not args.json:
        output = "comparison"
    if output is not None:
        check_output(output, args.overwrite)
    a, b = read_sources(args)
    groups = groups_of(a, b, args.name_a, args.name_b)
    mixed = mixed_presets(a, b)
    for note in mixed:
        print(f"note: {note}", file=sys.stderr)
    name, sha256 = args.dataset or a[0].dataset, a[0].dataset_sha256
    # Of a data set of one's own, which may be larger than memory, the test set is enough.
    way = "stream" if str(name).startswith("tfds/") else "memory"
    data = load_dataset(name, args.data_dir, input=way) if output and name else None
    if data is not None:
        name = data.name
        if sha256 not in (None, data.sha256) or not np.array_equal(data.test.labels, a[0].labels):
            hint = "give another --dataset, or leave it out" if args.dataset else "give --data-dir"
            raise ConfigError(f"{a[0].name} is not of the data set {name} that is here; {hint}")
    facts = {"dataset": name, "dataset_sha256": sha256, "resamples": args.resamples}
    found = compare(a[0].labels, *groups, **facts)
    classes = data.class_names if data else [str(i) for i in range(found.num_classes)]
    if output:
        pictures = {"class_names": classes, "images": data.test.images if data else None}
        pictures["notes"] = (*mixed, f"Made with: {command}")
        folder = write(found, output, args.overwrite, **pictures)
    if args.json:
        print(overlap_json(found), end="")
        return
    print("\n".join(summary_lines(found, classes)))
    print(f"report: {folder / 'report.html'}")


def write(found, output: str, overwrite: bool, **pictures) -> Path:
    """The report; what the file system refuses is one line."""
    from digits_jax.evaluation.report import write_report

    try:
        return write_report(found, output, overwrite=overwrite, **pictures)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise
        raise ConfigError(
            f"{output} can't be written ({error.strerror or error}); give another folder to -o"
        ) from None


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        args = parser().parse_args(arguments)
        run(args, shlex.join(["python", "-m", "digits_jax.compare", *arguments]))
    except DigitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave(run_program(main))
