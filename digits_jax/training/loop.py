"""Trains what a configuration describes: the only place with a loop."""

import contextlib
import dataclasses
import json
import math
import shlex
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from digits_jax.config import NOT_THE_RUN, TrainConfig, read_config
from digits_jax.data.augment import make_augment
from digits_jax.data.datasets import Dataset
from digits_jax.data.pipeline import TrainStream, num_steps
from digits_jax.errors import InputError
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import open_checkpoints, tree_sha256
from digits_jax.training import parallel
from digits_jax.training.interrupts import Interrupted, stop_on_signals
from digits_jax.training.plan import Plan, check_same_run, prepare
from digits_jax.training.progress import Progress, ScalarLog
from digits_jax.training.record import describe_run, make_results
from digits_jax.training.scoring import make_scorer
from digits_jax.training.state import TrainState
from digits_jax.training.steps import train_step

# Without a checkpoint interval, a checkpoint at an epoch's end is made when the last is this old.
CHECKPOINT_EVERY_SECONDS = 30.0
# Steps that may be under way at once. Several CPU devices hang in a collective when many
# steps wait behind each other; for one device, a few hide the time of preparing batches.
MAX_STEPS_AHEAD = 16


@dataclass(frozen=True)
class FitResult:
    """A finished training.

    Attributes:
      state: after the last step.
      results: what ``results.json`` holds.
      workdir: the run's folder.
      metrics: what ``metrics.jsonl`` holds, a row per epoch.
    """

    state: TrainState
    results: dict[str, Any]
    workdir: Path
    metrics: list[dict[str, Any]]


def fit(config: TrainConfig, *, dataset: Dataset | None = None, quiet: bool = False) -> FitResult:
    """Trains, and leaves a run's folder.

    Args:
      config: what to train; None fields are filled in by its preset.
      dataset: instead of the one that ``config.dataset`` names.
      quiet: print nothing.

    Returns:
      The final state, the results and the folder.

    Raises:
      InputError: what can't be used; nothing was written then.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Example:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=2, workdir=tempfile.mkdtemp())
      >>> result = fit(config, quiet=True)
      >>> result.results["test_count"], result.results["steps"] == int(result.state.step)
      (360, True)
    """
    for name in ("dry_run", "eval_only"):
        if getattr(config, name, False):
            raise InputError(
                f"{name} is a word for the command line: `fit` trains; `digits_jax.prepare` checks "
                "a configuration, `digits_jax.load_trained` loads a run"
            )
    return run(prepare(config, dataset), quiet=quiet)


def resume(
    workdir: str | Path, *, dataset: Dataset | None = None, quiet: bool = False, **elsewhere: Any
) -> FitResult:
    """Goes on with a run where its newest checkpoint is.

    Args:
      workdir: the run's folder.
      dataset: the one it was trained on, where it isn't one that has a name.
      quiet: print nothing.
      elsewhere: fields of the configuration that may differ here: data_dir, devices, platform.

    Returns:
      As `fit` does.

    Raises:
      InputError: no run is there, or the data set isn't the same.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Example:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=1, workdir=tempfile.mkdtemp())
      >>> first = fit(config, quiet=True)
      >>> resume(config.workdir, quiet=True).results == first.results
      True
    """
    folder.check_run(Path(workdir))
    config = read_config(Path(workdir) / folder.CONFIG)
    here = {"devices": "auto", "platform": "auto", "eval_only": False, "dry_run": False}
    config = dataclasses.replace(config, workdir=str(workdir), resume=True, **{**here, **elsewhere})
    return fit(config, dataset=dataset, quiet=quiet)


def run(plan: Plan, *, quiet: bool = False) -> FitResult:
    """Trains as planned; see `fit`."""
    config = plan.config
    workdir = Path(config.workdir) if config.workdir else folder.new_workdir(default_name(config))
    with (
        stop_on_signals(f"not waiting; {_how_to_go_on(workdir)}") as stop,
        folder.hold_workdir(workdir, new=not config.resume),
        open_checkpoints(workdir / folder.CHECKPOINTS) as checkpoints,
    ):
        if config.resume:
            check_same_run(plan, workdir)
        else:
            folder.write_json(workdir / folder.CONFIG, describe_run(plan))
        state, totals = _start(plan, workdir, checkpoints, quiet=quiet)
        finished = int(state.step) == plan.total_steps
        started_compiling = time.perf_counter()
        step = None if finished else _compile_step(plan, state)
        score = make_scorer(state, plan.mesh, plan.eval_batch_size)
        totals["compile_seconds"] += _since(started_compiling)
        if not finished:
            state, totals = _train(
                plan, state, totals, workdir, step, score, checkpoints, stop, quiet
            )
        validation, test = score(state, plan.dataset.validation), score(state, plan.dataset.test)
        folder.write_predictions(
            workdir,
            labels=test.labels,
            logits=test.logits,
            validation_labels=validation.labels,
            validation_logits=validation.logits,
        )
        seconds = _seconds_so_far(plan, totals)
        if finished:  # What its training took, not what it takes to look at it again.
            seconds = _seconds_of_results(workdir, state) or seconds
        results = make_results(plan, state, validation, test, seconds)
        folder.write_json(workdir / folder.RESULTS, results)
    return FitResult(state, results, workdir, folder.read_metrics(workdir))


def default_name(config: TrainConfig) -> str:
    """Of the folder of a run that was given none."""
    dataset = config.dataset.replace("/", "-")
    return f"{config.arch}-{dataset}-{config.preset}-seed{config.seed}"


# What a checkpoint holds beside the state: sums over the epoch so far, and over all sessions.
NO_SUMS = {"loss": 0.0, "correct": 0.0, "count": 0.0}
NO_SECONDS = {"train_seconds": 0.0, "compile_seconds": 0.0, "total_seconds": 0.0}


def _start(plan, workdir, checkpoints, *, quiet):
    """The state and the running totals to go on from; drops what was logged after them."""
    step = checkpoints.latest_step if plan.config.resume else None
    if step is None:
        state, totals = plan.initial_state(), {**NO_SUMS, **NO_SECONDS}
    else:
        totals = _checked(checkpoints.progress(step), step, plan, workdir)
        state, _ = checkpoints.restore(step, plan.abstract_state)
    if plan.config.resume:
        folder.keep_metrics(workdir, int(state.step))
        if not quiet:
            at = "no checkpoint yet: starting" if step is None else "going on"
            at = "already finished" if step == plan.total_steps else at
            print(f"{workdir}: {at} at step {int(state.step)} of {plan.total_steps}", flush=True)
    return state, totals


def _checked(totals, step, plan, workdir):
    """A checkpoint's totals, as far as they can be those of this run."""
    if totals.keys() != {*NO_SUMS, *NO_SECONDS, "run"}:
        raise InputError(
            f"{workdir / folder.CHECKPOINTS / str(step)}: is of another version of digits_jax; "
            "train the run anew, in another folder"
        )
    saved, own = totals["run"], _what_it_trains(plan)
    for name in own:
        if saved.get(name) != own[name]:
            raise InputError(
                f"{workdir / folder.CONFIG} says {name}={own[name]}, but the checkpoint of step "
                f"{step} was made with {saved.get(name)}: the file was changed by hand; "
                "put it back, or start a new run"
            )
    return {name: value for name, value in totals.items() if name != "run"}


def _what_it_trains(plan):
    """All that the parameters depend on, as JSON gives it back."""
    config = plan.config.to_dict()
    fields = {name: value for name, value in config.items() if name not in NOT_THE_RUN}
    return json.loads(json.dumps({**fields, "dataset_sha256": plan.dataset.sha256}))


def _seconds_so_far(plan, totals):
    return {
        **{name: totals[name] for name in NO_SECONDS},
        "total_seconds": totals["total_seconds"] + _since(plan.started),
    }


def _seconds_of_results(workdir, state):
    """The durations in the ``results.json`` of this very state; None where there is none."""
    with contextlib.suppress(InputError, KeyError, TypeError):
        results = folder.read_json(workdir / folder.RESULTS)
        if results["params_sha256"] == tree_sha256(state.params):
            return {name: float(results[name]) for name in NO_SECONDS}
    return None


def _how_to_go_on(workdir):
    return (
        f"go on with\n  python -m digits_jax.train --resume --workdir={shlex.quote(str(workdir))}"
    )


def _stream(plan):
    train, config = plan.dataset.train, plan.config
    return TrainStream(train.images, train.labels, seed=config.seed, batch_size=config.batch_size)


def _compile_step(plan, state):
    """The train step, compiled for the plan's devices; it takes the old state's memory."""
    step = partial(
        train_step,
        label_smoothing=plan.config.label_smoothing,
        augment=make_augment(plan.config.augment),
    )
    batch = parallel.shard(_stream(plan).batch(0), plan.mesh)
    step = parallel.parallelize(step, plan.mesh, donate_state=True)
    return step.lower(state, batch, plan.step_key).compile()


def _train(plan, state, totals, workdir, step_fn, score, checkpoints, stop, quiet):
    """From a state to the last step."""
    config, dataset, key = plan.config, plan.dataset, plan.step_key
    epoch_ends = _epoch_ends(config, len(dataset.train), plan.total_steps)
    stream, pending, last_save = _stream(plan), [], time.monotonic()
    ahead = 1 if plan.mesh.size > 1 and plan.platform == "cpu" else MAX_STEPS_AHEAD
    first, last = int(state.step), plan.total_steps
    batch = parallel.shard(stream.batch(first), plan.mesh)
    with Progress(last, first, quiet=quiet) as progress, ScalarLog(workdir) as scalars:
        for step in range(first + 1, last + 1):
            started = time.perf_counter()
            state, sums = step_fn(state, batch, key)
            pending.append(sums)
            if step < last:  # The next batch is made while the device is busy with this one.
                batch = parallel.shard(stream.batch(step), plan.mesh)
            ends, stopping = step in epoch_ends, stop.signal_number is not None
            if config.checkpoint_every_steps:
                save = step % config.checkpoint_every_steps == 0
            else:
                save = ends and time.monotonic() - last_save > CHECKPOINT_EVERY_SECONDS
            save = save or stopping or step == last
            if ends or save or len(pending) >= ahead:
                totals, pending = _add(totals, pending, step, config), []
            totals = {**totals, "train_seconds": totals["train_seconds"] + _since(started)}
            with _stopping_unread(stop):
                if not pending:
                    progress.update(step, totals, config.batch_size)
                if ends:
                    row = _epoch_row(plan, step, totals, score(state, dataset.validation))
                    folder.append_metrics(workdir, row)
                    scalars.write(row)
                    totals = {**totals, **NO_SUMS}
                    progress.line(_epoch_line(row, epoch_ends[step], config.epochs))
            if save:
                so_far = {**totals, **_seconds_so_far(plan, totals), "run": _what_it_trains(plan)}
                checkpoints.save(step, state, so_far)
                last_save = time.monotonic()
            if stopping and step < last:
                raise Interrupted(
                    f"stopped at step {step} of {last}, saved; {_how_to_go_on(workdir)}",
                    stop.signal_number,
                )
    return state, totals


@contextlib.contextmanager
def _stopping_unread(stop):
    """Output that nobody reads any more (``| head``) is a wish to stop."""
    try:
        yield
    except BrokenPipeError:
        stop.signal_number = signal.SIGPIPE


def _epoch_ends(config, size, total_steps):
    """The steps at which epochs end, and how many have then."""
    epochs = range(1, math.ceil(config.epochs))
    ends = {num_steps(epoch, size, config.batch_size): epoch for epoch in epochs}
    return {**ends, total_steps: config.epochs}


def _since(started):
    return time.perf_counter() - started


def _add(totals, pending, step, config):
    """The totals with some steps' sums; waits for them."""
    names = ("loss", "correct", "count")
    totals = dict(totals)
    for sums in jax.device_get(pending):
        for name in names:
            totals[name] += float(sums[name])
    if not math.isfinite(totals["loss"]):
        raise InputError(
            f"the loss became {totals['loss']} by step {step}: training has diverged; "
            f"try a --learning-rate under {config.learning_rate:g}, in another --workdir"
        )
    return totals


def _epoch_row(plan, step, totals, validation):
    return {
        "step": step,
        "epoch": step * plan.config.batch_size / len(plan.dataset.train),
        "train_loss": totals["loss"] / totals["count"],
        "train_accuracy": totals["correct"] / totals["count"],
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "learning_rate": float(plan.schedule(step - 1)),
        "train_seconds": totals["train_seconds"],
    }


def _epoch_line(row, epoch, epochs):
    return (
        f"epoch {epoch:g}/{epochs:g}: loss {row['train_loss']:.4f}, "
        f"accuracy {row['train_accuracy']:.2%}; "
        f"validation accuracy {row['validation_accuracy']:.2%}, {row['train_seconds']:.1f} s"
    )


def load_trained(workdir: str | Path, **elsewhere: Any) -> tuple[Plan, TrainState]:
    """A run's plan and its newest checkpoint.

    Args:
      workdir: the run's folder.
      elsewhere: fields of the configuration that may differ here: data_dir, devices, platform.

    Raises:
      InputError: no run, no checkpoint, or a data set that has changed.
    """
    workdir = Path(workdir)
    folder.check_run(workdir)
    config = read_config(workdir / folder.CONFIG)
    elsewhere = {"devices": "auto", "platform": "auto", **elsewhere}
    if not elsewhere.get("data_dir"):
        elsewhere["data_dir"] = config.data_dir
    config = dataclasses.replace(config, resume=False, eval_only=False, **elsewhere)
    plan = prepare(config, to_train=False)
    check_same_run(plan, workdir)
    with open_checkpoints(workdir / folder.CHECKPOINTS, read_only=True) as checkpoints:
        step = checkpoints.latest_step
        if step is None:
            raise InputError(
                f"{workdir}: has no checkpoint yet; "
                f"train it with python -m digits_jax.train --resume --workdir={workdir}"
            )
        _checked(checkpoints.progress(step), step, plan, workdir)
        state, _ = checkpoints.restore(step, plan.abstract_state)
    return plan, state
