"""Trains what a configuration describes: the only place with a loop."""

import dataclasses
import math
import shlex
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.config import TrainConfig, check, first_difference, read_config
from digits_jax.data.augment import make_augment
from digits_jax.data.datasets import Dataset, load_dataset
from digits_jax.data.pipeline import TrainStream, num_steps
from digits_jax.errors import InputError
from digits_jax.models.build import build_model
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import abstract, open_checkpoints
from digits_jax.training import parallel
from digits_jax.training.interrupts import Interrupted, stop_on_signals
from digits_jax.training.optimizers import make_optimizer, make_schedule
from digits_jax.training.progress import Progress, ScalarLog
from digits_jax.training.record import describe_run, make_results
from digits_jax.training.scoring import make_scorer
from digits_jax.training.state import (
    TrainState,
    abstract_train_state,
    create_train_state,
)
from digits_jax.training.steps import train_step

# Without a checkpoint interval, a checkpoint at an epoch's end is made when the last is this old.
CHECKPOINT_EVERY_SECONDS = 30.0
# Steps that may be under way at once. Several CPU devices hang in a collective when many
# steps wait behind each other; for one device, a few hide the time of preparing batches.
MAX_STEPS_AHEAD = 16
EVAL_BATCH_SIZE = 1000


@dataclass(frozen=True)
class Plan:
    """All that a run needs, checked, before anything is written.

    Attributes:
      config: resolved.
      dataset: loaded.
      module: the network.
      schedule: learning rate by step.
      tx: the optimizer.
      mesh: of the devices.
      total_steps: of the whole run.
      started: `time.perf_counter` when its preparation began.
    """

    config: TrainConfig
    dataset: Dataset
    module: nn.Module
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    mesh: Mesh
    total_steps: int
    started: float

    @property
    def platform(self) -> str:
        """Of the devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def eval_batch_size(self) -> int:
        """Images scored at once: as many as fit, but no more than a small data set has."""
        most = max(len(self.dataset.validation), len(self.dataset.test))
        return -(-min(EVAL_BATCH_SIZE, most) // self.mesh.size) * self.mesh.size

    def initial_state(self) -> TrainState:
        """The state at step 0, on the devices."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 0)
        return parallel.replicate(create_train_state(self.module, self.tx, key), self.mesh)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        state = abstract_train_state(self.module, self.tx)
        return abstract(state, NamedSharding(self.mesh, P()))

    @property
    def step_key(self) -> jax.Array:
        """The key that every training step is given."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        return parallel.replicate(key, self.mesh)


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


def prepare(config: TrainConfig, dataset: Dataset | None = None) -> Plan:
    """Checks a configuration, loads its data and sets up what trains on it; writes nothing.

    Args:
      config: what to train.
      dataset: instead of the one that ``config.dataset`` names.

    Raises:
      InputError: what can't be used.
    """
    started = time.perf_counter()
    check(config)
    heavy = config.arch == "cnn"
    # A CPU in one piece serves a light step best: its matrix products use all cores.
    most = parallel.cpu_count() if heavy else 1
    cpu_devices = most if config.devices == "auto" else int(config.devices)
    devices = parallel.start_backend(config.platform, cpu_devices)
    dataset = dataset or load_dataset(config.dataset, config.data_dir)
    config = config.resolve(dataset.name)
    devices = parallel.choose_devices(devices, config.devices, config.batch_size, heavy=heavy)
    total_steps = num_steps(config.epochs, len(dataset.train), config.batch_size)
    schedule = make_schedule(config.schedule, config.learning_rate, total_steps)
    make_augment(config.augment)  # An unknown name is noticed here, not in the step.
    plan = Plan(
        config=config,
        dataset=dataset,
        module=build_model(config.to_dict(), dataset.num_classes),
        # Read once an epoch: outside of jit each of its operations would be compiled by itself.
        schedule=jax.jit(schedule),
        tx=make_optimizer(config.optimizer, schedule, config.weight_decay),
        mesh=parallel.make_mesh(devices),
        total_steps=total_steps,
        started=started,
    )
    parallel.check_memory(plan.abstract_state, plan.mesh)
    return plan


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
    return run(prepare(config, dataset), quiet=quiet)


def run(plan: Plan, *, quiet: bool = False) -> FitResult:
    """Trains as planned; see `fit`."""
    config = plan.config
    workdir = Path(config.workdir) if config.workdir else folder.new_workdir(default_name(config))
    with (
        stop_on_signals() as stop,
        folder.hold_workdir(workdir, new=not config.resume),
        open_checkpoints(workdir / folder.CHECKPOINTS) as checkpoints,
    ):
        if config.resume:
            check_same_run(plan, workdir)
        else:
            folder.write_json(workdir / folder.CONFIG, describe_run(plan))
        state, totals = _start(plan, workdir, checkpoints, quiet=quiet)
        started_compiling = time.perf_counter()
        step = _compile_step(plan, state)
        score = make_scorer(state, plan.mesh, plan.eval_batch_size)
        compile_seconds = time.perf_counter() - started_compiling
        state, totals = _train(plan, state, totals, workdir, step, score, checkpoints, stop, quiet)
        validation, test = score(state, plan.dataset.validation), score(state, plan.dataset.test)
        folder.write_predictions(
            workdir,
            labels=test.labels,
            logits=test.logits,
            validation_labels=validation.labels,
            validation_logits=validation.logits,
        )
        seconds = {
            "train_seconds": totals["train_seconds"],
            "compile_seconds": compile_seconds,
            "total_seconds": time.perf_counter() - plan.started,
        }
        results = make_results(plan, state, validation, test, seconds)
        folder.write_json(workdir / folder.RESULTS, results)
    return FitResult(state, results, workdir, folder.read_metrics(workdir))


def default_name(config: TrainConfig) -> str:
    """Of the folder of a run that was given none."""
    dataset = config.dataset.replace("/", "-")
    return f"{config.arch}-{dataset}-{config.preset}-seed{config.seed}"


NO_TOTALS = {"train_seconds": 0.0, "loss": 0.0, "correct": 0.0, "count": 0.0}


def _start(plan, workdir, checkpoints, *, quiet):
    """The state and the running totals to go on from; drops what was logged after them."""
    step = checkpoints.latest_step if plan.config.resume else None
    if step is None:
        state, totals = plan.initial_state(), NO_TOTALS
    else:
        state, totals = checkpoints.restore(step, plan.abstract_state)
    if plan.config.resume:
        folder.keep_metrics(workdir, int(state.step))
        if not quiet:
            at = "no checkpoint yet: starting" if step is None else "going on"
            print(f"{workdir}: {at} at step {int(state.step)} of {plan.total_steps}", flush=True)
    return state, totals


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
            if not pending:
                progress.update(step, totals, config.batch_size)
            if ends:
                row = _epoch_row(plan, step, totals, score(state, dataset.validation))
                folder.append_metrics(workdir, row)
                scalars.write(row)
                progress.line(_epoch_line(row, config.epochs))
                totals = {**NO_TOTALS, "train_seconds": totals["train_seconds"]}
            if save:
                checkpoints.save(step, state, totals)
                last_save = time.monotonic()
            if stopping and step < last:
                raise Interrupted(
                    f"stopped at step {step} of {last}, saved; go on with\n"
                    f"  python -m digits_jax.train --resume --workdir={shlex.quote(str(workdir))}",
                    stop.signal_number,
                )
    return state, totals


def _epoch_ends(config, size, total_steps):
    epochs = range(1, math.ceil(config.epochs))
    return {*(num_steps(epoch, size, config.batch_size) for epoch in epochs), total_steps}


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
            f"try a --learning-rate under {config.learning_rate:g}"
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


def _epoch_line(row, epochs):
    return (
        f"epoch {row['epoch']:.4g}/{epochs:g}: loss {row['train_loss']:.4f}, "
        f"accuracy {row['train_accuracy']:.2%}; "
        f"validation accuracy {row['validation_accuracy']:.2%}, {row['train_seconds']:.1f} s"
    )


def load_trained(workdir: Path, **elsewhere: Any) -> tuple[Plan, TrainState]:
    """A run's plan and its newest checkpoint.

    Args:
      workdir: the run's folder.
      elsewhere: fields of the configuration that may differ here: data_dir, devices, platform.

    Raises:
      InputError: no run, no checkpoint, or a data set that has changed.
    """
    folder.check_run(workdir)
    config = read_config(workdir / folder.CONFIG)
    elsewhere = {"devices": "auto", "platform": "auto", **elsewhere}
    if not elsewhere.get("data_dir"):
        elsewhere["data_dir"] = config.data_dir
    plan = prepare(dataclasses.replace(config, resume=False, eval_only=False, **elsewhere))
    check_same_run(plan, workdir)
    with open_checkpoints(workdir / folder.CHECKPOINTS, read_only=True) as checkpoints:
        step = checkpoints.latest_step
        if step is None:
            raise InputError(
                f"{workdir}: has no checkpoint yet; "
                f"train it with python -m digits_jax.train --resume --workdir={workdir}"
            )
        state, _ = checkpoints.restore(step, plan.abstract_state)
    return plan, state


def check_same_run(plan: Plan, workdir: Path) -> None:
    """Raises an InputError where a plan isn't that of the run in a folder."""
    path = workdir / folder.CONFIG
    old = read_config(path)
    name = first_difference(plan.config, old)
    if name:
        flag = name.replace("_", "-")
        raise InputError(
            f"--{flag}={getattr(plan.config, name)}: the run in {workdir} has "
            f"{flag}={getattr(old, name)}; leave the flag out, or start a new run"
        )
    sha256 = folder.read_json(path).get("dataset", {}).get("sha256")
    if sha256 != plan.dataset.sha256:
        raise InputError(
            f"{workdir}: was trained on another version of {plan.dataset.name!r} "
            f"(dataset_sha256 {str(sha256)[:12]}..., now {plan.dataset.sha256[:12]}...); "
            "give the same data with --data-dir"
        )
