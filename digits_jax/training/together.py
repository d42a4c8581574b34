"""Trains the members of an ensemble in one step: their states lie side by side under ``jax.vmap``.

Each device has some of the members, and none hears of another's. What is left in each folder is
what a run of its own would have left at that step.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.data.pipeline import BatchOrder, eval_batches
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import save_checkpoint
from digits_jax.training import parallel
from digits_jax.training.calls import steps_in_a_loop
from digits_jax.training.compiling import bare_step
from digits_jax.training.group import Group
from digits_jax.training.interrupts import Interrupted, StopRequest
from digits_jax.training.loop import (
    CHECKPOINT_EVERY_SECONDS,
    add_sums,
    epoch_line,
    epoch_row,
    next_pause,
)
from digits_jax.training.plan import Plan
from digits_jax.training.progress import Progress
from digits_jax.training.record import describe_run
from digits_jax.training.renormalize import make_renormalizer
from digits_jax.training.resuming import NO_SUMS, NOTHING, epoch_ends, what_it_trains
from digits_jax.training.scoring import score_of_sums, score_step
from digits_jax.training.session import Session
from digits_jax.training.state import TrainState, create_train_states


def train_together(
    plan: Plan, workdirs: Sequence[Path], stop: StopRequest, *, quiet: bool = False
) -> None:
    """Trains from the first step to the last, and saves each member in its folder.

    Args:
      plan: of the first member; each other one's seed is one more.
      workdirs: of the members, held by the caller.
      stop: whether a signal came.
      quiet: print nothing.

    Raises:
      ConfigError: a member has diverged, or the members don't fit into memory.
      Interrupted: a signal came, and every member has a checkpoint.
    """
    members = [
        _run_of_its_own(member_plan(plan, index), path) for index, path in enumerate(workdirs)
    ]
    sessions = [
        Session(member, path, Group(), stop, quiet)
        for member, path in zip(members, workdirs, strict=True)
    ]
    parallel.check_memory([plan.abstract_state] * len(members), plan.mesh)
    for session in sessions:
        session.workdir.mkdir(parents=True, exist_ok=True)
        folder.write_json(session.workdir / folder.CONFIG, describe_run(session.plan))
    started = time.perf_counter()
    steps = SideBySide(members)
    compile_seconds = time.perf_counter() - started
    totals = [{**NOTHING, "compile_seconds": compile_seconds / len(members)} for _ in members]
    ends_at, last_save, done = epoch_ends(plan), time.monotonic(), 0
    with Progress(plan.total_steps, 0, quiet=quiet) as progress:
        while done < plan.total_steps:
            before = time.perf_counter()
            step = min(done + steps.most, next_pause(done, plan, ends_at))
            sums = steps.take(done, step - done)
            seconds = (time.perf_counter() - before) / len(members)
            for index, session in enumerate(sessions):
                own = {name: values[index] for name, values in sums.items()}
                totals[index] = add_sums(totals[index], [(range(done + 1, step + 1), own)], session)
                totals[index]["train_seconds"] += seconds
            done = step
            progress.update(done, totals[0], plan.config.batch_size)
            if done == plan.total_steps and plan.config.renormalize:
                steps.renormalize()
            if done in ends_at:
                try:
                    answers = steps.answers(sessions[0].between)
                except Interrupted:
                    _save(steps, sessions, totals, done)  # Each scores its epoch when it goes on.
                    raise
                rows = [
                    _end_epoch(session, score_of_sums(*own), sums, done)
                    for session, own, sums in zip(sessions, answers, totals, strict=True)
                ]
                totals = [{**each, **NO_SUMS} for each in totals]
                progress.line(_line(rows, ends_at[done], plan.config.epochs))
            every = plan.config.checkpoint_every_steps
            due = time.monotonic() - last_save > CHECKPOINT_EVERY_SECONDS and not every
            wished = stop.signal_number is not None or (every > 0 and done % every == 0)
            if done == plan.total_steps or due or wished:
                _save(steps, sessions, totals, done)
                last_save = time.monotonic()
            if stop.signal_number is not None and done < plan.total_steps:
                raise Interrupted("stopped", stop.signal_number)


def _run_of_its_own(member, workdir):
    alone = {"ensemble": 1, "together": None, "workdir": str(workdir)}
    return dataclasses.replace(member, config=dataclasses.replace(member.config, **alone))


def member_plan(plan: Plan, index: int) -> Plan:
    """The same network and optimizer with another seed: what is traced for one is for all.

    Args:
      plan: of the first member.
      index: of the member; its seed is the first's and so many more.
    """
    config = dataclasses.replace(plan.config, seed=plan.config.seed + index)
    return dataclasses.replace(plan, config=config)


class SideBySide:
    """The states of all members, and the steps that change them.

    Args:
      members: a plan each; they differ in their seeds alone, or also in which images train and
        which validate, of which all have as many.
    """

    def __init__(self, members: Sequence[Plan]):
        first, self._members = members[0], members
        devices = list(first.mesh.devices.flat)
        shares = max(n for n in range(1, len(devices) + 1) if len(members) % n == 0)
        mesh = Mesh(np.array(devices[:shares]), (parallel.AXIS,))
        self._sharding = NamedSharding(mesh, P(parallel.AXIS))
        self.most = int(first.config.steps_per_call)
        size, count = first.config.batch_size, len(first.dataset.train)
        alike = all(member.dataset is first.dataset for member in members)
        data = [
            {"image": np.asarray(train.images), "label": np.asarray(train.labels)}
            for train in (member.dataset.train for member in (members[:1] if alike else members))
        ]
        self._data = parallel.replicate(data[0], mesh) if alike else self._side_by_side(data)
        self._orders = [
            BatchOrder(count, seed=member.config.seed, batch_size=size) for member in members
        ]
        self._indices = np.zeros((len(members), self.most, size), np.int32)
        keys = jnp.stack([member.initial_key for member in members])
        states = create_train_states(first.module, first.tx, keys, averaged=first.averaged)
        self._states = jax.device_put(states, self._sharding)
        self._keys = self._side_by_side([member.step_inputs[0] for member in members])
        self._rest = parallel.replicate(first.step_inputs[1:], mesh)  # a teacher is everybody's
        axes = (0, None if alike else 0, 0, None, 0, *[None] * len(self._rest))
        many = jax.vmap(partial(steps_in_a_loop, bare_step(first)), in_axes=axes)
        self._many = (
            jax.jit(many, donate_argnums=0)
            .lower(self._states, self._data, self._placed(), np.int32(0), self._keys, *self._rest)
            .compile()
        )
        batch = next(self._batches([member.dataset.validation for member in members]))
        scored = jax.jit(jax.vmap(score_step))
        self._score = scored.lower(first.for_scoring(self._states), batch).compile()

    def _side_by_side(self, trees):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        return jax.device_put(stacked, self._sharding)

    def _placed(self):
        # A copy: the host fills the array again while the devices still read this one.
        return jax.device_put(self._indices.copy(), self._sharding)

    def take(self, done: int, count: int) -> dict[str, np.ndarray]:
        """Takes ``count`` steps after ``done``: each sum, [members, most]."""
        for own, order in zip(self._indices, self._orders, strict=True):
            for i in range(count):
                own[i] = order.indices(done + i)
        inputs = self._data, self._placed(), np.int32(count), self._keys, *self._rest
        self._states, sums = self._many(self._states, *inputs)
        return jax.device_get(sums)

    def state(self, index: int) -> TrainState:
        """One member's state, where its plan has it."""
        devices = list(self._sharding.mesh.devices.flat)
        place, own = divmod(index, len(self._members) // len(devices))
        # Its device's own part: indexing what is spread over several gathers it from all of them,
        # and on a busy CPU devices that wait for each other have aborted.
        there = [
            {shard.device: shard.data for shard in leaf.addressable_shards}[devices[place]]
            for leaf in jax.tree.leaves(self._states)
        ]
        state = jax.tree.unflatten(jax.tree.structure(self._states), _pick(there, own))
        return parallel.replicate(state, self._members[index].mesh)

    def answers(
        self, between: Callable[[], None] = lambda: None
    ) -> list[tuple[dict[str, float], np.ndarray, np.ndarray]]:
        """What each member makes of its validation split: all of them at once.

        Args:
          between: called before each batch; it may raise.

        Returns:
          For each member what `score_of_sums` takes.
        """
        splits = [member.dataset.validation for member in self._members]
        states = self._members[0].for_scoring(self._states)
        found, under_way = [], None
        for batch in self._batches(splits):
            between()
            last, under_way = under_way, self._score(states, batch)
            if last is not None:  # fetched while the next one is scored
                found.append(jax.device_get(last))
        found.append(jax.device_get(under_way))
        logits = np.concatenate([logits for _, logits in found], axis=1)
        totals = {name: sum(sums[name].astype(float) for sums, _ in found) for name in found[0][0]}
        return [
            ({name: float(totals[name][i]) for name in totals}, split.labels, logits[i])
            for i, split in enumerate(splits)
        ]

    def _batches(self, splits):
        """Of all members' splits, side by side."""
        size, count = self._members[0].eval_batch_size, len(splits)
        if self._members[0].platform == "cpu":
            # Together as large as one network's: five of them took three times the memory.
            size = -(-size * self._sharding.mesh.size // count)
        each = [eval_batches(split.images, split.labels, size) for split in splits]
        for batches in zip(*each, strict=True):
            stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
            yield jax.device_put(stacked, self._sharding)

    def renormalize(self) -> None:
        """Estimates the statistics of all members anew; see `training.renormalize`."""
        estimate = make_renormalizer(self._members[0])
        states = [
            estimate(self.state(index), member.dataset.train)
            for index, member in enumerate(self._members)
        ]
        self._states = self._side_by_side(states)


@jax.jit
def _pick(leaves, index):
    return [leaf[index] for leaf in leaves]


def _end_epoch(session, score, totals, done):
    row = epoch_row(session.plan, done, totals, score)
    folder.append_metrics(session.workdir, row)
    return row


def _line(rows, epoch, epochs):
    """As of one run, of the members' means, with the range of what the validation split says."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    found = [row["validation_accuracy"] for row in rows]
    mean |= {"skipped_steps": sum(row["skipped_steps"] for row in rows)}
    return f"{epoch_line(mean, epoch, epochs)} ({min(found):.2%} to {max(found):.2%})"


def _save(steps, sessions, totals, done):
    for index, session in enumerate(sessions):
        own = {**totals[index], "total_seconds": _total(totals[index])}
        own["run"] = what_it_trains(session.plan)
        path = session.workdir / folder.CHECKPOINTS
        save_checkpoint(path, done, steps.state(index), own)


def _total(totals: dict[str, Any]) -> float:
    return totals["train_seconds"] + totals["compile_seconds"]
