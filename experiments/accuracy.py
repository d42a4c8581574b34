"""How accurate each recipe can get: python -m experiments.accuracy

Trains each recipe as an ensemble of several seeds, and writes accuracy.json and accuracy.md: what
the networks reach one by one and together. Recipes were chosen on the validation split; the test
set is read once per seed, after the last step. A recipe that is there already isn't repeated.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from digits_jax import ConfigError, Run, read_run
from digits_jax.cli import parse, run_program
from digits_jax.evaluation.error_analysis import PUBLISHED_LABEL_ERRORS
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.formatting import fixed, markdown_table, mean_sd, percent, plural
from digits_jax.runs.folder import hold_folder, read_json
from experiments.study import RESULTS, train_run, write_results


class Recipe(NamedTuple):
    """Flags of `digits_jax.train`, and goals: of the mean, the best seed, and all together.

    In the flags "{runs}" is the folder of all recipes.
    """

    flags: str
    goal: float | None = None
    best: float | None = None
    together: float | None = None


LARGE = "--arch=mlp --preset=best --hidden-sizes=2048,2048,2048 --adversarial=0.05"
RECIPES = {
    "cnn-standard": Recipe("--arch=cnn --dataset=mnist", 0.9962),
    # The preset standard before, with a fifth of the parameters.
    "cnn-small": Recipe(
        "--arch=cnn --channels=24,48 --dense-size=128 --batch-size=256 --epochs=25 --dataset=mnist"
    ),
    "cnn-tiny": Recipe("--arch=cnn --preset=tiny --dataset=mnist", 0.994),
    "mlp-adversarial": Recipe(
        "--arch=mlp --augment=none --adversarial=0.1 --dropout=0.2 --hidden-sizes=1024,1024 "
        "--epochs=30 --dataset=mnist",
        0.99,
    ),
    "mlp-best": Recipe("--arch=mlp --preset=best --dataset=mnist", 0.996, best=0.9966),
    "cnn-best": Recipe("--arch=cnn --preset=best --dataset=mnist", 0.9976, together=0.998),
    # No preset, as it takes hours on a CPU.
    "mlp-large": Recipe(f"{LARGE} --epochs=300 --dataset=mnist"),
    # To learn from five networks takes minutes of a GPU, and hours of a CPU.
    "cnn-distilled": Recipe("--arch=cnn --preset=best --dataset=mnist --teacher={runs}/cnn-best"),
    "mlp-large-distilled": Recipe(
        f"{LARGE} --epochs=60 --dataset=mnist --teacher={{runs}}/cnn-best"
    ),
    "mlp-distilled": Recipe(
        "--arch=mlp --preset=best --epochs=20 --augment-strength=1 --dataset=mnist "
        "--teacher={runs}/cnn-small"
    ),
    "cnn-digits": Recipe("--arch=cnn --dataset=digits", 0.99),
    "mlp-digits": Recipe("--arch=mlp --dataset=digits", 0.98),
}


@dataclass(frozen=True)
class Arguments:
    """What to train."""

    recipes: tuple[str, ...] = tuple(RECIPES)
    """Recipes, in this order."""
    seeds: int = 5
    """Seeds 0, 1, ... of each."""
    together: bool = False
    """Train a recipe's seeds in one vmapped step; on an accelerator they always are."""
    runs: Path = Path("runs/accuracy")
    """Folder of the runs."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of accuracy.json and accuracy.md."""


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, then writes the table of all that is there."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if unknown := set(arguments.recipes) - set(RECIPES):
        raise ConfigError(f"--recipes={min(unknown)}: give some of {', '.join(RECIPES)}")
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, for a standard deviation")
    for place, name in enumerate(arguments.recipes):
        teacher = RECIPES[name].flags.partition("--teacher={runs}/")[2]
        there = (arguments.runs / teacher / "results.json").exists()
        if teacher and not there and teacher not in arguments.recipes[:place]:
            raise ConfigError(
                f"--recipes={name}: its teacher {teacher} isn't in {arguments.runs}; give "
                f"--recipes={teacher},{name}"
            )
    with hold_folder(arguments.output):
        path = arguments.output / "accuracy.json"
        table = read_json(path) if path.exists() else {}
        for name in arguments.recipes:
            workdir = arguments.runs / name
            flags = [word.format(runs=arguments.runs) for word in RECIPES[name].flags.split()]
            flags += [f"--ensemble={arguments.seeds}"]
            flags += ["--together"] if arguments.together else []
            flags += [f"--data-dir={arguments.data_dir}"] if arguments.data_dir else []
            train_run(flags, workdir)
            table[name] = {"flags": RECIPES[name].flags, **measure(workdir)}
            write_results(path, table, markdown(table))


def measure(workdir: Path) -> dict[str, Any]:
    """Reads what the networks of an ensemble reach, one by one and together."""
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
        **{
            name: run.results[name]
            for name in ("validation_accuracy", "total_seconds", "params_sha256")
        },
    }
    if doubtful := PUBLISHED_LABEL_ERRORS.get(run.results["dataset"]):
        found["without_doubtful_accuracy"] = float(np.delete(correct, list(doubtful)).mean())
    return found


def markdown(table: dict[str, Any]) -> str:
    """Makes the table: for each recipe a line for its seeds, and one for them together."""
    lines = []
    for name in (name for name in RECIPES if name in table):
        row, recipe = table[name], RECIPES[name]
        members, ensemble = row["members"], row["ensemble"]
        accuracies = [run["test_accuracy"] for run in members]
        mean, best = statistics.mean(accuracies), max(accuracies)
        minutes = statistics.median(run["total_seconds"] / 60 for run in members)
        platform, _, kind = row["device"].partition(": ")
        # On an accelerator networks train side by side, and a run has a share of it.
        where = plural(row["cores"], "core") if platform == "cpu" else kind
        goals = [_goal("", recipe.goal, mean), _goal("best ", recipe.best, best)]
        accuracy, deviation = mean_sd(accuracies, 3, factor=100).split(" ± ")
        lines.append(
            (
                f"`{row['flags']}`",
                f"{row['num_params']:,}",
                f"**{accuracy}%** ± {deviation}",
                _interval(mean, members[0]["test_count"]),
                percent(best),
                *_parts(members),
                f"{fixed(minutes, 1)} min, {where}",
                "; ".join(filter(None, goals)),
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
                _goal("", recipe.together, ensemble["test_accuracy"]),
            )
        )
    columns = ["`python -m digits_jax.train` ...", "parameters", "test accuracy", "95% interval"]
    columns += ["best", "without doubtful labels", "first, second half", "a run", "goal"]
    devices = ", ".join(dict.fromkeys(row["device"] for row in table.values()))
    seeds = sorted({len(row["members"]) for row in table.values()})
    note = (
        f"Mean ± standard deviation of {' or '.join(map(str, seeds))} seeds after the last step, "
        "and below each the accuracy of the mean of their probabilities; Wilson's intervals are of "
        f"one run of that accuracy; a run: its median time ({devices})."
    )
    return f"{markdown_table(lines, columns)}\n\n{note}"


def _goal(what: str, goal: float | None, accuracy: float) -> str:
    reached = "yes" if goal is not None and accuracy >= goal else "no"
    return "" if goal is None else f"{what}≥ {percent(goal)}: {reached}"


def _interval(accuracy: float, count: int) -> str:
    low, high = wilson_interval(accuracy * count, count)
    return f"{percent(low)} to {percent(high)}"


def _parts(runs: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Mean accuracies without doubtful labels, and of the halves of the test set."""

    def mean(name: str) -> str:
        values = [run[name] for run in runs if name in run]
        return percent(statistics.mean(values)) if values else percent(None)

    halves = f"{mean('first_half_accuracy')}, {mean('second_half_accuracy')}"
    return mean("without_doubtful_accuracy"), halves


if __name__ == "__main__":
    sys.exit(run_program(main))
