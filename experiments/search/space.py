"""What is searched, and where; a trial's values are a pure function of (seed, number)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from digits_jax.config import TrainConfig

# What isn't searched is as this preset has it, and so is all of trial 0.
PRESET = "standard"


@dataclass(frozen=True)
class LogUniform:
    """Numbers whose logarithm is uniform, of three digits, as a command line shows them."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The number that a u in [0, 1) stands for."""
        low, high = math.log(self.low), math.log(self.high)
        rounded = float(f"{math.exp(low + u * (high - low)):.3g}")
        return min(max(rounded, self.low), self.high)  # exp(log(x)) may miss x


@dataclass(frozen=True)
class Uniform:
    """Numbers of two decimals."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The number that a u in [0, 1) stands for."""
        return round(self.low + u * (self.high - self.low), 2)


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: Sequence[Any]

    def at(self, u: float) -> Any:
        """The value that a u in [0, 1) stands for."""
        return self.values[int(u * len(self.values))]


@dataclass(frozen=True)
class ByOptimizer:
    """A rate means another thing to each optimizer: Adam's and Lion's steps don't depend on the
    gradient's length, Lion's are larger; and only theirs keep the decay out of the gradient."""

    kinds: Mapping[str, LogUniform]


# The order is part of a trial's values: each takes its own random word. Adam is AdamW where
# weight_decay is near its low end.
_BOTH = {
    "optimizer": Choice(("adamw", "sgd", "lion")),
    "learning_rate": ByOptimizer(
        {
            "adamw": LogUniform(1e-3, 5e-2),
            "sgd": LogUniform(1e-2, 5e-1),
            "lion": LogUniform(1e-4, 5e-3),
        }
    ),
    "weight_decay": ByOptimizer(
        {
            "adamw": LogUniform(1e-3, 3e-1),
            "sgd": LogUniform(1e-6, 1e-3),
            "lion": LogUniform(1e-2, 1.0),
        }
    ),
    "label_smoothing": Uniform(0.0, 0.2),
    "dropout": Uniform(0.0, 0.5),
    "batch_size": Choice((64, 128, 256, 512)),
    "schedule": Choice(("one_cycle", "cosine", "constant")),
    "augment": Choice(("none", "shift", "affine", "elastic")),
    "ema_decay": Choice((0.0, 0.9, 0.99)),
    "batch_norm": Choice((True, False)),
}
_DEPTH_AND_WIDTH = {"layers": Choice((1, 2, 3)), "width": Choice((128, 256, 512, 1024))}
SPACES = {
    "mlp": {**_BOTH, **_DEPTH_AND_WIDTH},
    "cnn": {
        **_BOTH,
        "channels": Choice(((16, 32), (24, 48), (32, 64), (64, 128), (16, 32, 64))),
        "convs_per_block": Choice((1, 2)),
        "dense_size": Choice((0, 64, 128, 256)),
    },
}


def describe(arch: str) -> dict[str, Any]:
    """The space in plain values, for JSON: a search goes on in the space that it began in."""
    return {
        name: [type(kind).__name__, dataclasses.asdict(kind)] for name, kind in SPACES[arch].items()
    }


def sample(arch: str, dataset: str, seed: int, number: int) -> dict[str, Any]:
    """A trial's values.

    Args:
      arch: "mlp" or "cnn".
      dataset: its name; small ones have recipes of their own.
      seed: of the search.
      number: of the trial. Number 0 is the preset's recipe, for the others to beat.

    Returns:
      Fields of a `TrainConfig`.

    Example:
      >>> sample("mlp", "mnist", seed=0, number=0)["learning_rate"]
      0.01
      >>> sample("mlp", "mnist", seed=0, number=7) == sample("mlp", "mnist", seed=0, number=7)
      True

    Reference:
      Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, 2012.
    """
    if number == 0:
        recipe = TrainConfig(arch=arch, preset=PRESET).resolve(dataset)
        return {name: getattr(recipe, name) for name in searched_fields(arch)}
    import numpy as np

    # Raw words are the same in every NumPy; what `Generator` makes of them isn't promised to be.
    words = np.random.Philox(key=[seed, number]).random_raw(len(SPACES[arch]))
    found = {}
    for (name, kind), word in zip(SPACES[arch].items(), words, strict=True):
        if isinstance(kind, ByOptimizer):
            kind = kind.kinds[found["optimizer"]]
        found[name] = kind.at((int(word) >> 11) * 2.0**-53)
    if "layers" in found:
        found["hidden_sizes"] = (found.pop("width"),) * found.pop("layers")
    return found


def searched_fields(arch: str) -> list[str]:
    """The fields of a `TrainConfig` that are searched.

    Example:
      >>> searched_fields("cnn")[-3:], searched_fields("mlp")[-1]
      (['channels', 'convs_per_block', 'dense_size'], 'hidden_sizes')
    """
    names = [name for name in SPACES[arch] if name not in _DEPTH_AND_WIDTH]
    return [*names, "hidden_sizes"] if arch == "mlp" else names


def flags(values: Mapping[str, Any]) -> list[str]:
    """Values as a command line has them.

    Args:
      values: of fields of a `TrainConfig`.

    Example:
      >>> flags({"batch_norm": False, "hidden_sizes": (64, 32), "learning_rate": 0.01})
      ['--no-batch-norm', '--hidden-sizes=64,32', '--learning-rate=0.01']
    """
    return [_flag(name.replace("_", "-"), value) for name, value in values.items()]


def _flag(name, value):
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={show(value)}"


def show(value: Any) -> str:
    """A value in a table, and on a command line.

    Example:
      >>> show((512, 256)), show(60.0), show(1e-06), show("adamw")
      ('512,256', '60', '1e-06', 'adamw')
    """
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
