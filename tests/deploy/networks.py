"""Networks of every shape with random parameters, and what NumPy computes with their layers."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy_layers import apply_layers
from scipy.special import softmax

from digits_jax.deploy.network import Member, Network
from digits_jax.models.build import build_model
from digits_jax.runs.trained_network import SETTINGS as SETTING_NAMES

DIGITS = tuple("0123456789")
_CNN = {"arch": "cnn", "batch_norm": True, "convs_per_block": 1, "dense_size": 7}
SETTINGS = {
    "mlp": {"arch": "mlp", "batch_norm": True, "hidden_sizes": (12, 9)},
    "mlp-plain": {"arch": "mlp", "batch_norm": False, "hidden_sizes": (12,)},
    "linear": {"arch": "mlp", "batch_norm": False, "hidden_sizes": ()},
    # 28, 14, 7, 3: the last row and column of 7 are left out.
    "cnn": {**_CNN, "channels": (3, 5)},
    "cnn-plain": {**_CNN, "channels": (3,), "batch_norm": False},
    "cnn-deep": {
        **_CNN,
        "channels": (3, 4, 5),
        "convs_per_block": 2,
        "dense_size": 0,
        "space_to_depth": False,
    },
}
assert set().union(*SETTINGS.values()) == set(SETTING_NAMES)


def random_variables(module: nn.Module, seed: int) -> dict:
    """Parameters and statistics of which none is 0 or 1."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        kind = path[-1].key
        if kind == "var":
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        size = 1 / math.sqrt(math.prod(leaf.shape[:-1])) if kind == "kernel" else 0.5
        return (size * rng.normal(size=leaf.shape) + (kind == "scale")).astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    return jax.tree_util.tree_map_with_path(fill, shapes)


def random_network(name="cnn", seed=0, **changes) -> Network:
    settings = SETTINGS[name]
    member = Member(settings, random_variables(build_model(settings, 10), seed))
    values = {"name": name, "class_names": DIGITS, "threshold": 0.5, "facts": {"runs": []}}
    return Network(members=(member,), **{"temperature": 0.7, **values, **changes})


def constant_network(digit, name, threshold=0.5) -> Network:
    """A network that predicts one digit, whatever it sees, with a probability of 90%."""
    bias = np.zeros(10, np.float32)
    bias[digit] = math.log(81)
    logits = {"kernel": np.zeros((784, 10), np.float32), "bias": bias}
    member = Member(SETTINGS["linear"], {"params": {"logits": logits}})
    return Network(name, DIGITS, (member,), threshold, {"runs": [{"dataset": "mnist"}]})


def random_images(count=6, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, 28, 28, 1)).astype(np.float32)


# --- the oracle --------------------------------------------------------------------------------


def numpy_logits(network, images):
    """The logits by the folded layers, which the page and ONNX have."""
    answers = [
        apply_layers([(layer.kind, layer.arrays) for layer in member.layers], images)
        for member in network.members
    ]
    return answers[0] if len(answers) == 1 else np.log(np.mean(softmax(answers, -1), 0))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-5 * max(1, np.abs(expected).max()))
