"""Checks that a setup, a folder and a checkpoint belong to the same run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digits_jax.config import TrainConfig, read_config
from digits_jax.errors import ConfigError, shown
from digits_jax.files import read_json
from digits_jax.runs import folder
from digits_jax.training.run_metadata import describe_run
from digits_jax.training.setup import TrainSetup

# A checkpoint holds these beside the state: sums over the epoch so far, the seconds of all
# sessions, and how many steps in a row were skipped.
ZERO_SUMS = {"loss": 0.0, "correct": 0.0, "count": 0.0, "skipped": 0.0}
ZERO_SECONDS = {"train_seconds": 0.0, "compile_seconds": 0.0, "total_seconds": 0.0}
ZERO_TOTALS = {**ZERO_SUMS, **ZERO_SECONDS, "skipped_in_a_row": 0.0}


def first_difference(config: TrainConfig, run: TrainConfig) -> str | None:
    """Returns the name of the first field in which a configuration isn't that of a run, or None.

    The teacher may have moved to another folder: its SHA-256 is compared instead of its path.

    Examples:
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
    custom = read_part(workdir, "custom")
    for name in ("module", "tx", "loss"):
        if setup.custom.get(name) != custom.get(name):
            raise ConfigError(
                f"{name}={setup.custom.get(name)}: the run in {workdir} has "
                f"{shown(str(custom.get(name)))}; in Python, give {name}=... as it was to "
                "digits_jax.resume or load_trained"
            )
    described, dataset = read_part(workdir, "dataset"), setup.dataset
    sha256 = described.get("sha256")
    if sha256 != dataset.sha256 and described.get("name") in (None, dataset.name):
        raise ConfigError(
            f"{workdir}: was trained on another version of {dataset.name!r} (dataset_sha256 "
            f"{str(sha256)[:12]}..., now {dataset.sha256[:12]}...); give the same data"
        )
    teacher = list(setup.teacher.sha256) if setup.teacher and same_teacher else None
    if teacher and read_part(workdir, "teacher").get("sha256") != teacher:
        raise ConfigError(
            f"teacher={setup.config.teacher}: this isn't the network that {workdir} learns from; "
            "give that one's folder"
        )


def platform_differences(setup: TrainSetup, workdir: Path) -> list[str]:
    """Returns a sentence for each package and device that differs from the run in a folder."""
    now = describe_run(setup)
    return [
        f"{name} is {value}, and was {shown(str(run.get(name)))}: the last bits may differ"
        for part in ("versions", "device", "jax")
        for run in [read_part(workdir, part)]
        for name, value in now[part].items()
        if run.get(name) != value
    ]


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


def read_part(workdir: Path, part: str) -> dict[str, Any]:
    """Reads a part of a run's ``config.json``; empty where it isn't an object."""
    found = read_json(workdir / folder.CONFIG).get(part)
    return found if isinstance(found, dict) else {}
