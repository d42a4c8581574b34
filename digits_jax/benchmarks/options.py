"""The flags of the benchmarks; nothing here imports JAX."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from digits_jax.config import RunOptions, TrainConfig
from digits_jax.errors import ConfigError
from digits_jax.fields import Optional, Switch

T = TypeVar("T", TrainConfig, RunOptions)
_MAX = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, on what, and for how long.

    Raises:
      ConfigError: a number that isn't more than 0, or too large.
    """

    what: Annotated[
        Literal["all", "step", "inference", "time-to-accuracy", "input", "startup", "scaling"],
        tyro.conf.Positional,
    ] = "all"
    """One benchmark; all: those of the summary, or every one with -v or -o."""
    quick: Switch = False
    """Fewer and shorter measurements, where no flag says otherwise."""
    verbose: Annotated[Switch, tyro.conf.arg(aliases=["-v"])] = False
    """Run all benchmarks, and print their tables behind the summary."""
    output: Annotated[
        Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER", help_behavior_hint="")
    ] = None
    """Folder for JSON and Markdown files."""
    dataset: str = "auto"
    """As in training; auto: mnist if it can be loaded, else digits."""
    data_dir: Optional[str] = None
    """Its folder, as in training."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Kind of device."""
    devices: int | Literal["auto"] = "auto"
    """As in training: a number, or auto."""
    arch: tuple[str, ...] = ("cnn", "mlp")
    """Networks; scaling measures the CNN alone."""
    preset: Literal["quick", "standard", "best", "tiny"] = "quick"
    """Recipe of the networks."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As in training."""
    batch_sizes: Annotated[
        tuple[int, ...], tyro.conf.arg(help_behavior_hint="(default: each benchmark's own)")
    ] = ()
    """Images in a batch."""
    repeats: int = 7
    """Blocks of each measurement; of startup, processes of each kind."""
    seconds: float = 0.5
    """Seconds of each block."""
    seeds: int = 3
    """Trainings of time-to-accuracy, with the seeds 0 to N - 1."""
    cold: Switch = False
    """Let each training of time-to-accuracy compile everything again."""

    def __post_init__(self) -> None:
        for name in ("devices", "batch_sizes", "repeats", "seconds", "seeds"):
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number != "auto" and not 0 < number <= _MAX:
                    raise ConfigError(f"{name}={number}: must be more than 0 and at most {_MAX:,}")


# What --quick changes, where no flag says otherwise.
QUICK: dict[str, Any] = {
    "arch": ("cnn",),
    "repeats": 3,
    "seconds": 0.1,
    "seeds": 1,
}


def train_config(options: Options, **fields: Any) -> tuple[TrainConfig, RunOptions]:
    """Returns the configuration that a benchmark trains or scores.

    Args:
      options: of the benchmark; what they have in common with the two classes is taken over.
      fields: of the two classes, beside those or instead of them.

    Raises:
      ConfigError: a value that isn't allowed.

    Examples:
      >>> train_config(Options(dataset="digits", platform="cpu"), arch="mlp")[0].dataset
      'digits'
    """
    given = {**vars(options), **fields}

    def make(kind: type[T]) -> T:
        names = [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: given[name] for name in names if name in given})

    return make(TrainConfig), make(RunOptions)
