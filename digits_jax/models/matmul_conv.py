"""Convolution, pooling and products that are fast on every backend, XLA's CPU backend above all.

images and feature maps: float [batch, height, width, channels], or batch last: float [shards,
channels, height, width, batch / shards]. With the batch last, a convolution is a matrix product,
and neighbours in memory are the same pixel of different images, which need the same operations:
every copy is long, and every operation fills the vector registers. ``shards`` is the number of
devices that ``jax.jit`` spreads a batch over; each device holds one index of the first axis.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

KERNEL = 3


class MatmulConv(nn.Module):
    """``flax.linen.Conv(features, (3, 3))`` with the batch last: same parameters, same results.

    Attributes:
      features: number of filters.
      crop: leave out an odd last row and column of the result, which 2x2 pooling would drop: of
        7x7 positions that is a quarter of the work.
      dtype: that the products' factors are rounded to; sums and results are float32.

    Examples:
      >>> x = jnp.zeros((1, 4, 7, 7, 5))
      >>> variables = MatmulConv(8, crop=True).init(jax.random.key(0), x)
      >>> variables["params"]["kernel"].shape
      (3, 3, 4, 8)
      >>> MatmulConv(8, crop=True).apply(variables, x).shape
      (1, 8, 6, 6, 5)
    """

    features: int
    use_bias: bool = True
    crop: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        chex.assert_rank(x, 5)
        shape = (KERNEL, KERNEL, x.shape[1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        y: Any = _convolve(x, kernel, self.crop, jnp.dtype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias[None, :, None, None, None]
        return y


def to_batch_last(images: jax.Array, shards: int = 1) -> jax.Array:
    """Moves the batch to the last axis, in one part where ``shards`` doesn't divide it.

    Examples:
      >>> to_batch_last(jnp.zeros((6, 28, 28, 1)), shards=2).shape
      (2, 1, 28, 28, 3)
    """
    chex.assert_rank(images, 4)
    batch, *shape = images.shape
    shards = shards if batch % shards == 0 else 1
    return images.reshape(shards, batch // shards, *shape).transpose(0, 4, 2, 3, 1)


def from_batch_last(x: jax.Array) -> jax.Array:
    """Undoes `to_batch_last`."""
    chex.assert_rank(x, 5)
    x = x.transpose(0, 4, 2, 3, 1)
    return x.reshape(-1, *x.shape[2:])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, crop: bool, dtype: Any) -> jax.Array:
    return _convolve_forward(x, kernel, crop, dtype)[0]


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, crop: bool, dtype: Any
) -> tuple[jax.Array, Any]:
    shards, _, height, width, batch = x.shape
    cut = (height % 2, width % 2) if crop else (0, 0)
    patches = _patches(x.astype(dtype), cut)
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(dtype)
    rows = _transposed(matrix)  # [filters, 9 * channels]
    rows = jnp.broadcast_to(rows, (shards, *rows.shape))
    y = _product(rows, patches, 2, 1, batched=True)
    y = y.reshape(shards, -1, height - cut[0], width - cut[1], batch)
    return y, (patches, matrix, x.shape)


def _convolve_backward(
    crop: bool, dtype: Any, residuals: Any, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    patches, matrix, shape = residuals
    shards, size, _ = patches.shape
    _, height, width = grad.shape[1:4]
    cut = (shape[2] - height, shape[3] - width)
    grad = grad.astype(dtype).reshape(shards, -1, patches.shape[-1])
    # The long axis is summed over; the smaller matrix first is the faster of the two orders.
    if size > 2 * matrix.shape[1]:
        kernel_grad = _product(patches, grad, 2, 2, batched=True).sum(0)
    else:
        kernel_grad = _product(grad, patches, 2, 2, batched=True).sum(0).T
    rows = jnp.broadcast_to(matrix, (shards, *matrix.shape))
    patches_grad = _product(rows, grad, 2, 1, batched=True)
    kernel_shape = (KERNEL, KERNEL, shape[1], matrix.shape[1])
    return _sum_patches(patches_grad, shape, cut), kernel_grad.reshape(kernel_shape)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _transposed(matrix: jax.Array) -> jax.Array:
    """The transpose, gathered element by element."""
    # XLA folds a mere `matrix.T` into the product that takes it. On CPU a product whose left
    # factor is summed over its first axis is then left to a library that is slower in float32 and
    # has no bfloat16. Behind a cast to integers XLA folds it too, and too late: "Unsupported
    # element type".
    rows, columns = matrix.shape
    places = np.arange(rows) * columns + np.arange(columns)[:, None]
    return matrix.reshape(-1).at[places].get(mode="promise_in_bounds")


def _patches(x: jax.Array, cut: tuple[int, int]) -> jax.Array:
    """The 3x3 inputs of each position: [shards, 9 * channels, height * width * batch]."""
    dtype, shards = x.dtype, x.shape[0]
    # XLA's CPU backend would widen bfloat16 to copy it.
    if dtype == jnp.bfloat16:
        x = jax.lax.bitcast_convert_type(x, jnp.uint16)
    # First side by side, then one above the other: of nine copies six are of copies.
    wide = jnp.concatenate([_shifted(x, 3, 1 - j, cut[1]) for j in range(KERNEL)], 1)
    tall = jnp.concatenate([_shifted(wide, 2, 1 - i, cut[0]) for i in range(KERNEL)], 1)
    if dtype == jnp.bfloat16:
        tall = jax.lax.bitcast_convert_type(tall, dtype)
    return tall.reshape(shards, tall.shape[1], -1)


def _sum_patches(patches: jax.Array, shape: tuple[int, ...], cut: tuple[int, int]) -> jax.Array:
    """The transpose of `_patches`: each pixel's sum over the positions that use it."""
    shards, channels, height, width, batch = shape
    sizes = (height - cut[0], width - cut[1], batch)
    x = patches.reshape(shards, KERNEL, KERNEL, channels, *sizes)
    rows = [_shifted(x[:, i], 3, i - 1, -cut[0]) for i in range(KERNEL)]
    x = reduce(jnp.add, rows)
    return reduce(jnp.add, [_shifted(x[:, j], 3, j - 1, -cut[1]) for j in range(KERNEL)])


def _shifted(x: jax.Array, axis: int, by: int, cut: int) -> jax.Array:
    """Moved along an axis, zeros coming in; ``cut`` shorter at the end."""
    amounts = [(0, 0, 0)] * x.ndim
    amounts[axis] = (by, -by - cut, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), amounts)


def max_pool_batch_last(x: jax.Array) -> jax.Array:
    """Does what `max_pool` does, with the batch last."""
    shards, channels, *shape = x.shape
    # It pools over the middle axes of four, whatever the others are.
    y = max_pool(x.reshape(shards * channels, *shape))
    return y.reshape(shards, channels, *y.shape[1:])


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum over windows of 2x2 with stride 2; drops an odd last row or column.

    The values and the gradient (which goes to the first of equal maxima) are those of
    ``flax.linen.max_pool(x, (2, 2), (2, 2))``. That one's gradient is XLA's select-and-scatter,
    which is serial on CPU and was the slowest operation of a whole train step; written with
    comparisons it halved the step's time or better.

    Examples:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    return _windows(x).max((2, 4))


def _windows(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, Any]:
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(residuals: Any, grad: jax.Array) -> tuple[jax.Array]:
    x, y = residuals
    _, height, width, _ = x.shape
    windows, zero = _windows(x), jnp.zeros_like(grad)
    first = windows[:, :, 0, :, 0] == y
    second = (windows[:, :, 0, :, 1] == y) & ~first
    above = first | second
    third = (windows[:, :, 1, :, 0] == y) & ~above
    parts = [jnp.where(taken, grad, zero) for taken in (first, second, third, ~(above | third))]
    rows = [jnp.stack(parts[:2], 3), jnp.stack(parts[2:], 3)]
    x_grad = jnp.stack(rows, 2).reshape(x.shape[0], height // 2 * 2, width // 2 * 2, -1)
    return (jnp.pad(x_grad, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def space_to_depth(images: jax.Array, block: int = 2) -> jax.Array:
    """Moves each block of pixels, row by row, into the channels.

    Examples:
      >>> space_to_depth(jnp.zeros((5, 28, 28, 1))).shape
      (5, 14, 14, 4)
    """
    chex.assert_rank(images, 4)
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // block, block, width // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // block, width // block, block * block * channels)


def precision_of(dtype: Any) -> jax.lax.Precision | None:
    """Returns the precision with which XLA computes products of a type in that type.

    By default a GPU rounds float32 factors to the 10 bits of TF32, a TPU to the 7 of bfloat16.
    """
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def dense_product(dtype: Any) -> Callable[..., jax.Array]:
    """Returns a ``dot_general`` for ``flax.linen.Dense`` that rounds its factors to ``dtype``.

    Sums and results are float32, in the gradients too: what hardware for bfloat16 does anyway, and
    what XLA's CPU backend needs to use it.

    Examples:
      >>> x, w = jnp.full((2, 3), 1.001), jnp.ones((3, 4))
      >>> float(dense_product(jnp.bfloat16)(x, w, (((1,), (0,)), ((), ())))[0, 0])
      3.0
    """
    dtype = jnp.dtype(dtype)

    def product(
        inputs: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None
    ) -> jax.Array:
        if dtype == jnp.float32:
            precision = precision or precision_of(dtype)
            return jax.lax.dot_general(inputs, kernel, dimension_numbers, precision)
        chex.assert_rank([inputs, kernel], 2)
        return _rounded_product(inputs, kernel, dtype)

    return product


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    return _rounded_product_forward(x, w, dtype)[0]


def _rounded_product_forward(x: jax.Array, w: jax.Array, dtype: Any) -> tuple[jax.Array, Any]:
    x, w = jnp.asarray(x, dtype), jnp.asarray(w, dtype)
    return _product(x, w, 1, 0), (x, w)


def _rounded_product_backward(
    dtype: Any, residuals: Any, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    grad = grad.astype(dtype)
    # A product over both first axes would be widened to float32: a copy costs less, and the step
    # of two layers of 512 takes four fifths of the time.
    return _product(grad, w, 1, 1), _product(_transposed(x), grad, 1, 0)


_rounded_product.defvjp(_rounded_product_forward, _rounded_product_backward)


def _product(
    a: jax.Array, b: jax.Array, contract_a: int, contract_b: int, *, batched: bool = False
) -> jax.Array:
    """The matrix product over one axis of each, with float32 sums whatever the factors' type."""
    batch = ((0,), (0,)) if batched else ((), ())
    dimensions = (((contract_a,), (contract_b,)), batch)
    return jax.lax.dot_general(
        a, b, dimensions, precision_of(a.dtype), preferred_element_type=jnp.float32
    )
