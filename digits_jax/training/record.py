"""What a run writes about itself."""

import platform
from typing import Any

import jax
from jax.sharding import Mesh

from digits_jax.hardware import cpu_count, processor_name, version_of
from digits_jax.runs.checkpoint import tree_sha256
from digits_jax.training.scoring import Score
from digits_jax.training.state import TrainState, count_params


def device_name(mesh: Mesh) -> str:
    """Platform and kind of a mesh's devices; of a CPU, the processor's name.

    Example:
      >>> import numpy as np
      >>> device_name(Mesh(np.array(jax.devices("cpu")[:1]), ("data",))).startswith("cpu: ")
      True
    """
    device = mesh.devices.flat[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = processor_name() or kind
    return f"{device.platform}: {kind}"


def summarize(plan: Any) -> str:
    """What a plan will do, in a few lines for a person."""
    config, data = plan.config, plan.dataset
    params = plan.abstract_state.params
    named = data.name if data.version in data.name else f"{data.name} {data.version}"
    sizes = (
        f"hidden sizes {config.hidden_sizes}"
        if config.arch == "mlp"
        else f"channels {config.channels}, dense {config.dense_size}"
    )
    return "\n".join(
        (
            f"data     {named}: {len(data.train):,} training, "
            f"{len(data.validation):,} validation, {len(data.test):,} test images; {data.source}",
            f"model    {config.arch}: {count_params(params):,} parameters "
            f"({sizes}), {config.dtype}",
            f"training {_epochs(config.epochs)} = {plan.total_steps:,} steps of "
            f"{config.batch_size} images; {config.optimizer}, {config.schedule} "
            f"up to {config.learning_rate:g}, augment {config.augment}"
            + (f" x {strength:g}" if (strength := config.augment_strength) != 1 else "")
            + f", seed {config.seed}",
            *_beside(config),
            *_taught(plan),
            *_members(config),
            f"devices  {plan.mesh.size} x {device_name(plan.mesh)}"
            + (f"; convolutions by {config.convolution}" if config.arch == "cnn" else "")
            + (f"; {steps} steps in a call" if (steps := config.steps_per_call) != "1" else ""),
        )
    )


def _epochs(count):
    return f"{count:g} epoch{'' if count == 1 else 's'}"


def _beside(config):
    """What else shapes the training, where it isn't as all presets have it."""
    usual = {"label_smoothing": 0.1, "dropout": 0.0, "ema_decay": 0.0, "adversarial": 0.0}
    found = {name: getattr(config, name) for name in usual}
    words = [f"{k.replace('_', ' ')} {v:g}" for k, v in found.items() if v != usual[k]]
    if words:
        yield f"         {', '.join(words)}"


def _taught(plan):
    if plan.teacher:
        count = len(plan.teacher.sha256)
        yield (
            f"teacher  {plan.config.teacher}{f', {count} networks' if count > 1 else ''}: "
            f"{plan.config.teacher_weight:g} of the loss, temperature "
            f"{plan.config.teacher_temperature:g}"
        )


def _members(config):
    if config.ensemble > 1:
        seeds = f"{config.seed} to {config.seed + config.ensemble - 1}"
        yield f"ensemble {config.ensemble} networks, seeds {seeds}"


def describe_run(plan: Any) -> dict[str, Any]:
    """What ``config.json`` holds: the configuration, and what it met."""
    packages = ("digits_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: version_of(name) for name in packages}
    dataset = plan.dataset
    taught = {"teacher": {"sha256": list(plan.teacher.sha256)}} if plan.teacher else {}
    return {
        "config": plan.config.to_dict(),
        "versions": {"python": platform.python_version(), **versions},
        "device": {"kind": device_name(plan.mesh), "count": plan.mesh.size},
        "dataset": {
            "name": dataset.name,
            "version": dataset.version,
            "sha256": dataset.sha256,
            "source": dataset.source,
            "num_classes": dataset.num_classes,
            "class_names": list(dataset.class_names),
            "notice": dataset.notice,
        },
        **taught,
    }


def make_results(
    plan: Any, state: TrainState, validation: Score, test: Score, seconds: dict[str, float]
) -> dict[str, Any]:
    """What ``results.json`` holds.

    Args:
      plan: of the run (see `digits_jax.training.loop.Plan`).
      state: after the last step.
      validation: the validation split's score.
      test: the test set's.
      seconds: "train_seconds" (the steps alone), "compile_seconds", "total_seconds" (from the
        loading of the data to here, in this process).
    """
    config, dataset = plan.config, plan.dataset
    steps = int(state.step)
    return {
        "arch": config.arch,
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
        "convolution": config.convolution if config.arch == "cnn" else None,
        "steps_per_call": int(config.steps_per_call),
        "validation_accuracy": validation.accuracy,
        "validation_errors": validation.errors,
        "validation_count": validation.count,
        "validation_loss": validation.loss,
        "test_accuracy": test.accuracy,
        "test_errors": test.errors,
        "test_count": test.count,
        "test_loss": test.loss,
        **seconds,
        "images_per_second": steps * config.batch_size / seconds["train_seconds"],
        "params_sha256": tree_sha256(state.variables["params"]),
        "device": device_name(plan.mesh),
        "num_devices": plan.mesh.size,
        "num_cores": cpu_count(),  # of this process, which on a CPU its seconds go by
        "jax_version": jax.__version__,
    }
