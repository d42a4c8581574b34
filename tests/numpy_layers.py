"""The layers of `digits_jax.deploy.fold` in NumPy, slow and short: the oracle of every format."""

import math

import numpy as np


def apply_layers(layers, x):
    """Computes (kind, arrays) pairs one after another; x: float [n, height, width, channels]."""
    for kind, arrays in layers:
        x = NUMPY[kind](x, **arrays)
    return x


def _space_to_depth(x):
    return np.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)


def _conv(x, kernel, bias=0):
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = ((i, j) for i in range(3) for j in range(3))
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in windows) + bias


def _max_pool(x):
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 0)


NUMPY = {
    "space_to_depth": _space_to_depth,
    "conv": _conv,
    "max_pool": _max_pool,
    "batch_norm": lambda x, scale, bias, mean, var: (x - mean) / np.sqrt(var + 1e-5) * scale + bias,
    "scale": lambda x, factor, offset: x * factor + offset,
    "relu": lambda x: np.maximum(x, 0),
    "flatten": lambda x: x.reshape(len(x), math.prod(x.shape[1:])),
    "dense": lambda x, kernel, bias=0: x @ kernel + bias,
}
