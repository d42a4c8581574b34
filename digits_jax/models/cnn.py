"""The convolutional network.

images: float [batch, height, width, channels] in [0, 1]; logits: float32 [batch, classes].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from digits_jax.models.matmul_conv import (
    MatmulConv,
    dense_product,
    from_batch_last,
    max_pool,
    max_pool_batch_last,
    precision_of,
    space_to_depth,
    to_batch_last,
)
from digits_jax.models.mlp import normalize

POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "max": max_pool,
    "average": lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
    "stride": lambda x: x[:, :-1:2, :-1:2],
}


class CNN(nn.Module):
    """Blocks of 3x3 convolutions, each block halved by 2x2 max-pooling; a dense layer; logits.

    Attributes:
      channels: filters of each block's convolutions.
      convs_per_block: convolutions in a block, before its pooling.
      dense_size: width of the hidden dense layer; 0 leaves it out.
      dropout: fraction of the dense layer's activations that training drops (of the last
        block's, without a dense layer).
      batch_norm: normalize after each convolution and the dense layer; after the pooling, which
        leaves a quarter of the values.
      space_to_depth: fold 2x2 pixels into channels first: the first convolution then sees
        14x14x4, a quarter of the positions, which costs little accuracy on digits.
      dtype: type of the factors in products; sums, parameters and statistics are float32.
      convolution: "lax" (XLA's own) or "matmul" (matrix products, in half the time on a CPU).
        Parameters and results are the same.
      shards: with "matmul" under `jax.jit`, the number of devices that a batch is spread over.
      activation: applied after each convolution and the dense layer.
      norm: see `MLP`.
      pool: "max", "average" or "stride" (the first of each 2x2 values).
      kernel_size: side of the filters, odd. "matmul" covers 3x3 filters with max-pooling, and
        BatchNorm or no normalization; any other network is computed as "lax".

    Examples:
      >>> init = jax.jit(CNN(channels=(8, 16)).init)
      >>> variables = init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
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
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    norm: str | None = None
    pool: str = "max"
    kernel_size: int = 3

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        chex.assert_rank(images, 4)
        kind = self.norm or ("batch" if self.batch_norm else "none")
        norm = partial(normalize, kind, train=train, axis_name=axis_name)
        use_bias = kind != "batch"
        common = self.kernel_size == 3 and self.pool == "max" and kind in ("batch", "none")
        matmul = self.convolution == "matmul" and common
        x = images.astype(jnp.float32 if matmul else self.dtype)
        if self.space_to_depth:
            x = space_to_depth(x)
        if matmul:
            x = to_batch_last(x, self.shards)
            conv, pool = MatmulConv, max_pool_batch_last
            conv_norm = partial(norm, axis=1)
        else:
            side = self.kernel_size
            conv = partial(
                nn.Conv,
                kernel_size=(side, side),
                padding=side // 2,
                precision=precision_of(self.dtype),
            )
            pool, conv_norm = POOLS[self.pool], partial(norm, dtype=self.dtype)
        for i, features in enumerate(self.channels):
            for j in range(self.convs_per_block):
                pooled = j == self.convs_per_block - 1
                crop: dict[str, Any] = {"crop": pooled} if matmul else {}
                x = conv(
                    features,
                    use_bias=use_bias,
                    dtype=self.dtype,
                    name=f"conv_{i}_{j}",
                    **crop,
                )(x)
                if pooled:
                    x = pool(x)
                x = conv_norm(x, name=f"norm_{i}_{j}")
                x = self.activation(x)
        x = from_batch_last(x) if matmul else x.astype(jnp.float32)
        x = x.reshape(x.shape[0], -1)
        product = dense_product(self.dtype)
        if self.dense_size:
            x = nn.Dense(self.dense_size, use_bias=use_bias, dot_general=product, name="dense")(x)
            x = norm(x, name="norm_dense")
            x = self.activation(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dot_general=product, name="logits")(x)
