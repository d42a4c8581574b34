"""Networks to take out of here: random ones of every shape."""

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.deploy.network import Network, take_apart
from digits_jax.models.build import build_model

COMMON = {"dropout": 0.1, "batch_norm": True, "dtype": "float32"}
SETTINGS = {
    "mlp": {**COMMON, "arch": "mlp", "hidden_sizes": (12, 9)},
    "mlp-plain": {**COMMON, "arch": "mlp", "hidden_sizes": (12,), "batch_norm": False},
    "mlp-linear": {**COMMON, "arch": "mlp", "hidden_sizes": ()},
    "cnn": {**COMMON, "arch": "cnn", "channels": (3, 5), "convs_per_block": 1, "dense_size": 7},
    "cnn-plain": {
        **COMMON,
        "arch": "cnn",
        "channels": (3,),
        "convs_per_block": 1,
        "dense_size": 7,
        "batch_norm": False,
    },
    "cnn-deep": {
        **COMMON,
        "arch": "cnn",
        "channels": (3, 4, 5),
        "convs_per_block": 2,
        "dense_size": 0,
        "space_to_depth": False,
    },
}
CLASSES = tuple("0123456789")


def random_module(name, seed=0):
    """A module, and variables in which nothing is 0, 1 or positive by chance."""
    module = build_model(SETTINGS[name], len(CLASSES))
    variables = module.init(jax.random.key(seed), jnp.zeros((1, 28, 28, 1)))
    rng = np.random.default_rng(seed)

    def stir(path, leaf):
        kind = path[-1].key
        if kind == "var":
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        size = 0.3 if kind == "kernel" else 1.0
        return np.asarray(leaf + size * rng.normal(size=leaf.shape), np.float32)

    return module, jax.tree_util.tree_map_with_path(stir, variables)


def random_network(name="cnn", seed=0, **changes):
    _, variables = random_module(name, seed)
    layers = take_apart(SETTINGS[name], variables["params"], variables.get("batch_stats", {}))
    values = {"name": name, "class_names": CLASSES, "threshold": 0.5, "facts": {"runs": []}}
    values["temperature"] = 0.7
    return Network(members=(layers,), **{**values, **changes})


def random_images(count=6, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, 28, 28, 1)).astype(np.float32)
