"""The two halves of the study: the factors' trainings, then the baseline models' robustness.

Both leave a row as soon as it is known, and do only what has no row yet.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from digits_jax.data.splits import Dataset
from experiments.critical_factors.corruptions import all_changes, corrupt
from experiments.critical_factors.factors import Job
from experiments.critical_factors.recipe import Recipe
from experiments.critical_factors.results import (
    FactorRow,
    RobustnessRow,
    append_rows,
    check_recipes,
    read_rows,
)
from experiments.critical_factors.training import (
    Compiled,
    Lane,
    Prepared,
    compile_for,
    count_correct,
    steps_of,
    train,
)


class Study:
    """What both halves share: the data, and what was compiled.

    Args:
      dataset: to train and score on.
      lanes: recipe -> trainings at once.
      between: called before each step; it may raise.
    """

    def __init__(
        self, dataset: Dataset, lanes: Callable[[Recipe], int], *, between: Callable[[], None]
    ):
        self.dataset, self.prepared, self.between = dataset, Prepared(dataset), between
        self.lanes = lanes
        self._compiled: tuple[tuple, Compiled] | None = None

    def compiled(self, recipe: Recipe) -> Compiled:
        """What trains a recipe; that of the last one is kept."""
        alike = recipe.compiled_alike()
        if self._compiled is None or self._compiled[0] != alike:
            total_steps = steps_of(recipe, len(self.dataset.train))
            functions = compile_for(recipe, total_steps, self.dataset.num_classes)
            self._compiled = (alike, functions)
        return self._compiled[1]

    def trained(self, lanes: Sequence[Lane]):
        """The compiled functions of some lanes, and what `train` returns."""
        compiled = self.compiled(lanes[0].recipe)
        return compiled, *train(compiled, lanes, self.prepared, self.between)


def chunks(lanes: Sequence[Lane], most: Callable[[Recipe], int]) -> list[list[Lane]]:
    """Lanes that can be trained at once.

    Args:
      lanes: all.
      most: recipe -> how many at once.

    Example:
      >>> a, b = Recipe("mlp"), Recipe("mlp", batch_size=8)
      >>> found = chunks([Lane(a, 0), Lane(b, 0), Lane(a, 1), Lane(a, 2)], lambda recipe: 2)
      >>> [len(each) for each in found]
      [2, 1, 1]
    """
    groups: dict[tuple, list[Lane]] = {}
    for lane in lanes:
        groups.setdefault(lane.recipe.compiled_alike(), []).append(lane)
    found = []
    for group in groups.values():
        size = most(group[0].recipe)
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def recipes_of(jobs: Sequence[Job]) -> dict[tuple, str]:
    """A row's key -> the digest of the recipe that it is of."""
    return {(j.arch, j.factor, j.level, j.seed): j.recipe.digest() for j in jobs}


def recipes_of_changes(baselines: dict[str, Recipe], seeds: int) -> dict[tuple, str]:
    """As `recipes_of`, for the rows on changed test images."""
    return {
        (arch, name, severity, seed): recipe.digest()
        for arch, recipe in baselines.items()
        for name, severity in all_changes()
        for seed in range(seeds)
    }


def missing(jobs: Sequence[Job], rows: Sequence[FactorRow]) -> dict[Lane, list[Job]]:
    """The trainings that jobs without a row need: each with the rows that it will give."""
    done = {row.key for row in rows}
    wanted: dict[Lane, list[Job]] = {}
    for job in jobs:
        if (job.arch, job.factor, job.level, job.seed) not in done:
            wanted.setdefault(Lane(job.recipe, job.seed), []).append(job)
    return wanted


def run_factors(study: Study, jobs: Sequence[Job], path: Path, bar) -> None:
    """Trains what is missing and scores it on the validation split.

    Args:
      study: the data and how to train.
      jobs: all rows that there are to be.
      path: of the table.
      bar: a tqdm bar; it counts rows.
    """
    rows = read_rows(path, FactorRow)
    wanted = recipes_of(jobs)
    check_recipes(rows, wanted, path)
    todo = missing(jobs, rows)
    _begin(bar, len(jobs), len(jobs) - sum(map(len, todo.values())))
    # A training that another factor has had is not done again.
    known = {(row.recipe, row.seed): row for row in rows}
    for lane in list(todo):
        row = known.get((lane.recipe.digest(), lane.seed))
        if row:
            _write(path, bar, [_row(job, row.correct, row) for job in todo.pop(lane)])
    for group in chunks(list(todo), study.lanes):
        jobs_of = [todo[lane] for lane in group]
        bar.set_postfix_str(f"{jobs_of[0][0].arch} {jobs_of[0][0].factor} {jobs_of[0][0].level}")
        _write(path, bar, _train_rows(study, group, jobs_of))


def _train_rows(study, group, jobs_of):
    started = time.perf_counter()
    compiled, states, numbers = study.trained(group)
    split = study.dataset.validation
    images = [study.prepared.images("validation", lane.recipe.preprocessing) for lane in group]
    labels = np.asarray(split.labels, np.int32)
    found = count_correct(compiled, states, numbers, images, labels)
    facts = FactorRow(
        *("", "", "", 0, 0, "", 0, len(split)),
        steps=steps_of(group[0].recipe, len(study.dataset.train)),
        seconds=round((time.perf_counter() - started) / len(group), 3),
    )
    return [
        _row(job, correct, facts)
        for jobs, correct in zip(jobs_of, found, strict=True)
        for job in jobs
    ]


def _row(job, correct, like):
    return FactorRow(
        *(job.arch, job.factor, job.level, job.seed, int(job.is_baseline), job.recipe.digest()),
        *(correct, like.count, like.steps, like.seconds),
    )


def _begin(bar, total, there):
    """What an earlier call has left isn't counted into the pace, nor into the time that is left."""
    bar.reset(total)
    bar.initial = bar.n = there
    bar.refresh()


def _write(path, bar, rows):
    append_rows(path, rows)
    bar.update(len(rows))


def run_robustness(study: Study, baselines: dict[str, Recipe], seeds: int, path: Path, bar) -> None:
    """Trains the baseline of each architecture and seed, and scores it on changed test images.

    Args:
      study: the data and how to train.
      baselines: by architecture.
      seeds: how many.
      path: of the table.
      bar: a tqdm bar; it counts rows.
    """
    rows, changes = read_rows(path, RobustnessRow), all_changes()
    wanted = recipes_of_changes(baselines, seeds)
    check_recipes(rows, wanted, path)
    done = {row.key for row in rows} & wanted.keys()
    _begin(bar, len(wanted), len(done))
    for arch, recipe in baselines.items():
        lanes = [
            Lane(recipe, seed)
            for seed in range(seeds)
            if any((arch, *change, seed) not in done for change in changes)
        ]
        for group in chunks(lanes, study.lanes):
            _score_changes(study, group, done, path, bar)


def _score_changes(study, group, done, path, bar):
    compiled, states, numbers = study.trained(group)
    states = jax.block_until_ready(states)
    split, recipe = study.dataset.test, group[0].recipe
    images, labels = np.asarray(split.images), np.asarray(split.labels, np.int32)
    for name, severity in all_changes():
        keys = {lane.seed: (recipe.arch, name, severity, lane.seed) for lane in group}
        if set(keys.values()) <= done:
            continue
        study.between()
        bar.set_postfix_str(f"{recipe.arch} {name} {severity}")
        changed = corrupt(name, images, severity)
        found = count_correct(compiled, states, numbers, [changed] * len(group), labels)
        rows = [
            RobustnessRow(*keys[lane.seed], recipe.digest(), correct, len(split))
            for lane, correct in zip(group, found, strict=True)
            if keys[lane.seed] not in done
        ]
        append_rows(path, rows)
        bar.update(len(rows))
