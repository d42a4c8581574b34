"""Where a run goes on: its newest whole checkpoint, as far as it is this very run's."""

import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import jax

from digits_jax.config import (
    HERE,
    NOT_THE_RUN,
    difference_in_resuming,
    read_config,
    with_later_fields,
)
from digits_jax.data.pipeline import num_steps
from digits_jax.errors import CheckpointError, DigitsError, shown
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import (
    clear_up,
    last_saved,
    list_steps,
    restore_newest,
)
from digits_jax.training.plan import Plan, prepare
from digits_jax.training.record import describe_run
from digits_jax.training.state import TrainState

# What a checkpoint holds beside the state: sums over the epoch so far, steps that were skipped
# one after the other up to now, and seconds over all sessions.
NO_SUMS = {"loss": 0.0, "correct": 0.0, "count": 0.0, "skipped": 0.0}
NO_SECONDS = {"train_seconds": 0.0, "compile_seconds": 0.0, "total_seconds": 0.0}
# What looking at a finished run again doesn't change in its results.
_OF_THE_TRAINING = (
    *NO_SECONDS,
    *("images_per_second", "convolution", "steps_per_call"),
    *("device", "num_devices", "num_cores", "jax_version"),
)
NOTHING = {**NO_SUMS, **NO_SECONDS, "skipped_in_a_row": 0.0}


def check_same_run(plan: Plan, workdir: Path) -> None:
    """Raises an DigitsError where a plan isn't that of the run in a folder."""
    path = workdir / folder.CONFIG
    old = read_config(path)
    name = difference_in_resuming(plan.config, old)
    if name:
        flag = name.replace("_", "-")
        raise CheckpointError(
            f"--{flag}={getattr(plan.config, name)}: the run in {workdir} has "
            f"{flag}={getattr(old, name)}; leave the flag out, or start a new run"
        )
    check_same_data(plan, path)
    check_same_teacher(plan, path)


def check_same_data(plan: Plan, path: Path) -> None:
    """Raises an DigitsError where the run of a ``config.json`` was trained on other data.

    Data of another name may well be meant.
    """
    described = _described(path, "dataset")
    sha256 = described.get("sha256")
    if sha256 != plan.dataset.sha256 and described.get("name") in (None, plan.dataset.name):
        raise CheckpointError(
            f"{path.parent}: was trained on another version of {plan.dataset.name!r} "
            f"(dataset_sha256 {str(sha256)[:12]}..., now {plan.dataset.sha256[:12]}...); "
            "give the same data with --data-dir"
        )


def check_same_teacher(plan: Plan, path: Path) -> None:
    """Raises an DigitsError where the run of a ``config.json`` learned from another network.

    Those of before say so in their checkpoints alone.
    """
    if plan.teacher:
        now = list(plan.teacher.sha256)
        _check_teacher(plan, path.parent, _described(path, "teacher").get("sha256", now))


def _check_teacher(plan, workdir, there):
    if there != list(plan.teacher.sha256):
        raise CheckpointError(
            f"--teacher={plan.config.teacher}: another network is there than the one that "
            f"{workdir} learns from; give that one's folder"
        )


def keep_teachers_place(plan: Plan, path: Path) -> None:
    """Writes into a run's ``config.json`` where its teacher is by now.

    Into one of before, which doesn't say who that is, it writes nothing: a finished ensemble's
    could be anybody.
    """
    values = folder.read_json(path)
    if "teacher" in values and values["config"]["teacher"] != plan.config.teacher:
        values["config"]["teacher"] = plan.config.teacher
        folder.write_json(path, values)


def other_places(plan: Plan, path: Path) -> list[str]:
    """In what this place isn't that of the run of a ``config.json``, so that bits may differ.

    Returns:
      A sentence for each package and device that is another.
    """
    now = describe_run(plan)
    lines = []
    for part in ("versions", "device"):
        there = _described(path, part)
        for name, value in now[part].items():
            if (old := there.get(name)) != value:
                old = shown(str(old))
                lines.append(f"{name} is {value}, was {old} there: the last bits may differ")
    return lines


def _described(path, part):
    found = folder.read_json(path).get(part)
    return found if isinstance(found, dict) else {}


def start(plan: Plan, workdir: Path, *, quiet: bool) -> tuple[TrainState, dict[str, float]]:
    """The state and the running totals to go on from; drops what was logged after them.

    Args:
      plan: whose configuration says whether to resume.
      workdir: the run's folder.
      quiet: print nothing but warnings.

    Raises:
      CheckpointError: there are checkpoints, and none is whole and of this run.
    """
    if not plan.config.resume:
        return plan.initial_state(), dict(NOTHING)
    path = workdir / folder.CHECKPOINTS
    restored = _restore(plan, workdir)
    saved = last_saved(path)
    if restored is None:
        if saved is not None:
            raise CheckpointError(
                f"{path}: holds no checkpoint, but step {saved} was saved there: put it back, "
                "or start a new run in another folder"
            )
        clear_up(path, {})
        state, totals, step = plan.initial_state(), dict(NOTHING), 0
        at = "no checkpoint yet: starting"
    else:
        warn_of_damage(path, restored)
        newest = max([restored.step, *restored.damaged])
        if saved is not None and saved > newest:
            _warn(f"{path / str(saved)}: was saved and is gone; going back to step {newest}")
        clear_up(path, restored.damaged)
        state, step = restored.tree, restored.step
        totals = {name: restored.values[name] for name in NOTHING}
        at = "already finished" if step == plan.total_steps else "going on"
    if jax.process_index() == 0:
        # A run that was stopped while an epoch was scored scores it again.
        done = step - 1 if totals["count"] + totals["skipped"] else step
        rows = folder.keep_metrics(workdir, done)
        gone = {end for end in epoch_ends(plan) if end <= done} - {row["step"] for row in rows}
        if gone:
            _warn(
                f"{workdir / folder.METRICS}: {len(gone)} of the epochs up to step {done} are "
                f"missing or damaged (first: step {min(gone)}); the others are kept"
            )
        (workdir / folder.SKIPPED).unlink(missing_ok=True)
    if not quiet:
        print(f"{workdir}: {at} at step {step} of {plan.total_steps}", flush=True)
    return state, totals


def epoch_ends(plan: Plan) -> dict[int, float]:
    """The steps at which epochs end, and how many have then."""
    config, size = plan.config, len(plan.dataset.train)
    epochs = range(1, math.ceil(config.epochs))
    ends = {num_steps(epoch, size, config.batch_size): epoch for epoch in epochs}
    return {**ends, plan.total_steps: config.epochs}


def warn_of_damage(path: Path, restored: Any) -> None:
    """Says which newer checkpoints were passed over."""
    for step, why in restored.damaged.items():
        _warn(f"{path / str(step)}: {why}; going back to step {restored.step}")


def _warn(text):
    if jax.process_index() == 0:  # of several processes one speaks
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _restore(plan, workdir):
    def check(step, values):
        _check_values(values, step, plan, workdir)

    return restore_newest(workdir / folder.CHECKPOINTS, plan.abstract_state, check)


def _check_values(values, step, plan, workdir):
    if values.keys() != {*NOTHING, "run"}:
        raise CheckpointError(
            f"{workdir / folder.CHECKPOINTS / str(step)}: is of another version of digits_jax; "
            "train the run anew, in another folder"
        )
    saved, own = with_later_fields(values["run"]), what_it_trains(plan)
    saved["teacher"] = saved.get("teacher") and True  # its folder, once
    if plan.teacher:
        _check_teacher(plan, workdir, saved.get("teacher_sha256"))
    for name in own:
        if saved.get(name) != own[name]:
            raise CheckpointError(
                f"{workdir / folder.CONFIG} says {name}={own[name]}, but the checkpoint of step "
                f"{step} was made with {saved.get(name)}: the file was changed by hand, or the "
                "checkpoint is another run's; put back the run's own, or start a new run"
            )


def what_it_trains(plan: Plan) -> dict[str, Any]:
    """All that the parameters depend on, as JSON gives it back."""
    config = plan.config.to_dict()
    fields = {name: value for name, value in config.items() if name not in NOT_THE_RUN}
    # Who it is, its sha256 says: the folder may be another one by now.
    fields["teacher"] = config["teacher"] and True
    found = {**fields, "dataset_sha256": plan.dataset.sha256}
    if plan.teacher:  # which isn't loaded to score what it taught
        found["teacher_sha256"] = plan.teacher.sha256
    return json.loads(json.dumps(found))


def as_it_was_trained(results: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """A finished run's results, with what its training took and how it was computed.

    Args:
      results: as they are found now.
      workdir: the folder, whose ``results.json`` is of this very state, or isn't.
    """
    with contextlib.suppress(DigitsError, KeyError, TypeError):
        old = folder.read_json(workdir / folder.RESULTS)
        if old["params_sha256"] == results["params_sha256"]:
            kept = {name: old[name] for name in _OF_THE_TRAINING if name in old}
            same = {k: v for k, v in kept.items() if isinstance(v, type(results[k]))}
            return {**results, **same}
    return results


def load_trained(workdir: str | Path, **elsewhere: Any) -> tuple[Plan, TrainState]:
    """A run's plan and its newest whole checkpoint.

    Args:
      workdir: the run's folder.
      elsewhere: fields of the configuration that may differ here: data_dir, devices, platform.

    Raises:
      CheckpointError: no run, no checkpoint that is whole, or a data set that has changed.
    """
    workdir = Path(workdir)
    folder.check_run(workdir)
    config = read_config(workdir / folder.CONFIG)
    if not list_steps(workdir / folder.CHECKPOINTS):
        lacks = "no checkpoint yet"
        if config.ensemble > 1:
            lacks = f"not all of its {config.ensemble} networks yet"
        raise CheckpointError(
            f"{workdir}: has {lacks}; "
            f"train it with python -m digits_jax.train --resume --workdir={workdir}"
        )
    elsewhere = {**HERE, **elsewhere}
    if not elsewhere.get("data_dir"):
        elsewhere["data_dir"] = config.data_dir
    config = dataclasses.replace(config, resume=False, **elsewhere)
    plan = prepare(config, to_train=False)
    check_same_run(plan, workdir)
    restored = _restore(plan, workdir)
    warn_of_damage(workdir / folder.CHECKPOINTS, restored)
    return plan, plan.for_scoring(restored.tree)
