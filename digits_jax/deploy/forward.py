"""The layers of a `Network`, in JAX.

images: float32 [n, 28, 28, 1] in [0, 1]; logits: float32 [n, classes].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.deploy.network import Network
from digits_jax.models.matmul_conv import max_pool, space_to_depth

Weights = tuple[tuple[dict[str, Any], ...], ...]


def weights_of(network: Network) -> Weights:
    """The arrays of a network's layers, as a pytree that `jax_logits` takes."""
    return tuple(tuple(dict(layer.arrays) for layer in member) for member in network.members)


def jax_logits(network: Network, weights: Weights, images: jax.Array) -> jax.Array:
    """What a network answers: pure, to be jitted, mapped or exported.

    Args:
      network: whose layers' kinds are followed.
      weights: see `weights_of`; an argument of its own, so that compiled code needn't hold it.
      images: float32 [n, 28, 28, 1] in [0, 1].

    Returns:
      float32 [n, classes].

    Example:
      >>> from digits_jax.deploy.network import Layer
      >>> dense = Layer("dense", {"kernel": np.ones((784, 2), np.float32),
      ...                         "bias": np.zeros(2, np.float32)})
      >>> network = Network("ones", ("a", "b"), ((Layer("flatten"), dense),), 0.5, {})
      >>> jax_logits(network, weights_of(network), jnp.ones((1, 28, 28, 1))).tolist()
      [[784.0, 784.0]]
    """
    answers = []
    for layers, arrays in zip(network.members, weights, strict=True):
        x = images
        for layer, values in zip(layers, arrays, strict=True):
            x = _JAX[layer.kind](x, **values)
        answers.append(x)
    if len(answers) == 1:
        return answers[0]
    log_probabilities = jnp.stack([jax.nn.log_softmax(x) for x in answers])
    return jax.nn.logsumexp(log_probabilities, 0) - np.float32(np.log(len(answers)))


def _conv(x, kernel, bias):
    # The batch is divided by nothing here: windows at the border see zeros, as in training.
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + jnp.asarray(bias)[None, None, None]


def _by_channel(x, array):
    return jnp.asarray(array).reshape((1,) * (x.ndim - 1) + (-1,))


_JAX = {
    "space_to_depth": space_to_depth,
    "conv": _conv,
    "max_pool": max_pool,
    "scale": lambda x, factor, offset: x * _by_channel(x, factor) + _by_channel(x, offset),
    "relu": jax.nn.relu,
    "flatten": lambda x: x.reshape(x.shape[0], -1),
    "dense": lambda x, kernel, bias: x @ kernel + _by_channel(x, bias),
}
