"""Compares recipes on images held out of training: python -m experiments.choose --name=NAME

Each candidate, the flags of ``digits_jax.train`` after a ``--``, is trained with several seeds and
compared with the first one seed by seed. The test split isn't there. With ``--folds=12`` each of
twelve seeds is scored on another twelfth of the training and validation images: a difference of a
tenth of a percent needs more images than one validation split has.

  python -m experiments.choose --name=tiny -- --preset=tiny -- --preset=tiny --dropout=0.1

Writes NAME.json and NAME.md. Trainings that are there are kept: with more seeds or candidates it
continues.
"""

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax import (
    ConfigError,
    Dataset,
    RunOptions,
    TrainConfig,
    TrainingDivergedError,
    load_dataset,
    prepare,
    train_members,
)
from digits_jax.cli import parse, run_program
from digits_jax.files import read_json
from digits_jax.formatting import duration, fixed, markdown_table, mean_sd
from digits_jax.hardware import keep_freed_memory, use_compilation_cache
from digits_jax.runs.folder import hold_folder
from experiments.study import RESULTS, hold_out, mean_se, without_test, write_results

# Seeds trained side by side in one step: on an accelerator as fast as one, on a CPU in about two
# thirds of the time.
TOGETHER = 3


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    name: str
    """Name of the files that are written."""
    seeds: int = 3
    """Seeds 0, 1, ... of each candidate, at least 2."""
    folds: int = 0
    """Score seed K on part K of so many, and train it on the others; 0: score all on the validation split."""  # noqa: E501
    dataset: str = "mnist"
    """Data set, as for training."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS / "choices"
    """Folder of the files."""


def main(argv: Sequence[str]) -> None:
    """Trains the missing runs, then writes the table of all runs."""
    own, *candidates = split_candidates(argv)
    arguments = parse(Arguments, own, doc=__doc__ or "")
    configs = check(arguments, candidates)
    keep_freed_memory()
    use_compilation_cache()
    dataset = load_dataset(arguments.dataset, arguments.data_dir)
    with hold_folder(arguments.output):
        path = arguments.output / f"{arguments.name}.json"
        table = open_table(path, arguments, configs)
        table["command"] = shlex.join(["python", "-m", "experiments.choose", *argv])
        write_results(path, table, markdown(table))
        # All candidates with some seeds before the next seeds: an interrupted table is comparable.
        for first in range(0, arguments.seeds, TOGETHER):
            for flags, config in configs.items():
                some = range(first, min(first + TOGETHER, arguments.seeds))
                missing = [seed for seed in some if str(seed) not in table["runs"][flags]]
                if missing:
                    found = train(config, dataset, missing, arguments.folds)
                    table["runs"][flags] |= found
                    print(flags, found, flush=True)
                    write_results(path, table, markdown(table))


def split_candidates(argv: Sequence[str]) -> list[Any]:
    """Returns the program's own arguments, then a line for each candidate.

    Examples:
      >>> split_candidates(["--name=x", "--", "--arch=cnn", "--", "--arch=mlp", "--dropout=0.1"])
      [['--name=x'], '--arch=cnn', '--arch=mlp --dropout=0.1']
    """
    parts: list[list[str]] = [[]]
    for word in argv:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    return [parts[0], *map(shlex.join, parts[1:])]


def check(arguments: Arguments, candidates: Sequence[str]) -> dict[str, TrainConfig]:
    """Returns each candidate's configuration; refuses what can't be compared fairly."""
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more; one shows no spread")
    if arguments.folds and arguments.folds < arguments.seeds:
        raise ConfigError(f"--folds={arguments.folds}: give 0, or at least as many as --seeds")
    if len(set(candidates)) < 2 or len(set(candidates)) < len(candidates):
        raise ConfigError("give two or more different candidates, each after a --")
    configs = {}
    for flags in candidates:
        config = parse(TrainConfig, shlex.split(flags), doc=__doc__ or "")
        for name in ("dataset", "seed", "ensemble", "teacher"):
            if getattr(config, name) != getattr(TrainConfig(), name):
                raise ConfigError(f"{flags}: --{name} isn't for one candidate; leave it out")
        configs[flags] = replace(config, dataset=arguments.dataset)
    return configs


def open_table(path: Path, arguments: Arguments, configs: dict[str, TrainConfig]) -> dict[str, Any]:
    """Reads the table that is there, or begins one, with a row for each candidate.

    A table of another data set or of other folds is refused, and flags that were another recipe
    when they were trained: presets change.
    """
    own = {"dataset": arguments.dataset, "folds": arguments.folds}
    table = read_json(path) if path.exists() else {**own, "recipes": {}, "runs": {}}
    for name, value in own.items():
        if table[name] != value:
            raise ConfigError(
                f"--{name}={value}: {path} has --{name}={table[name]}; give another --name"
            )
    for flags, config in configs.items():
        recipe = json.loads(json.dumps(config.resolve(arguments.dataset).to_dict()))
        noted = table["recipes"].setdefault(flags, recipe)
        table["runs"].setdefault(flags, {})
        if changed := [name for name in recipe if noted.get(name) != recipe[name]]:
            raise ConfigError(
                f"{flags}: trained in {path} with other {', '.join(changed)} than today; give "
                "another --name"
            )
    return table


def train(
    config: TrainConfig, dataset: Dataset, seeds: Sequence[int], folds: int
) -> dict[str, dict[str, Any]]:
    """Trains some seeds side by side; returns the row of each."""
    if folds > len(dataset.train) + len(dataset.validation):
        raise ConfigError(
            f"--folds={folds}: {dataset.name} has fewer images; give a smaller number"
        )
    datasets = [hold_out(dataset, s, folds) if folds else without_test(dataset) for s in seeds]
    setup = prepare(config, RunOptions(devices=1), datasets[0])
    setups = [setup.with_seed(s, own) for s, own in zip(seeds, datasets, strict=True)]
    try:
        results = train_members(setups)
    except TrainingDivergedError as error:
        return {str(seed): {"note": str(error)} for seed in seeds}
    return {
        str(seed): {
            "correct": result.validation.correct,
            "count": result.validation.count,
            "loss": round(result.validation.loss, 6),
            "train_seconds": round(result.results["train_seconds"], 3),
            "device": result.results["device"],
        }
        for seed, result in zip(seeds, results, strict=True)
    }


def markdown(table: dict[str, Any]) -> str:
    """Makes the table: a line per candidate, and differences over the seeds of both."""
    accuracies = {
        flags: {s: 100 * r["correct"] / r["count"] for s, r in runs.items() if "correct" in r}
        for flags, runs in table["runs"].items()
    }
    first = next(iter(accuracies.values()))
    lines = []
    for flags, runs in table["runs"].items():
        own = accuracies[flags]
        if not own:
            note = next((run["note"] for run in runs.values()), "not trained yet")
            lines.append((f"`{flags}`", len(runs), note, None, None, None))
            continue
        gains = [own[seed] - first[seed] for seed in own if seed in first]
        good = [runs[seed] for seed in own]
        lines.append(
            (
                f"`{flags}`",
                len(own),
                f"{mean_sd(list(own.values()), 3)}%",
                fixed(statistics.mean(run["loss"] for run in good), 4),
                mean_se(gains, 3) if gains and own is not first else None,
                duration(statistics.median(run["train_seconds"] for run in good)),
            )
        )
    columns = [f"`python -m digits_jax.train --dataset={table['dataset']}` ...", "seeds"]
    columns += ["validation accuracy", "loss", "points more than the first", "a training"]
    split = "on the validation split"
    if table["folds"]:
        split = f"seed K on part K of {table['folds']} of the training and validation images"
    devices = dict.fromkeys(
        r["device"] for runs in table["runs"].values() for r in runs.values() if "device" in r
    )
    note = (
        "Accuracy: mean ± standard deviation over the seeds; differences: mean ± standard error; "
        f"last step, {split}; {'; '.join(devices)}. A training: its seconds, or its share of those "
        f"of several.\n\nLast written by `{table['command']}`."
    )
    return f"{markdown_table(lines, columns)}\n\n{note}"


if __name__ == "__main__":
    sys.exit(run_program(main))
