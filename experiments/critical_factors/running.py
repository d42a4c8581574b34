"""One run of the study, from its arguments to its report."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.machine import describe_machine
from digits_jax.benchmarks.words import where
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import ConfigError
from digits_jax.runs.folder import replace_file
from digits_jax.training.interrupts import Interrupted, stop_on_signals
from digits_jax.training.parallel import (
    keep_freed_memory,
    start_backend,
    use_compilation_cache,
)
from experiments.critical_factors.factors import choose_factors, make_factors, make_jobs
from experiments.critical_factors.figures import draw_all
from experiments.critical_factors.ranking import rank
from experiments.critical_factors.recipe import ARCHS, baseline
from experiments.critical_factors.report import markdown, ranking_table, seeds_text
from experiments.critical_factors.results import (
    FACTORS,
    ROBUSTNESS,
    FactorRow,
    RobustnessRow,
    hold_output,
    machines_of,
    noting_machine,
    of_today,
    read_rows,
)
from experiments.critical_factors.study import (
    Study,
    recipes_of,
    recipes_of_changes,
    run_factors,
    run_robustness,
)
from experiments.critical_factors.training import lanes_at_once

REPORT = "report.md"


def run(arguments: Any, command: str) -> int:
    """Trains what is missing, then reports.

    Args:
      arguments: as the program has them.
      command: that started it, for the report.

    Returns:
      0, or 128 + N where signal N stopped it.
    """
    # Not auto: who lacks MNIST would study another data set for hours.
    name = arguments.dataset or ("digits" if arguments.quick else "mnist")
    keep_freed_memory()  # before there are other threads
    device = start_backend(arguments.platform, cpu_devices=1)[0]
    use_compilation_cache()
    dataset = load_dataset(name, arguments.data_dir)
    if dataset.notice:
        print(f"notice: {dataset.notice}", file=sys.stderr)
    archs = [arch for arch in ARCHS if arch in arguments.archs]
    baselines = {a: baseline(a, dataset.name, quick=arguments.quick) for a in archs}
    factors = make_factors(baselines, len(dataset.train), quick=arguments.quick)
    factors = choose_factors(factors, arguments.factors)
    jobs = make_jobs(factors, baselines, arguments.seeds)
    if not jobs:
        raise ConfigError(
            f"--factors={','.join(arguments.factors)}: not of the {' or '.join(archs)}; "
            "give another one, or both --archs"
        )
    auto = partial(lanes_at_once, platform=device.platform, seeds=arguments.seeds)
    lanes = auto if arguments.lanes == "auto" else lambda recipe: int(arguments.lanes)
    settings = {"dataset": dataset.name, "sha256": dataset.sha256, "quick": arguments.quick}
    folder = arguments.folder
    with hold_output(folder, settings), stop_on_signals() as stop:
        study = Study(dataset, lanes, between=stop.check)
        try:
            with noting_machine(folder, where(_machine(device))):
                with _bar("factors") as bar:
                    run_factors(study, jobs, folder / FACTORS, bar)
                if arguments.robustness:
                    with _bar("robustness") as bar:
                        path = folder / ROBUSTNESS
                        run_robustness(study, baselines, arguments.seeds, path, bar)
        except Interrupted as interrupted:
            print(f"stopped; all that was finished is in {folder}: `{command}` goes on there")
            return 128 + interrupted.signal_number
        _report(folder, dataset, command, quick=arguments.quick)
    return 0


def _machine(device):
    return describe_machine({"platform": device.platform, "kind": device.device_kind})


def _bar(what):
    # Where nobody watches, a line now and then.
    watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    interval = 0.2 if watched else 10.0
    return tqdm(desc=what, unit="row", mininterval=interval, dynamic_ncols=watched, total=0)


def _report(folder: Path, dataset, command, *, quick):
    """Of all that is in the folder: what this call trained may be a part of it."""
    rows = read_rows(folder / FACTORS, FactorRow)
    robustness = read_rows(folder / ROBUSTNESS, RobustnessRow)
    baselines = {a: baseline(a, dataset.name, quick=quick) for a in ARCHS if _has(rows, arch=a)}
    factors = make_factors(baselines, len(dataset.train), quick=quick)
    factors = [each for each in factors if _has(rows, factor=each.name)]
    seeds = 1 + max(row.seed for row in [*rows, *robustness])
    rows = of_today(rows, recipes_of(make_jobs(factors, baselines, seeds)))
    robustness = of_today(robustness, recipes_of_changes(baselines, seeds))
    facts = {
        "command": command,
        "dataset": dataset.name,
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "test": len(dataset.test),
        "seeds": seeds_text(rows),
        "where": "; ".join(machines_of(folder)) or "a machine that wasn't noted",
    }
    ranked = rank(factors, rows)
    pictures = draw_all(factors, rows, ranked, robustness, dataset.test.images, folder)
    text = markdown(facts, baselines, factors, rows, ranked, robustness, pictures)
    replace_file(folder / REPORT, lambda file: file.write(text.encode()))
    if ranked:
        print(ranking_table(ranked))
    print(f"{folder / REPORT}: the report, with {len(pictures)} pictures beside it")


def _has(rows, **values):
    return any(all(getattr(row, k) == v for k, v in values.items()) for row in rows)
