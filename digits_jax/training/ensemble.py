"""Trains the members of an ensemble, each as its own run, and averages their probabilities."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from digits_jax.config import RunOptions, TrainConfig, check_processes
from digits_jax.data.datasets import Dataset
from digits_jax.errors import ConfigError
from digits_jax.files import write_json
from digits_jax.models.mean_probability import mean_log_probabilities
from digits_jax.runs import folder
from digits_jax.runs.ensembles import member_path
from digits_jax.runs.run import Run
from digits_jax.training.fit_result import FitResult
from digits_jax.training.interrupts import Interrupted, stop_on_signals
from digits_jax.training.loop import run, train_members
from digits_jax.training.resuming import with_initial
from digits_jax.training.run_metadata import (
    choose_workdir,
    describe_run,
    score_fields,
    write_results,
)
from digits_jax.training.same_run import check_same_run
from digits_jax.training.scoring import Score, score_logits
from digits_jax.training.setup import TrainSetup, prepare


@dataclass(frozen=True)
class EnsembleResult:
    """A trained ensemble: its ``results.json``, its folder and the runs of its members."""

    results: dict[str, Any]
    workdir: Path
    members: tuple[Run, ...]


def fit_ensemble(
    config: TrainConfig,
    options: RunOptions | None = None,
    *,
    dataset: Dataset | None = None,
    resuming: bool = False,
    quiet: bool = False,
    on_member: Callable[[FitResult], object] = lambda result: None,
) -> EnsembleResult:
    """Trains ``config.ensemble`` networks that differ in their seeds, and writes their folder.

    They are trained one after another; on an accelerator, or with ``options.together``, side by
    side in one vmapped step.

    Args:
      config: what to train; the members' seeds are ``config.seed`` and the next ones.
      dataset: instead of the one that ``config.dataset`` names.
      resuming: resume the ensemble in the folder; finished members are kept as they are.
      on_member: called with each member that was trained now.

    Raises:
      DigitsError: something can't be used.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Examples:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=1, ensemble=2)
      >>> result = fit_ensemble(config, RunOptions(workdir=tempfile.mkdtemp()), quiet=True)
      >>> [run.results["seed"] for run in result.members], result.results["arch"]
      ([0, 1], 'mlp-ensemble')

    Reference:
      Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty
      Estimation using Deep Ensembles, 2017.
    """
    options = options or RunOptions()
    check_processes(config, options)
    if resuming and not options.workdir:
        raise ConfigError("resuming needs workdir, the folder of the ensemble")
    setup = prepare(config, options, dataset, resuming=resuming)
    return run_ensemble(setup, resuming=resuming, quiet=quiet, on_member=on_member)


def run_ensemble(
    setup: TrainSetup,
    *,
    resuming: bool = False,
    quiet: bool = False,
    on_member: Callable[[FitResult], object] = lambda result: None,
) -> EnsembleResult:
    """Trains an ensemble as set up; see `fit_ensemble`."""
    count = setup.config.ensemble
    if jax.process_count() > 1:  # as a cluster may say
        raise ConfigError(f"ensemble={count}: its networks are trained by one process; start one")
    together, streamed = setup.options.together, setup.options.input == "stream"
    if together and streamed:
        raise ConfigError(
            "together: input=stream doesn't hold the images in memory, where all networks read "
            "them; leave one of them out"
        )
    if together is None:
        together = setup.platform != "cpu" and not streamed
    workdir = choose_workdir(setup)
    with folder.hold_workdir(workdir, new=not resuming):
        if resuming:
            check_same_run(setup, workdir)
        else:
            write_json(workdir / folder.CONFIG, describe_run(setup))
        paths = [member_path(workdir, index) for index in range(count)]
        setups = [_member(setup, index, path) for index, path in enumerate(paths)]
        if together and not resuming:
            _train_together(setups, paths, workdir, quiet, on_member)
        else:
            for index, (member, path) in enumerate(zip(setups, paths, strict=True)):
                if (path / folder.RESULTS).exists():
                    continue
                if not quiet:
                    print(f"\nnetwork {index + 1} of {count}: {path}", flush=True)
                try:
                    started = (path / folder.CONFIG).exists()
                    if resuming and not started:
                        member = with_initial(member, workdir)
                    member = dataclasses.replace(member, started=time.perf_counter())
                    on_member(run(member, resuming=started, quiet=quiet))
                except Interrupted as stopped:
                    raise Interrupted(
                        f"stopped in network {index + 1} of {count}, saved; "
                        f"resume with\n  {folder.resume_command(workdir)}",
                        stopped.signal_number,
                    ) from None
        runs = tuple(folder.read_run(path) for path in paths)
        validation = _mean_score([run.validation for run in runs])
        test = _mean_score([(run.labels, run.logits) for run in runs])
        results = _ensemble_results(runs, validation, test)
        write_results(workdir, results, validation, test)
        return EnsembleResult(results, workdir, runs)


def _member(setup: TrainSetup, index: int, path: Path) -> TrainSetup:
    """A member's setup, as that of a single run."""
    config = dataclasses.replace(setup.config, ensemble=1, seed=setup.config.seed + index)
    options = dataclasses.replace(setup.options, together=None, workdir=str(path))
    return dataclasses.replace(setup, config=config, options=options)


def _train_together(
    setups: list[TrainSetup],
    paths: list[Path],
    workdir: Path,
    quiet: bool,
    on_member: Callable[[FitResult], object],
) -> None:
    with stop_on_signals(f"not waiting; the newest checkpoints in {workdir} are kept") as stop:
        try:
            for result in train_members(setups, paths, stop=stop, quiet=quiet):
                on_member(result)
        except Interrupted as stopped:
            raise Interrupted(
                "stopped, all networks saved; they are resumed one after another: "
                f"resume with\n  {folder.resume_command(workdir)}",
                stopped.signal_number,
            ) from None


def _mean_score(answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Score:
    """The score of the mean probability; answers: labels and logits of each member."""
    return score_logits(answers[0][0], mean_log_probabilities([logits for _, logits in answers]))


def _ensemble_results(runs: Sequence[Run], validation: Score, test: Score) -> dict[str, Any]:
    each = [run.results for run in runs]
    hashes = "\n".join(results["params_sha256"] for results in each)
    sums = ("num_params", "train_seconds", "compile_seconds", "total_seconds")
    return {
        **each[0],
        "arch": f"{each[0]['arch']}-ensemble",
        "members": [run.name for run in runs],
        **score_fields(validation, test),
        "member_test_accuracies": [results["test_accuracy"] for results in each],
        "member_validation_accuracies": [results["validation_accuracy"] for results in each],
        **{name: sum(results[name] for results in each) for name in sums},
        "params_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
    }
