"""Trains what a configuration describes: the only loop over training steps.

The loop trains one network, or several side by side (see `multi_step`). Between calls of the
devices it logs, scores, saves and stops; it waits for the devices only then.
"""

import contextlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from digits_jax.config import RunOptions, TrainConfig, read_config
from digits_jax.data.datasets import Dataset
from digits_jax.data.pipeline import TrainStream
from digits_jax.errors import ConfigError, TrainingDivergedError
from digits_jax.hardware import release_freed_memory
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import list_steps, save_checkpoint
from digits_jax.training import distributed
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
from digits_jax.training.resuming import (
    ZERO_SECONDS,
    ZERO_SUMS,
    ZERO_TOTALS,
    check_same_run,
    epoch_ends,
    fingerprint,
    start,
    unscored,
    written_results,
)
from digits_jax.training.run_metadata import describe_run, make_results
from digits_jax.training.scoring import Score, make_scorer, recalibrate_batch_norm
from digits_jax.training.setup import TrainSetup, prepare
from digits_jax.training.state import TrainState

# Without an interval in steps, a checkpoint is saved when the last one is this old.
CHECKPOINT_EVERY_SECONDS = 30.0
# Steps that may be under way at once. Several CPU devices hang in a collective when many steps wait
# behind each other; for one device, a few hide the time of preparing batches.
MAX_STEPS_AHEAD = 16
# Several processes agree on stops and saves this often: it is a collective of its own.
AGREE_EVERY_STEPS = 16
# A request to save; a request to stop is larger: a signal's number, which may be 1, and SAVE.
SAVE = 1
# What saves and draws takes half a second and more to import, and nothing of it is needed before.
_NEEDED_LATER = ("orbax.checkpoint", "matplotlib.backends.backend_agg")

# Called after each epoch with its row of metrics.jsonl, one row for each network.
Callback = Callable[[Sequence[dict[str, Any]]], object]


@dataclass(frozen=True)
class FitResult:
    """A finished training.

    Attributes:
      state: after the last step.
      results: what ``results.json`` holds.
      workdir: the run's folder; None for a training that leaves none.
      metrics: what ``metrics.jsonl`` holds, a row per epoch.
      validation, test: the scores of the two splits, with their logits.
    """

    state: TrainState
    results: dict[str, Any]
    workdir: Path | None
    metrics: list[dict[str, Any]]
    validation: Score
    test: Score


def fit(
    config: TrainConfig,
    options: RunOptions | None = None,
    *,
    dataset: Dataset | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Trains a network and writes a run's folder.

    Args:
      config: what to train; the preset fills in fields that are None.
      options: where and how.
      dataset: instead of the one that ``config.dataset`` names.
      quiet: print nothing.
      callbacks: called after each epoch with a list of its row of metrics; what they raise ends
        the training.

    Raises:
      DigitsError: something can't be used; nothing was written then.
      TrainingDivergedError: too many steps in a row weren't finite.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Example:
      >>> import tempfile
      >>> config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(32,),
      ...                      epochs=2)
      >>> result = fit(config, RunOptions(workdir=tempfile.mkdtemp()), quiet=True)
      >>> result.results["test_count"], result.results["steps"] == int(result.state.step)
      (360, True)
    """
    options = options or RunOptions()
    if isinstance(config, TrainConfig) and config.ensemble > 1:
        raise ConfigError(
            f"ensemble={config.ensemble}: fit trains one network; use digits_jax.fit_ensemble"
        )
    with distributed.initialize(options.coordinator, options.num_processes, options.process_id):
        return run(prepare(config, options, dataset), quiet=quiet, callbacks=callbacks)


def resume(
    workdir: str | Path,
    *,
    dataset: Dataset | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> FitResult:
    """Goes on with a run from its newest checkpoint.

    Args:
      workdir: the run's folder.
      dataset: the one it was trained on, where it isn't one that has a name.
      quiet: print nothing.
      callbacks: as of `fit`.
      options: fields of `RunOptions` that differ now, such as data_dir, devices and platform.

    Raises:
      DigitsError: no run is there, or the data set isn't the same.
      Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.

    Example:
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
        setup = prepare(config, here, dataset)
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
    chosen = str(_choose_workdir(setup)) if main else None
    workdir = Path(distributed.broadcast_text(chosen))
    distributed.assert_same({**fingerprint(setup), "resume": resuming})
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals(f"not waiting; {resume_command(workdir)}"))
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
            message = f"stopped {place}; {resume_command(workdir)}"
            raise Interrupted(message, stopped.signal_number) from None


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
      setups: of each network; they differ in their seeds alone, or also in their images, of which
        all have equally many.
      workdirs: folders that the caller holds, one for each network; None writes nothing.
      resuming: go on with the run in the folder; for one network.
      stop: raised signals.
      quiet: print nothing.
      callbacks: as of `fit`.

    Raises:
      TrainingDivergedError: a network has diverged.
      Interrupted: a signal came, and each network has a checkpoint.
    """
    first, stop = setups[0], stop or StopRequest()
    training = _Training(setups, workdirs, stop, quiet, callbacks)
    if len(setups) > 1:
        _check_members(setups)
    for setup, workdir in training.writing():
        if resuming:
            continue
        workdir.mkdir(parents=True, exist_ok=True)
        folder.write_json(workdir / folder.CONFIG, describe_run(setup))
    if resuming and workdirs:
        check_same_run(first, workdirs[0])
    started = time.perf_counter()
    compile_step = partial(MultiStep, setups, partial(import_ahead, _NEEDED_LATER))
    with ThreadPoolExecutor(2, "compile") as pool:
        # A finished run that is resumed needs no step.
        step = None if resuming else pool.submit(compile_step)
        scorer = pool.submit(make_scorer, setups)
        if resuming and workdirs:
            state, training.totals[0] = start(first, workdirs[0], quiet=quiet)
        else:
            state = initial_state(setups)
        at_end = resuming and int(state.step) == first.total_steps
        finished = at_end and not unscored(training.totals[0])
        training.check_stop()
        if step is None and not finished:
            step = pool.submit(compile_step)
        multi_step = step.result() if step else None
        score = scorer.result()
    release_freed_memory()
    training.check_stop()
    for totals in training.totals:
        totals["compile_seconds"] += (time.perf_counter() - started) / len(setups)
    if multi_step:
        state = training.run(state, multi_step, score)
    validation = score(state, [s.dataset.validation for s in setups], training.check_stop)
    test = score(state, [s.dataset.test for s in setups], training.check_stop)
    states = split_members(state, setups)
    results = []
    for index, setup in enumerate(setups):
        workdir = workdirs[index] if workdirs else None
        values = make_results(
            setup, states[index], validation[index], test[index], training.seconds(index)
        )
        if workdir and finished:  # the seconds of its training stay
            values = written_results(workdir, values["params_sha256"]) or values
        if workdir and training.main:
            folder.write_predictions(
                workdir,
                labels=test[index].labels,
                logits=test[index].logits,
                validation_labels=validation[index].labels,
                validation_logits=validation[index].logits,
            )
            folder.write_json(workdir / folder.RESULTS, values)
        distributed.barrier("results")  # which the other processes read
        metrics = folder.read_metrics(workdir) if workdir else training.metrics[index]
        results.append(
            FitResult(states[index], values, workdir, metrics, validation[index], test[index])
        )
    return results


def _check_members(setups: Sequence[TrainSetup]) -> None:
    if jax.process_count() > 1:
        raise ConfigError("ensemble: networks are trained together by one process; start one")
    check_memory([setup.abstract_state for setup in setups], setups[0].mesh)


class _Training:
    """The loop's own state: totals and metrics of each network, and when the last save was."""

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
        self.setup = setups[0]
        self.main = jax.process_index() == 0
        self.ends_at = epoch_ends(self.setup)
        self.totals = [dict(ZERO_TOTALS) for _ in setups]
        self.metrics: list[list[dict[str, Any]]] = [[] for _ in setups]
        self._writers: list[Any] = []

    def writing(self) -> Iterator[tuple[TrainSetup, Path]]:
        """The networks whose files this process writes."""
        if self.workdirs and self.main:
            yield from zip(self.setups, self.workdirs, strict=True)

    def check_stop(self) -> None:
        """Between two pieces of work other than steps: raises `Interrupted` after a signal.

        Several processes stop only at the end of a step on which they have agreed.
        """
        distributed.arm_watchdog(self.setup.options.stall_seconds)
        if jax.process_count() == 1:
            self.stop.check()

    def run(
        self, state: TrainState, multi_step: MultiStep, score: Callable[..., list[Score]]
    ) -> TrainState:
        """Takes all steps that are left; logs, scores and saves between them."""
        setup, options = self.setup, self.setup.options
        step, last = int(np.ravel(jax.device_get(state.step))[0]), setup.total_steps
        ahead, processes = steps_ahead(setup), jax.process_count()
        pending: list[tuple[int, int, dict[str, jax.Array]]] = []
        last_save = time.monotonic()
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(Progress(last, step, quiet=self.quiet))
            stack.enter_context(multi_step)
            if options.tensorboard:
                self._writers = [open_tensorboard(workdir) for _, workdir in self.writing()]
                stack.callback(lambda: [writer.close() for writer in self._writers])
            if step in self.ends_at and unscored(self.totals[0]):  # it was stopped while scoring
                self._end_epoch(step, state, score, progress)
            while step < last:
                started = time.perf_counter()
                count = min(multi_step.max_steps, self._next_pause(step) - step)
                state, sums = multi_step(state, step, count)
                pending.append((step, count, sums))
                step += count
                distributed.arm_watchdog(options.stall_seconds)
                if step == last and setup.config.recalibrate_batch_norm:
                    state = recalibrate_batch_norm(state, self.setups)
                epoch_ended = step in self.ends_at
                every = options.checkpoint_every_steps
                save = step == last or (every > 0 and step % every == 0)
                request = self._request(last_save)
                pausing = epoch_ended or save
                if processes > 1:  # the same in all of them
                    pausing = pausing or step % AGREE_EVERY_STEPS == 0
                else:
                    pausing = pausing or request > 0
                if pausing or len(pending) * multi_step.max_steps >= ahead:
                    self._add_sums(pending)  # waits for the devices
                    pending = []
                if processes > 1:
                    request = distributed.max_over_processes(request) if pausing else 0
                seconds = (time.perf_counter() - started) / len(self.setups)
                for totals in self.totals:
                    totals["train_seconds"] += seconds
                with _stop_when_unread(self.stop):
                    if not pending:
                        progress.update(step, self.totals[0], setup.config.batch_size)
                    if epoch_ended and request <= SAVE:
                        with contextlib.suppress(Interrupted):
                            self._end_epoch(step, state, score, progress)
                if processes == 1:  # a signal may have come since
                    request = max(request, self._stop_request())
                if save or request:
                    self._save(step, state)
                    last_save = time.monotonic()
                if request > SAVE:
                    raise Interrupted("stopped", request - SAVE)
        return state

    def _request(self, last_save: float) -> int:
        """What this process asks for after a step: to stop, SAVE or 0."""
        every = self.setup.options.checkpoint_every_steps
        due = not every and time.monotonic() - last_save > CHECKPOINT_EVERY_SECONDS
        return self._stop_request() or (SAVE if due else 0)

    def _stop_request(self) -> int:
        number = self.stop.signal_number
        return number + SAVE if number else 0

    def _next_pause(self, step: int) -> int:
        """The next step after which something else than a step is done."""
        last, every = self.setup.total_steps, self.setup.options.checkpoint_every_steps
        save = step + every - step % every if every > 0 else last
        return min(save, last, *(end for end in self.ends_at if end > step))

    def _add_sums(self, pending: list[tuple[int, int, dict[str, jax.Array]]]) -> None:
        """Adds the sums of some steps to the totals; raises where training has diverged."""
        for (first, count, _), sums in zip(
            pending, jax.device_get([sums for _, _, sums in pending]), strict=True
        ):
            for index, totals in enumerate(self.totals):
                own = {k: np.reshape(v, (len(self.totals), -1))[index] for k, v in sums.items()}
                for i in range(count):
                    for name in ZERO_SUMS:
                        totals[name] += float(own[name][i])
                    skipped = float(own["skipped"][i])
                    totals["skipped_in_a_row"] = (totals["skipped_in_a_row"] + 1) * skipped
                    in_a_row = int(totals["skipped_in_a_row"])
                    if in_a_row >= self.setup.options.max_skipped_steps:
                        raise self._diverged(index, first + i + 1, in_a_row)

    def _diverged(self, index: int, step: int, in_a_row: int) -> TrainingDivergedError:
        """The error; the images of the last step are written to ``skipped.json``."""
        setup, config = self.setups[index], self.setups[index].config
        size, batch_size = len(setup.dataset.train), config.batch_size
        stream = TrainStream(setup.dataset.train, seed=config.seed, batch_size=batch_size)
        indices = stream.indices(step - 1).tolist()
        epoch = (step - 1) * batch_size / size
        details, kept = "", "nothing was saved"
        if self.workdirs:
            workdir = self.workdirs[index]
            found = {"step": step, "skipped_in_a_row": in_a_row, "seed": config.seed}
            if self.main:
                folder.write_json(
                    workdir / folder.SKIPPED, {**found, "epoch": epoch, "indices": indices}
                )
            details = f": all in {workdir / folder.SKIPPED}"
            saved = list_steps(workdir / folder.CHECKPOINTS)
            kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "no checkpoint yet"
        return TrainingDivergedError(
            f"training has diverged: NaN or infinity in the loss or the gradients of {in_a_row} "
            f"steps in a row, up to step {step} (seed {config.seed}, epoch {epoch:.2f}, training "
            f"images {', '.join(map(str, indices[:4]))}, ...{details}); {kept}; "
            f"try a learning_rate under {config.learning_rate:g}, in another workdir"
        )

    def _end_epoch(
        self, step: int, state: TrainState, score: Callable[..., list[Score]], progress: Progress
    ) -> None:
        """Scores the validation images, logs the epoch and starts new sums."""
        splits = [setup.dataset.validation for setup in self.setups]
        scores = score(state, splits, self.check_stop)
        rows = []
        for index, (setup, totals) in enumerate(zip(self.setups, self.totals, strict=True)):
            rows.append(epoch_row(setup, step, totals, scores[index]))
            self.metrics[index].append(rows[-1])
            self.totals[index] = {**totals, **ZERO_SUMS}
        for index, (_, workdir) in enumerate(self.writing()):
            folder.append_metrics(workdir, rows[index])
            if self._writers:
                write_scalars(self._writers[index], rows[index])
        progress.line(epoch_line(rows, self.ends_at[step], self.setup.config.epochs))
        for callback in self.callbacks:
            callback(rows)

    def _save(self, step: int, state: TrainState) -> None:
        if not self.workdirs:
            return
        states = split_members(state, self.setups)
        for index, (setup, workdir) in enumerate(zip(self.setups, self.workdirs, strict=True)):
            values = {**self.totals[index], **self.seconds(index), "run": fingerprint(setup)}
            save_checkpoint(workdir / folder.CHECKPOINTS, step, states[index], values)
        distributed.arm_watchdog(self.setup.options.stall_seconds)

    def seconds(self, index: int) -> dict[str, float]:
        """The seconds of a network's training so far, over all sessions."""
        totals = self.totals[index]
        since = (time.perf_counter() - self.setup.started) / len(self.setups)
        return {
            **{name: totals[name] for name in ZERO_SECONDS},
            "total_seconds": totals["total_seconds"] + since,
        }


def steps_ahead(setup: TrainSetup) -> int:
    """Returns how many steps may be under way before the loop waits for the devices."""
    return 1 if setup.mesh.size > 1 and setup.platform == "cpu" else MAX_STEPS_AHEAD


def _choose_workdir(setup: TrainSetup) -> Path:
    if setup.options.workdir:
        return Path(setup.options.workdir)
    return folder.new_workdir(default_name(setup.config))


def default_name(config: TrainConfig) -> str:
    """Returns the name of the folder of a run that was given none."""
    dataset = config.dataset.replace("/", "-").replace(":", "-")
    name = f"{config.arch}-{dataset}-{config.preset}-seed{config.seed}"
    return f"{name}-ensemble{config.ensemble}" if config.ensemble > 1 else name


def resume_command(workdir: Path) -> str:
    """Returns what to do to go on with a run, for a message."""
    return (
        f"go on with\n  python -m digits_jax.train --resume --workdir={shlex.quote(str(workdir))}"
    )


@contextlib.contextmanager
def _stop_when_unread(stop: StopRequest) -> Iterator[None]:
    """Takes output that nobody reads any more (``| head``) as a request to stop."""
    try:
        yield
    except BrokenPipeError:
        stop.signal_number = signal.SIGPIPE
