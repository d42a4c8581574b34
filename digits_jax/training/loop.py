"""Trains what a configuration describes: the only place with a loop."""

import contextlib
import dataclasses
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from digits_jax.config import HERE, TrainConfig, read_config
from digits_jax.data.datasets import Dataset
from digits_jax.data.pipeline import BatchOrder
from digits_jax.data.stream import open_stream
from digits_jax.errors import ConfigError
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import list_steps, save_checkpoint
from digits_jax.training import parallel
from digits_jax.training.calls import Sums
from digits_jax.training.compiling import Compiled, steps_ahead
from digits_jax.training.group import Group
from digits_jax.training.interrupts import Interrupted, stop_on_signals
from digits_jax.training.plan import Plan, prepare
from digits_jax.training.processes import join, quiet_gloo
from digits_jax.training.progress import Progress, ScalarLog
from digits_jax.training.record import describe_run, make_results
from digits_jax.training.renormalize import renormalize
from digits_jax.training.resuming import (
    NO_SECONDS,
    NO_SUMS,
    as_it_was_trained,
    check_same_run,
    epoch_ends,
    keep_teachers_place,
    start,
    what_it_trains,
)
from digits_jax.training.scoring import Score
from digits_jax.training.session import NOTHING_WISHED, SAVE, Session
from digits_jax.training.state import TrainState

# Without an interval in steps, a checkpoint is made when the last is this old.
CHECKPOINT_EVERY_SECONDS = 30.0


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
      ConfigError: what can't be used; nothing was written then.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Example:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=2, workdir=tempfile.mkdtemp())
      >>> result = fit(config, quiet=True)
      >>> result.results["test_count"], result.results["steps"] == int(result.state.step)
      (360, True)
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"the configuration is {config!r:.60}; give a TrainConfig")
    for name in ("dry_run", "eval_only", "config"):
        if getattr(config, name):
            raise ConfigError(
                f"{name} is a word for the command line: `fit` trains; `digits_jax.prepare` checks "
                "a configuration, `digits_jax.load_trained` loads a run, `digits_jax.recipe_of` "
                "reads its configuration"
            )
    if config.ensemble > 1:
        raise ConfigError(
            f"ensemble is {config.ensemble}: `fit` trains one network; give it to "
            "`digits_jax.fit_ensemble`"
        )
    with join(config.coordinator, config.num_processes, config.process_id) as group:
        return run(prepare(config, dataset, group=group), quiet=quiet, group=group)


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
      ConfigError: no run is there, or the data set isn't the same.
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
    config = dataclasses.replace(config, workdir=str(workdir), resume=True, **{**HERE, **elsewhere})
    return fit(config, dataset=dataset, quiet=quiet)


def run(plan: Plan, *, quiet: bool = False, group: Group | None = None) -> FitResult:
    """Trains as planned; see `fit`.

    Args:
      plan: made with the same group.
      quiet: print nothing.
      group: the processes that train together.
    """
    group = group or Group()
    group.agree({"workdir": plan.config.workdir})
    first = group.index == 0
    quiet = quiet or not first
    workdir = Path(group.first_says("the workdir", lambda: str(_workdir(plan.config))))
    with (
        stop_on_signals(f"not waiting; {_how_to_go_on(workdir)}") as stop,
        # One process writes the run's files, and tells the others where it can't.
        folder.hold_workdir(workdir, new=not plan.config.resume)
        if first
        else contextlib.nullcontext(),
    ):
        try:
            return _run(Session(plan, workdir, group, stop, quiet))
        except Interrupted as stopped:
            saved = list_steps(workdir / folder.CHECKPOINTS)
            at = f"at step {saved[-1]} of {plan.total_steps}, saved" if saved else "at step 0"
            words = f"stopped {at}; {_how_to_go_on(workdir)}"
            raise Interrupted(words, stopped.signal_number) from None


def _workdir(config):
    return Path(config.workdir) if config.workdir else folder.new_workdir(default_name(config))


def _run(session):
    plan, workdir, group = session.plan, session.workdir, session.group
    group.agree({**what_it_trains(plan), "resume": plan.config.resume})
    if plan.config.resume:
        check_same_run(plan, workdir)
    elif session.writes:
        folder.write_json(workdir / folder.CONFIG, describe_run(plan))
    group.note("compiling")
    with quiet_gloo() if group.count > 1 else contextlib.nullcontext():
        parallel.connect(plan.mesh)
        started_compiling = time.perf_counter()
        with Compiled(session, early=not plan.config.resume) as compiled:
            state, totals = start(plan, workdir, quiet=session.quiet)
            if plan.config.resume and session.writes:
                keep_teachers_place(plan, workdir / folder.CONFIG)
            finished = int(state.step) == plan.total_steps and not _unscored(totals)
            session.between()
            if not finished:
                compiled.step()
            score = compiled.score()
    session.between()
    totals["compile_seconds"] += _since(started_compiling)
    if not finished:
        state, totals = _train(session, state, totals, compiled, score)
    validation = score(state, plan.dataset.validation)
    test = score(state, plan.dataset.test)
    seconds = _seconds_so_far(plan, totals)
    results = make_results(plan, state, validation, test, seconds)
    if finished:
        results = as_it_was_trained(results, workdir)
    if session.writes:
        folder.write_predictions(
            workdir,
            labels=test.labels,
            logits=test.logits,
            validation_labels=validation.labels,
            validation_logits=validation.logits,
        )
        folder.write_json(workdir / folder.RESULTS, results)
    group.barrier("the results")  # which the others read
    return FitResult(state, results, workdir, folder.read_metrics(workdir))


def default_name(config: TrainConfig) -> str:
    """Of the folder of a run that was given none."""
    dataset = config.dataset.replace("/", "-").replace(":", "-")
    return f"{config.arch}-{dataset}-{config.preset}-seed{config.seed}"


def _seconds_so_far(plan, totals):
    return {
        **{name: totals[name] for name in NO_SECONDS},
        "total_seconds": totals["total_seconds"] + _since(plan.started),
    }


def _how_to_go_on(workdir):
    return (
        f"go on with\n  python -m digits_jax.train --resume --workdir={shlex.quote(str(workdir))}"
    )


def _stream(plan):
    size, seed = plan.config.batch_size, plan.config.seed
    return open_stream(plan.dataset.train, seed=seed, batch_size=size, share=plan.share)


def _train(session, state, totals, compiled, score):
    """From a state to the last step."""
    plan, config, stop = session.plan, session.plan.config, session.stop
    ends_at = epoch_ends(plan)
    pending, last_save, ahead = [], time.monotonic(), steps_ahead(plan)
    every = config.checkpoint_every_steps
    first, last = int(state.step), plan.total_steps

    def end_epoch(step, state, totals):
        scored = score(state, plan.dataset.validation)
        row = epoch_row(plan, step, totals, scored)
        if session.writes:
            folder.append_metrics(session.workdir, row)
            scalars.write(row)
        progress.line(epoch_line(row, ends_at[step], config.epochs))
        return {**totals, **NO_SUMS}

    with (
        Progress(last, first, quiet=session.quiet) as progress,
        ScalarLog(session.workdir) if session.writes else contextlib.nullcontext() as scalars,
        _stream(plan) as stream,
    ):
        calls = compiled.calls(stream)
        if first in ends_at and _unscored(totals):  # It was stopped while it was scored.
            totals = end_epoch(first, state, totals)
        step = first
        while step < last:
            started, done = time.perf_counter(), step
            step = min(done + calls.most, next_pause(done, plan, ends_at))
            session.group.note("training", step)
            ends = step in ends_at
            due = not every and time.monotonic() - last_save > CHECKPOINT_EVERY_SECONDS
            wish = stop.signal_number or (SAVE if due else NOTHING_WISHED)
            state, sums = calls.take(state, done, step - done, wish)
            pending.append(sums)
            if step == last and config.renormalize:
                state = renormalize(plan, state)
            save = step == last or (every > 0 and step % every == 0)
            if ends or save or len(pending) * calls.most >= ahead or session.has_to_stop:
                wish = session.wish_of_all(wish, pending)
                totals, pending = add_sums(totals, pending, session), []
            else:
                wish = NOTHING_WISHED  # of the others' nothing is known yet
            totals = {**totals, "train_seconds": totals["train_seconds"] + _since(started)}
            with _stopping_unread(stop):
                if not pending:
                    progress.update(step, totals, config.batch_size)
                if ends and wish <= SAVE:
                    with contextlib.suppress(Interrupted):
                        totals = end_epoch(step, state, totals)
            if session.has_to_stop:
                wish = stop.signal_number
            if save or wish:
                session.group.note("saving", step)
                so_far = {**totals, **_seconds_so_far(plan, totals), "run": what_it_trains(plan)}
                save_checkpoint(session.workdir / folder.CHECKPOINTS, step, state, so_far)
                last_save = time.monotonic()
            if wish > SAVE:
                raise Interrupted("stopped", wish)
    return state, totals


def next_pause(step: int, plan: Plan, ends_at: dict[int, float]) -> int:
    """The next step after which something else than a step is done."""
    every = plan.config.checkpoint_every_steps
    saving = step + every - step % every if every > 0 else plan.total_steps
    return min(saving, plan.total_steps, *(end for end in ends_at if end > step))


def _unscored(totals):
    return totals["count"] + totals["skipped"] > 0


@contextlib.contextmanager
def _stopping_unread(stop):
    """Output that nobody reads any more (``| head``) is a wish to stop."""
    try:
        yield
    except BrokenPipeError:
        stop.signal_number = signal.SIGPIPE


def _since(started):
    return time.perf_counter() - started


def add_sums(totals: dict[str, float], pending: list[Sums], session: Session) -> dict[str, float]:
    """The totals with some steps' sums; waits for them.

    Raises:
      ConfigError: too many steps in a row had no finite numbers.
    """
    totals = dict(totals)
    fetched = jax.device_get([sums for _, sums in pending])
    for (steps, _), sums in zip(pending, fetched, strict=True):
        for i, step in enumerate(steps):
            for name in NO_SUMS:
                totals[name] += float(np.ravel(sums[name])[i])
            skipped = float(np.ravel(sums["skipped"])[i])
            totals["skipped_in_a_row"] = (totals["skipped_in_a_row"] + 1) * skipped
            if totals["skipped_in_a_row"] >= session.plan.config.max_skipped_steps:
                raise _diverged(session, step, int(totals["skipped_in_a_row"]))
    return totals


def _diverged(session, step, in_a_row):
    """The error for steps that had no finite numbers; leaves the last one's images in a file."""
    plan, config, workdir = session.plan, session.plan.config, session.workdir
    order = BatchOrder(len(plan.dataset.train), seed=config.seed, batch_size=config.batch_size)
    indices = order.indices(step - 1).tolist()
    epoch = (step - 1) * config.batch_size / len(plan.dataset.train)
    found = {"step": step, "skipped_in_a_row": in_a_row, "seed": config.seed, "epoch": epoch}
    if session.writes:
        folder.write_json(workdir / folder.SKIPPED, {**found, "indices": indices})
    saved = list_steps(workdir / folder.CHECKPOINTS)
    kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "no checkpoint was made yet"
    return ConfigError(
        f"training has diverged: NaN or infinity in the loss or the gradients of {in_a_row} steps "
        f"in a row, up to step {step} (seed {config.seed}, epoch {epoch:.2f}, training images "
        f"{', '.join(map(str, indices[:4]))}, ...: all in {workdir / folder.SKIPPED}); {kept}; "
        f"try a --learning-rate under {config.learning_rate:g}, in another --workdir"
    )


def epoch_row(plan: Plan, step: int, totals: dict[str, float], validation: Score) -> dict[str, Any]:
    """What ``metrics.jsonl`` says of an epoch that ends with a step."""
    return {
        "step": step,
        "epoch": step * plan.config.batch_size / len(plan.dataset.train),
        # Of the steps that weren't skipped; 0 where all were.
        "train_loss": totals["loss"] / max(totals["count"], 1),
        "train_accuracy": totals["correct"] / max(totals["count"], 1),
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "learning_rate": float(plan.schedule(step - 1)),
        "skipped_steps": int(totals["skipped"]),
        "train_seconds": totals["train_seconds"],
    }


def epoch_line(row: dict[str, Any], epoch: float, epochs: float) -> str:
    """An epoch's row for a person."""
    skipped = f"; {row['skipped_steps']} steps skipped" if row["skipped_steps"] else ""
    return (
        f"epoch {epoch:g}/{epochs:g}: loss {row['train_loss']:.4f}, "
        f"accuracy {row['train_accuracy']:.2%}; "
        f"validation accuracy {row['validation_accuracy']:.2%}, {row['train_seconds']:.1f} s"
        f"{skipped}"
    )
