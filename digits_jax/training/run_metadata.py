"""Describes a run, in its files and to the user."""

import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax.data.pipeline import TrainStream
from digits_jax.data.splits import OWN, SPLITS, Dataset
from digits_jax.errors import TrainingDivergedError
from digits_jax.files import write_json
from digits_jax.formatting import plain
from digits_jax.hardware import JAX_SETTINGS, cpu_count, processor_name, version_of
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import list_steps, tree_sha256
from digits_jax.training.scoring import Score
from digits_jax.training.setup import TrainSetup
from digits_jax.training.state import TrainState, count_params


def device_name(mesh: Mesh) -> str:
    """Returns platform and kind of a mesh's devices; of a CPU, the processor's name."""
    device = mesh.devices.flat[0]
    kind = processor_name() if device.platform == "cpu" else device.device_kind
    return f"{device.platform}: {kind or device.device_kind}"


def summarize(setup: TrainSetup) -> str:
    """Describes what a setup trains, in a few lines for a person."""
    config, data = setup.config, setup.dataset
    name = data.name
    if not data.parts and data.version != OWN and data.version not in data.name:
        name += f" {data.version}"
    sizes = f" (channels {config.channels}, dense {config.dense_size}), {config.dtype}"
    if "module" in setup.custom:
        sizes = ""
    elif config.arch == "mlp":
        sizes = f" (hidden sizes {config.hidden_sizes}), {config.dtype}"
    how = f"{config.optimizer}, {config.schedule} up to {config.learning_rate or 0:g}"
    if "tx" in setup.custom:
        how = "a custom optimizer"
    if "loss" in setup.custom:
        how += f", loss {setup.custom['loss']}"
    strength = "" if config.augment_strength == 1 else f" x {config.augment_strength:g}"
    lines = [
        f"data     {name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images; {data.source}",
        f"model    {setup.arch}: {count_params(setup.abstract_state.params):,} parameters{sizes}",
        f"training {config.epochs:g} epoch{'' if config.epochs == 1 else 's'} = "
        f"{setup.total_steps:,} steps of {config.batch_size} images; {how}, "
        f"augment {config.augment}{strength}, seed {config.seed}",
    ]
    defaults = {"label_smoothing": 0.1, "dropout": 0.0, "ema_decay": 0.0, "adversarial": 0.0}
    unusual = {name: getattr(config, name) for name in defaults}
    words = [
        f"{name.replace('_', ' ')} {value:g}"
        for name, value in unusual.items()
        if value not in (None, defaults[name])
    ]
    if words:
        lines.append(f"         {', '.join(words)}")
    if setup.initial:
        taken = setup.initial.describe(data.class_names)
        lines.append(f"start    {config.init_from}: {taken}")
    if setup.teacher:
        count = len(setup.teacher.sha256)
        lines.append(
            f"teacher  {config.teacher}{f', {count} networks' if count > 1 else ''}: "
            f"{config.teacher_weight:g} of the loss, temperature {config.teacher_temperature:g}"
        )
    if config.ensemble > 1:
        seeds = f"{config.seed} to {config.seed + config.ensemble - 1}"
        lines.append(f"ensemble {config.ensemble} networks, seeds {seeds}")
    used = f"; convolutions by {setup.convolution}" if setup.arch == "cnn" else ""
    if setup.steps_per_call > 1:
        used += f"; {setup.steps_per_call} steps in a call"
    lines.append(f"devices  {setup.mesh.size} x {device_name(setup.mesh)}{used}")
    return "\n".join(map(plain, lines))  # names of folders are in them


def describe_run(setup: TrainSetup) -> dict[str, Any]:
    """Returns what ``config.json`` holds: configuration, options, versions, device, data set."""
    packages = ("digits_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    dataset = setup.dataset
    teacher = {"teacher": {"sha256": list(setup.teacher.sha256)}} if setup.teacher else {}
    custom = {"custom": setup.custom} if setup.custom else {}
    source = {"init_from": {"sha256": setup.initial.sha256}} if setup.initial else {}
    return {
        "config": setup.config.to_dict(),
        "options": setup.options.to_dict(),
        "versions": {
            "python": platform.python_version(),
            **{name: version_of(name) for name in packages},
        },
        "jax": {name: getattr(jax.config, name) for name in JAX_SETTINGS},
        "device": {"kind": device_name(setup.mesh), "count": setup.mesh.size},
        "dataset": {
            "name": dataset.name,
            "version": dataset.version,
            "sha256": dataset.sha256,
            "source": dataset.source,
            "num_classes": dataset.num_classes,
            "class_names": list(dataset.class_names),
            "notice": dataset.notice,
            "path": dataset.path,
            "counts": {part: len(getattr(dataset, part)) for part in SPLITS},
        },
        **teacher,
        **custom,
        **source,
    }


def make_results(
    setup: TrainSetup,
    state: TrainState,
    validation: Score,
    test: Score,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Returns what ``results.json`` holds, of the state after the last step."""
    config, dataset, steps = setup.config, setup.dataset, int(state.step)
    return {
        "arch": setup.arch,
        "preset": config.preset,
        "dataset": dataset.name,
        "dataset_version": dataset.version,
        "dataset_sha256": dataset.sha256,
        "dataset_notice": dataset.notice,
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "seed": config.seed,
        "num_params": count_params(state.params),
        "steps": steps,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "convolution": setup.convolution if setup.arch == "cnn" else None,
        "steps_per_call": setup.steps_per_call,
        **score_fields(validation, test),
        **({"parts": part_accuracies(dataset, validation, test)} if dataset.parts else {}),
        **seconds,
        "images_per_second": steps * config.batch_size / seconds["train_seconds"],
        "params_sha256": tree_sha256(state.variables["params"]),
        "device": device_name(setup.mesh),
        "num_devices": setup.mesh.size,
        "num_cores": cpu_count(),  # of this process, which on a CPU its seconds depend on
        "jax_version": jax.__version__,
    }


def part_accuracies(dataset: Dataset, validation: Score, test: Score) -> dict[str, Any]:
    """Returns the accuracies of the data sets that one was mixed of, by their names."""
    found: dict[str, Any] = {name: {} for name, *_ in dataset.parts}
    for index, (split, score) in enumerate((("validation", validation), ("test", test)), start=1):
        right = score.logits.argmax(-1) == score.labels
        ends = np.cumsum([part[index] for part in dataset.parts])
        for (name, *_), rows in zip(dataset.parts, np.split(right, ends[:-1]), strict=True):
            found[name][f"{split}_accuracy"] = float(rows.mean())
    return found


def score_fields(validation: Score, test: Score) -> dict[str, Any]:
    """Returns the numbers of two splits' scores under the names that ``results.json`` has."""
    return {
        f"{split}_{name}": getattr(score, name)
        for split, score in {"validation": validation, "test": test}.items()
        for name in ("accuracy", "errors", "count", "loss")
    }


def write_results(workdir: Path, results: dict[str, Any], validation: Score, test: Score) -> None:
    """Writes ``predictions.npz``, then ``results.json``."""
    folder.write_predictions(
        workdir,
        labels=test.labels,
        logits=test.logits,
        validation_labels=validation.labels,
        validation_logits=validation.logits,
    )
    write_json(workdir / folder.RESULTS, results)


def choose_workdir(setup: TrainSetup) -> Path:
    """Returns the folder that was given, or a new one that is named after the configuration."""
    if setup.options.workdir:
        return Path(setup.options.workdir)
    config = setup.config
    dataset = config.dataset.replace("/", "-").replace(":", "-")
    name = f"{setup.arch}-{dataset}-{config.preset}-seed{config.seed}"
    return folder.new_workdir(f"{name}-ensemble{config.ensemble}" if config.ensemble > 1 else name)


def divergence(
    setup: TrainSetup, workdir: Path | None, step: int, in_a_row: int
) -> TrainingDivergedError:
    """Makes the error of a training that skipped steps up to one; writes ``skipped.json``."""
    config, train = setup.config, setup.dataset.train
    stream = TrainStream(train, seed=config.seed, batch_size=config.batch_size)
    indices = stream.indices(step - 1).tolist()
    epoch = (step - 1) * config.batch_size / len(train)
    details, kept = "", "nothing was saved"
    if workdir:
        found = {"step": step, "skipped_in_a_row": in_a_row, "seed": config.seed, "epoch": epoch}
        if jax.process_index() == 0:
            write_json(workdir / folder.SKIPPED, {**found, "indices": indices})
        details = f": all in {workdir / folder.SKIPPED}"
        saved = list_steps(workdir / folder.CHECKPOINTS)
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "no checkpoint yet"
    smaller = "smaller learning rate"
    if config.learning_rate:
        smaller = f"learning_rate under {config.learning_rate:g}"
    return TrainingDivergedError(
        f"training has diverged: NaN or infinity in the loss or the gradients of {in_a_row} "
        f"steps in a row, up to step {step} (seed {config.seed}, epoch {epoch:.2f}, training "
        f"images {', '.join(map(str, indices[:4]))}, ...{details}); {kept}; "
        f"try a {smaller}, in another workdir"
    )
