"""Where a run goes on: its newest intact checkpoint, as far as it belongs to this very run."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from digits_jax.config import TrainConfig, read_config
from digits_jax.data.datasets import Dataset, load_own_of_run
from digits_jax.data.pipeline import num_steps
from digits_jax.data.splits import without_images
from digits_jax.errors import CheckpointError, ConfigError, DataError, DigitsError, shown
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
from digits_jax.training.run_metadata import describe_run
from digits_jax.training.setup import TrainSetup, prepare, stored_state
from digits_jax.training.state import TrainState

# What a checkpoint holds beside the state: sums over the epoch so far, the seconds of all sessions,
# and how many steps in a row were skipped up to now.
ZERO_SUMS = {"loss": 0.0, "correct": 0.0, "count": 0.0, "skipped": 0.0}
ZERO_SECONDS = {"train_seconds": 0.0, "compile_seconds": 0.0, "total_seconds": 0.0}
ZERO_TOTALS = {**ZERO_SUMS, **ZERO_SECONDS, "skipped_in_a_row": 0.0}


def first_difference(config: TrainConfig, run: TrainConfig) -> str | None:
    """Returns the name of the first field in which a configuration isn't that of a run, or None.

    The teacher may have moved to another folder: its SHA-256 is compared instead of its path.

    Example:
      >>> first_difference(TrainConfig(seed=1), TrainConfig(seed=2))
      'seed'
      >>> first_difference(TrainConfig(teacher="/moved/cnn"), TrainConfig(teacher="runs/cnn"))
    """
    if config.teacher and run.teacher:
        config = dataclasses.replace(config, teacher=run.teacher)
    if config == run:
        return None
    values, own = config.to_dict(), run.to_dict()
    return next(name for name in values if values[name] != own[name])


def check_same_run(setup: TrainSetup, workdir: Path) -> None:
    """Raises a ConfigError where a setup isn't that of the run in a folder."""
    check_same_inputs(setup, workdir)
    run, _ = read_config(workdir)
    if name := first_difference(setup.config, run):
        raise ConfigError(
            f"{name}={getattr(setup.config, name)}: the run in {workdir} has "
            f"{name}={getattr(run, name)}; leave it out, or start a new run"
        )


def check_same_inputs(setup: TrainSetup, workdir: Path, *, same_teacher: bool = True) -> None:
    """Raises a ConfigError where a run had other data of the same name, or another module.

    Args:
      same_teacher: also raise where the run learned from another network.
    """
    custom = _described(workdir, "custom")
    for name in ("module", "tx", "loss"):
        if setup.custom.get(name) != custom.get(name):
            raise ConfigError(
                f"{name}={setup.custom.get(name)}: the run in {workdir} has "
                f"{shown(str(custom.get(name)))}; in Python, give {name}=... as it was to "
                "digits_jax.resume or load_trained"
            )
    described, dataset = _described(workdir, "dataset"), setup.dataset
    sha256 = described.get("sha256")
    if sha256 != dataset.sha256 and described.get("name") in (None, dataset.name):
        raise ConfigError(
            f"{workdir}: was trained on another version of {dataset.name!r} (dataset_sha256 "
            f"{str(sha256)[:12]}..., now {dataset.sha256[:12]}...); give the same data"
        )
    teacher = list(setup.teacher.sha256) if setup.teacher and same_teacher else None
    if teacher and _described(workdir, "teacher").get("sha256") != teacher:
        raise ConfigError(
            f"teacher={setup.config.teacher}: this isn't the network that {workdir} learns from; "
            "give that one's folder"
        )


def platform_differences(setup: TrainSetup, workdir: Path) -> list[str]:
    """Returns a sentence for each package and device that isn't that of the run in a folder."""
    now = describe_run(setup)
    return [
        f"{name} is {value}, and was {shown(str(run.get(name)))}: the last bits may differ"
        for part in ("versions", "device", "jax")
        for run in [_described(workdir, part)]
        for name, value in now[part].items()
        if run.get(name) != value
    ]


def _described(workdir: Path, part: str) -> dict[str, Any]:
    described = folder.read_json(workdir / folder.CONFIG).get(part)
    return described if isinstance(described, dict) else {}


def start(setup: TrainSetup, workdir: Path, *, quiet: bool) -> tuple[TrainState, dict[str, float]]:
    """Restores the state and the totals to go on from, and drops what was logged after them."""
    for name, value in describe_run(setup)["jax"].items():
        if (was := _described(workdir, "jax").get(name)) != value:
            raise ConfigError(
                f"{name}={value}: the run in {workdir} was trained with {shown(str(was))}, and "
                "other random numbers would follow; set it as it was"
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
        if (name := setup.config.init_from) is not None:
            initial = load_initial(name)
            if initial.sha256 != _described(workdir, "init_from").get("sha256"):
                raise ConfigError(
                    f"init_from={name}: has other parameters than when the run in {workdir} began; "
                    "put them back, or start a new run"
                )
            setup = dataclasses.replace(setup, initial=initial)
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
        action = "already finished" if step == setup.total_steps else "going on"
    if jax.process_index() == 0:
        described = folder.read_json(workdir / folder.CONFIG)
        if described["config"]["teacher"] != setup.config.teacher:  # it has moved
            described["config"]["teacher"] = setup.config.teacher
            folder.write_json(workdir / folder.CONFIG, described)
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


def unscored(totals: dict[str, float]) -> bool:
    """Whether steps were taken since the last epoch was scored."""
    return totals["count"] + totals["skipped"] > 0


def epoch_ends(setup: TrainSetup) -> dict[int, float]:
    """Returns the steps at which epochs end, and the number of epochs completed then."""
    config, size = setup.config, len(setup.dataset.train)
    epochs = range(1, math.ceil(config.epochs))
    ends = {num_steps(epoch, size, config.batch_size): epoch for epoch in epochs}
    return {**ends, setup.total_steps: config.epochs}


def fingerprint(
    config: TrainConfig,
    dataset_sha256: str,
    teacher_sha256: Sequence[str] | None,
    custom: dict[str, str],
) -> dict[str, Any]:
    """Returns all that the parameters depend on, as JSON gives it back."""
    inputs = {"teacher": teacher_sha256, "dataset_sha256": dataset_sha256, "custom": custom}
    return json.loads(json.dumps({**config.to_dict(), **inputs}))


def fingerprint_of(setup: TrainSetup) -> dict[str, Any]:
    """Returns the `fingerprint` of what a setup trains."""
    teacher = setup.teacher.sha256 if setup.teacher else None
    return fingerprint(setup.config, setup.dataset.sha256, teacher, setup.custom)


def find_difference(values: dict[str, Any], own: dict[str, Any]) -> str | None:
    """Says why a checkpoint isn't of a run; None where it is.

    Args:
      values: what was saved beside the arrays.
      own: the run's `fingerprint`; a teacher of None may be any.
    """
    run = values.get("run")
    numbers = [values.get(name) for name in ZERO_TOTALS]
    if not isinstance(run, dict) or not all(folder.is_number(number) for number in numbers):
        return "its values.json isn't as this version of digits_jax writes it"
    if own["teacher"] is None:
        run = {**run, "teacher": None}
    for name in own:
        if run.get(name) != own[name]:
            return f"it has {name}={shown(str(run.get(name)))}, and the run has {own[name]}"
    return None


def make_verifier(workdir: Path) -> Callable[[int], str | None]:
    """Returns a function that says why a run can't be resumed from a step; None where it can.

    Raises:
      CheckpointError: the configuration can't be read; from the function, the step can't.
    """
    config, _ = read_config(workdir)
    dataset, custom = _described(workdir, "dataset"), _described(workdir, "custom")
    try:
        # What a module or an optimizer of the caller's keeps isn't known here.
        unknown = custom.keys() & {"module", "tx"}
        wanted = None if unknown else stored_state(config, dataset["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        why = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(
            f"{workdir / folder.CONFIG}: isn't as it was written ({why})"
        ) from None
    path = workdir / folder.CHECKPOINTS
    teacher = _described(workdir, "teacher").get("sha256")
    own = fingerprint(config, dataset.get("sha256", ""), teacher, custom)

    def verify(step: int) -> str | None:
        if damage := verify_step(path, step, wanted):
            return damage
        return find_difference(read_values(path, step), own)

    return verify


def written_results(workdir: Path, params_sha256: str) -> dict[str, Any] | None:
    """Returns a finished run's results, if they are there and of these parameters."""
    with contextlib.suppress(DigitsError, AttributeError):
        results = folder.read_json(workdir / folder.RESULTS)
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
      dataset: the one that it was trained on, where it has no known name; or its path, where it
        has moved.
      needs_images: without it, the setup's data set has blank images, and a notice, where the data
        aren't at hand.
      module, tx: what it was trained with, where they weren't ours.
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
        blank = without_images(_described(workdir, "dataset"), str(error))
        setup = prepare(config, here, blank, **network)
    if loss := _described(workdir, "custom").get("loss"):  # scoring needs none
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
