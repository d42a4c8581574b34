"""Trains the members of an ensemble, each as a run of its own, and puts them together."""

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits_jax.config import TrainConfig, difference_in_resuming, read_config
from digits_jax.data.datasets import Dataset
from digits_jax.errors import ConfigError
from digits_jax.runs import folder
from digits_jax.runs.ensemble import ensemble_results, mean_log_probabilities, member_path
from digits_jax.training.interrupts import Interrupted, stop_on_signals
from digits_jax.training.loop import FitResult, default_name, run
from digits_jax.training.plan import prepare
from digits_jax.training.record import describe_run
from digits_jax.training.resuming import check_same_teacher, keep_teachers_place
from digits_jax.training.together import train_together


@dataclass(frozen=True)
class EnsembleResult:
    """A trained ensemble.

    Attributes:
      results: what its ``results.json`` holds.
      workdir: its folder.
      members: the runs of its members.
    """

    results: dict[str, Any]
    workdir: Path
    members: tuple[folder.Run, ...]


def fit_ensemble(
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    quiet: bool = False,
    each: Callable[[FitResult], object] = lambda result: None,
) -> EnsembleResult:
    """Trains ``config.ensemble`` networks that differ in their seeds, and leaves their folder.

    One after another; on an accelerator, or with ``config.together``, in one step, under
    `jax.vmap`: products of many members round otherwise than those of one, in the last bits.

    Args:
      config: what to train; the members' seeds are ``config.seed`` and the next ones. With
        ``resume`` the members that are whole are taken as they are.
      dataset: instead of the one that ``config.dataset`` names.
      quiet: print nothing.
      each: called with each member that was trained now.

    Raises:
      ConfigError: what can't be used.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Example:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=2, ensemble=2, workdir=tempfile.mkdtemp())
      >>> result = fit_ensemble(config, quiet=True)
      >>> [run.results["seed"] for run in result.members], result.results["arch"]
      ([0, 1], 'mlp-ensemble')

    Reference:
      Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty
      Estimation using Deep Ensembles, 2017.
    """
    plan = prepare(dataclasses.replace(config, resume=False), dataset)
    count = plan.config.ensemble
    workdir = Path(config.workdir) if config.workdir else _new_workdir(plan.config)
    trained = False  # up to the last step: what is left is to score each
    with folder.hold_workdir(workdir, new=not config.resume):
        if config.resume:
            _check_same(plan, workdir)
        else:
            folder.write_json(workdir / folder.CONFIG, describe_run(plan))
            trained = _trains_together(plan)
            if trained:
                _together(plan, workdir, quiet)
        for index in range(count):
            path = member_path(workdir, index)
            if (path / folder.RESULTS).exists():
                continue
            there = (path / folder.CONFIG).exists()
            if not quiet:
                print(f"\nnetwork {index + 1} of {count}: {path}", flush=True)
            member = dataclasses.replace(
                plan.config,
                ensemble=1,
                together=None,
                seed=plan.config.seed + index,
                workdir=str(path),
                resume=there,
                config=None if there else plan.config.config,  # which starts a run anew
            )
            try:
                each(run(prepare(member, plan.dataset), quiet=quiet or trained))
            except Interrupted as stop:
                raise Interrupted(
                    _how_to_go_on(workdir, index, count), stop.signal_number
                ) from None
        return put_together(workdir, count)


def _trains_together(plan):
    streamed = plan.config.input == "stream"
    if plan.config.together and streamed:
        raise ConfigError(
            "--together: --input=stream doesn't hold the images in memory, where all members read "
            "them; give --no-together"
        )
    if plan.config.together is not None:
        return plan.config.together
    return plan.platform != "cpu" and not streamed


def _together(plan, workdir, quiet):
    """All members to their last step; what is left is to score each."""
    count = plan.config.ensemble
    paths = [member_path(workdir, index) for index in range(count)]
    last_words = f"not waiting; the newest checkpoints of {workdir} are kept"
    with stop_on_signals(last_words) as stop:
        try:
            train_together(plan, paths, stop, quiet=quiet)
        except Interrupted as stopped:
            words = (
                f"stopped, all members saved; they go on one after another with\n"
                f"  python -m digits_jax.train --resume --workdir={shlex.quote(str(workdir))}"
            )
            raise Interrupted(words, stopped.signal_number) from None


def _new_workdir(config):
    return folder.new_workdir(f"{default_name(config)}-ensemble{config.ensemble}")


def _check_same(plan, workdir):
    path = workdir / folder.CONFIG
    there = read_config(path)
    if name := difference_in_resuming(plan.config, there):
        raise ConfigError(
            f"--{name.replace('_', '-')}={getattr(plan.config, name)}: the ensemble in {workdir} "
            f"has {getattr(there, name)}; leave the flag out, or start a new one"
        )
    check_same_teacher(plan, path)
    keep_teachers_place(plan, path)


def _how_to_go_on(workdir, index, count):
    return (
        f"stopped in network {index + 1} of {count}, saved; go on with\n"
        f"  python -m digits_jax.train --resume --workdir={shlex.quote(str(workdir))}"
    )


def put_together(workdir: Path, count: int) -> EnsembleResult:
    """Makes an ensemble of members that are trained.

    Args:
      workdir: its folder, with the members' folders, and its ``config.json``.
      count: of members.

    Raises:
      ConfigError: a member that isn't whole.
    """
    runs = tuple(folder.read_run(member_path(workdir, index)) for index in range(count))
    arrays = {
        "labels": runs[0].labels,
        "logits": mean_log_probabilities([run.logits for run in runs]),
        "validation_labels": runs[0].validation_labels,
        "validation_logits": mean_log_probabilities([run.validation_logits for run in runs]),
    }
    results = ensemble_results(runs, arrays)
    folder.write_predictions(workdir, **arrays)
    folder.write_json(workdir / folder.RESULTS, results)
    return EnsembleResult(results, workdir, runs)
