"""The mean probability of several networks, as an ensemble predicts it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def mean_log_probabilities(logits: Sequence[ArrayLike]) -> jax.Array:
    """Computes the logarithm of several networks' mean probability; of one, its own logits.

    Args:
      logits: of each network, float32 [n, classes].

    Returns:
      float32 [n, classes].

    Examples:
      >>> confident, undecided = np.array([[100.0, 0.0]]), np.array([[0.0, 0.0]])
      >>> np.exp(mean_log_probabilities([confident, undecided])).round(3)
      array([[0.75, 0.25]], dtype=float32)
    """
    each = jnp.stack(logits)
    if len(each) == 1:
        return each[0]
    return jax.nn.logsumexp(jax.nn.log_softmax(each), 0) - np.float32(np.log(len(each)))
