"""The factors and the levels of each.

A training is described by a dictionary of settings: fields of `TrainConfig`, of the network
(activation, norm, pool, kernel_size) and of the data (preprocessing, warp, train_images,
label_noise). A level changes a few of the baseline's settings; the level that changes none is the
baseline's, and every other is compared with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from digits_jax import TrainConfig
from experiments.critical_factors.images import PREPROCESSING

Settings = dict[str, Any]
Levels = dict[str, Settings]  # label -> what it changes
Factors = dict[str, dict[str, Levels]]  # name -> architecture, where it has the factor -> levels

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
}
WARPS["all"] = {name: value for warp in WARPS.values() for name, value in warp.items()}
# Factor -> its name in a heading, and what its levels are.
FACTORS = {
    "depth": ("Depth", "hidden layers (MLP), convolutions (CNN)"),
    "width": ("Width", "units of a hidden dense layer"),
    "filters": ("The number of filters", "filters of the first block"),
    "kernel": ("The size of the filters", "side of a filter (pixels)"),
    "pooling": ("Pooling", "pooling"),
    "activation": ("The activation", "activation"),
    "dropout": ("Dropout", "share of activations dropped"),
    "normalization": ("Normalization", "normalization"),
    "preprocessing": ("Preprocessing of the images", "preprocessing"),
    "augmentation": ("Augmentation", "augmentation, one at a time"),
    "learning_rate": ("The learning rate", "peak learning rate of AdamW"),
    "optimizer": ("The optimizer", "peak learning rate"),
    "batch_size": ("The batch size", "images in a batch"),
    "label_smoothing": ("Label smoothing", "label smoothing"),
    "train_size": ("The number of training images", "training images"),
    "label_noise": ("Wrong training labels", "share of labels that are wrong"),
}
RATES = {
    "adamw": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "lion": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01),
}
# Adam has no weight decay, and SGD's is added to the gradient, which the others' is not.
DECAYS = {"adam": 0.0, "sgd": 0.0005, "lion": 0.1}


def baseline(arch: str, dataset: str) -> Settings:
    """Returns the settings that every factor starts from: the preset ``quick``.

    Args:
      arch: "mlp" or "cnn".
      dataset: the data set's name; small ones have a longer recipe.

    Examples:
      >>> baseline("cnn", "mnist")["channels"]
      (24, 48)
    """
    preset = TrainConfig(arch=arch, preset="quick").resolve(dataset)  # type: ignore[arg-type]
    names = (*CONFIG_FIELDS[arch], *CONFIG_FIELDS["both"])
    own = {name: getattr(preset, name) for name in names}
    return {"arch": arch, **own, **NETWORK, **(CNN_NETWORK if arch == "cnn" else {}), **DATA}


def key_of(settings: Settings) -> str:
    """Returns a text that is equal for equal settings.

    Examples:
      >>> key_of({"b": 1, "a": (2,)})
      '{"a": [2], "b": 1}'
    """
    return json.dumps(settings, sort_keys=True)


def is_baseline(changes: Settings, base: Settings) -> bool:
    """Tells whether a level changes nothing."""
    return {**base, **changes} == base


def make_factors(baselines: Mapping[str, Settings], size: int) -> Factors:
    """Makes all factors, in the order of `FACTORS`, for so many training images."""
    levels = {arch: _levels(arch, base, size) for arch, base in baselines.items()}
    return {
        name: {arch: own[name] for arch, own in levels.items() if name in own} for name in FACTORS
    }


def _levels(arch: str, base: Settings, size: int) -> dict[str, Levels]:
    """The levels of each factor that an architecture has."""

    def numbers(name: str, *values: float) -> Levels:
        return {f"{v:g}": {name: v} for v in sorted({*values, base[name]})}

    def kinds(name: str, values: Iterable[str]) -> Levels:
        return {value.replace("_", " "): {name: value} for value in values}

    def multiples(name: str, *factors: float) -> Levels:
        if not isinstance(base[name], tuple):
            return {str(v): {name: v} for v in (round(base[name] * k) for k in factors)}
        scaled = [tuple(max(1, round(v * k)) for v in base[name]) for k in factors]
        return {str(sizes[0]): {name: sizes} for sizes in scaled}

    sizes = [n for n in (100, 300, 1000, 3000, 10_000, 30_000) if n < size]
    found = {
        "activation": kinds(
            "activation", ("relu", "leaky_relu", "gelu", "tanh", "sigmoid", "linear")
        ),
        "dropout": numbers("dropout", 0.0, 0.1, 0.25, 0.5, 0.75),
        "normalization": kinds("norm", ("batch", "layer", "group", "none")),
        "preprocessing": kinds("preprocessing", PREPROCESSING),
        "augmentation": kinds("warp", WARPS),
        "learning_rate": numbers("learning_rate", *RATES["adamw"]),
        "optimizer": _optimizers(base),
        "batch_size": multiples("batch_size", 1 / 4, 1 / 2, 1, 2, 4, 8),
        "label_smoothing": numbers("label_smoothing", 0.0, 0.05, 0.1, 0.2, 0.4),
        "train_size": {
            **{f"{n:,}": {"train_images": n} for n in sizes},
            f"{size:,}": {"train_images": 0},
        },
        "label_noise": numbers("label_noise", 0.0, 0.05, 0.1, 0.2, 0.3, 0.4),
    }
    if arch == "mlp":
        width = base["hidden_sizes"][0]
        return found | {
            "depth": {str(n): {"hidden_sizes": (width,) * n} for n in range(5)},
            "width": multiples("hidden_sizes", 1 / 16, 1 / 4, 1 / 2, 1, 2),
        }
    first, last = base["channels"][0], base["channels"][-1]
    return found | {
        "depth": {
            "1": {"channels": (first,)},
            "2": {"channels": (first, last)},
            "3": {"channels": (first, last, 2 * last)},
            "4": {"channels": (first, last), "convs_per_block": 2},
        },
        "width": multiples("dense_size", 1 / 8, 1 / 4, 1 / 2, 1, 2),
        "filters": multiples("channels", 1 / 4, 1 / 2, 1, 2),
        "kernel": {f"{side}x{side}": {"kernel_size": side} for side in (1, 3, 5, 7)},
        "pooling": kinds("pool", ("max", "average", "stride")),
    }


def _optimizers(base: Settings) -> Levels:
    levels = {}
    for name, rates in RATES.items():
        own: Sequence[float] = rates
        decay = DECAYS.get(name, base["weight_decay"])
        if name == base["optimizer"]:
            own, decay = sorted({*rates, base["learning_rate"]}), base["weight_decay"]
        for rate in own:
            changes = {"optimizer": name, "weight_decay": decay, "learning_rate": rate}
            levels[f"{name} {rate:g}"] = changes
    return levels
