"""What influences recognition, and how much: python -m experiments.critical_factors

Trains the MLP and the CNN with one factor changed at a time, several seeds each, and scores them on
the validation split; then scores the baselines on corrupted test images. Writes factors.csv,
robustness.csv, report.md and figures. Started again, it trains the missing runs.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from digits_jax import ConfigError, Dataset, FitResult, load_dataset
from digits_jax.cli import parse, run_program
from digits_jax.files import read_json, write_json
from digits_jax.formatting import plural
from digits_jax.hardware import keep_freed_memory, use_compilation_cache
from digits_jax.runs.folder import hold_folder
from experiments.critical_factors.factors import (
    FACTORS,
    Factors,
    Settings,
    baseline,
    key_of,
    make_factors,
)
from experiments.critical_factors.images import all_corruptions, corrupt
from experiments.critical_factors.report import Row, read_rows, write_report, write_rows
from experiments.critical_factors.training import count_correct, train
from experiments.study import RESULTS

ARCHS = ("mlp", "cnn")


@dataclass(frozen=True)
class Arguments:
    """What to study."""

    dataset: str = "mnist"  # not auto: without MNIST it would study another data set for hours
    """Data set, as for training."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    factors: tuple[str, ...] = ()
    """Train only for these factors."""
    seeds: int = 3
    """Seeds 0, 1, ... of each training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS / "critical_factors"
    """Folder of the results."""


def main(argv: Sequence[str]) -> int:
    """Trains the missing runs, then reports."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds={arguments.seeds}: give 1 or more; intervals need 2")
    if unknown := set(arguments.factors) - set(FACTORS):
        raise ConfigError(f"--factors={min(unknown)}: give some of {', '.join(FACTORS)}")
    keep_freed_memory()
    use_compilation_cache()
    dataset = load_dataset(arguments.dataset, arguments.data_dir)
    baselines = {arch: baseline(arch, dataset.name) for arch in ARCHS}
    factors = make_factors(baselines, len(dataset.train))
    chosen = {name: factors[name] for name in factors if name in (arguments.factors or FACTORS)}
    folder, seeds = arguments.output, range(arguments.seeds)
    with hold_folder(folder):
        check_settings(folder, {"dataset": dataset.name, "sha256": dataset.sha256}, baselines)
        train_factors(chosen, baselines, seeds, dataset, folder / "factors.csv")
        score_corruptions(baselines, seeds, dataset, folder / "robustness.csv")
        print(write_report(folder, dataset, baselines, factors))
    return 0


def check_settings(folder: Path, facts: dict[str, Any], baselines: dict[str, Settings]) -> None:
    """Notes what all rows of a folder have in common; refuses another study's folder."""
    path = folder / "settings.json"
    wanted = {**facts, "baselines": {arch: key_of(own) for arch, own in baselines.items()}}
    if not path.exists():
        write_json(path, wanted)
    there = read_json(path)
    for name, value in wanted.items():
        if there.get(name) != value:
            raise ConfigError(
                f"{folder} holds a study with {name}={there.get(name)}, not {value}; delete it, or "
                "give another --output"
            )


def train_factors(
    factors: Factors,
    baselines: dict[str, Settings],
    seeds: Sequence[int],
    dataset: Dataset,
    path: Path,
) -> None:
    """Trains every level that has no row yet."""
    rows = read_rows(path)
    levels = [
        (arch, factor, label, {**settings, **factors[factor][arch][label]})
        for factor in factors
        for arch, settings in baselines.items()
        for label in factors[factor].get(arch, {})
    ]
    known: dict[tuple[str, int], Row] = {}
    for arch, factor, label, settings in tqdm(levels, "levels", disable=None):
        keys = {seed: (arch, factor, label, seed) for seed in seeds}
        for seed, key in keys.items():  # another factor may have had the same training
            if key not in rows and (same := known.get((key_of(settings), seed))):
                rows[key] = same._replace(factor=factor, level=label)
        if missing := [seed for seed, key in keys.items() if key not in rows]:
            started = time.perf_counter()
            results = train(settings, missing, dataset)
            seconds = round((time.perf_counter() - started) / len(missing), 3)
            for seed, result in zip(missing, results, strict=True):
                score = result.validation
                rows[keys[seed]] = Row(
                    *keys[seed], score.correct, score.count, seconds, _device(result)
                )
        write_rows(path, rows.values())
        known |= {(key_of(settings), seed): rows[key] for seed, key in keys.items()}


def _device(result: FitResult) -> str:
    return f"{result.results['device']}, {plural(result.results['num_cores'], 'core')}"


def score_corruptions(
    baselines: dict[str, Settings], seeds: Sequence[int], dataset: Dataset, path: Path
) -> None:
    """Scores the baselines that have no rows yet on corrupted test images."""
    rows = read_rows(path)
    results = {}
    for arch, settings in baselines.items():
        missing = [s for s in seeds if (arch, *map(str, all_corruptions()[-1]), s) not in rows]
        if missing:
            found = train(settings, missing, dataset)
            results |= {(arch, seed): r for seed, r in zip(missing, found, strict=True)}
    if not results:
        return
    images, labels = np.asarray(dataset.test.images), dataset.test.labels
    for name, severity in tqdm(all_corruptions(), "corruptions", disable=None):
        corrupted = corrupt(name, images, severity)
        for (arch, seed), result in results.items():
            correct = count_correct(result, corrupted, labels)
            key = arch, name, str(severity), seed
            rows[key] = Row(*key, correct, len(labels), 0.0, _device(result))
    write_rows(path, rows.values())


if __name__ == "__main__":
    sys.exit(run_program(main))
