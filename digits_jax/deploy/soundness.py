"""Whether a network that comes from a file can be one: its names, its facts and its shapes."""

import json
import math
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from digits_jax.errors import quoted

if TYPE_CHECKING:
    from digits_jax.deploy.network import Network

IMAGE_SHAPE = (28, 28, 1)
# What the page, the card and `combine` say of a run: name -> type.
_RUN_FACTS = {
    **dict.fromkeys(("arch", "preset", "dataset", "dataset_sha256", "params_sha256"), str),
    **dict.fromkeys(("device", "jax_version"), str),
    **dict.fromkeys(("seed", "batch_size", "test_errors", "test_count"), int),
    **dict.fromkeys(("epochs", "test_accuracy", "test_loss", "validation_accuracy"), float),
}
_NOT_IN_NAMES = ("Cc", "Cs")  # control characters, halves of surrogate pairs
_MORE_FACTS = {"dataset_version": str, "num_params": int, "config": dict, "versions": dict}


def check_network(network: "Network") -> None:
    """Raises a ValueError, of one line, where a network from a file isn't what it must be.

    Its names, its facts and the shapes of its layers are looked at; nothing is computed.
    """
    for name in (network.name, *network.class_names):
        if not isinstance(name, str) or any(unicodedata.category(c) in _NOT_IN_NAMES for c in name):
            raise ValueError(f"{quoted(name)} isn't a name")
    if not network.class_names or not network.members:
        raise ValueError("it has no classes, or no layers")
    for member in network.members:
        _check_shapes(member, len(network.class_names))
    if not (0 < network.temperature < np.inf and 0 <= network.threshold <= 1):
        raise ValueError("its temperature or its threshold can't be")
    runs = network.facts.get("runs", [])
    if not isinstance(runs, list):
        raise ValueError("its runs aren't a list")
    for run in runs:
        for name, kind in _RUN_FACTS.items():
            _check_fact(name, run[name], kind)
        for name in _MORE_FACTS.keys() & run.keys():
            _check_fact(name, run[name], _MORE_FACTS[name])
    if network.facts.get("threshold_cost") is not None:
        _check_fact("threshold_cost", network.facts["threshold_cost"], float)
    # Whatever else they hold can be written: 1e999 is infinity to Python's json.
    json.dumps(network.facts, allow_nan=False, ensure_ascii=False).encode()


def list_of_names(value: Any) -> tuple[str, ...]:
    """A JSON list as a tuple; raises a ValueError for anything else, text too."""
    if not isinstance(value, list):
        raise ValueError(f"its class_names are {quoted(value)}")
    return tuple(value)


def _check_fact(name, value, kind):
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (kind in (int, float) and not abs(value) < 2**63):
        raise ValueError(f"its {name} is {quoted(value)}")


def _check_shapes(layers, num_classes):
    shape = IMAGE_SHAPE
    for layer in layers:
        sizes = {name: array.shape for name, array in layer.arrays.items()}
        shape = _SHAPES[layer.kind](shape, sizes)
    if shape != (num_classes,):
        raise ValueError(f"its layers don't end in {num_classes} classes")


def _halved(shape, sizes):
    height, width, channels = shape
    return (height // 2, width // 2, channels)


def _unfolded(shape, sizes):
    height, width, channels = shape
    if height % 2 or width % 2:
        raise ValueError("an image of an odd size can't be folded")
    return (height // 2, width // 2, 4 * channels)


def _shape_of_conv(shape, sizes):
    height, width, channels = shape
    (out,) = sizes["bias"]
    if sizes["kernel"] != (3, 3, channels, out):
        raise ValueError(f"its layers don't fit each other: {list(sizes['kernel'])}")
    return (height, width, out)


def _shape_of_scale(shape, sizes):
    if not sizes["factor"] == sizes["offset"] == shape[-1:]:
        raise ValueError(f"its layers don't fit each other: {list(sizes['factor'])}")
    return shape


def _shape_of_dense(shape, sizes):
    (out,) = sizes["bias"]
    if sizes["kernel"] != (*shape, out) or len(shape) != 1:
        raise ValueError(f"its layers don't fit each other: {list(sizes['kernel'])}")
    return (out,)


# Without an image: (the shape before, those of the arrays) -> the shape after.
_SHAPES = {
    "space_to_depth": _unfolded,
    "conv": _shape_of_conv,
    "max_pool": _halved,
    "scale": _shape_of_scale,
    "relu": lambda shape, sizes: shape,
    "flatten": lambda shape, sizes: (math.prod(shape),),
    "dense": _shape_of_dense,
}
