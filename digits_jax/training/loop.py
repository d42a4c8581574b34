"""Trains what a configuration describes: the only loop over training steps.

`fit` and `resume` train one network in a run's folder, `train_members` one or several side by side.
The loop itself is `_Training.train`: between two calls of the devices it logs, scores, saves and
stops; it waits for the devices only then.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from digits_jax.config import RunOptions, TrainConfig, read_config
from digits_jax.data.datasets import Dataset
from digits_jax.errors import CheckpointError, ConfigError
from digits_jax.files import write_json
from digits_jax.hardware import release_freed_memory
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import list_steps, save_checkpoint
from digits_jax.training import distributed
from digits_jax.training.fit_result import FitResult
from digits_jax.training.interrupts import Interrupted, StopRequest, stop_on_signals
from digits_jax.training.logging import (
    Progress,
    epoch_line,
    epoch_row,
    open_tensorboard,
    write_scalars,
)
from digits_jax.training.multi_step import (
    MultiStep,
    import_ahead,
    initial_state,
    split_members,
)
from digits_jax.training.parallel import check_memory
from digits_jax.training.resuming import epoch_ends, start, unscored, written_results
from digits_jax.training.run_data import load_own_of_run
from digits_jax.training.run_metadata import (
    choose_workdir,
    describe_run,
    divergence,
    make_results,
    write_results,
)
from digits_jax.training.same_run import (
    ZERO_SECONDS,
    ZERO_SUMS,
    ZERO_TOTALS,
    check_same_run,
    fingerprint_of,
)
from digits_jax.training.scoring import Score, make_scorer, recalibrate_batch_norm
from digits_jax.training.setup import Loss, TrainSetup, prepare
from digits_jax.training.state import TrainState

# Without an interval in steps, a checkpoint is saved when the last one is this old.
CHECKPOINT_EVERY_SECONDS = 30.0
# Steps that may be under way at once. Several CPU devices hang in a collective when many steps wait
# behind each other; for one device, a few hide the time of preparing batches.
MAX_STEPS_AHEAD = 16
# Several processes agree on stops and saves this often, as it is a separate collective.
AGREE_EVERY_STEPS = 16
# Several processes may compile for this long before their watchdogs end them.
COMPILE_SECONDS = 600
# Requests are numbers, so that processes agree on the largest: SAVE, or to stop, SAVE + a signal's
# number.
SAVE = 1
# Saving and drawing need these; a thread imports them, which takes half a second, during training.
_NEEDED_LATER = ("orbax.checkpoint", "matplotlib.backends.backend_agg")

# Called after each epoch with its row of metrics.jsonl, one row for each network.
Callback = Callable[[Sequence[dict[str, Any]]], object]


def fit(
    config: TrainConfig,
    options: RunOptions | None = None,
    *,
    module: Any = None,
    loss: Loss | None = None,
    tx: optax.GradientTransformation | None = None,
    dataset: Dataset | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Trains a network and writes a run's folder.

    Args:
      config: what to train; the preset fills in fields that are None.
      module: a custom linen module, from float32 images [batch, 28, 28, 1] in [0, 1] to logits
        [batch, classes]; ``train`` and ``axis_name`` are passed if its ``__call__`` takes them.
        ``config.arch`` still chooses the recipe.
      loss: a custom loss, ``f(logits, labels) -> float32 [batch]``; the reported loss is still the
        cross-entropy.
      tx: a custom optimizer, an optax transformation.
      dataset: instead of the one that ``config.dataset`` names.
      callbacks: called after each epoch with a list of its row of metrics; what they raise ends
        the training.

    Raises:
      DigitsError: something can't be used; nothing was written then.
      TrainingDivergedError: too many steps in a row weren't finite.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Examples:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=1)
      >>> result = fit(config, RunOptions(workdir=tempfile.mkdtemp()), quiet=True)
      >>> result.results["test_count"], result.results["steps"] == int(result.state.step)
      (360, True)
    """
    options = RunOptions() if options is None else options
    if not isinstance(options, RunOptions):
        raise ConfigError(
            f"options={options!r:.60}: must be RunOptions, as RunOptions(workdir=...)"
        )
    if isinstance(config, TrainConfig) and config.ensemble > 1:
        raise ConfigError(
            f"ensemble={config.ensemble}: fit trains one network; use digits_jax.fit_ensemble"
        )
    with distributed.initialize(options.coordinator, options.num_processes, options.process_id):
        setup = prepare(config, options, dataset, module=module, loss=loss, tx=tx)
        return run(setup, quiet=quiet, callbacks=callbacks)


def resume(
    workdir: str | Path,
    *,
    module: Any = None,
    loss: Loss | None = None,
    tx: optax.GradientTransformation | None = None,
    dataset: Dataset | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> FitResult:
    """Resumes a run from its newest checkpoint; see `fit`.

    Args:
      module, loss, tx: the custom ones that it was trained with.
      dataset: the one that it was trained on, if its name can't be loaded.
      options: fields of `RunOptions` that differ now, such as data_dir, devices and platform.

    Examples:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=1)
      >>> first = fit(config, RunOptions(workdir=tempfile.mkdtemp()), quiet=True)
      >>> resume(first.workdir, quiet=True).results == first.results
      True
    """
    folder.check_run(Path(workdir))
    config, saved_options = read_config(workdir)
    here = saved_options.for_resuming(workdir, **options)
    with distributed.initialize(here.coordinator, here.num_processes, here.process_id):
        dataset = dataset or load_own_of_run(workdir, None, here.data_dir)
        custom = {"module": module, "loss": loss, "tx": tx}
        setup = prepare(config, here, dataset, **custom, resuming=True)
        return run(setup, resuming=True, quiet=quiet, callbacks=callbacks)


def run(
    setup: TrainSetup,
    *,
    resuming: bool = False,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Trains one network as set up, in a folder that no other process may use; see `fit`."""
    main = jax.process_index() == 0
    workdir = Path(distributed.broadcast_text(str(choose_workdir(setup)) if main else None))
    distributed.assert_same({**fingerprint_of(setup), "resume": resuming})
    advice = f"resume with\n  {folder.resume_command(workdir)}"
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals(f"not waiting; {advice}"))
        if main:  # One process writes the run's files.
            stack.enter_context(folder.hold_workdir(workdir, new=not resuming))
        try:
            [result] = train_members(
                [setup],
                [workdir],
                resuming=resuming,
                stop=stop,
                quiet=quiet or not main,
                callbacks=callbacks,
            )
            return result
        except Interrupted as stopped:
            saved = list_steps(workdir / folder.CHECKPOINTS)
            place = f"at step {saved[-1]} of {setup.total_steps}, saved" if saved else "at step 0"
            raise Interrupted(f"stopped {place}; {advice}", stopped.signal_number) from None


def train_members(
    setups: Sequence[TrainSetup],
    workdirs: Sequence[Path] | None = None,
    *,
    resuming: bool = False,
    stop: StopRequest | None = None,
    quiet: bool = True,
    callbacks: Sequence[Callback] = (),
) -> list[FitResult]:
    """Trains one network, or several side by side in one vmapped step.

    Products of many members round differently from those of one, in the last bits.

    Args:
      setups: one for each network; they differ in their seeds, and perhaps in their images, of
        which all have equally many.
      workdirs: folders that the caller holds, one for each network; None writes nothing.
      resuming: resume the run in the folder; for one network.

    Raises:
      TrainingDivergedError: a network has diverged.
      Interrupted: ``stop`` was requested, and each network has a checkpoint.
    """
    if resuming and len(setups) > 1:
        raise ConfigError("resuming: networks are resumed one by one; give one setup")
    training = _Training(setups, workdirs, stop or StopRequest(), quiet, callbacks)
    first, folders = setups[0], workdirs or []
    if len(setups) > 1:
        if jax.process_count() > 1:
            raise ConfigError("ensemble: networks are trained together by one process; start one")
        check_memory([setup.abstract_state for setup in setups], first.mesh)
    if resuming:
        check_same_run(first, folders[0])
    else:
        for setup, workdir in training.writing():
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / folder.CONFIG, describe_run(setup))
    training.identities = [folder.identity(workdir) for _, workdir in training.writing()]
    started = time.perf_counter()
    compile_step = partial(MultiStep, setups, partial(import_ahead, _NEEDED_LATER))
    with ThreadPoolExecutor(2, "compile") as pool:
        # A finished run that is resumed needs no step.
        step = None if resuming else pool.submit(compile_step)
        scorer = pool.submit(make_scorer, setups)
        finished = False
        if resuming:
            state, training.totals[0] = start(first, folders[0], quiet=quiet)
            finished = int(state.step) == first.total_steps and not unscored(training.totals[0])
        else:
            state = initial_state(setups)
        training.check_stop()
        if resuming and not finished:
            step = pool.submit(compile_step)
        distributed.arm_watchdog(COMPILE_SECONDS)
        multi_step = step.result() if step else None
        training.score = scorer.result()
    release_freed_memory()
    training.check_stop()
    for totals in training.totals:
        totals["compile_seconds"] += (time.perf_counter() - started) / len(setups)
    if multi_step:
        state = training.train(state, multi_step)
    return training.finish(state, keep_results=finished)


class _Training:
    """The loop and its own state: totals, metrics and the newest score of each network."""

    score: Callable[..., list[Score]]
    progress: Progress

    def __init__(
        self,
        setups: Sequence[TrainSetup],
        workdirs: Sequence[Path] | None,
        stop: StopRequest,
        quiet: bool,
        callbacks: Sequence[Callback],
    ):
        self.setups, self.workdirs, self.stop = setups, workdirs, stop
        self.quiet, self.callbacks = quiet, callbacks
        self.setup, self.options = setups[0], setups[0].options
        self.main = jax.process_index() == 0
        self.ends_at = epoch_ends(self.setup)
        self.totals = [dict(ZERO_TOTALS) for _ in setups]
        self.metrics: list[list[dict[str, Any]]] = [[] for _ in setups]
        self.validation: list[Score] | None = None
        self.writers: list[Any] = []
        self.identities: list[tuple[int, int] | None] = []  # of the folders

    def writing(self) -> Iterator[tuple[TrainSetup, Path]]:
        """Yields the networks whose files this process writes."""
        if self.workdirs and self.main:
            yield from zip(self.setups, self.workdirs, strict=True)

    def check_folders(self) -> None:
        """Raises a CheckpointError where a run's folder was moved or removed meanwhile."""
        for workdir, identity in zip(self.workdirs or (), self.identities, strict=False):
            if folder.identity(workdir) != identity:
                raise CheckpointError(
                    f"{workdir}: was moved or removed while it was trained; what was saved is "
                    "where it went: resume it there"
                )

    def check_stop(self) -> None:
        """Raises `Interrupted` after a signal, between two pieces of work other than steps.

        Several processes stop only at the end of a step, on which they agree.
        """
        distributed.arm_watchdog(self.options.stall_seconds)
        if jax.process_count() == 1:
            self.stop.check()

    def train(self, state: TrainState, multi_step: MultiStep) -> TrainState:
        """Takes all steps that are left; logs, scores and saves between them."""
        config, every = self.setup.config, self.options.checkpoint_every_steps
        step, last = int(np.ravel(jax.device_get(state.step))[0]), self.setup.total_steps
        ahead, alone = steps_ahead(self.setup), jax.process_count() == 1
        pending: list[tuple[int, int, dict[str, jax.Array]]] = []
        last_save = time.monotonic()
        with contextlib.ExitStack() as stack:
            self.progress = stack.enter_context(Progress(last, step, quiet=self.quiet))
            stack.enter_context(multi_step)
            if self.options.tensorboard:
                self.writers = [open_tensorboard(workdir) for _, workdir in self.writing()]
                stack.callback(lambda: [writer.close() for writer in self.writers])
            if step in self.ends_at and unscored(self.totals[0]):  # it was stopped while scoring
                self._log(step, self._score(step, state))
            while step < last:
                started = time.perf_counter()
                count = min(multi_step.max_steps, self._next_pause(step) - step)
                state, sums = multi_step(state, step, count)
                pending.append((step, count, sums))
                step += count
                distributed.arm_watchdog(self.options.stall_seconds)
                epoch_ended = step in self.ends_at
                save = step == last or (every > 0 and step % every == 0)
                due = not every and time.monotonic() - last_save > CHECKPOINT_EVERY_SECONDS
                request = self._stop_request() or (SAVE if due else 0)
                # All processes must pause at the same steps.
                asked = request > 0 if alone else step % AGREE_EVERY_STEPS == 0
                pausing = epoch_ended or save or asked
                if pausing or len(pending) * multi_step.max_steps >= ahead:
                    self._add_sums(pending)  # waits for the devices
                    pending = []
                if not alone:
                    request = distributed.max_over_processes(request) if pausing else 0
                if step == last and config.recalibrate_batch_norm:
                    state = recalibrate_batch_norm(state, self.setups)
                seconds = (time.perf_counter() - started) / len(self.setups)
                for totals in self.totals:
                    totals["train_seconds"] += seconds
                try:
                    if not pending:
                        self.progress.update(step, self.totals[0], config.batch_size)
                    if epoch_ended and request <= SAVE:
                        with contextlib.suppress(Interrupted):
                            self._log(step, self._score(step, state))
                except BrokenPipeError:  # the output is closed, as by `| head`
                    self.stop.signal_number = signal.SIGPIPE
                if alone:  # a signal may have come since
                    request = max(request, self._stop_request())
                if save or request:
                    self._save(step, state)
                    last_save = time.monotonic()
                if request > SAVE:
                    raise Interrupted("stopped", request - SAVE)
        return state

    def _stop_request(self) -> int:
        return self.stop.signal_number + SAVE if self.stop.signal_number else 0

    def _next_pause(self, step: int) -> int:
        """Returns the next step after which the loop scores, saves or ends."""
        last, every = self.setup.total_steps, self.options.checkpoint_every_steps
        save = step + every - step % every if every > 0 else last
        return min(save, last, *(end for end in self.ends_at if end > step))

    def _add_sums(self, pending: list[tuple[int, int, dict[str, jax.Array]]]) -> None:
        """Adds the sums of some steps to the totals; raises where training has diverged."""
        fetched = jax.device_get([sums for _, _, sums in pending])
        for (first, count, _), sums in zip(pending, fetched, strict=True):
            for index, totals in enumerate(self.totals):
                own = {k: np.reshape(v, (len(self.totals), -1))[index] for k, v in sums.items()}
                for i in range(count):
                    for name in ZERO_SUMS:
                        totals[name] += float(own[name][i])
                    skipped = float(own["skipped"][i])
                    totals["skipped_in_a_row"] = (totals["skipped_in_a_row"] + 1) * skipped
                    in_a_row = int(totals["skipped_in_a_row"])
                    if in_a_row >= self.options.max_skipped_steps:
                        workdir = self.workdirs[index] if self.workdirs else None
                        raise divergence(self.setups[index], workdir, first + i + 1, in_a_row)

    def _score(self, step: int, state: TrainState) -> list[dict[str, Any]]:
        """Scores the validation images at the end of an epoch; returns its rows of metrics."""
        splits = [setup.dataset.validation for setup in self.setups]
        self.validation = self.score(state, splits, self.check_stop)
        each = zip(self.setups, self.totals, self.validation, strict=True)
        rows = [epoch_row(setup, step, totals, score) for setup, totals, score in each]
        self.totals = [{**totals, **ZERO_SUMS} for totals in self.totals]
        return rows

    def _log(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes and prints an epoch's metrics."""
        self.check_folders()
        for metrics, row in zip(self.metrics, rows, strict=True):
            metrics.append(row)
        for index, (_, workdir) in enumerate(self.writing()):
            folder.append_metrics(workdir, rows[index])
            if self.writers:
                write_scalars(self.writers[index], rows[index])
        self.progress.line(epoch_line(rows, self.ends_at[step], self.setup.config.epochs))
        for callback in self.callbacks:
            callback(rows)

    def _save(self, step: int, state: TrainState) -> None:
        """Saves a checkpoint of each network."""
        if not self.workdirs:
            return
        self.check_folders()
        states = split_members(state, self.setups)
        for index, (setup, workdir) in enumerate(zip(self.setups, self.workdirs, strict=True)):
            values = {**self.totals[index], **self._seconds(index), "run": fingerprint_of(setup)}
            save_checkpoint(workdir / folder.CHECKPOINTS, step, states[index], values)
        distributed.arm_watchdog(self.options.stall_seconds)

    def _seconds(self, index: int) -> dict[str, float]:
        """The seconds of a network's training so far, over all sessions."""
        totals = self.totals[index]
        since = (time.perf_counter() - self.setup.started) / len(self.setups)
        seconds = {name: totals[name] for name in ZERO_SECONDS}
        return {**seconds, "total_seconds": totals["total_seconds"] + since}

    def finish(self, state: TrainState, *, keep_results: bool) -> list[FitResult]:
        """Scores the splits after the last step; writes results and predictions."""
        splits = [(setup.dataset.validation, setup.dataset.test) for setup in self.setups]
        validations = self.validation or self.score(state, [v for v, _ in splits], self.check_stop)
        tests = validations  # a study may give the validation split in place of the test set
        if any(validation is not test for validation, test in splits):
            tests = self.score(state, [test for _, test in splits], self.check_stop)
        states = split_members(state, self.setups)
        self.check_folders()
        finished = []
        for index, setup in enumerate(self.setups):
            workdir = self.workdirs[index] if self.workdirs else None
            own, validation, test = states[index], validations[index], tests[index]
            results = make_results(setup, own, validation, test, self._seconds(index))
            if workdir and keep_results:  # with the seconds of its training
                results = written_results(workdir, results["params_sha256"]) or results
            if workdir and self.main:
                write_results(workdir, results, validation, test)
            distributed.barrier("results")  # which the other processes read
            metrics = folder.read_metrics(workdir) if workdir else self.metrics[index]
            finished.append(FitResult(own, results, workdir, metrics, validation, test))
        return finished


def steps_ahead(setup: TrainSetup) -> int:
    """Returns how many steps may be under way before the loop waits for the devices."""
    return 1 if setup.mesh.size > 1 and setup.platform == "cpu" else MAX_STEPS_AHEAD
