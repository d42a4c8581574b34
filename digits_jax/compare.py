"""Where is one run better than another, on which images, by how much, and is it sure?"""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from digits_jax.data.datasets import load_dataset
from digits_jax.errors import InputError
from digits_jax.evaluation.comparison import compare
from digits_jax.evaluation.report import check_output, overlap_json, write_report
from digits_jax.evaluation.sources import Source, groups_of, source_of
from digits_jax.evaluation.summary import summary_lines
from digits_jax.runs.folder import PREDICTIONS, read_results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m digits_jax.compare", description=__doc__)
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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        hint = f"write it with python -m digits_jax.evaluate {path.parent}"
        raise InputError(f"{path}: no such file; {hint}, or name another") from None
    except Exception as error:  # zipfile, zlib and NumPy each have errors of their own
        raise InputError(f"{path}: can't be read as .npz ({error}); is it whole?") from None


def read_sources(args: argparse.Namespace) -> tuple[list[Source], list[Source]]:
    """A's runs and B's, from whichever way they were given."""
    if [bool(args.runs), bool(args.a or args.b), bool(args.predictions)].count(True) != 1:
        raise InputError("give RUN_A RUN_B, or --a RUN... --b RUN..., or --predictions A.npz B.npz")
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
        raise InputError("--dataset goes with --predictions; a run knows its own data set")
    if args.runs and len(args.runs) != 2:
        raise InputError(f"{len(args.runs)} runs given; give two, or groups by --a and --b")
    groups = [args.runs[:1], args.runs[1:]] if args.runs else [args.a or [], args.b or []]
    if not args.runs and min(map(len, groups)) < 2:
        counts = f"{len(groups[0])} run(s) in --a and {len(groups[1])} in --b"
        raise InputError(f"{counts}; groups need two seeds each, or give just RUN_A RUN_B")
    paths = [Path(name) for group in groups for name in group]
    unique = len({path.resolve().name for path in paths}) == len(paths)
    found = []
    for path in paths:
        results = read_results(path)
        short = path.resolve().name if unique else str(path)
        found.append(source_of(str(path), short, read_arrays(path / PREDICTIONS), results))
    return found[: len(groups[0])], found[len(groups[0]) :]


def run(args: argparse.Namespace, command: str) -> None:
    """Read, compare, write, print."""
    output = args.output or (None if args.json else "comparison")
    if output:
        check_output(output, args.overwrite)
    a, b = read_sources(args)
    groups = groups_of(a, b, args.name_a, args.name_b)
    name, sha256 = args.dataset or a[0].dataset, a[0].dataset_sha256
    data = load_dataset(name, args.data_dir) if output and name else None
    if data is not None:
        name = data.name
        if sha256 not in (None, data.sha256) or not np.array_equal(data.test.labels, a[0].labels):
            raise InputError(
                f"{a[0].name} is not of the data set {name} that is here; give --data-dir"
            )
    facts = {"dataset": name, "dataset_sha256": sha256, "resamples": args.resamples}
    found = compare(a[0].labels, *groups, **facts)
    classes = data.class_names if data else [str(i) for i in range(found.num_classes)]
    if output:
        pictures = {"class_names": classes, "images": data.test.images if data else None}
        made = f"Made with: {command}"
        folder = write_report(found, output, notes=(made,), overwrite=args.overwrite, **pictures)
    if args.json:
        print(overlap_json(found), end="")
        return
    print("\n".join(summary_lines(found, classes)))
    print(f"report: {folder / 'report.html'}")


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    try:
        run(args, shlex.join(["python", "-m", "digits_jax.compare", *arguments]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
