"""From plain values, as a run's ``config.json`` has them, to a module."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from digits_jax.errors import ConfigError
from digits_jax.models.cnn import CNN
from digits_jax.models.mlp import MLP


def build_model(settings: Mapping[str, Any], num_classes: int, shards: int = 1) -> nn.Module:
    """The module that a configuration describes.

    Args:
      settings: "arch" ("mlp" or "cnn"), "dropout", "batch_norm", "dtype", and "hidden_sizes",
        or "channels", "convs_per_block", "dense_size", and, where it isn't True, "space_to_depth",
        and, where it isn't "lax", "convolution"; other keys are left alone.
      num_classes: of the data set.
      shards: see `CNN`.

    Raises:
      ConfigError: an unknown arch.

    Example:
      >>> build_model({"arch": "mlp", "dropout": 0.0, "batch_norm": False, "dtype": "float32",
      ...              "hidden_sizes": [64]}, num_classes=10).hidden_sizes
      (64,)
    """
    common = {
        "num_classes": num_classes,
        "dropout": settings["dropout"],
        "batch_norm": settings["batch_norm"],
        "dtype": jnp.dtype(settings["dtype"]),
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
    raise ConfigError(f"arch is {settings['arch']!r}; allowed: cnn, mlp")
