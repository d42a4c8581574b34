"""Convolution and pooling as XLA's CPU backend is fast at: matrix products, images innermost.

planes: float32 [shards, channels, height, width, images]: a batch in one or more parts (one for
each device that ``jax.jit`` spreads it over, so that every axis but the first is a device's own),
and in each the images last. What is next to a number in memory then needs the same work, whatever
the filter or the window: every copy is long, and every operation fills the vector registers. The
parameters and the results are those of ``flax.linen.Conv`` and `max_pool`.
"""

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.models.layers import max_pool, sum_of_products

KERNEL = 3


def to_planes(images: jax.Array, shards: int = 1) -> jax.Array:
    """Puts the images last.

    Args:
      images: [batch, height, width, channels].
      shards: parts of the batch; one where they don't divide it.

    Returns:
      [shards, channels, height, width, batch / shards].

    Example:
      >>> to_planes(jnp.zeros((6, 28, 28, 1)), shards=2).shape
      (2, 1, 28, 28, 3)
    """
    chex.assert_rank(images, 4)
    batch, *shape = images.shape
    shards = shards if batch % shards == 0 else 1
    return images.reshape(shards, batch // shards, *shape).transpose(0, 4, 2, 3, 1)


def from_planes(planes: jax.Array) -> jax.Array:
    """What `to_planes` was given.

    Example:
      >>> from_planes(jnp.zeros((2, 1, 28, 28, 3))).shape
      (6, 28, 28, 1)
    """
    chex.assert_rank(planes, 5)
    x = planes.transpose(0, 4, 2, 3, 1)
    return x.reshape(-1, *x.shape[2:])


class PlanesConv(nn.Module):
    """``flax.linen.Conv(features, (3, 3))`` of planes, with the same parameters.

    Attributes:
      features: filters.
      use_bias: add one number per filter.
      crop: leave out an odd last row and column of the result, which 2x2 pooling would drop: of
        7x7 positions that is a quarter of the work.
      dtype: that the products' factors are rounded to; sums and results are float32.

    Example:
      >>> planes = jnp.zeros((1, 4, 7, 7, 5))
      >>> variables = PlanesConv(8, crop=True).init(jax.random.key(0), planes)
      >>> variables["params"]["kernel"].shape
      (3, 3, 4, 8)
      >>> PlanesConv(8, crop=True).apply(variables, planes).shape
      (1, 8, 6, 6, 5)
    """

    features: int
    use_bias: bool = True
    crop: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, planes: jax.Array) -> jax.Array:
        chex.assert_rank(planes, 5)
        shape = (KERNEL, KERNEL, planes.shape[1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x = _convolve(planes, kernel, self.crop, jnp.dtype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias[None, :, None, None, None]
        return x


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(planes, kernel, crop, dtype):
    return _convolve_forward(planes, kernel, crop, dtype)[0]


def _convolve_forward(planes, kernel, crop, dtype):
    shards, _, height, width, images = planes.shape
    cut = (height % 2, width % 2) if crop else (0, 0)
    patches = _patches(planes.astype(dtype), cut)
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(dtype)
    rows = _transposed(matrix)  # [filters, 9 * channels]
    y = sum_of_products(_for_each_shard(rows, shards), patches, 2, 1, batched=True)
    y = y.reshape(shards, -1, height - cut[0], width - cut[1], images)
    return y, (patches, matrix, planes.shape)


def _convolve_backward(crop, dtype, residuals, grad):
    patches, matrix, shape = residuals
    shards, size, _ = patches.shape
    _, height, width = grad.shape[1:4]
    cut = (shape[2] - height, shape[3] - width)
    grad = grad.astype(dtype).reshape(shards, -1, patches.shape[-1])
    # The long axis is summed over; the smaller matrix first is the faster of the two orders.
    if size > 2 * matrix.shape[1]:
        kernel_grad = sum_of_products(patches, grad, 2, 2, batched=True).sum(0)
    else:
        kernel_grad = sum_of_products(grad, patches, 2, 2, batched=True).sum(0).T
    patches_grad = sum_of_products(_for_each_shard(matrix, shards), grad, 2, 1, batched=True)
    kernel_shape = (KERNEL, KERNEL, shape[1], matrix.shape[1])
    return _add_up(patches_grad, shape, cut), kernel_grad.reshape(kernel_shape)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _for_each_shard(matrix, shards):
    return jnp.broadcast_to(matrix, (shards, *matrix.shape))


def _transposed(matrix):
    """The transpose, gathered number by number.

    XLA folds a mere ``matrix.T`` into the product that takes it. On CPU a product whose left factor
    is summed over its first axis is then left to a library that is slower in float32 and has no
    bfloat16. Behind a cast to integers it folds it too, and too late: "Unsupported element type".
    """
    rows, columns = matrix.shape
    places = np.arange(rows) * columns + np.arange(columns)[:, None]
    return matrix.reshape(-1).at[places].get(mode="promise_in_bounds")


def _patches(planes, cut):
    """[shards, 9 * channels, height * width * images]: what each position's filter sees.

    First side by side, then one above the other: of nine copies six are of copies.
    """
    dtype, shards = planes.dtype, planes.shape[0]
    # XLA's CPU backend would widen bfloat16 to copy it.
    if dtype == jnp.bfloat16:
        planes = jax.lax.bitcast_convert_type(planes, jnp.uint16)
    wide = jnp.concatenate([_shifted(planes, 3, 1 - j, cut[1]) for j in range(KERNEL)], 1)
    tall = jnp.concatenate([_shifted(wide, 2, 1 - i, cut[0]) for i in range(KERNEL)], 1)
    if dtype == jnp.bfloat16:
        tall = jax.lax.bitcast_convert_type(tall, dtype)
    return tall.reshape(shards, tall.shape[1], -1)


def _add_up(patches, shape, cut):
    """The transpose of `_patches`: each pixel's sum over the positions that see it."""
    shards, channels, height, width, images = shape
    sizes = (height - cut[0], width - cut[1], images)
    x = patches.reshape(shards, KERNEL, KERNEL, channels, *sizes)
    rows = sum(_shifted(x[:, i], 3, i - 1, -cut[0]) for i in range(KERNEL))
    return sum(_shifted(rows[:, j], 3, j - 1, -cut[1]) for j in range(KERNEL))


def _shifted(x, axis, by, cut):
    """Moved along an axis, zeros coming in; ``cut`` shorter at the end."""
    amounts = [(0, 0, 0)] * x.ndim
    amounts[axis] = (by, -by - cut, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), amounts)


def max_pool_planes(planes: jax.Array) -> jax.Array:
    """`digits_jax.models.layers.max_pool` of planes.

    Example:
      >>> max_pool_planes(jnp.arange(16.0).reshape(1, 1, 4, 4, 1))[0, 0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    shards, channels, *shape = planes.shape
    # It pools over the middle axes of four, whatever the others are.
    y = max_pool(planes.reshape(shards * channels, *shape))
    return y.reshape(shards, channels, *y.shape[1:])
