"""The README's table: python -m experiments.training_table

Trains each row's command with several seeds, one process after another, and writes
``experiments/results/training.json`` and ``training.md``: mean and standard deviation of the
test accuracy after the last step, and of the whole process's time. A run that is there already
is not done again, so that an interrupted table goes on where it stopped.
"""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.runs.folder import read_json, replace_files
from experiments.running import results_folder, train_once

RESULTS = Path(__file__).parent / "results"
ROWS = {
    "cnn-mnist-standard": ("--arch=cnn", "--dataset=mnist"),
    "mlp-mnist-standard": ("--arch=mlp", "--dataset=mnist"),
    "cnn-mnist-quick": ("--arch=cnn", "--preset=quick", "--dataset=mnist"),
    "mlp-mnist-quick": ("--arch=mlp", "--preset=quick", "--dataset=mnist"),
    "cnn-digits-standard": ("--arch=cnn", "--dataset=digits"),
    "mlp-digits-standard": ("--arch=mlp", "--dataset=digits"),
}
KEPT = (
    "seed",
    "process_seconds",
    "test_accuracy",
    "test_errors",
    "test_count",
    "validation_accuracy",
    "num_params",
    "steps",
    "train_seconds",
    "compile_seconds",
    "total_seconds",
    "device",
    "num_devices",
    "jax_version",
    "params_sha256",
)


@dataclass(frozen=True)
class Arguments:
    """What to train."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Rows of the table."""
    seeds: int = 5
    """Seeds 0, 1, ... of each row."""
    runs: Path = Path("runs/table")
    """Folder of the runs."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of training.json and training.md."""


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, then writes the table of all that is there."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown or arguments.seeds < 2:
        raise ConfigError(
            f"rows {', '.join(unknown) or 'fine'}, seeds {arguments.seeds}: "
            f"rows are {', '.join(ROWS)}; seeds are 2 or more, for a standard deviation"
        )
    path = results_folder(arguments.output) / "training.json"
    table = read_json(path) if path.exists() else {}
    for row in arguments.rows:
        results = [
            train_once([*ROWS[row], f"--seed={seed}"], arguments.runs / f"{row}-seed{seed}")
            for seed in range(arguments.seeds)
        ]
        runs = [{name: result[name] for name in KEPT} for result in results]
        command = "python -m digits_jax.train " + " ".join(ROWS[row])
        table[row] = {"command": command, "cores": os.cpu_count(), "runs": runs}
        text = markdown(table)
        files = {path: (json.dumps(table, indent=1) + "\n").encode()}
        replace_files({**files, path.with_suffix(".md"): text.encode()})
    print(text)


def markdown(table: dict) -> str:
    """The table, a line per row."""
    lines = [
        "| `python -m digits_jax.train` ... | test accuracy, mean ± sd | 95% interval "
        "| whole process | parameters |",
        "|---|---|---|---|---|",
    ]
    for row in (row for row in ROWS if row in table):
        runs = table[row]["runs"]
        accuracy = [run["test_accuracy"] for run in runs]
        mean, count = statistics.mean(accuracy), runs[0]["test_count"]
        low, high = wilson_interval(mean * count, count)
        seconds = statistics.median(
            run["process_seconds"] for run in runs if run["process_seconds"] is not None
        )
        arguments = table[row]["command"].removeprefix("python -m digits_jax.train ")
        lines.append(
            f"| `{arguments}` | {mean:.2%} ± {100 * statistics.stdev(accuracy):.2f} "
            f"| {low:.2%} to {high:.2%} | {seconds:.1f} s | {runs[0]['num_params']:,} |"
        )
    first = next(iter(table.values()))
    run = first["runs"][0]
    lines.append("")
    lines.append(
        f"{len(first['runs'])} seeds, last step, test set read once per seed; "
        f"{first['cores']} cores ({run['device']}), jax {run['jax_version']}, "
        "warm file and compilation caches."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
