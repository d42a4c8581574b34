"""Measures the accuracy and the time of training: python -m experiments.accuracy

Trains recipes with several seeds. Without --recipes, those of the README's table, each seed in a
process whose time is measured: training.json and training.md. The others are trained as
ensembles and take hours: accuracy.json and accuracy.md, with what the networks reach one by one and
together. The test set is read once per seed, after the last step.
"""

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from digits_jax import ConfigError, Run, read_run
from digits_jax.cli import parse, run_program
from digits_jax.evaluation.error_analysis import PUBLISHED_LABEL_ERRORS
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.fields import Switch
from digits_jax.files import read_json
from digits_jax.formatting import fixed, markdown_table, mean_sd, percent, plural
from digits_jax.hardware import cpu_count
from digits_jax.runs.folder import hold_folder
from experiments.study import RESULTS, train_run, write_results

# Flags of `digits_jax.train`.
TIMED = {
    "cnn-mnist-standard": "--arch=cnn --dataset=mnist",
    "mlp-mnist-standard": "--arch=mlp --dataset=mnist",
    "cnn-mnist-quick": "--arch=cnn --preset=quick --dataset=mnist",
    "mlp-mnist-quick": "--arch=mlp --preset=quick --dataset=mnist",
    "cnn-digits-standard": "--arch=cnn --dataset=digits",
    "mlp-digits-standard": "--arch=mlp --dataset=digits",
}
LARGE = "--arch=mlp --preset=best --hidden-sizes=2048,2048,2048 --adversarial=0.05"
# "{runs}" is the folder of all ensembles.
ENSEMBLES = {
    "cnn-standard": "--arch=cnn --dataset=mnist",
    # A fifth of the parameters of the preset standard.
    "cnn-small": "--arch=cnn --channels=24,48 --dense-size=128 --batch-size=256 --epochs=25 "
    "--dataset=mnist",
    "cnn-tiny": "--arch=cnn --preset=tiny --dataset=mnist",
    "mlp-adversarial": "--arch=mlp --augment=none --adversarial=0.1 --dropout=0.2 "
    "--hidden-sizes=1024,1024 --epochs=30 --dataset=mnist",
    "mlp-best": "--arch=mlp --preset=best --dataset=mnist",
    "cnn-best": "--arch=cnn --preset=best --dataset=mnist",
    # No preset, as it takes hours on a CPU.
    "mlp-large": f"{LARGE} --epochs=300 --dataset=mnist",
    # Distillation from five networks takes minutes on a GPU and hours on a CPU.
    "cnn-distilled": "--arch=cnn --preset=best --dataset=mnist --teacher={runs}/cnn-best",
    "mlp-large-distilled": f"{LARGE} --epochs=60 --dataset=mnist --teacher={{runs}}/cnn-best",
    "mlp-distilled": "--arch=mlp --preset=best --epochs=20 --augment-strength=1 --dataset=mnist "
    "--teacher={runs}/cnn-small",
    "cnn-digits": "--arch=cnn --dataset=digits",
    "mlp-digits": "--arch=mlp --dataset=digits",
}
RECIPES = (*TIMED, *ENSEMBLES)
KEPT = (
    *("seed", "process_seconds", "test_accuracy", "test_errors", "test_count"),
    *("validation_accuracy", "num_params", "steps", "train_seconds", "compile_seconds"),
    *("total_seconds", "device", "num_devices", "jax_version", "params_sha256"),
)


@dataclass(frozen=True)
class Arguments:
    """What to train."""

    recipes: tuple[str, ...] = tuple(TIMED)
    """Recipes, a teacher's before those that learn from it."""
    seeds: int = 5
    """Seeds 0, 1, ... of each, at least 2."""
    together: Switch = False
    """Train an ensemble's seeds in one vmapped step; on an accelerator they always are."""
    runs: Path = Path("runs")
    """Folder of the runs: table/RECIPE-seedN, and accuracy/RECIPE for ensembles."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of the tables."""


def main(argv: Sequence[str]) -> None:
    """Trains the missing runs, then writes the tables of all runs."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if unknown := set(arguments.recipes) - set(RECIPES):
        raise ConfigError(f"--recipes={min(unknown)}: give some of {', '.join(RECIPES)}")
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, for a standard deviation")
    with hold_folder(arguments.output):
        for name in arguments.recipes:
            timed = name in TIMED
            path = arguments.output / ("training.json" if timed else "accuracy.json")
            table = read_json(path) if path.exists() else {}
            table[name] = train_timed(name, arguments) if timed else train_ensemble(name, arguments)
            write_results(path, table, (training_table if timed else accuracy_table)(table))


def train_timed(name: str, arguments: Arguments) -> dict[str, Any]:
    """Trains each seed in its own process; returns the row of training.json."""
    runs = []
    for seed in range(arguments.seeds):
        flags = [*TIMED[name].split(), f"--seed={seed}", *_data_flag(arguments)]
        run = train_run(flags, arguments.runs / "table" / f"{name}-seed{seed}")
        runs.append({key: run[key] for key in KEPT})
    return {"flags": TIMED[name], "cores": cpu_count(), "runs": runs}


def train_ensemble(name: str, arguments: Arguments) -> dict[str, Any]:
    """Trains the seeds as an ensemble; returns the row of accuracy.json."""
    folder = arguments.runs / "accuracy"
    flags = [*ENSEMBLES[name].format(runs=folder).split(), f"--ensemble={arguments.seeds}"]
    flags += ["--together"] if arguments.together else []
    train_run([*flags, *_data_flag(arguments)], folder / name)
    return {"flags": ENSEMBLES[name], **measure(folder / name)}


def _data_flag(arguments: Arguments) -> list[str]:
    return [f"--data-dir={arguments.data_dir}"] if arguments.data_dir else []


def measure(workdir: Path) -> dict[str, Any]:
    """Reads the accuracies of an ensemble's networks and of the ensemble."""
    ensemble = read_run(workdir)
    members = [read_run(workdir / name) for name in ensemble.results["members"]]
    return {
        "dataset": ensemble.results["dataset"],
        "device": ensemble.results["device"],
        "cores": members[0].results["num_cores"],
        "num_params": members[0].results["num_params"],
        "members": [{"seed": run.results["seed"], **score(run)} for run in members],
        "ensemble": score(ensemble),
    }


def score(run: Run) -> dict[str, Any]:
    """Scores a run's test predictions: all of them, each half, and without doubtful labels."""
    correct = run.logits.argmax(-1) == run.labels
    half = len(correct) // 2
    found = {
        "test_accuracy": float(correct.mean()),
        "test_errors": int((~correct).sum()),
        "test_count": len(correct),
        "first_half_accuracy": float(correct[:half].mean()),
        "second_half_accuracy": float(correct[half:].mean()),
    }
    for name in ("validation_accuracy", "total_seconds", "params_sha256"):
        found[name] = run.results[name]
    if doubtful := PUBLISHED_LABEL_ERRORS.get(run.results["dataset"]):
        found["without_doubtful_accuracy"] = float(np.delete(correct, list(doubtful)).mean())
    return found


def training_table(table: dict[str, Any]) -> str:
    """Makes the table of training.json, a line per recipe."""
    lines = []
    for row in (table[name] for name in TIMED if name in table):
        runs = row["runs"]
        accuracies = [run["test_accuracy"] for run in runs]
        seconds = [run["process_seconds"] for run in runs if run["process_seconds"] is not None]
        lines.append(
            (
                f"`{row['flags']}`",
                f"{mean_sd(accuracies, factor=100)}%",
                _interval(statistics.mean(accuracies), runs[0]["test_count"]),
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


def accuracy_table(table: dict[str, Any]) -> str:
    """Makes the table of accuracy.json: a line for a recipe's seeds, and one for all together."""
    lines = []
    for row in (table[name] for name in ENSEMBLES if name in table):
        members, ensemble = row["members"], row["ensemble"]
        accuracies = [run["test_accuracy"] for run in members]
        minutes = statistics.median(run["total_seconds"] / 60 for run in members)
        platform, _, kind = row["device"].partition(": ")
        # On an accelerator networks train side by side, and a run has a share of it.
        where = plural(row["cores"], "core") if platform == "cpu" else kind
        accuracy, deviation = mean_sd(accuracies, 3, factor=100).split(" ± ")
        lines.append(
            (
                f"`{row['flags']}`",
                f"{row['num_params']:,}",
                f"**{accuracy}%** ± {deviation}",
                _interval(statistics.mean(accuracies), members[0]["test_count"]),
                percent(max(accuracies)),
                *_parts(members),
                f"{fixed(minutes, 1)} min, {where}",
            )
        )
        lines.append(
            (
                f"... `--ensemble={len(members)}`",
                f"{len(members)} × {row['num_params']:,}",
                f"**{percent(ensemble['test_accuracy'])}**",
                _interval(ensemble["test_accuracy"], ensemble["test_count"]),
                "",
                *_parts([ensemble]),
                f"{fixed(ensemble['total_seconds'] / 60, 1)} min",
            )
        )
    columns = ["`python -m digits_jax.train` ...", "parameters", "test accuracy", "95% interval"]
    columns += ["best", "without doubtful labels", "first, second half", "a run"]
    devices = ", ".join(dict.fromkeys(row["device"] for row in table.values()))
    seeds = sorted({len(row["members"]) for row in table.values()})
    note = (
        f"Mean ± standard deviation of {' or '.join(map(str, seeds))} seeds after the last step, "
        "and below each the accuracy of the mean of their probabilities; Wilson's intervals are of "
        f"one run of that accuracy; a run: its median time ({devices})."
    )
    return f"{markdown_table(lines, columns)}\n\n{note}"


def _interval(accuracy: float, count: int) -> str:
    low, high = wilson_interval(accuracy * count, count)
    return f"{percent(low)} to {percent(high)}"


def _parts(runs: Iterable[dict[str, Any]]) -> tuple[str, str]:
    """Mean accuracies without doubtful labels, and of the halves of the test set."""
    parts = [
        [run[f"{name}_accuracy"] for run in runs if f"{name}_accuracy" in run]
        for name in ("without_doubtful", "first_half", "second_half")
    ]
    doubtless, first, second = (percent(statistics.mean(own) if own else None) for own in parts)
    return doubtless, f"{first}, {second}"


if __name__ == "__main__":
    sys.exit(run_program(main))
