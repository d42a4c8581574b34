"""python -m digits_jax.compare RUN_A RUN_B: where is B better than A, by how much, how sure."""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from digits_jax.data.datasets import load_dataset
from digits_jax.errors import InputError
from digits_jax.evaluation.comparison import Comparison, Group, Run, compare
from digits_jax.evaluation.report import check_output, overlap_json, write_report
from digits_jax.evaluation.summary import summary_lines
from digits_jax.runs.folder import PREDICTIONS, read_config, read_results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m digits_jax.compare", description=__doc__)
    add = made.add_argument
    add("runs", nargs="*", metavar="RUN", help="folders of two finished runs, A and B")
    add("--a", nargs="+", metavar="RUN", help="folders of A's runs, a seed each, two or more")
    add("--b", nargs="+", metavar="RUN", help="folders of B's runs, two or more")
    files = "instead of runs: files of any framework with labels int [n], logits [n, classes]"
    add("--predictions", nargs=2, metavar=("A.npz", "B.npz"), help=files)
    add("--name-a", help="what the report calls A (default: its architecture)")
    add("--name-b", help="what the report calls B")
    add("--dataset", help="with --predictions: the data set, for the pictures (default: none)")
    add("--data-dir", help="folder of the data set (default: as in training)")
    add("-o", "--output", metavar="DIR", help="folder of the report (default: comparison)")
    add("--overwrite", action="store_true", help="replace an older comparison in DIR")
    add("--json", action="store_true", help="print overlap.json; a report only with -o")
    add("--resamples", type=int, default=10_000, help="of the bootstrap (default: %(default)s)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Parse, compare, write, print; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    try:
        return _run(args, shlex.join(["python", "-m", "digits_jax.compare", *arguments]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
