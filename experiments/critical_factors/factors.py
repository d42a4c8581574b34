"""The factors, and the levels of each: plain values.

A level is a few changes of the baseline recipe. The one that changes nothing is the baseline's, and
every other is compared to it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from digits_jax.errors import ConfigError
from experiments.critical_factors.networks import ACTIVATIONS, NORMALIZATIONS, POOLINGS
from experiments.critical_factors.preprocess import PREPROCESSING
from experiments.critical_factors.recipe import ARCHS, Recipe
from experiments.critical_factors.training import AUGMENTATIONS


@dataclass(frozen=True)
class Level:
    """One setting of a factor.

    Attributes:
      label: as tables and pictures name it.
      changes: of the baseline recipe: field -> value.
      value: where the level lies on a factor's axis of numbers.
      curve: the curve that it belongs to, where a factor has several (an optimizer's).
    """

    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    value: float | None = None
    curve: str = ""


@dataclass(frozen=True)
class Factor:
    """Something that may influence recognition.

    Attributes:
      name: on the command line.
      subject: in a sentence, at its start.
      axis: what the levels are, with a unit.
      scale: "linear", "log", or "kinds" where levels are no numbers.
      levels: by architecture; a factor that an architecture hasn't has none there.
    """

    name: str
    subject: str
    axis: str
    scale: str
    levels: dict[str, tuple[Level, ...]]


@dataclass(frozen=True)
class Job:
    """A row of the table to be: a level of a factor, trained with a seed.

    Attributes:
      arch, factor, level: what the row is about.
      seed: of the training.
      recipe: what is trained; that of several rows may be the same.
      is_baseline: whether the level changes nothing.
    """

    arch: str
    factor: str
    level: str
    seed: int
    recipe: Recipe
    is_baseline: bool


def make_factors(baselines: dict[str, Recipe], size: int, *, quick: bool = False) -> list[Factor]:
    """All factors.

    Args:
      baselines: by architecture.
      size: training images that there are.
      quick: of each factor only the baseline's level and one other, at an end.

    Returns:
      In the order of the report.
    """
    common = [
        *_of_networks(),
        *_of_inputs(),
        *_of_optimization(),
        *_of_data(size),
    ]
    made = []
    for name, subject, axis, scale, levels in common:
        by_arch = {}
        for arch, recipe in baselines.items():
            found = tuple(levels(arch, recipe))
            by_arch[arch] = _fewer(found, recipe) if quick else found
        made.append(Factor(name, subject, axis, scale, by_arch))
    return made


def _fewer(levels: Sequence[Level], recipe: Recipe) -> tuple[Level, ...]:
    others = [level for level in levels if recipe.changed(**level.changes) != recipe]
    if others:
        # Most factors' last level is the strongest; the amount of data ends with the baseline's.
        kept = others[0] if levels[-1] is not others[-1] else others[-1]
        others = [kept]
    ends = {id(level) for level in others}
    return tuple(v for v in levels if id(v) in ends or recipe.changed(**v.changes) == recipe)


def _numbers(field_name: str, values: Iterable[float], text: str = "{:g}"):
    """Levels of one field, in order, the baseline's own value among them."""

    def levels(_, recipe):
        own = getattr(recipe, field_name)
        ordered = sorted({*values, own})
        return [Level(text.format(v), {field_name: v}, float(v)) for v in ordered]

    return levels


def _kinds(field_name: str, names: Iterable[str], archs: Sequence[str] = ARCHS):
    def levels(arch, _):
        return [Level(n.replace("_", " "), {field_name: n}) for n in names] if arch in archs else []

    return levels


def _times(field_name: str, factors: Sequence[float], archs: Sequence[str] = ARCHS):
    """Levels of a field that is a size, as multiples of the baseline's."""

    def levels(arch, recipe):
        if arch not in archs:
            return []
        own = getattr(recipe, field_name)
        values = [max(1, round(own * times)) for times in factors]
        return [Level(str(value), {field_name: value}, value) for value in values]

    return levels


def _of_networks():
    def depth(arch, recipe):
        if arch == "mlp":
            width = recipe.hidden_sizes[0]
            return [Level(str(n), {"hidden_sizes": (width,) * n}, n) for n in range(5)]
        first, last = recipe.channels[0], recipe.channels[-1]
        return [
            Level("1", {"channels": (first,)}, 1),
            Level("2", {"channels": (first, last)}, 2),
            Level("3", {"channels": (first, last, 2 * last)}, 3),
            Level("4", {"channels": (first, last), "convs_per_block": 2}, 4),
        ]

    def width(arch, recipe):
        if arch == "cnn":
            return _times("dense_size", (1 / 8, 1 / 4, 1 / 2, 1, 2))(arch, recipe)
        own = recipe.hidden_sizes
        sizes = [
            tuple(max(1, round(size * t)) for size in own) for t in (1 / 16, 1 / 4, 1 / 2, 1, 2)
        ]
        return [Level(str(size[0]), {"hidden_sizes": size}, size[0]) for size in sizes]

    def filters(arch, recipe):
        if arch == "mlp":
            return []
        sizes = [tuple(max(1, round(n * t)) for n in recipe.channels) for t in (1 / 4, 1 / 2, 1, 2)]
        return [Level(str(size[0]), {"channels": size}, size[0]) for size in sizes]

    def kernel(arch, _):
        if arch == "mlp":
            return []
        return [Level(f"{side}x{side}", {"kernel": side}, side) for side in (1, 3, 5, 7)]

    return [
        ("depth", "Depth", "hidden layers (MLP), convolutions (CNN)", "linear", depth),
        ("width", "Width", "units of a hidden dense layer", "log", width),
        ("filters", "The number of filters", "filters of the first block", "log", filters),
        ("kernel", "The size of the filters", "side of a filter (pixels)", "linear", kernel),
        ("pooling", "Pooling", "pooling", "kinds", _kinds("pooling", POOLINGS, ("cnn",))),
        ("activation", "The activation", "activation", "kinds", _kinds("activation", ACTIVATIONS)),
        (
            *("dropout", "Dropout", "share of activations dropped", "linear"),
            _numbers("dropout", (0.0, 0.1, 0.25, 0.5, 0.75)),
        ),
        (
            *("normalization", "Normalization", "normalization", "kinds"),
            _kinds("normalization", NORMALIZATIONS),
        ),
    ]


def _of_inputs():
    return [
        (
            *("preprocessing", "Preprocessing of the images", "preprocessing", "kinds"),
            _kinds("preprocessing", PREPROCESSING),
        ),
        (
            *("augmentation", "Augmentation", "augmentation, one at a time", "kinds"),
            _kinds("augment", AUGMENTATIONS),
        ),
    ]


_RATES = {
    "adamw": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "lion": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01),
}
# Adam has no weight decay, and SGD's is added to the gradient, which the others' is not.
_DECAYS = {"adam": 0.0, "sgd": 0.0005, "lion": 0.1}


def _of_optimization():
    def optimizer(_, recipe):
        levels = []
        for name, rates in _RATES.items():
            own = name == recipe.optimizer
            changes = {"optimizer": name}
            changes |= {} if own else {"weight_decay": _DECAYS.get(name, recipe.weight_decay)}
            rates = sorted({*rates, *([recipe.learning_rate] if own else [])})
            levels += [
                Level(f"{name} {rate:g}", {**changes, "learning_rate": rate}, rate, name)
                for rate in rates
            ]
        return levels

    return [
        (
            *("learning_rate", "The learning rate", "peak learning rate of AdamW", "log"),
            _numbers("learning_rate", _RATES["adamw"]),
        ),
        ("optimizer", "The optimizer", "peak learning rate", "log", optimizer),
        (
            *("batch_size", "The batch size", "images in a batch", "log"),
            _times("batch_size", (1 / 4, 1 / 2, 1, 2, 4, 8)),
        ),
        (
            *("label_smoothing", "Label smoothing", "label smoothing", "linear"),
            _numbers("label_smoothing", (0.0, 0.05, 0.1, 0.2, 0.4)),
        ),
    ]


def _of_data(size: int):
    def amount(_, recipe):
        values = [n for n in (100, 300, 1000, 3000, 10_000, 30_000) if n < size]
        levels = [Level(f"{n:,}", {"train_images": n}, n) for n in values]
        return [*levels, Level(f"{size:,}", {"train_images": recipe.train_images}, size)]

    return [
        ("train_size", "The number of training images", "training images", "log", amount),
        (
            *("label_noise", "Wrong training labels", "share of labels that are wrong", "linear"),
            _numbers("label_noise", (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)),
        ),
    ]


def choose_factors(factors: Sequence[Factor], names: Sequence[str]) -> list[Factor]:
    """Those with the given names, in their own order; all where none is given.

    Raises:
      ConfigError: a name that no factor has.
    """
    known = {factor.name for factor in factors}
    if "" in names:
        raise ConfigError("--factors is empty; leave it out for all of them")
    unknown = [name for name in names if name not in known]
    if unknown:
        allowed = ", ".join(factor.name for factor in factors)
        raise ConfigError(f"--factors={','.join(names)}: no {', '.join(unknown)}; give {allowed}")
    return [factor for factor in factors if factor.name in names or not names]


def make_jobs(factors: Sequence[Factor], baselines: dict[str, Recipe], seeds: int) -> list[Job]:
    """A row for every level of every factor, architecture and seed."""
    jobs = []
    for factor in factors:
        for arch, recipe in baselines.items():
            for level in factor.levels[arch]:
                changed = recipe.changed(**level.changes)
                facts = (arch, factor.name, level.label)
                same = changed == recipe
                jobs += [Job(*facts, seed, changed, same) for seed in range(seeds)]
    return jobs
