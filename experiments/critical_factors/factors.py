"""The factors and the levels of each.

A training is described by a dictionary of settings: fields of `TrainConfig`, of the network
(activation, norm, pool, kernel_size) and of the data (preprocessing, warp, train_images,
label_noise). A level changes a few of the baseline's settings; the level that changes none is the
baseline's, and every other is compared with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from digits_jax import ConfigError, TrainConfig
from experiments.critical_factors.preprocessing import PREPROCESSING

Settings = dict[str, Any]

CONFIG_FIELDS = {
    "mlp": ("hidden_sizes",),
    "cnn": ("channels", "convs_per_block", "dense_size"),
    "both": (
        *("optimizer", "learning_rate", "weight_decay", "schedule", "batch_size", "epochs"),
        *("label_smoothing", "dropout"),
    ),
}
NETWORK = {"activation": "relu", "norm": "batch"}
CNN_NETWORK = {"pool": "max", "kernel_size": 3}
# train_images: how many are drawn; 0 for all. Trainings take equally many steps with any number.
DATA = {"preprocessing": "scaling", "warp": "none", "train_images": 0, "label_noise": 0.0}
# One change at a time, each as strong as in the library's policies.
WARPS: dict[str, dict[str, float]] = {
    "none": {},
    "shift": {"shift_pixels": 2.0},
    "rotation": {"rotation_degrees": 10.0},
    "scaling": {"scale_factor": 1.15},
    "shear": {"shear_degrees": 10.0},
    "elastic": {"elastic_pixels": 0.6},
    "all": {
        "rotation_degrees": 10.0,
        "scale_factor": 1.15,
        "shear_degrees": 10.0,
        "shift_pixels": 2.0,
        "elastic_pixels": 0.6,
    },
}
# Factor -> its name in a sentence, what its levels are, and the scale of their axis.
FACTORS = {
    "depth": ("Depth", "hidden layers (MLP), convolutions (CNN)", "linear"),
    "width": ("Width", "units of a hidden dense layer", "log"),
    "filters": ("The number of filters", "filters of the first block", "log"),
    "kernel": ("The size of the filters", "side of a filter (pixels)", "linear"),
    "pooling": ("Pooling", "pooling", "kinds"),
    "activation": ("The activation", "activation", "kinds"),
    "dropout": ("Dropout", "share of activations dropped", "linear"),
    "normalization": ("Normalization", "normalization", "kinds"),
    "preprocessing": ("Preprocessing of the images", "preprocessing", "kinds"),
    "augmentation": ("Augmentation", "augmentation, one at a time", "kinds"),
    "learning_rate": ("The learning rate", "peak learning rate of AdamW", "log"),
    "optimizer": ("The optimizer", "peak learning rate", "log"),
    "batch_size": ("The batch size", "images in a batch", "log"),
    "label_smoothing": ("Label smoothing", "label smoothing", "linear"),
    "train_size": ("The number of training images", "training images", "log"),
    "label_noise": ("Wrong training labels", "share of labels that are wrong", "linear"),
}
ACTIVATIONS = ("relu", "leaky_relu", "gelu", "tanh", "sigmoid", "linear")
RATES = {
    "adamw": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "lion": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01),
}
# Adam has no weight decay, and SGD's is added to the gradient, which the others' is not.
DECAYS = {"adam": 0.0, "sgd": 0.0005, "lion": 0.1}


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a factor.

    Attributes:
      label: its name in tables and figures.
      changes: of the baseline's settings.
      value: its place on the factor's axis of numbers.
      curve: the curve that it belongs to, where a factor has several (an optimizer's).
    """

    label: str
    changes: Settings = field(default_factory=dict)
    value: float = 0.0
    curve: str = ""

    def is_baseline(self, baseline: Settings) -> bool:
        """Whether it changes nothing."""
        return {**baseline, **self.changes} == baseline


@dataclass(frozen=True)
class Factor:
    """Something that may influence recognition.

    Attributes:
      name: on the command line.
      subject: at the start of a sentence.
      axis: what the levels are, with a unit.
      scale: "linear", "log", or "kinds" where levels are no numbers.
      levels: by architecture; a factor that an architecture doesn't have has none there.
    """

    name: str
    subject: str
    axis: str
    scale: str
    levels: dict[str, list[Level]]

    @property
    def has_curves(self) -> bool:
        """Whether its levels belong to several curves."""
        return any(level.curve for levels in self.levels.values() for level in levels)


def baseline(arch: str, dataset: str, *, quick: bool = False) -> Settings:
    """Returns the settings that every factor starts from: the preset ``quick``.

    Args:
      arch: "mlp" or "cnn".
      dataset: the data set's name; small ones have a longer recipe.
      quick: smaller networks and fewer epochs, to try the study.

    Example:
      >>> baseline("cnn", "mnist")["channels"]
      (24, 48)
    """
    preset = TrainConfig(arch=arch, preset="quick").resolve(dataset)  # type: ignore[arg-type]
    names = (*CONFIG_FIELDS[arch], *CONFIG_FIELDS["both"])
    own = {name: getattr(preset, name) for name in names}
    if quick:
        small = {"mlp": {"hidden_sizes": (64, 64)}, "cnn": {"channels": (8, 16), "dense_size": 32}}
        own |= {**small[arch], "epochs": min(own["epochs"], 3.0)}
    return {"arch": arch, **own, **NETWORK, **(CNN_NETWORK if arch == "cnn" else {}), **DATA}


def key_of(settings: Settings) -> str:
    """Returns a text that is equal for equal settings.

    Example:
      >>> key_of({"b": 1, "a": (2,)})
      '{"a": [2], "b": 1}'
    """
    return json.dumps(settings, sort_keys=True)


def make_factors(
    baselines: Mapping[str, Settings], size: int, *, quick: bool = False
) -> list[Factor]:
    """Makes all factors, in the order of the report.

    Args:
      baselines: by architecture.
      size: number of training images.
      quick: of each factor the baseline's level and one other.
    """
    levels = {arch: _levels(arch, base, size) for arch, base in baselines.items()}
    if quick:
        for arch, base in baselines.items():
            levels[arch] = {name: _two(own, base) for name, own in levels[arch].items()}
    return [
        Factor(name, *words, {arch: levels[arch].get(name, []) for arch in baselines})
        for name, words in FACTORS.items()
    ]


def _two(levels: list[Level], base: Settings) -> list[Level]:
    others = [level for level in levels if not level.is_baseline(base)]
    kept = others[0] if levels[-1].is_baseline(base) else others[-1]
    return [level for level in levels if level is kept or level.is_baseline(base)]


def _levels(arch: str, base: Settings, size: int) -> dict[str, list[Level]]:
    """The levels of each factor that an architecture has."""

    def numbers(name: str, values: Iterable[float]) -> list[Level]:
        """The baseline's own value is among them."""
        ordered = sorted({*values, base[name]})
        return [Level(f"{v:g}", {name: v}, float(v)) for v in ordered]

    def kinds(name: str, values: Iterable[str]) -> list[Level]:
        return [Level(value.replace("_", " "), {name: value}) for value in values]

    def multiples(name: str, factors: Sequence[float]) -> list[Level]:
        own = base[name] if isinstance(base[name], tuple) else (base[name],)
        found = []
        for factor in factors:
            scaled = tuple(max(1, round(value * factor)) for value in own)
            value = scaled if isinstance(base[name], tuple) else scaled[0]
            found.append(Level(str(scaled[0]), {name: value}, scaled[0]))
        return found

    found = {
        "activation": kinds("activation", ACTIVATIONS),
        "dropout": numbers("dropout", (0.0, 0.1, 0.25, 0.5, 0.75)),
        "normalization": kinds("norm", ("batch", "layer", "group", "none")),
        "preprocessing": kinds("preprocessing", PREPROCESSING),
        "augmentation": kinds("warp", WARPS),
        "learning_rate": numbers("learning_rate", RATES["adamw"]),
        "optimizer": _optimizers(base),
        "batch_size": multiples("batch_size", (1 / 4, 1 / 2, 1, 2, 4, 8)),
        "label_smoothing": numbers("label_smoothing", (0.0, 0.05, 0.1, 0.2, 0.4)),
        "train_size": [
            *(
                Level(f"{n:,}", {"train_images": n}, n)
                for n in (100, 300, 1000, 3000, 10_000, 30_000)
                if n < size
            ),
            Level(f"{size:,}", {"train_images": 0}, size),
        ],
        "label_noise": numbers("label_noise", (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)),
    }
    if arch == "mlp":
        width = base["hidden_sizes"][0]
        return found | {
            "depth": [Level(str(n), {"hidden_sizes": (width,) * n}, n) for n in range(5)],
            "width": multiples("hidden_sizes", (1 / 16, 1 / 4, 1 / 2, 1, 2)),
        }
    first, last = base["channels"][0], base["channels"][-1]
    return found | {
        "depth": [
            Level("1", {"channels": (first,)}, 1),
            Level("2", {"channels": (first, last)}, 2),
            Level("3", {"channels": (first, last, 2 * last)}, 3),
            Level("4", {"channels": (first, last), "convs_per_block": 2}, 4),
        ],
        "width": multiples("dense_size", (1 / 8, 1 / 4, 1 / 2, 1, 2)),
        "filters": multiples("channels", (1 / 4, 1 / 2, 1, 2)),
        "kernel": [Level(f"{side}x{side}", {"kernel_size": side}, side) for side in (1, 3, 5, 7)],
        "pooling": kinds("pool", ("max", "average", "stride")),
    }


def _optimizers(base: Settings) -> list[Level]:
    levels = []
    for name, rates in RATES.items():
        decay = DECAYS.get(name, base["weight_decay"])
        if name == base["optimizer"]:
            rates, decay = tuple(sorted({*rates, base["learning_rate"]})), base["weight_decay"]
        for rate in rates:
            changes = {"optimizer": name, "weight_decay": decay, "learning_rate": rate}
            levels.append(Level(f"{name} {rate:g}", changes, rate, name))
    return levels


def choose_factors(factors: Sequence[Factor], names: Sequence[str]) -> list[Factor]:
    """Returns the factors with the given names, in their own order; all where none is given.

    Raises:
      ConfigError: no factor has a name.
    """
    if unknown := set(names) - {factor.name for factor in factors}:
        allowed = ", ".join(factor.name for factor in factors)
        raise ConfigError(f"--factors={','.join(names)}: no {min(unknown)}; give {allowed}")
    return [factor for factor in factors if factor.name in names or not names]
