"""How accurate can it get: python -m experiments.accuracy

Trains each recipe with several seeds, as an ensemble whose members are also looked at one by one,
and writes ``experiments/results/accuracy.json`` and ``accuracy.md``. What was chosen was chosen on
the validation split; the test set is read once per seed, after the last step. A recipe that is
there already is not trained again, so that an interrupted table goes on where it stopped.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.benchmarks.words import some
from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.evaluation.error_analysis import PUBLISHED_LABEL_ERRORS
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.hardware import cpu_count
from digits_jax.runs import folder
from digits_jax.runs.ensembles import members_of
from digits_jax.runs.folder import read_json, read_run, replace_files
from experiments.cores import shares
from experiments.members import train_members
from experiments.running import results_folder

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Recipe:
    """What is trained, and what its mean accuracy is to reach.

    Attributes:
      flags: of `digits_jax.train`; "{runs}" is the folder of all recipes.
      goal: a fraction, or None.
      best: what the best seed is to reach, or None.
      together: what all seeds are to reach together, or None.
    """

    flags: str
    goal: float | None = None
    best: float | None = None
    together: float | None = None


LARGE = "--arch=mlp --preset=best --hidden-sizes=2048,2048,2048 --adversarial=0.05"
RECIPES = {
    "cnn-standard": Recipe("--arch=cnn --dataset=mnist", 0.9962),
    # What standard was before, of a fifth of the parameters.
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
    # What `best` isn't as it takes hours on a CPU.
    "mlp-large": Recipe(f"{LARGE} --epochs=300 --dataset=mnist"),
    # Learning from five takes a GPU's minutes, and hours of a CPU.
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

    recipes: Annotated[
        tuple[str, ...], tyro.conf.arg(help_behavior_hint=f"(default: {','.join(RECIPES)})")
    ] = tuple(RECIPES)
    """Recipes, in this order."""
    seeds: int = 5
    """Seeds 0, 1, ... of each."""
    jobs: int = 1
    """Members trained at once, each with its share of the cores."""
    runs: Path = Path("runs/accuracy")
    """Folder of the runs."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: as for training)")
    ] = None
    """Folder of the data set."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of accuracy.json and accuracy.md."""


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, then writes the table of all that is there."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    if unknown := [name for name in arguments.recipes if name not in RECIPES]:
        raise ConfigError(f"--recipes={','.join(unknown)}: give some of {', '.join(RECIPES)}")
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, for a standard deviation")
    shares(arguments.jobs)  # so many as there are cores: said before a folder is made
    _check_teachers(arguments)
    path = results_folder(arguments.output) / "accuracy.json"
    for row in (read_json(path) if path.exists() else {}).values():
        if (count := len(row["members"])) != arguments.seeds:
            raise ConfigError(
                f"--seeds={arguments.seeds}: {path} is of {count} seeds; give --seeds={count}, or "
                "another --output"
            )
    for name in arguments.recipes:
        flags = [word.format(runs=arguments.runs) for word in RECIPES[name].flags.split()]
        flags += [f"--data-dir={arguments.data_dir}"] if arguments.data_dir else []
        workdir = arguments.runs / name
        train_members(flags, workdir, arguments.seeds, arguments.jobs)
        row = {"flags": RECIPES[name].flags, **measure(workdir)}
        # Read after the hours of training: others may have been added to it.
        table = {**(read_json(path) if path.exists() else {}), name: row}
        ordered = {name: table[name] for name in RECIPES if name in table}
        text = markdown(ordered)
        files = {path: (json.dumps(ordered, indent=1) + "\n").encode()}
        replace_files({**files, path.with_suffix(".md"): text.encode()})
    print(text)


def _check_teachers(arguments):
    for place, name in enumerate(arguments.recipes):
        teacher = RECIPES[name].flags.partition("--teacher={runs}/")[2]
        there = teacher in arguments.recipes[:place]
        there = there or (arguments.runs / teacher / folder.RESULTS).exists()
        if teacher and not there:
            raise ConfigError(
                f"--recipes={name}: it learns from {teacher}, which isn't in {arguments.runs}; "
                f"give --recipes={teacher},{name}"
            )


def measure(workdir: Path) -> dict[str, Any]:
    """What the members of an ensemble reach, each and together.

    Args:
      workdir: of a finished ensemble.
    """
    runs = [read_run(member) for member in members_of(workdir)]
    together = read_run(workdir)
    return {
        "dataset": together.results["dataset"],
        "device": together.results["device"],
        # Runs of before don't say: they had all.
        "cores": runs[0].results.get("num_cores", cpu_count()),
        "num_params": runs[0].results["num_params"],
        "members": [{"seed": run.results["seed"], **_scores(run)} for run in runs],
        "ensemble": _scores(together),
    }


def _scores(run):
    right = run.logits.argmax(-1) == run.labels
    half = len(right) // 2
    found = {
        "test_accuracy": float(right.mean()),
        "test_errors": int((~right).sum()),
        "test_count": len(right),
        "first_half_accuracy": float(right[:half].mean()),
        "second_half_accuracy": float(right[half:].mean()),
        "validation_accuracy": run.results["validation_accuracy"],
        "total_seconds": run.results["total_seconds"],
        "params_sha256": run.results["params_sha256"],
    }
    doubtful = PUBLISHED_LABEL_ERRORS.get(run.results["dataset"])
    if doubtful:
        sound = [i for i in range(len(right)) if i not in doubtful]
        found["without_doubtful_accuracy"] = float(right[sound].mean())
    return found


def markdown(table: dict[str, Any]) -> str:
    """The table: for each recipe a line for its seeds, and one for them together."""
    lines = [
        "| `python -m digits_jax.train` ... | parameters | test accuracy | 95% interval | best "
        "| without doubtful labels | first, second half | a run | goal |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in table.items():
        lines += _lines(RECIPES[name], row)
    devices = ", ".join(dict.fromkeys(row["device"] for row in table.values()))
    seeds = len(next(iter(table.values()))["members"])
    lines.append("")
    lines.append(
        f"Mean ± standard deviation of {seeds} seeds after the last step, and below each what they "
        "answer together (the mean of their probabilities); Wilson's intervals are of one run of "
        f"that accuracy; a run: its median time ({devices})."
    )
    return "\n".join(lines) + "\n"


def _lines(recipe, row):
    members, together = row["members"], row["ensemble"]
    found = [run["test_accuracy"] for run in members]
    mean, minutes = (
        statistics.mean(found),
        statistics.median(run["total_seconds"] / 60 for run in members),
    )
    reached = [_reached("", recipe.goal, mean), _reached("best ", recipe.best, max(found))]
    yield _line(
        f"`{row['flags']}`",
        f"{row['num_params']:,}",
        f"**{mean:.3%}** ± {100 * statistics.stdev(found):.3f}",
        _interval(mean, members[0]["test_count"]),
        f"{max(found):.2%}",
        _mean(members, "without_doubtful_accuracy"),
        f"{_mean(members, 'first_half_accuracy')}, {_mean(members, 'second_half_accuracy')}",
        f"{minutes:.1f} min, {_on(row)}",
        "; ".join(filter(None, reached)),
    )
    yield _line(
        f"... `--ensemble={len(members)}`",
        f"{len(members)} × {row['num_params']:,}",
        f"**{together['test_accuracy']:.2%}**",
        _interval(together["test_accuracy"], together["test_count"]),
        "",
        _mean([together], "without_doubtful_accuracy"),
        f"{together['first_half_accuracy']:.2%}, {together['second_half_accuracy']:.2%}",
        f"{together['total_seconds'] / 60:.1f} min",
        _reached("", recipe.together, together["test_accuracy"]),
    )


def _reached(what, goal, found):
    return "" if goal is None else f"{what}≥ {goal:.2%}: {'yes' if found >= goal else 'no'}"


def _on(row):
    """What a run had: on an accelerator, where members train side by side, a share of it."""
    platform, _, kind = row["device"].partition(": ")
    return some(row["cores"], "core") if platform == "cpu" else kind


def _line(*cells):
    return f"| {' | '.join(cells)} |"


def _interval(accuracy, count):
    low, high = wilson_interval(accuracy * count, count)
    return f"{low:.2%} to {high:.2%}"


def _mean(runs, name):
    if name not in runs[0]:
        return "-"
    return f"{statistics.mean(run[name] for run in runs):.2%}"


if __name__ == "__main__":
    sys.exit(run_program(main))
