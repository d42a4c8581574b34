"""`TrainConfig` says what is trained, `RunOptions` where and how; both are checked when made."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from digits_jax.errors import ConfigError, shown
from digits_jax.fields import MAX_INT, Checked, Optional, Range, can_be_a_path
from digits_jax.files import read_json
from digits_jax.presets import DISTILLATION, SOURCES, preset_values
from digits_jax.runs.folder import CONFIG

T = TypeVar("T")
_hint = tyro.conf.arg(help_behavior_hint="(default: by preset)")
if TYPE_CHECKING:  # a resolved configuration has a value
    ByPreset = Annotated[T, _hint]
else:
    ByPreset = Annotated[T | None, _hint]
BY_PRESET: Any = None

MAX_BLOCKS = 3
# Depths that compile in 30 s on two cores. The time grows faster than the depth: 4 hidden layers
# took 4 s, 8 took 10 s, 16 took 20 s and 64 over 10 minutes; 15 convolutions took 35 s.
MAX_LAYERS = 16
RANGES = {
    "mix": Range(1, 1000),
    "epochs": Range(0, 1e6, low_open=True),
    "batch_size": Range(1, MAX_INT),
    "learning_rate": Range(0, low_open=True),
    "weight_decay": Range(0),
    "label_smoothing": Range(0, 1, high_open=True),
    "dropout": Range(0, 1, high_open=True),
    "ema_decay": Range(0, 1, high_open=True),
    "hidden_sizes": Range(1, MAX_INT),
    "channels": Range(1, MAX_INT),
    "convs_per_block": Range(1, 4),
    "dense_size": Range(0, MAX_INT),
    "augment_strength": Range(0, 10),
    "adversarial": Range(0, 1),
    "seed": Range(0, MAX_INT),
    "teacher_weight": Range(0, 1),
    # Below 0.01, quotients of float32 logits are so large that their differences are rounded away.
    "teacher_temperature": Range(0.01, 1000),
    "ensemble": Range(1, 1000),
    "devices": Range(1, MAX_INT),
    "steps_per_call": Range(1, 10_000),
    "checkpoint_every_steps": Range(0, MAX_INT),
    "max_skipped_steps": Range(1, MAX_INT),
    "num_processes": Range(1, MAX_INT),
    "process_id": Range(0, MAX_INT),
    "stall_seconds": Range(1, 86_400),
}
# The fields that belong to the other architecture alone.
OTHER_ARCH_FIELDS = {
    "mlp": ("channels", "convs_per_block", "dense_size", "space_to_depth"),
    "cnn": ("hidden_sizes",),
}
# A resumed run doesn't take these from the earlier call.
_THIS_CALL = ("devices", "platform", "coordinator", "num_processes", "process_id")


@dataclass(frozen=True)
class TrainConfig(Checked, ranges=RANGES):
    """Describes what is trained. `resolve` fills in fields that are None from the preset.

    Two runs with equal resolved configurations, on the same data, learn the same parameters, up to
    rounding differences between devices. The fields are checked when it is constructed.

    Raises:
      ConfigError: a value, or a combination of values, that isn't allowed.

    Examples:
      >>> TrainConfig(arch="ann", preset="quick", dropout=0.1).resolve("mnist").dropout
      0.1
    """

    arch: Literal["cnn", "mlp", "ann"] = "cnn"
    """Network: cnn, or mlp (also called ann)."""
    preset: Literal["quick", "standard", "best", "tiny", "handwriting"] = "standard"
    """Recipe for what isn't given: quick (seconds), standard or best (minutes), tiny (fewer than 5,000 parameters), or handwriting (digits of many writers)."""  # noqa: E501
    dataset: str = "auto"
    """mnist, digits, fashion_mnist, kmnist, emnist/letters|balanced|digits, tfds/NAME for a prepared set, or the path of your own data: class folders, .csv, .npz, IDX files; auto: mnist if it can be loaded, else digits."""  # noqa: E501
    mix: Optional[tuple[int, ...]] = None
    """With --dataset=A+B: how often the training images of each are repeated, e.g. 1,5 (default: once, or as the preset handwriting has it)."""  # noqa: E501
    picture: Literal["ink", "resize"] = "ink"
    """Preprocessing of your own pictures: ink, as in predict, or resize, which only scales them to 28x28."""  # noqa: E501
    epochs: ByPreset[float] = BY_PRESET
    """Passes over the training images; fractions are allowed."""
    batch_size: ByPreset[int] = BY_PRESET
    """Images in a batch, over all devices."""
    learning_rate: ByPreset[float] = BY_PRESET
    """Peak learning rate."""
    schedule: ByPreset[Literal["one_cycle", "cosine", "constant"]] = BY_PRESET
    """Learning rate over time; cosine and constant begin with a warm-up."""
    optimizer: ByPreset[Literal["adam", "adamw", "sgd", "lion"]] = BY_PRESET
    """Optimizer; sgd has Nesterov momentum."""
    weight_decay: ByPreset[float] = BY_PRESET
    """Weight decay of kernels (adam has none)."""
    label_smoothing: ByPreset[float] = BY_PRESET
    """Share of each target spread over all classes, in [0, 1)."""
    dropout: ByPreset[float] = BY_PRESET
    """Share of hidden activations dropped in training, in [0, 1)."""
    batch_norm: ByPreset[bool] = BY_PRESET
    """Normalize activations over the batch."""
    hidden_sizes: ByPreset[tuple[int, ...]] = BY_PRESET
    """mlp: width of each hidden layer, e.g. 512,256."""
    channels: ByPreset[tuple[int, ...]] = BY_PRESET
    """cnn: filters of each block, e.g. 32,64; each block halves the image."""
    convs_per_block: ByPreset[int] = BY_PRESET
    """cnn: convolutions in each block."""
    dense_size: ByPreset[int] = BY_PRESET
    """cnn: width of the hidden dense layer; 0 for none."""
    space_to_depth: ByPreset[bool] = BY_PRESET
    """cnn: fold 2x2 pixels into channels first, for a quarter of the work."""
    ema_decay: ByPreset[float] = BY_PRESET
    """Evaluate a moving average of the parameters: its decay, in [0, 1); 0 for none."""
    recalibrate_batch_norm: ByPreset[bool] = BY_PRESET
    """After the last step, estimate BatchNorm's statistics from training images without augmentation."""  # noqa: E501
    augment: ByPreset[
        Literal["none", "shift", "affine", "elastic", "centred", "cutout", "handwriting", "noise"]
    ] = BY_PRESET
    """Random changes to training images; centred is elastic without shifts, cutout is affine with a blanked square, handwriting also changes the strokes."""  # noqa: E501
    augment_strength: ByPreset[float] = BY_PRESET
    """Factor on the strength of --augment: 2 rotates, shifts and bends twice as far."""
    adversarial: ByPreset[float] = BY_PRESET
    """FGSM: largest change of a training image's pixels (white is 1) in the direction that increases the loss; 0 for none."""  # noqa: E501
    seed: int = 0
    """Seed of the initial parameters, the order of the data, augmentation and dropout."""
    init_from: Optional[str] = None
    """Folder of a run, or name of a pretrained network, with whose parameters training starts. It sets the network's fields; the last layer is new if the classes differ."""  # noqa: E501
    teacher: Optional[str] = None
    """Folder of a finished run or ensemble, or a pretrained network, whose predictions are targets beside the labels; none removes that of --config."""  # noqa: E501
    teacher_weight: Annotated[
        float | None, tyro.conf.arg(help_behavior_hint="(default: 0.9 with a teacher)")
    ] = None
    """Share of the distillation loss, in [0, 1]; the labels have the rest."""
    teacher_temperature: Annotated[
        float | None, tyro.conf.arg(help_behavior_hint="(default: 2 with a teacher)")
    ] = None
    """Temperature of the distillation loss."""
    ensemble: int = 1
    """Networks to train, with the seeds SEED, SEED + 1, ..., whose probabilities are averaged."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the factors in training's matrix products; auto: bfloat16 where the device supports it. Parameters, sums and evaluation are float32."""  # noqa: E501

    def _broken_rules(self) -> Iterator[str]:
        arch = _canonical(self.arch)
        for name in OTHER_ARCH_FIELDS[arch]:
            if getattr(self, name) is not None:
                yield f"{name} isn't for arch={arch}; leave it out"
        if self.channels and len(self.channels) > MAX_BLOCKS:
            yield f"channels={shown(','.join(map(str, self.channels)))}: each block halves the image; give at most {MAX_BLOCKS} numbers"  # noqa: E501
        if self.hidden_sizes and len(self.hidden_sizes) > MAX_LAYERS:
            yield f"hidden_sizes has {len(self.hidden_sizes)} numbers; give at most {MAX_LAYERS}"
        if self.seed + self.ensemble - 1 > MAX_INT:
            yield f"seed={self.seed} with ensemble={self.ensemble}: the last seed is more than {MAX_INT}; give a smaller one"  # noqa: E501
        if self.optimizer == "adam" and self.weight_decay:
            yield f"weight_decay={self.weight_decay}: adam has none; use adamw, or weight_decay=0"
        if self.augment == "none" and self.augment_strength not in (None, 1.0):
            yield f"augment_strength={self.augment_strength}: augment is none; give augment too, or leave it out"  # noqa: E501
        if self.recalibrate_batch_norm and self.batch_norm is False:
            yield "recalibrate_batch_norm needs batch_norm; leave one of them out"
        for name in ("teacher", "init_from"):
            if getattr(self, name) == "":
                yield f"{name} is empty; give the folder of a run, or leave it out"
        if self.teacher is None:
            for name in DISTILLATION:
                if getattr(self, name) is not None:
                    yield f"{name} needs a teacher; give teacher=RUN too"

    def sources(self) -> tuple[str, tuple[int, ...] | None]:
        """Returns the data set to load, and its mix: those of the preset if none is given."""
        if self.dataset == "auto" and self.preset in SOURCES:
            dataset, mix = SOURCES[self.preset]
            return dataset, self.mix or mix
        return self.dataset, self.mix

    def resolve(self, dataset: str, *, small: bool | None = None) -> "TrainConfig":
        """Fills in the fields that are None from the preset.

        Args:
          dataset: the name that "auto" or a path came to.
          small: whether it takes the recipes for small data sets; None: only ``digits`` does.

        Raises:
          ConfigError: a given field doesn't fit the preset's others.
        """
        arch = _canonical(self.arch)
        is_small = dataset == "digits" if small is None else small
        values = preset_values(arch, self.preset, small=is_small)
        if self.optimizer == "adam":
            values["weight_decay"] = 0.0  # adam has none; the preset's is for adamw
        if self.batch_norm is False:
            values["recalibrate_batch_norm"] = False
        if self.augment not in (None, values["augment"]):
            values["augment_strength"] = 1.0  # the preset's belongs to its own augmentation
        if self.teacher is not None:
            values |= DISTILLATION
        if self.dataset == "auto" and dataset == self.sources()[0]:
            values["mix"] = self.sources()[1]
        filled = {name: v for name, v in values.items() if getattr(self, name) is None}
        return dataclasses.replace(self, arch=arch, dataset=dataset, **filled)


@dataclass(frozen=True)
class RunOptions(Checked, ranges=RANGES):
    """Describes where and how a run is computed: what may differ when it is resumed.

    Raises:
      ConfigError: a value, or a combination of values, that isn't allowed.
    """

    workdir: Annotated[
        str | None,
        tyro.conf.arg(help_behavior_hint="(default: a new runs/ARCH-DATASET-PRESET-seedSEED)"),
    ] = None
    """Folder of the run."""
    data_dir: Annotated[
        str | None,
        tyro.conf.arg(
            help_behavior_hint="(default: DIGITS_JAX_DATA_DIR, TFDS_DATA_DIR or "
            "~/tensorflow_datasets)"
        ),
    ] = None
    """Folder with the original files, or where tensorflow-datasets keeps prepared data sets."""
    input: Literal["memory", "stream"] = "memory"
    """Training images: held in memory, or read from prepared files as they are needed."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Kind of device."""
    devices: int | Literal["auto"] = "auto"
    """Devices that share each batch, in each process. A CPU can be split into as many as it has cores (or 8)."""  # noqa: E501
    convolution: Literal["auto", "lax", "matmul"] = "auto"
    """cnn: compute convolutions by XLA's own (lax), as matrix products (matmul), or by the faster one here (auto)."""  # noqa: E501
    steps_per_call: int | Literal["auto"] = "auto"
    """Steps in one call of the devices; for more than 1 they hold all training images; auto: 1 on a CPU, an epoch elsewhere."""  # noqa: E501
    together: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: on an accelerator)")
    ] = None
    """Train an ensemble's networks in one vmapped step, not one after another."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints; 0: one every 30 seconds."""
    max_skipped_steps: int = 10
    """Skipped steps in a row, whose loss or gradients weren't finite, after which training ends with an error."""  # noqa: E501
    tensorboard: bool = False
    """Also write TensorBoard event files into the run's folder (extra: tensorboard)."""
    coordinator: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: from the cluster, if any)")
    ] = None
    """Several processes: HOST:PORT of process 0."""
    num_processes: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: from the cluster, if any)")
    ] = None
    """Several processes: their number."""
    process_id: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: from the cluster, if any)")
    ] = None
    """Several processes: the index of this one, from 0."""
    stall_seconds: int = 60
    """Several processes: seconds without progress after which a process ends itself and the others."""  # noqa: E501

    def for_resuming(self, workdir: str | Path, **changes: Any) -> "RunOptions":
        """Returns the options of a run that is resumed here: devices and processes are this call's.

        Args:
          workdir: the run's folder.
          changes: fields that are given now.

        Raises:
          ConfigError: an unknown field.
        """
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        if unknown := changes.keys() - fields.keys():
            raise ConfigError(
                f"{min(unknown)}: not a field of RunOptions; give {', '.join(fields)}"
            )
        here = {name: fields[name] for name in _THIS_CALL}
        # A run from elsewhere may bring a folder that calls itself a known data set.
        if self.data_dir and Path(self.data_dir).resolve().is_relative_to(Path(workdir).resolve()):
            here["data_dir"] = None
        return dataclasses.replace(self, **{**here, "workdir": str(workdir), **changes})

    def _broken_rules(self) -> Iterator[str]:
        if self.workdir == "":
            yield "workdir is empty; give a folder, or leave it out"
        for name in ("workdir", "data_dir"):
            path = getattr(self, name)
            if path is not None and not can_be_a_path(path):
                yield f"{name}={shown(path)}: not a possible path; give another name"


def _canonical(arch: str) -> str:
    return "mlp" if arch == "ann" else arch


def check_processes(config: TrainConfig, options: RunOptions) -> None:
    """Raises a ConfigError for an ensemble in several processes."""
    places = (options.coordinator, options.num_processes, options.process_id)
    if config.ensemble > 1 and any(place is not None for place in places):
        raise ConfigError(
            f"ensemble={config.ensemble}: its networks are trained by one process; leave "
            "coordinator, num_processes and process_id out"
        )


def read_config(path: str | Path) -> tuple[TrainConfig, RunOptions]:
    """Reads the configuration of a run.

    Args:
      path: the run's folder, or its ``config.json``.

    Raises:
      ConfigError: the file isn't a run's configuration.
      CheckpointError: the file can't be read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CONFIG
    values = read_json(path)
    if not isinstance(values, dict) or not {"config", "options"} <= values.keys():
        raise ConfigError(f"{path}: no fields 'config' and 'options'; give a run's config.json")
    return (
        TrainConfig.from_dict(values["config"], str(path)),
        RunOptions.from_dict(values["options"], str(path)),
    )
