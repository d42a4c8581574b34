"""The convolutional network.

images: float [batch, height, width, channels] in [0, 1]; logits: float32 [batch, classes].
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from digits_jax.models.layers import (
    NORM_MOMENTUM,
    max_pool,
    precision_of,
    products_in,
    space_to_depth,
)
from digits_jax.models.planes import PlanesConv, from_planes, max_pool_planes, to_planes


class CNN(nn.Module):
    """Blocks of 3x3 convolutions, each block halved by 2x2 max-pooling; a dense layer; logits.

    Attributes:
      num_classes: number of logits.
      channels: filters of each block's convolutions.
      convs_per_block: convolutions in a block, before its pooling.
      dense_size: width of the hidden dense layer; 0 leaves it out.
      dropout: fraction of the dense layer's activations dropped in training (of the last
        block's where there is no dense layer).
      batch_norm: normalise after each convolution and the dense layer. It comes after the
        pooling, where there is a quarter of the values to normalise.
      space_to_depth: fold 2x2 pixels into channels first: the first convolution then sees
        14x14x4, a quarter of the positions, which costs little accuracy on digits.
      dtype: of the products' factors; their sums, parameters and statistics are float32.
      convolution: "lax" (XLA's own) or "matmul" (products of matrices: on a CPU half as long).
        Parameters and results are the same.
      shards: with "matmul" under `jax.jit`, the number of devices that a batch is spread over.

    Example:
      >>> variables = CNN(channels=(8, 16)).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
      >>> variables["params"]["conv_0_0"]["kernel"].shape
      (3, 3, 4, 8)
    """

    num_classes: int = 10
    channels: Sequence[int] = (32, 64)
    convs_per_block: int = 1
    dense_size: int = 128
    dropout: float = 0.0
    batch_norm: bool = True
    space_to_depth: bool = True
    dtype: Any = jnp.float32
    convolution: str = "lax"
    shards: int = 1

    @nn.compact
    def __call__(self, images, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        chex.assert_rank(images, 4)
        norm = partial(
            nn.BatchNorm, use_running_average=not train, momentum=NORM_MOMENTUM, axis_name=axis_name
        )
        features = self._in_planes if self.convolution == "matmul" else self._in_pixels
        x = features(images, norm)
        x = x.reshape(x.shape[0], -1)
        product = products_in(self.dtype)
        if self.dense_size:
            x = nn.Dense(
                self.dense_size, use_bias=not self.batch_norm, dot_general=product, name="dense"
            )(x)
            if self.batch_norm:
                x = norm(name="norm_dense")(x)
            x = nn.relu(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dot_general=product, name="logits")(x)

    def _in_pixels(self, images, norm):
        """The blocks as XLA's convolutions: float32 [batch, height, width, channels]."""
        x = images.astype(self.dtype)
        if self.space_to_depth:
            x = space_to_depth(x)
        for i, j, features in self._convolutions():
            x = nn.Conv(
                features,
                (3, 3),
                use_bias=not self.batch_norm,
                dtype=self.dtype,
                precision=precision_of(self.dtype),
                name=f"conv_{i}_{j}",
            )(x)
            if j == self.convs_per_block - 1:
                x = max_pool(x)
            if self.batch_norm:
                x = norm(dtype=self.dtype, name=f"norm_{i}_{j}")(x)
            x = nn.relu(x)
        return x.astype(jnp.float32)

    def _in_planes(self, images, norm):
        """The same as products of matrices; see models/planes.py."""
        x = images.astype(jnp.float32)
        if self.space_to_depth:
            x = space_to_depth(x)
        x = to_planes(x, self.shards)
        for i, j, features in self._convolutions():
            pooled = j == self.convs_per_block - 1
            x = PlanesConv(
                features,
                use_bias=not self.batch_norm,
                crop=pooled,
                dtype=self.dtype,
                name=f"conv_{i}_{j}",
            )(x)
            if pooled:
                x = max_pool_planes(x)
            if self.batch_norm:
                x = norm(axis=1, name=f"norm_{i}_{j}")(x)
            x = nn.relu(x)
        return from_planes(x)

    def _convolutions(self):
        for i, features in enumerate(self.channels):
            for j in range(self.convs_per_block):
                yield i, j, features
