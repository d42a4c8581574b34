"""Restores a run from its newest intact checkpoint, to resume it or to score it."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

from digits_jax.config import read_config
from digits_jax.data.datasets import Dataset
from digits_jax.data.pipeline import num_steps
from digits_jax.data.splits import without_images
from digits_jax.errors import CheckpointError, ConfigError, DataError, DigitsError, shown
from digits_jax.files import read_json, write_json
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import (
    clear_up,
    last_saved,
    list_steps,
    read_values,
    restore_newest,
    verify_step,
)
from digits_jax.training.init_from import load_initial
from digits_jax.training.run_data import load_own_of_run
from digits_jax.training.run_metadata import describe_run
from digits_jax.training.same_run import (
    ZERO_TOTALS,
    check_same_run,
    find_difference,
    fingerprint,
    fingerprint_of,
    read_part,
)
from digits_jax.training.setup import TrainSetup, prepare, stored_state
from digits_jax.training.state import TrainState


def start(setup: TrainSetup, workdir: Path, *, quiet: bool) -> tuple[TrainState, dict[str, float]]:
    """Restores the state and the totals to resume from, and drops what was logged after them."""
    for name, value in describe_run(setup)["jax"].items():
        if (was := read_part(workdir, "jax").get(name)) != value:
            raise ConfigError(
                f"{name}={value}: the run in {workdir} was trained with {shown(str(was))}, "
                "and its random numbers would change; set it as it was"
            )
    path = workdir / folder.CHECKPOINTS
    restored = _restore(setup, workdir)
    saved = last_saved(path)
    if restored is None:
        if saved is not None:
            raise CheckpointError(
                f"{path}: holds no checkpoint, but step {saved} was saved there: put it back, "
                "or start a new run in another folder"
            )
        clear_up(path, {})
        setup = with_initial(setup, workdir)
        state, totals, step = setup.initial_state(), dict(ZERO_TOTALS), 0
        action = "no checkpoint yet: starting"
    else:
        _warn_of_damage(path, restored)
        newest = max([restored.step, *restored.damaged])
        if saved is not None and saved > newest:
            _warn(f"{path / str(saved)}: was saved and is gone; going back to step {newest}")
        clear_up(path, restored.damaged)
        state, step = restored.tree, restored.step
        totals = {name: restored.values[name] for name in ZERO_TOTALS}
        action = "already finished" if step == setup.total_steps else "resuming"
    if jax.process_index() == 0:
        described = read_json(workdir / folder.CONFIG)
        if described["config"]["teacher"] != setup.config.teacher:  # it has moved
            described["config"]["teacher"] = setup.config.teacher
            write_json(workdir / folder.CONFIG, described)
        # A run that was stopped while an epoch was scored scores it again.
        done = step - 1 if unscored(totals) else step
        rows = folder.keep_metrics(workdir, done)
        gone = {end for end in epoch_ends(setup) if end <= done} - {row["step"] for row in rows}
        if gone:
            _warn(
                f"{workdir / folder.METRICS}: {len(gone)} of the epochs up to step {done} are "
                f"missing or damaged (first: step {min(gone)}); the others are kept"
            )
        (workdir / folder.SKIPPED).unlink(missing_ok=True)
    if not quiet:
        print(f"{workdir}: {action} at step {step} of {setup.total_steps}", flush=True)
    return state, totals


def with_initial(setup: TrainSetup, workdir: Path) -> TrainSetup:
    """Loads what the run in a folder starts from, if anything, and checks that it is the same."""
    if (name := setup.config.init_from) is None:
        return setup
    initial = load_initial(name)
    if initial.sha256 != read_part(workdir, "init_from").get("sha256"):
        raise ConfigError(
            f"init_from={name}: has other parameters than when the run in {workdir} began; "
            "put them back, or start a new run"
        )
    return dataclasses.replace(setup, initial=initial)


def unscored(totals: dict[str, float]) -> bool:
    """Returns whether steps were taken since the last epoch was scored."""
    return totals["count"] + totals["skipped"] > 0


def epoch_ends(setup: TrainSetup) -> dict[int, float]:
    """Returns the steps at which epochs end, and the number of epochs completed then."""
    config, size = setup.config, len(setup.dataset.train)
    epochs = range(1, math.ceil(config.epochs))
    ends = {num_steps(epoch, size, config.batch_size): epoch for epoch in epochs}
    return {**ends, setup.total_steps: config.epochs}


def make_verifier(workdir: Path) -> Callable[[int], str | None]:
    """Returns a function that says why a run can't be resumed from a step; None where it can.

    Raises:
      CheckpointError: the configuration can't be read; from the function, the step can't.
    """
    config, _ = read_config(workdir)
    dataset, custom = read_part(workdir, "dataset"), read_part(workdir, "custom")
    try:
        # The state of a custom module or optimizer isn't known here.
        unknown = custom.keys() & {"module", "tx"}
        wanted = None if unknown else stored_state(config, dataset["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        why = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(
            f"{workdir / folder.CONFIG}: isn't as it was written ({why})"
        ) from None
    path = workdir / folder.CHECKPOINTS
    teacher = read_part(workdir, "teacher").get("sha256")
    own = fingerprint(config, dataset.get("sha256", ""), teacher, custom)

    def verify(step: int) -> str | None:
        if damage := verify_step(path, step, wanted):
            return damage
        return find_difference(read_values(path, step), own)

    return verify


def written_results(workdir: Path, params_sha256: str) -> dict[str, Any] | None:
    """Returns a finished run's results, if they are there and of these parameters."""
    with contextlib.suppress(DigitsError, AttributeError):
        results = read_json(workdir / folder.RESULTS)
        if results.get("params_sha256") == params_sha256:
            return results
    return None


def load_trained(
    workdir: str | Path,
    *,
    dataset: Dataset | str | None = None,
    module: Any = None,
    tx: optax.GradientTransformation | None = None,
    needs_images: bool = False,
    **options: Any,
) -> tuple[TrainSetup, TrainState]:
    """Loads a run's setup and its newest intact checkpoint, for scoring.

    Args:
      dataset: the one that it was trained on, if its name can't be loaded; or the new path of user
        data that has moved.
      needs_images: raise if the data can't be loaded; otherwise the images are blank then.
      module, tx: the custom ones that it was trained with.
      options: fields of `RunOptions` that differ here, such as data_dir, devices and platform.
    """
    workdir = Path(workdir)
    folder.check_run(workdir)
    config, saved_options = read_config(workdir)
    if not list_steps(workdir / folder.CHECKPOINTS):
        lacks = "no checkpoint yet"
        if config.ensemble > 1:
            lacks = f"not all of its {config.ensemble} networks yet"
        raise CheckpointError(
            f"{workdir}: has {lacks}; train it with {folder.resume_command(workdir)}"
        )
    options = {name: value for name, value in options.items() if value is not None}
    here = saved_options.for_resuming(workdir, **options)
    network = {"module": module, "tx": tx, "to_train": False}
    try:
        if not isinstance(dataset, Dataset):
            dataset = load_own_of_run(workdir, dataset, here.data_dir)
        setup = prepare(config, here, dataset, **network)
    except DataError as error:
        if needs_images or dataset is not None:
            raise
        blank = without_images(read_part(workdir, "dataset"), str(error))
        setup = prepare(config, here, blank, **network)
    if loss := read_part(workdir, "custom").get("loss"):  # scoring needs none
        setup = dataclasses.replace(setup, custom={**setup.custom, "loss": loss})
    check_same_run(setup, workdir)
    restored = _restore(setup, workdir)
    if restored is None:
        raise CheckpointError(f"{workdir}: its checkpoints are gone; put one back")
    _warn_of_damage(workdir / folder.CHECKPOINTS, restored)
    return setup, setup.for_scoring(restored.tree)


def _restore(setup: TrainSetup, workdir: Path) -> Any:
    def check(step: int, values: dict[str, Any]) -> None:
        if difference := find_difference(values, fingerprint_of(setup)):
            raise CheckpointError(
                f"{workdir / folder.CHECKPOINTS / str(step)}: isn't of this run: {difference}; "
                f"{folder.CONFIG} was changed, or the checkpoint is another run's: put back the "
                "run's own, or start a new run"
            )

    return restore_newest(workdir / folder.CHECKPOINTS, setup.abstract_state, check)


def _warn_of_damage(path: Path, restored: Any) -> None:
    for step, reason in restored.damaged.items():
        _warn(f"{path / str(step)}: {reason}; going back to step {restored.step}")


def _warn(text: str) -> None:
    if jax.process_index() == 0:
        print(f"warning: {text}", file=sys.stderr, flush=True)
