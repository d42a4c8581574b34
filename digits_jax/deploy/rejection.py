"""Tells whether ink is one digit: not a letter, a scribble, several digits or a part of one.

A network that was trained on digits alone is confident of many of these. This is a small one of
two classes; `python -m experiments.rejector` trains it.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from digits_jax.data.originals import OF_DIGITS
from digits_jax.deploy.network import Network, from_card
from digits_jax.files import read_json

CLASSES = ("other", "digit")
_CHUNK = 128  # images at once: their activations stay in the processor's cache
_FOLDER = Path(__file__).parent


def knows_digits(network: Network) -> bool:
    """Whether a network was trained on the package's data sets of digits alone.

    The rejector knows nothing of other images. Label numbers have the names "0" to "9", too.
    """
    names = {name for run in network.facts.get("runs", ()) for name in run["dataset"].split("+")}
    return bool(names) and names <= OF_DIGITS


@cache
def load_rejector() -> Network:
    """Loads the network; its threshold is the least probability of a digit."""
    return from_card(read_json(_FOLDER / "rejector.json"), _FOLDER / "rejector.npz")


def digit_probability(images: np.ndarray) -> np.ndarray:
    """Returns the probability that each image, uint8 [n, 28, 28], is one digit: float32 [n].

    Examples:
      >>> bool(digit_probability(np.full((1, 28, 28), 255, np.uint8))[0] < 0.5)
      True
    """
    network = load_rejector()
    (member,) = network.members
    logits = [np.zeros((0, 2), np.float32)]
    for start in range(0, len(images), _CHUNK):
        x: Any = images[start : start + _CHUNK, :, :, None].astype(np.float32) / 255
        # Not by JAX, which compiles code for longer than this takes on a picture's few images.
        for layer in member.layers:
            x = _LAYERS[layer.kind](x, **layer.arrays)
        logits.append(x)
    other, digit = (np.concatenate(logits) / np.float32(network.temperature)).T
    return expit(digit - other)


def _conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1]) + bias


def _corners(x: np.ndarray) -> list[np.ndarray]:
    """The four pixels of each 2x2 block, by rows."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


# See `digits_jax.deploy.fold`.
_LAYERS: dict[str, Callable[..., np.ndarray]] = {
    "space_to_depth": lambda x: np.concatenate(_corners(x), -1),
    "conv": _conv,
    "max_pool": lambda x: np.max(_corners(x), axis=0),
    "scale": lambda x, factor, offset: x * factor + offset,
    "relu": lambda x: np.maximum(x, 0),
    "flatten": lambda x: x.reshape(len(x), -1),
    "dense": lambda x, kernel, bias: x @ kernel + bias,
}
