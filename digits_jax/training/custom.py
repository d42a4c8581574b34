"""A custom module, loss and optimizer, instead of the library's."""

import inspect
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from digits_jax.config import OTHER_ARCH_FIELDS, TrainConfig
from digits_jax.errors import ConfigError

# The fields of a configuration that have no effect beside what the caller brings, and their values.
NO_EFFECT: dict[str, dict[str, Any]] = {
    "module": dict.fromkeys(
        (
            *(name for names in OTHER_ARCH_FIELDS.values() for name in names),
            *("dropout", "batch_norm", "recalibrate_batch_norm", "init_from"),
        )
    ),
    "loss": {"label_smoothing": 0.0},
    "tx": dict.fromkeys(("optimizer", "schedule", "learning_rate", "weight_decay")),
}


class CustomModule:
    """A linen module, given ``train`` and ``axis_name`` only if its ``__call__`` takes them.

    An NNX class is a linen module as ``flax.nnx.bridge.to_linen(CLASS, ...)``.
    """

    def __init__(self, module: Any):
        self.module = module
        self.name = getattr(module, "nnx_class", type(module)).__name__
        call = getattr(module, "nnx_class", type(module)).__call__
        self._takes = inspect.signature(call).parameters.keys() & {"train", "axis_name"}

    def init(self, key: jax.Array, images: jax.Array, *, train: bool) -> Any:
        """Initializes the variables, as `flax.linen.Module.init`."""
        keys = {"params": key, "dropout": jax.random.fold_in(key, 1)}  # NNX makes its Dropout here
        return self.module.init(keys, images, **self._taken(train=train))

    def apply(
        self,
        variables: Any,
        images: jax.Array,
        *,
        train: bool = False,
        axis_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Applies the module, as `flax.linen.Module.apply`."""
        modes = self._taken(train=train, axis_name=axis_name)
        return self.module.apply(variables, images, **modes, **options)

    def _taken(self, **modes: Any) -> dict[str, Any]:
        return {name: value for name, value in modes.items() if name in self._takes}


def describe(**given: Any) -> dict[str, str]:
    """Describes what was given, for ``config.json``: a resumed run must be given the same.

    Examples:
      >>> describe(module=None, loss=describe)
      {'loss': '<function describe>'}
    """
    texts = {
        name: " ".join(repr(value).split()) for name, value in given.items() if value is not None
    }
    return {name: re.sub(r" at 0x[0-9a-f]+", "", text)[:1000] for name, text in texts.items()}


def neutral_fields(config: TrainConfig, custom: dict[str, str]) -> dict[str, Any]:
    """Returns the values of the fields that custom parts replace.

    Raises:
      ConfigError: such a field is given.
    """
    neutral: dict[str, Any] = {}
    for what in custom:
        for name, value in NO_EFFECT[what].items():
            if getattr(config, name) not in (None, value):
                raise ConfigError(f"{name}: has no effect beside {what}=...; leave one of them out")
        neutral |= NO_EFFECT[what]
    return neutral


def check_loss(loss: Any, num_classes: int) -> None:
    """Raises a ConfigError for what isn't ``f(logits, labels) -> [batch]``."""
    if not callable(loss):
        raise ConfigError(f"loss is a {type(loss).__name__}: must be a function of logits, labels")
    logits = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
    losses = jax.eval_shape(loss, logits, jax.ShapeDtypeStruct((2,), jnp.int32))
    if getattr(losses, "shape", None) != (2,) or not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ConfigError(
            f"loss: returns {_described(losses)} for 2 images; must be float32[2], one for each"
        )


def check_tx(tx: Any) -> None:
    """Raises a ConfigError for what isn't an optimizer of optax."""
    if not all(callable(getattr(tx, name, None)) for name in ("init", "update")):
        raise ConfigError(
            f"tx is a {type(tx).__name__}: must be an optimizer of optax, as optax.adam(1e-3)"
        )


def check_module(module: CustomModule, num_classes: int) -> None:
    """Raises a ConfigError for a module that doesn't turn images into logits."""
    if not isinstance(module.module, nn.Module):
        kind = getattr(module.module, "__name__", type(module.module).__name__)
        raise ConfigError(
            f"module={kind}: isn't a linen module; give an instance, or of an NNX class "
            "flax.nnx.bridge.to_linen(CLASS, ...)"
        )
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: module.init(key, x, train=False), jax.random.key(0), images
    )
    if not variables.get("params"):
        raise ConfigError("module: has no parameters to train")
    if other := variables.keys() - {"params", "batch_stats"}:
        raise ConfigError(
            f"module: has variables {', '.join(sorted(other))}; params and batch_stats are allowed"
        )
    logits = jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, images)
    if (found := _described(logits)) != f"float32[2, {num_classes}]":
        raise ConfigError(
            f"module: returns {found} for 2 images; must be float32[2, {num_classes}], the logits"
        )


def _described(result: Any) -> str:
    shape = getattr(result, "shape", None)
    return type(result).__name__ if shape is None else f"{result.dtype}{list(shape)}"
