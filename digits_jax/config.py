"""A training run's configuration: one frozen dataclass, and the presets that fill it in."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from digits_jax.config_checks import ARCH_ONLY, PATHS, check, typed
from digits_jax.errors import ConfigError, DigitsError, quoted
from digits_jax.presets import BASE, RECIPES, TEACHER
from digits_jax.runs.folder import CONFIG, read_json

T = TypeVar("T")
ByPreset = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: by preset)")]


@dataclass(frozen=True)
class TrainConfig:
    """One training run. A field that is None is filled in by the preset.

    Example:
      >>> TrainConfig(arch="ann", preset="quick", dropout=0.1).resolve("mnist").dropout
      0.1
    """

    arch: str = "cnn"
    """Network: cnn, or mlp (ann is another word for it)."""
    preset: str = "standard"
    """Recipe that fills in what isn't given: quick (seconds), standard or best (minutes), or tiny (fewer than 5,000 parameters)."""  # noqa: E501
    dataset: str = "auto"
    """mnist, digits, fashion_mnist, kmnist, emnist/letters|balanced|digits, or tfds/NAME for a prepared set of your own; auto: mnist where it can be had, else digits."""  # noqa: E501
    data_dir: Annotated[
        str | None,
        tyro.conf.arg(
            help_behavior_hint="(default: DIGITS_JAX_DATA_DIR, TFDS_DATA_DIR or "
            "~/tensorflow_datasets)"
        ),
    ] = None
    """Folder with the original files, or where tensorflow-datasets keeps prepared data sets."""
    config: str | None = None
    """Repeat the run whose config.json this is (its folder will do): what isn't given here is as it is there."""  # noqa: E501
    input: str = "memory"
    """Training images: held in memory, or stream: read from prepared files as they are needed."""
    workdir: Annotated[
        str | None,
        tyro.conf.arg(help_behavior_hint="(default: a new runs/ARCH-DATASET-PRESET-seedSEED)"),
    ] = None
    """Folder of the run."""
    epochs: ByPreset[float] = None
    """Passes over the training images; fractions are allowed."""
    batch_size: ByPreset[int] = None
    """Images in a batch, over all devices."""
    learning_rate: ByPreset[float] = None
    """Peak learning rate."""
    schedule: ByPreset[str] = None
    """Learning rate over time: one_cycle, cosine (after a warm-up) or constant (likewise)."""
    optimizer: ByPreset[str] = None
    """Optimizer: adam, adamw, sgd (Nesterov momentum) or lion."""
    weight_decay: ByPreset[float] = None
    """Weight decay of kernels (adam has none)."""
    label_smoothing: ByPreset[float] = None
    """Share of each target spread over all classes, in [0, 1)."""
    dropout: ByPreset[float] = None
    """Share of hidden activations dropped in training, in [0, 1)."""
    batch_norm: ByPreset[bool] = None
    """Normalise activations over the batch."""
    hidden_sizes: ByPreset[tuple[int, ...]] = None
    """mlp: width of each hidden layer, e.g. 512,256."""
    channels: ByPreset[tuple[int, ...]] = None
    """cnn: filters of each block, e.g. 32,64; each block halves the image."""
    convs_per_block: ByPreset[int] = None
    """cnn: convolutions in each block."""
    dense_size: ByPreset[int] = None
    """cnn: width of the hidden dense layer; 0 for none."""
    space_to_depth: ByPreset[bool] = None
    """cnn: fold 2x2 pixels into channels first, for a quarter of the work."""
    ema_decay: ByPreset[float] = None
    """Recognise with an average of the weights over the steps: its decay, in [0, 1); 0 for none."""
    renormalize: ByPreset[bool] = None
    """After the last step, estimate BatchNorm's statistics anew, from images as they are."""
    augment: ByPreset[str] = None
    """Random changes to training images: none, shift, affine, elastic, centred (elastic without shifts), cutout (affine, and a square is blanked) or noise."""  # noqa: E501
    augment_strength: ByPreset[float] = None
    """Times the strength of --augment: 2 turns, shifts and bends twice as far."""
    adversarial: ByPreset[float] = None
    """Move the pixels of training images by up to this (white is 1) to where the loss is larger; 0 for none."""  # noqa: E501
    seed: int = 0
    """Seed of the initial parameters, the order of the data, augmentation and dropout."""
    teacher: str | None = None
    """Folder of a finished run or ensemble to learn from, whose answers are targets beside the labels; none: of what --config has, no teacher."""  # noqa: E501
    teacher_weight: Annotated[
        float | None, tyro.conf.arg(help_behavior_hint="(default: 0.9 with a teacher)")
    ] = None
    """Share of the teacher's answers in the loss, in [0, 1]; the labels have the rest."""
    teacher_temperature: Annotated[
        float | None, tyro.conf.arg(help_behavior_hint="(default: 2 with a teacher)")
    ] = None
    """What logits are divided by before the teacher's answers are compared."""
    ensemble: int = 1
    """Networks to train, with the seeds SEED, SEED + 1 and so on, that then answer as one."""
    together: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: on an accelerator)")
    ] = None
    """Train an ensemble's networks in one step, side by side; else one after another."""
    dtype: str = "auto"
    """Type of the factors that training multiplies: float32, bfloat16 or auto (bfloat16 where the device has it). Parameters, sums and recognition are float32."""  # noqa: E501
    convolution: str = "auto"
    """cnn: how convolutions are computed: lax (XLA's own), matmul (products of matrices) or auto (the faster one here)."""  # noqa: E501
    devices: str = "auto"
    """Number of devices to split each batch over, or auto; in each process. A CPU can be any number up to its cores (or 8)."""  # noqa: E501
    steps_per_call: str = "auto"
    """Steps in one call of the devices, which then hold all training images: a number, or auto (1 on a CPU)."""  # noqa: E501
    platform: str = "auto"
    """Kind of device: auto, cpu, gpu or tpu."""
    coordinator: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: what the cluster says, if any)")
    ] = None
    """Many processes: HOST:PORT of process 0, the same for all."""
    num_processes: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: likewise)")
    ] = None
    """Many processes: how many there are."""
    process_id: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: likewise)")] = (
        None
    )
    """Many processes: which one this is, from 0."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints; 0: one every 30 seconds."""
    max_skipped_steps: int = 10
    """Steps in a row whose loss or gradients aren't finite (and so skipped), before it gives up."""
    resume: bool = False
    """Go on with the run in --workdir from its newest checkpoint."""
    eval_only: bool = False
    """Don't train: score the test set with the run in --workdir."""
    dry_run: bool = False
    """Check everything, print what would be done, and stop: no run is written."""

    def __post_init__(self):
        # What is meant is clear, and the rest of the house counts on one type for each.
        plain = {name: _plain_path(getattr(self, name)) for name in PATHS}
        for name in ("devices", "steps_per_call"):
            if type(getattr(self, name)) is int:
                plain[name] = str(getattr(self, name))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
                plain[field.name] = value.item()  # NumPy's scalars, as sweeps give them
        for name in ("hidden_sizes", "channels"):
            if isinstance(getattr(self, name), list):
                plain[name] = tuple(getattr(self, name))
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def resolve(self, dataset: str) -> "TrainConfig":
        """Fills in what is None.

        Args:
          dataset: the name that "auto" came to; small sets have their own recipes.

        Returns:
          A configuration with every field of the recipe set.

        Raises:
          ConfigError: see `check`.
        """
        check(self)
        arch = "mlp" if self.arch == "ann" else self.arch
        size = "small" if dataset == "digits" else "large"
        recipe = {**BASE[arch], **RECIPES[arch, size][self.preset]}
        if self.optimizer == "adam":
            recipe["weight_decay"] = 0.0  # Adam has none; the recipes' is for AdamW.
        if self.batch_norm is False:
            recipe["renormalize"] = False  # There is nothing to estimate.
        if self.augment not in (None, recipe["augment"]):
            recipe["augment_strength"] = 1.0  # The recipe's is of its own augmentation.
        if self.teacher is not None:
            recipe |= TEACHER
        filled = {k: v for k, v in recipe.items() if getattr(self, k) is None}
        # The other architecture's sizes stay None: they don't apply.
        filled |= {name: None for name in ARCH_ONLY[arch] if getattr(self, name) is not None}
        resolved = dataclasses.replace(self, arch=arch, dataset=dataset, **filled)
        check(resolved)  # the preset may have what a flag doesn't go with
        return resolved

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


# Fields that say what to do now, not what is trained: they may differ between a run and its
# resumption.
NOT_THE_RUN = (
    "data_dir",
    "config",
    "input",
    "workdir",
    "devices",
    "platform",
    "convolution",
    "steps_per_call",
    "coordinator",
    "num_processes",
    "process_id",
    "checkpoint_every_steps",
    "max_skipped_steps",
    "together",
    "resume",
    "eval_only",
    "dry_run",
)
# Of those, what a run that goes on doesn't take over from the call before: what is here now.
HERE = {
    "config": None,
    "devices": "auto",
    "platform": "auto",
    "coordinator": None,
    "num_processes": None,
    "process_id": None,
    "eval_only": False,
    "dry_run": False,
}


def _plain_path(path):
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    return os.path.expanduser(path) if isinstance(path, str) else path


def from_dict(values: Any, source: str) -> TrainConfig:
    """A configuration from plain values, as `TrainConfig.to_dict` gives them.

    Args:
      values: a dictionary; unknown names and wrong types are refused.
      source: where it came from, for the message.

    Raises:
      ConfigError: what doesn't fit.

    Example:
      >>> from_dict({"arch": "mlp", "hidden_sizes": [64]}, "here").hidden_sizes
      (64,)
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected an object with the fields of a configuration")
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{source}: unknown field {quoted(name)}")
        values = {**values, name: typed(name, value, fields[name].type, source)}
    config = TrainConfig(**values)
    try:
        check(config)
    except DigitsError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


def read_config(path: Path) -> TrainConfig:
    """The configuration that a run wrote to its ``config.json``.

    Raises:
      ConfigError: no such file, or not a configuration.
    """
    values = read_json(path)
    if not isinstance(values, dict) or "config" not in values:
        raise ConfigError(f"{path}: has no field 'config'; is it a run's config.json?")
    return from_dict(with_later_fields(values["config"]), str(path))


def with_later_fields(values: Any) -> Any:
    """A configuration's plain values with the fields that came after the run was made.

    Example:
      >>> with_later_fields({"arch": "cnn"})["space_to_depth"]
      True
    """
    if not isinstance(values, dict):
        return values
    later = {"space_to_depth": True if values.get("arch") == "cnn" else None, "ensemble": 1}
    later |= {"renormalize": False, "adversarial": 0.0, "augment_strength": 1.0}
    later |= dict.fromkeys(("teacher", *TEACHER))
    values = {**later, **values}
    if values.get("batch_norm") is False and values.get("renormalize") is True:
        values["renormalize"] = False  # Until it was refused, it did nothing.
    return values


def config_path(path: str | Path) -> Path:
    """Of a run's ``config.json``, given that or its folder."""
    return Path(path) / CONFIG if Path(path).is_dir() else Path(path)


def recipe_of(path: str | Path) -> TrainConfig:
    """What a run was trained as, for another run that repeats it.

    Args:
      path: of its ``config.json``, or of its folder.

    Returns:
      Its configuration, but for the folder: it computes on as many devices, as sums are rounded
      otherwise on others.

    Raises:
      ConfigError: there is none, or it isn't a configuration.
    """
    own = read_config(config_path(path))
    anew = {**HERE, "devices": own.devices, "workdir": None, "resume": False}
    return dataclasses.replace(own, **anew)


def first_difference(a: TrainConfig, b: TrainConfig) -> str | None:
    """The name of the first field in which two runs differ, or None.

    What ``a`` leaves to be chosen ("auto") is what ``b`` has.

    Example:
      >>> first_difference(TrainConfig(seed=1, workdir="a"), TrainConfig(seed=2, workdir="b"))
      'seed'
    """
    for name, value in a.to_dict().items():
        if name not in NOT_THE_RUN and value not in ("auto", getattr(b, name)):
            return name
    return None


def difference_in_resuming(now: TrainConfig, there: TrainConfig) -> str | None:
    """As `first_difference`, between a run that goes on and its ``config.json``.

    A teacher may lie in another folder by now: whether it is the same one, its sha256 says.

    Example:
      >>> run = TrainConfig(teacher="runs/cnn")
      >>> difference_in_resuming(TrainConfig(teacher="/moved/cnn"), run)
      >>> difference_in_resuming(TrainConfig(), run)
      'teacher'
    """
    if now.teacher and there.teacher:
        now = dataclasses.replace(now, teacher=there.teacher)
    return first_difference(now, there)
