"""What each benchmark may be told, as command lines; nothing here imports JAX."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from digits_jax.config import RunOptions, TrainConfig
from digits_jax.errors import ConfigError

T = TypeVar("T", TrainConfig, RunOptions)
_MAX = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of every benchmark.

    Raises:
      ConfigError: a number that isn't more than 0, or too large.
    """

    quick: bool = False
    """Fewer and shorter measurements, where no flag says otherwise."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """Folder for JSON and Markdown files."""
    dataset: str = "auto"
    """As in training; auto: mnist where it can be had, else digits."""
    data_dir: str | None = None
    """Its folder, as in training."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                least = 0 if field.name == "seed" else 1 if isinstance(number, int) else 1e-9
                numeric = isinstance(number, int | float) and not isinstance(number, bool)
                if numeric and not least <= number <= _MAX:
                    bound = "at least 0" if field.name == "seed" else "more than 0"
                    raise ConfigError(
                        f"{field.name}={number}: must be {bound} and at most {_MAX:,}"
                    )
            if value == ():
                raise ConfigError(f"{field.name} is empty; give at least one value")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Of those that compute on a device."""

    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Kind of device."""
    devices: int | Literal["auto"] = "auto"
    """As in training: a number, or auto."""


@dataclass(frozen=True, kw_only=True)
class _Networks(DeviceOptions):
    arch: tuple[str, ...] = ("cnn", "mlp")
    """Networks."""
    preset: Literal["quick", "standard", "best", "tiny"] = "quick"
    """Recipe of the networks."""


@dataclass(frozen=True, kw_only=True)
class _Blocks(Options):
    seed: int = 0
    """Seed of the parameters and the order of images."""
    repeats: int = 7
    """Blocks of each measurement."""
    seconds: float = 0.5
    """Seconds of each block."""


@dataclass(frozen=True, kw_only=True)
class StepOptions(_Networks, _Blocks):
    """Of `benchmarks.step`."""

    batch_sizes: tuple[int, ...] = (64, 256, 1024)
    """Images in a batch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As in training."""
    convolution: Literal["auto", "lax", "matmul"] = "auto"
    """As in training."""
    steps_per_call: int | Literal["auto"] = "auto"
    """As in training: a number, or auto."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(_Networks, _Blocks):
    """Of `benchmarks.inference`."""

    batch_sizes: tuple[int, ...] = (200, 500, 1000, 10_000)
    """Images in a batch of the forward pass."""
    calls: int = 200
    """Calls with one image each."""


@dataclass(frozen=True, kw_only=True)
class TimeToAccuracyOptions(_Networks):
    """Of `benchmarks.time_to_accuracy`."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As in training."""
    seeds: int = 3
    """Trainings of each network, with the seeds 0 to N - 1."""
    target: float = 0.99
    """Test accuracy to reach, a fraction."""
    cold: bool = False
    """Let each training compile everything again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.target <= 1:
            raise ConfigError(f"target={self.target}: must be a fraction, such as 0.99")


@dataclass(frozen=True, kw_only=True)
class InputOptions(_Blocks):
    """Of `benchmarks.input`."""

    batch_sizes: tuple[int, ...] = (128, 256, 1024)
    """Images in a batch."""
    threads: tuple[int, ...] = (1, 2, 4)
    """Threads that read files."""
    at_once: int = 4096
    """Images that a thread reads at once."""
    evict: bool = False
    """Ask the system to forget the files before each row."""


@dataclass(frozen=True, kw_only=True)
class StartupOptions(Options):
    """Of `benchmarks.startup`."""

    repeats: int = 5
    """Processes of each kind."""


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(DeviceOptions, _Blocks):
    """Of `benchmarks.scaling`."""

    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Images in a batch."""
    widths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Factors on the channels and the dense layer of the quick CNN."""
    sizes: tuple[int, ...] = (2000, 4000, 8000, 16_000)
    """Training images in an epoch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As in training."""


def train_config(options: Options, **fields: Any) -> tuple[TrainConfig, RunOptions]:
    """Returns the configuration that a benchmark trains or scores.

    Args:
      options: of the benchmark; what they have in common with the two classes is taken over.
      fields: of the two classes, beside those or instead of them.

    Raises:
      ConfigError: a value that isn't allowed.

    Example:
      >>> train_config(StepOptions(dataset="digits", platform="cpu"), arch="mlp")[0].dataset
      'digits'
    """
    given = {**vars(options), **fields}
    if given["arch"] != "cnn":
        given["convolution"] = "auto"

    def make(kind: type[T]) -> T:
        names = [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: given[name] for name in names if name in given})

    return make(TrainConfig), make(RunOptions)
