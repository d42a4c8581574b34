"""A training run's configuration: one frozen dataclass, and the presets that fill it in."""

import contextlib
import dataclasses
import difflib
import math
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from digits_jax.errors import InputError, quoted, shown
from digits_jax.recipes import BASE, RECIPES
from digits_jax.runs.folder import read_json

ARCHS = ("cnn", "mlp", "ann")
PRESET_NAMES = ("quick", "standard", "best")
DTYPES = ("auto", "float32", "bfloat16")
# As the rooms have them that do the work: a test holds them together.
OPTIMIZERS = ("adam", "adamw", "sgd", "lion")
SCHEDULES = ("one_cycle", "cosine", "constant")
AUGMENTS = ("none", "shift", "affine", "elastic")
PLATFORMS = ("auto", "cpu", "gpu", "tpu")
# 28x28, folded to 14x14, is halved to 7x7, 3x3 and 1x1.
MAX_BLOCKS = 3
# Each layer is traced, and compiled, by itself.
MAX_LAYERS = 64
_MAX_INT = 2**31 - 1  # what XLA has for a size

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
    """Recipe that fills in what isn't given: quick (seconds), standard or best (minutes)."""
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
    ema_decay: ByPreset[float] = None
    """Recognise with an average of the weights over the steps: its decay, in [0, 1); 0 for none."""
    augment: ByPreset[str] = None
    """Random changes to training images: none, shift, affine or elastic."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data, augmentation and dropout."""
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
        plain = {"workdir": _plain_path(self.workdir), "data_dir": _plain_path(self.data_dir)}
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
          InputError: see `check`.
        """
        check(self)
        arch = "mlp" if self.arch == "ann" else self.arch
        size = "small" if dataset == "digits" else "large"
        recipe = {**BASE[arch], **RECIPES[arch, size][self.preset]}
        if self.optimizer == "adam":
            recipe["weight_decay"] = 0.0  # Adam has none; the recipes' is for AdamW.
        filled = {k: v for k, v in recipe.items() if getattr(self, k) is None}
        # The other architecture's sizes stay None: they don't apply.
        filled |= {name: None for name in ARCH_ONLY[arch] if getattr(self, name) is not None}
        return dataclasses.replace(self, arch=arch, dataset=dataset, **filled)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


# Fields that say what to do now, not what is trained: they may differ between a run and its
# resumption.
NOT_THE_RUN = (
    "data_dir",
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
    "resume",
    "eval_only",
    "dry_run",
)
# Of those, what a run that goes on doesn't take over from the call before: what is here now.
HERE = {
    "devices": "auto",
    "platform": "auto",
    "coordinator": None,
    "num_processes": None,
    "process_id": None,
    "eval_only": False,
    "dry_run": False,
}
# For each architecture, the fields that belong to the other alone.
ARCH_ONLY = {
    "mlp": ("channels", "convs_per_block", "dense_size"),
    "cnn": ("hidden_sizes",),
}


def _choice(name, value, allowed):
    if value not in allowed:
        close = difflib.get_close_matches(shown(value).lower(), allowed, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"--{_flag(name)}={shown(value)}: allowed are {', '.join(allowed)}{hint}")


def _choice_if_given(config):
    allowed = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "augment": AUGMENTS}
    for name, words in {**allowed, "platform": PLATFORMS}.items():
        if getattr(config, name) is not None:
            _choice(name, getattr(config, name), words)


def _number(name, value, low, high=math.inf, *, low_allowed=True, high_allowed=True):
    fits = -math.inf < value < math.inf and (low <= value if low_allowed else low < value)
    fits = fits and (value <= high if high_allowed else value < high)
    if not fits:
        bound = f"{'at least' if low_allowed else 'more than'} {low}"
        if high < math.inf:
            bound += f" and {'at most' if high_allowed else 'less than'} {high}"
        kind = "number" if -math.inf < value < math.inf else "finite number"
        raise InputError(f"--{_flag(name)}={shown(value)}: give a {kind} that is {bound}")


def _plain_path(path):
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    return os.path.expanduser(path) if isinstance(path, str) else path


def _can_be_a_path(path):
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _flag(name):
    return name.replace("_", "-")


def check(config: TrainConfig) -> None:
    """Raises an InputError that names the first field of a configuration that can't be used."""
    for field in dataclasses.fields(TrainConfig):
        _typed(field.name, getattr(config, field.name), field.type, "TrainConfig")
    _choice("arch", config.arch, ARCHS)
    _choice("preset", config.preset, PRESET_NAMES)
    _choice("dtype", config.dtype, DTYPES)
    _choice("convolution", config.convolution, ("auto", "lax", "matmul"))
    given = {k: v for k, v in config.to_dict().items() if v is not None}
    arch = "mlp" if config.arch == "ann" else config.arch
    for name in ARCH_ONLY[arch]:
        if name in given:
            raise InputError(f"--{_flag(name)} isn't for --arch={arch}; leave it out")
    if arch == "mlp" and config.convolution != "auto":
        raise InputError(f"--convolution isn't for --arch={arch}; leave it out")
    _choice_if_given(config)
    for name, minimum in {"batch_size": 1, "dense_size": 0}.items():
        if name in given:
            _number(name, given[name], minimum, _MAX_INT)
    if "convs_per_block" in given:  # each is traced, and compiled, by itself
        _number("convs_per_block", given["convs_per_block"], 1, 16)
    # Philox, which orders the data, and JAX's keys both take 64 bits at most; JAX warns at 32.
    for name, low in {"num_processes": 1, "process_id": 0}.items():
        if name in given:
            _number(name, given[name], low, _MAX_INT)
    for name, low in {"seed": 0, "checkpoint_every_steps": 0, "max_skipped_steps": 1}.items():
        _number(name, getattr(config, name), low, _MAX_INT)
    for name, high in {"epochs": 1e6, "learning_rate": math.inf}.items():
        if name in given:
            _number(name, given[name], 0, high, low_allowed=False)
    if "weight_decay" in given:
        _number("weight_decay", given["weight_decay"], 0)
    for name in ("label_smoothing", "dropout", "ema_decay"):
        if name in given:
            _number(name, given[name], 0, 1, high_allowed=False)
    for name in ("hidden_sizes", "channels"):
        for size in given.get(name, ()):
            _number(name, size, 1, _MAX_INT)
    if len(given.get("channels", ())) > MAX_BLOCKS:
        sizes = ",".join(map(str, config.channels))
        raise InputError(
            f"--channels={shown(sizes)}: each block halves the image; "
            f"give at most {MAX_BLOCKS} numbers"
        )
    if len(given.get("hidden_sizes", ())) > MAX_LAYERS:
        raise InputError(
            f"--hidden-sizes has {len(config.hidden_sizes)} numbers; give at most {MAX_LAYERS}"
        )
    for name, high in {"devices": math.inf, "steps_per_call": 10_000}.items():
        if (digits := getattr(config, name)) != "auto":
            if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
                raise InputError(f"--{_flag(name)}={shown(digits)}: give a number, or auto")
            _number(name, int(digits), 1, high)
    for name in ("workdir", "data_dir"):
        if name in given and not _can_be_a_path(given[name]):
            raise InputError(f"--{_flag(name)}={shown(given[name])}: no path can be so named")
    if config.workdir == "":
        raise InputError("--workdir is empty; give a folder, or leave the flag out")
    if (config.resume or config.eval_only) and not config.workdir:
        flag = "--resume" if config.resume else "--eval-only"
        raise InputError(f"{flag} needs --workdir=RUN, the folder of the run")
    together = (config.coordinator, config.num_processes, config.process_id)
    if config.eval_only and any(value is not None for value in together):
        raise InputError("--eval-only scores in one process; leave --coordinator and its like out")
    if config.resume + config.eval_only + (config.dry_run and config.eval_only) > 1:
        other = "--resume" if config.resume else "--dry-run"
        raise InputError(f"{other} and --eval-only exclude each other; give one")


def from_dict(values: Any, source: str) -> TrainConfig:
    """A configuration from plain values, as `TrainConfig.to_dict` gives them.

    Args:
      values: a dictionary; unknown names and wrong types are refused.
      source: where it came from, for the message.

    Raises:
      InputError: what doesn't fit.

    Example:
      >>> from_dict({"arch": "mlp", "hidden_sizes": [64]}, "here").hidden_sizes
      (64,)
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: expected an object with the fields of a configuration")
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{source}: unknown field {quoted(name)}")
        values = {**values, name: _typed(name, value, fields[name].type, source)}
    config = TrainConfig(**values)
    try:
        check(config)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return config


def _typed(name, value, annotation, source):
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    kinds = typing.get_args(annotation) or (annotation,)
    if value is None and types.NoneType in kinds:
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple) and all(type(v) is int for v in value):
            return tuple(value)
    # bool is a kind of int to Python; and JSON writes 2.0 as 2 in some hands.
    elif type(value) is kind or (kind is float and type(value) is int):
        with contextlib.suppress(OverflowError):  # an integer beyond all floats
            return kind(value)
    if typing.get_origin(kind) is tuple:
        wanted = "a tuple of int"
    else:
        wanted = {"int": "an int"}.get(kind.__name__, f"a {kind.__name__}")
    raise InputError(f"{source}: field {name!r} is {quoted(value)}; give {wanted}")


def read_config(path: Path) -> TrainConfig:
    """The configuration that a run wrote to its ``config.json``.

    Raises:
      InputError: no such file, or not a configuration.
    """
    values = read_json(path)
    if not isinstance(values, dict) or "config" not in values:
        raise InputError(f"{path}: has no field 'config'; is it a run's config.json?")
    return from_dict(values["config"], str(path))


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
