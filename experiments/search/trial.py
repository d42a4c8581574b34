"""One trial: trained by the library's own parts, and scored on the validation split alone.

`digits_jax.fit` ends with the test set. Here the test set isn't even there: a search that can't
read it can't choose by it. A trial runs in this process, as another one would import for longer
than many a trial takes; and what it leaves is a row, no folder.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from digits_jax.config import TrainConfig
from digits_jax.data.datasets import Dataset
from digits_jax.data.pipeline import open_stream
from digits_jax.data.splits import Split, fixed_order
from digits_jax.errors import DigitsError
from digits_jax.training import parallel
from digits_jax.training.compiling import Compiled, steps_ahead
from digits_jax.training.group import Group
from digits_jax.training.interrupts import StopRequest
from digits_jax.training.plan import prepare
from digits_jax.training.renormalize import renormalize
from digits_jax.training.scoring import score_of_sums
from digits_jax.training.session import Session
from digits_jax.training.together import SideBySide, member_plan
from experiments.search.halving import DIVERGED, FAILED, TRAINED


def without_test(dataset: Dataset) -> Dataset:
    """The data set with an empty test split.

    Example:
      >>> from digits_jax.data.datasets import load_dataset
      >>> len(without_test(load_dataset("digits")).test)
      0
    """
    test = dataset.test
    return dataclasses.replace(
        dataset, test=dataclasses.replace(test, images=test.images[:0], labels=test.labels[:0])
    )


def hold_out(dataset: Dataset, index: int, count: int) -> Dataset:
    """The data set with another validation split: one of so many parts, in turn.

    Args:
      dataset: its training and validation images are dealt out, always in the same way; the first
        of twelve parts of a data set such as MNIST is its own validation split.
      index: of the part, from 0; after the last comes the first again.
      count: of the parts, which are of one size; what is left over is trained on.

    Example:
      >>> from digits_jax.data.datasets import load_dataset
      >>> digits = load_dataset("digits")
      >>> [len(part) for part in (digits.train, digits.validation)]
      [1257, 180]
      >>> fifth = hold_out(digits, 0, 5)
      >>> [len(part) for part in (fifth.train, fifth.validation)]
      [1150, 287]
    """
    order = fixed_order(len(dataset.train))
    first, rest = dataset.validation, dataset.train
    images = np.concatenate([first.images, rest.images[order]])
    labels = np.concatenate([first.labels, rest.labels[order]])
    size = len(labels) // count
    held = np.zeros(len(labels), bool)
    held[index % count * size :][:size] = True
    return dataclasses.replace(
        dataset,
        train=Split(images[~held], labels[~held]),
        validation=Split(images[held], labels[held]),
    )


def train_trial(
    config: TrainConfig, dataset: Dataset, stop: StopRequest, between: Callable[[], None]
) -> dict[str, Any]:
    """Trains from scratch, and scores the validation split after the last step.

    Args:
      config: of the trial; its epochs are the rung's.
      dataset: without its test split.
      stop: whether a signal came.
      between: called now and then, for whoever shows progress.

    Returns:
      {"status", "correct", "count", "loss", "train_seconds", "note"}: images recognised of so many,
      and their mean cross-entropy in nats; None where it diverged, or can't be trained at all:
      either is a result, too.

    Raises:
      Interrupted: a signal came.
    """
    try:
        plan = prepare(config, dataset)
    except DigitsError as error:
        return _without_numbers(FAILED, str(error))
    # It writes nothing, so that there is no folder.
    session = Session(plan, None, Group(), stop, quiet=True)
    try:
        session.between()
        with Compiled(session, early=True) as compiled:
            state = plan.initial_state()
            compiled.step()
            score = compiled.score()
        session.between()
        started = time.perf_counter()
        state, skipped_from = _train(session, state, compiled, between)
        if plan.config.renormalize:
            state = renormalize(plan, state)
        seconds = round(time.perf_counter() - started, 3)
        return _scored(lambda: score(state, dataset.validation), skipped_from, seconds)
    finally:
        # Of hundreds of networks, what JAX has traced would add up.
        jax.clear_caches()


def train_seeds(
    config: TrainConfig, datasets: Sequence[Dataset], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """`train_trial` of several seeds, all of them in one step: on an accelerator as fast as one.

    Args:
      config: of the trial; its own seed doesn't count.
      datasets: of each training, without its test split; they differ at most in what is held out.
      seeds: of each training.

    Returns:
      What `train_trial` returns, of each; the training's seconds are shared out.
    """
    try:
        plan = prepare(dataclasses.replace(config, seed=0), datasets[0])
        parallel.check_memory([plan.abstract_state] * len(seeds), plan.mesh)
    except DigitsError as error:
        return [_without_numbers(FAILED, str(error)) for _ in seeds]
    members = [
        dataclasses.replace(member_plan(plan, seed), dataset=dataset)
        for seed, dataset in zip(seeds, datasets, strict=True)
    ]
    steps = SideBySide(members)
    skips = [_Skips(config.max_skipped_steps) for _ in seeds]
    started, done = time.perf_counter(), 0
    while done < plan.total_steps:
        count = min(steps.most, plan.total_steps - done)
        skipped = steps.take(done, count)["skipped"]
        for own, values in zip(skips, skipped, strict=True):
            own.add(range(done + 1, done + count + 1), values)
        done += count
    if plan.config.renormalize:
        steps.renormalize()
    seconds = round((time.perf_counter() - started) / len(seeds), 3)
    found = [
        _scored(partial(score_of_sums, *answers), own.too_many_from, seconds)
        for answers, own in zip(steps.answers(), skips, strict=True)
    ]
    jax.clear_caches()
    return found


class _Skips:
    """Steps that were skipped in a row, and the first of those that were too many."""

    def __init__(self, most: int):
        self._most, self._in_a_row = most, 0
        self.too_many_from: int | None = None

    def add(self, steps, skipped):
        for step, is_skipped in zip(steps, skipped, strict=False):
            self._in_a_row = self._in_a_row + 1 if is_skipped else 0
            if self._in_a_row >= self._most and self.too_many_from is None:
                self.too_many_from = int(step) - self._in_a_row + 1


def _scored(score, skipped_from, seconds):
    """The outcome of a training that has ended."""
    if skipped_from is not None:
        return _without_numbers(DIVERGED, f"no finite numbers from step {skipped_from} on", seconds)
    try:
        found = score()
    except DigitsError:  # the only one that it raises
        return _without_numbers(DIVERGED, "the validation loss isn't finite", seconds)
    numbers = {"correct": found.correct, "count": found.count, "loss": round(found.loss, 6)}
    return {"status": TRAINED, **numbers, "train_seconds": seconds, "note": ""}


def _without_numbers(status, note, seconds=0.0):
    numbers = {"correct": None, "count": None, "loss": None, "train_seconds": seconds}
    return {"status": status, **numbers, "note": note}


def _train(session, state, compiled, between):
    """The state after the last step; or the step from which on too many were skipped."""
    plan, config = session.plan, session.plan.config
    pending, skips, step = [], _Skips(config.max_skipped_steps), 0
    ahead = steps_ahead(plan)
    with open_stream(
        plan.dataset.train, seed=config.seed, batch_size=config.batch_size, share=plan.share
    ) as stream:
        calls = compiled.calls(stream)
        while step < plan.total_steps:
            count = min(calls.most, plan.total_steps - step)
            state, sums = calls.take(state, step, count, 0)
            pending.append(sums)
            step += count
            if len(pending) * calls.most < ahead and step < plan.total_steps:
                continue
            for steps, sums in pending:
                skips.add(steps, np.ravel(jax.device_get(sums["skipped"])))
            if skips.too_many_from is not None:
                return state, skips.too_many_from
            pending = []
            session.between()
            between()
    return state, None
