"""Handwritten-digit recognizers in JAX: train them, compare them, ship them.

The public names are loaded on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digits_jax.config import RunOptions as RunOptions
    from digits_jax.config import TrainConfig as TrainConfig
    from digits_jax.config import read_config as read_config
    from digits_jax.data.augment import add_noise as add_noise
    from digits_jax.data.augment import cutout as cutout
    from digits_jax.data.augment import make_augment as make_augment
    from digits_jax.data.augment import warp as warp
    from digits_jax.data.datasets import Dataset as Dataset
    from digits_jax.data.datasets import Split as Split
    from digits_jax.data.datasets import load_dataset as load_dataset
    from digits_jax.data.pipeline import TrainStream as TrainStream
    from digits_jax.data.pipeline import eval_batches as eval_batches
    from digits_jax.errors import CheckpointError as CheckpointError
    from digits_jax.errors import ConfigError as ConfigError
    from digits_jax.errors import DataError as DataError
    from digits_jax.errors import DigitsError as DigitsError
    from digits_jax.errors import TrainingDivergedError as TrainingDivergedError
    from digits_jax.models.cnn import CNN as CNN
    from digits_jax.models.mlp import MLP as MLP
    from digits_jax.runs.folder import Run as Run
    from digits_jax.runs.folder import read_run as read_run
    from digits_jax.training.ensemble import EnsembleResult as EnsembleResult
    from digits_jax.training.ensemble import fit_ensemble as fit_ensemble
    from digits_jax.training.loop import FitResult as FitResult
    from digits_jax.training.loop import fit as fit
    from digits_jax.training.loop import resume as resume
    from digits_jax.training.loop import train_members as train_members
    from digits_jax.training.optimizers import make_optimizer as make_optimizer
    from digits_jax.training.optimizers import make_schedule as make_schedule
    from digits_jax.training.parallel import make_mesh as make_mesh
    from digits_jax.training.parallel import parallelize as parallelize
    from digits_jax.training.resuming import load_trained as load_trained
    from digits_jax.training.setup import prepare as prepare
    from digits_jax.training.state import TrainState as TrainState
    from digits_jax.training.state import create_train_state as create_train_state
    from digits_jax.training.steps import eval_step as eval_step
    from digits_jax.training.steps import predict_step as predict_step
    from digits_jax.training.steps import train_step as train_step

_HOME = {
    "TrainConfig": "config",
    "RunOptions": "config",
    "read_config": "config",
    "add_noise": "data.augment",
    "cutout": "data.augment",
    "make_augment": "data.augment",
    "warp": "data.augment",
    "Dataset": "data.datasets",
    "Split": "data.datasets",
    "load_dataset": "data.datasets",
    "TrainStream": "data.pipeline",
    "eval_batches": "data.pipeline",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "DigitsError": "errors",
    "TrainingDivergedError": "errors",
    "CNN": "models.cnn",
    "MLP": "models.mlp",
    "Run": "runs.folder",
    "read_run": "runs.folder",
    "EnsembleResult": "training.ensemble",
    "fit_ensemble": "training.ensemble",
    "FitResult": "training.loop",
    "fit": "training.loop",
    "load_trained": "training.resuming",
    "resume": "training.loop",
    "train_members": "training.loop",
    "make_optimizer": "training.optimizers",
    "make_schedule": "training.optimizers",
    "make_mesh": "training.parallel",
    "parallelize": "training.parallel",
    "prepare": "training.setup",
    "TrainState": "training.state",
    "create_train_state": "training.state",
    "eval_step": "training.steps",
    "predict_step": "training.steps",
    "train_step": "training.steps",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
