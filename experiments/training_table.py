"""What training reaches, and how long it takes: python -m experiments.training_table

Trains each row's command with several seeds, one process after another, and writes training.json
and training.md: test accuracy after the last step, and the time of the whole process. A run that is
there already isn't repeated.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.formatting import markdown_table, mean_sd, percent
from digits_jax.hardware import cpu_count
from digits_jax.runs.folder import hold_folder, read_json
from experiments.study import RESULTS, train_run, write_results

ROWS = {
    "cnn-mnist-standard": "--arch=cnn --dataset=mnist",
    "mlp-mnist-standard": "--arch=mlp --dataset=mnist",
    "cnn-mnist-quick": "--arch=cnn --preset=quick --dataset=mnist",
    "mlp-mnist-quick": "--arch=mlp --preset=quick --dataset=mnist",
    "cnn-digits-standard": "--arch=cnn --dataset=digits",
    "mlp-digits-standard": "--arch=mlp --dataset=digits",
}
KEPT = (
    *("seed", "process_seconds", "test_accuracy", "test_errors", "test_count"),
    *("validation_accuracy", "num_params", "steps", "train_seconds", "compile_seconds"),
    *("total_seconds", "device", "num_devices", "jax_version", "params_sha256"),
)


@dataclass(frozen=True)
class Arguments:
    """What to train."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Rows of the table."""
    seeds: int = 5
    """Seeds 0, 1, ... of each row, at least 2."""
    runs: Path = Path("runs/table")
    """Folder of the runs."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of training.json and training.md."""


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, then writes the table of all that is there."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if unknown := set(arguments.rows) - set(ROWS):
        raise ConfigError(f"--rows={min(unknown)}: give some of {', '.join(ROWS)}")
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, for a standard deviation")
    with hold_folder(arguments.output):
        path = arguments.output / "training.json"
        table = read_json(path) if path.exists() else {}
        for name in arguments.rows:
            runs = [
                train_run(
                    [*ROWS[name].split(), f"--seed={seed}"], arguments.runs / f"{name}-seed{seed}"
                )
                for seed in range(arguments.seeds)
            ]
            table[name] = {
                "flags": ROWS[name],
                "cores": cpu_count(),
                "runs": [{key: run[key] for key in KEPT} for run in runs],
            }
            write_results(path, table, markdown(table))


def markdown(table: dict[str, Any]) -> str:
    """Makes the table, a line per row."""
    lines = []
    for row in (table[name] for name in ROWS if name in table):
        runs = row["runs"]
        accuracies, count = [run["test_accuracy"] for run in runs], runs[0]["test_count"]
        low, high = wilson_interval(statistics.mean(accuracies) * count, count)
        seconds = [run["process_seconds"] for run in runs if run["process_seconds"] is not None]
        lines.append(
            (
                f"`{row['flags']}`",
                f"{mean_sd(accuracies, factor=100)}%",
                f"{percent(low)} to {percent(high)}",
                f"{statistics.median(seconds):.1f} s" if seconds else None,
                f"{runs[0]['num_params']:,}",
            )
        )
    columns = ["`python -m digits_jax.train` ...", "test accuracy", "95% interval"]
    row = next(iter(table.values()))
    run = row["runs"][0]
    note = (
        f"Mean ± standard deviation of {len(row['runs'])} seeds, last step, test set read once per "
        f"seed; median time of the whole process; {row['cores']} cores ({run['device']}), jax "
        f"{run['jax_version']}, warm file and compilation caches."
    )
    return f"{markdown_table(lines, [*columns, 'whole process', 'parameters'])}\n\n{note}"


if __name__ == "__main__":
    sys.exit(run_program(main))
