"""Builds the module that a run's configuration describes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from digits_jax.errors import ConfigError
from digits_jax.models.cnn import CNN
from digits_jax.models.mlp import MLP


def build_model(settings: Mapping[str, Any], num_classes: int, shards: int = 1) -> nn.Module:
    """Builds the module that plain values, as a run's ``config.json`` has them, describe.

    Args:
      settings: "arch" ("mlp" or "cnn"), "batch_norm", and "hidden_sizes", or "channels",
        "convs_per_block" and "dense_size"; optional are "dropout" (0), "dtype" ("float32"),
        "space_to_depth" (True) and "convolution" ("lax"). Other keys are ignored.
      num_classes: the number of logits.
      shards: see `CNN`.

    Examples:
      >>> build_model({"arch": "mlp", "batch_norm": False, "hidden_sizes": [64]}, 10).hidden_sizes
      (64,)
    """
    common = {
        "num_classes": num_classes,
        "dropout": settings.get("dropout", 0.0),
        "batch_norm": settings["batch_norm"],
        "dtype": jnp.dtype(settings.get("dtype", "float32")),
    }
    if settings["arch"] == "mlp":
        return MLP(hidden_sizes=tuple(settings["hidden_sizes"]), **common)
    if settings["arch"] == "cnn":
        return CNN(
            channels=tuple(settings["channels"]),
            convs_per_block=settings["convs_per_block"],
            dense_size=settings["dense_size"],
            space_to_depth=settings.get("space_to_depth", True),
            convolution=settings.get("convolution", "lax"),
            shards=shards,
            **common,
        )
    raise ConfigError(f"arch={settings['arch']!r}: must be cnn or mlp")


def abstract_variables(module: nn.Module) -> dict[str, Any]:
    """Returns the shapes and dtypes of a module's {"params": ..., "batch_stats": ...}.

    Examples:
      >>> abstract_variables(MLP())["params"]["logits"]["kernel"].shape
      (512, 10)
    """
    images = jnp.zeros((1, 28, 28, 1))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    return {"batch_stats": {}, **variables}


def choose_convolution(wanted: str, platform: str) -> str:
    """Returns ``wanted``; for "auto" the faster one of "lax" and "matmul" on a platform.

    Examples:
      >>> choose_convolution("auto", "gpu"), choose_convolution("auto", "cpu")
      ('lax', 'matmul')
    """
    if wanted == "auto":
        return "matmul" if platform == "cpu" else "lax"
    return wanted
