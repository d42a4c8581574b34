"""One trial: trained by the library's own parts, and scored on the validation split alone.

`digits_jax.fit` ends with the test set. Here the test set isn't even there: a search that can't
read it can't choose by it. A trial runs in this process, as another one would import for longer
than many a trial takes; and what it leaves is a row, no folder.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from digits_jax.config import TrainConfig
from digits_jax.data.datasets import Dataset
from digits_jax.data.stream import open_stream
from digits_jax.errors import InputError
from digits_jax.training.compiling import Compiled, steps_ahead
from digits_jax.training.group import Group
from digits_jax.training.interrupts import StopRequest
from digits_jax.training.plan import prepare
from digits_jax.training.renormalize import renormalize
from digits_jax.training.session import Session
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
    except InputError as error:
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
        if skipped_from is not None:
            return _without_numbers(
                DIVERGED, f"no finite numbers from step {skipped_from} on", seconds
            )
        try:
            found = score(state, dataset.validation)
        except InputError:  # the only one that it raises
            return _without_numbers(DIVERGED, "the validation loss isn't finite", seconds)
    finally:
        # Of hundreds of networks, what JAX has traced would add up.
        jax.clear_caches()
    numbers = {"correct": found.correct, "count": found.count, "loss": round(found.loss, 6)}
    return {"status": TRAINED, **numbers, "train_seconds": seconds, "note": ""}


def _without_numbers(status, note, seconds=0.0):
    numbers = {"correct": None, "count": None, "loss": None, "train_seconds": seconds}
    return {"status": status, **numbers, "note": note}


def _train(session, state, compiled, between):
    """The state after the last step; or the step from which on too many were skipped."""
    plan, config = session.plan, session.plan.config
    pending, in_a_row, step = [], 0, 0
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
            for steps, done in jax.device_get([(np.asarray(s), d) for s, d in pending]):
                for i, number in enumerate(steps):
                    in_a_row = in_a_row + 1 if np.ravel(done["skipped"])[i] else 0
                    if in_a_row >= config.max_skipped_steps:
                        return state, int(number) - in_a_row + 1
            pending = []
            session.between()
            between()
    return state, None
