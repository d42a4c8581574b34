"""The multi-layer perceptron (the "ANN").

images: float [batch, height, width, channels] in [0, 1]; logits: float32 [batch, classes].
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from digits_jax.models.matmul_conv import dense_product

# A step keeps this share of BatchNorm's running statistics.
BATCH_NORM_MOMENTUM = 0.9


class MLP(nn.Module):
    """Flattens the image; then dense layers with ReLU; then logits.

    Attributes:
      hidden_sizes: width of each hidden layer; empty for a linear classifier.
      dropout: fraction of each hidden layer's activations that training drops.
      batch_norm: normalize each hidden layer over the batch, before its ReLU.
      dtype: type of the factors in products; sums, parameters and statistics are float32.
      activation: applied after each hidden layer.
      norm: "batch", "layer", "group" or "none" instead of ``batch_norm``.

    Examples:
      >>> init = jax.jit(MLP(hidden_sizes=(64,)).init)
      >>> variables = init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
      >>> variables["params"]["hidden_0"]["kernel"].shape
      (784, 64)
    """

    num_classes: int = 10
    hidden_sizes: Sequence[int] = (512, 512)
    dropout: float = 0.0
    batch_norm: bool = False
    dtype: Any = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    norm: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        chex.assert_rank(images, 4)
        x = images.reshape(images.shape[0], -1).astype(jnp.float32)
        product = dense_product(self.dtype)
        norm = self.norm or ("batch" if self.batch_norm else "none")
        for i, size in enumerate(self.hidden_sizes):
            # A bias before BatchNorm is subtracted again with the mean.
            x = nn.Dense(size, use_bias=norm != "batch", dot_general=product, name=f"hidden_{i}")(x)
            x = normalize(norm, x, train=train, axis_name=axis_name, name=f"norm_{i}")
            x = self.activation(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dot_general=product, name="logits")(x)


def normalize(
    kind: str, x: jax.Array, *, train: bool, axis_name: str | None, name: str, **batch_norm: Any
) -> jax.Array:
    """Applies a normalization layer, as a part of the module that calls it.

    Args:
      kind: "batch", "layer" (over all values of an image), "group" (four groups of channels) or
        "none".
      x: float [batch, ..., channels].
      train: whether BatchNorm takes its statistics from the batch.
      axis_name: that BatchNorm's statistics are averaged over.
      name: of the layer, among the parameters.
      batch_norm: further arguments of ``flax.linen.BatchNorm``.
    """
    if kind == "batch":
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=BATCH_NORM_MOMENTUM,
            axis_name=axis_name,
            name=name,
            **batch_norm,
        )(x)
    if kind == "layer":
        return nn.LayerNorm(reduction_axes=tuple(range(1, x.ndim)), name=name)(x)
    if kind == "group":
        return nn.GroupNorm(num_groups=4, name=name)(x)
    return x
