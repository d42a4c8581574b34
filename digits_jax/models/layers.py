"""Building blocks that are fast on every backend.

images and feature maps: float [batch, height, width, channels].
"""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from digits_jax.errors import ConfigError

# How a convolution is computed: by XLA's own, or as products of matrices (models/planes.py).
CONVOLUTIONS = ("lax", "matmul")
# Of BatchNorm's running statistics: the share that a step leaves.
NORM_MOMENTUM = 0.9


def choose_convolution(wanted: str, platform: str) -> str:
    """The faster way of computing a convolution.

    Args:
      wanted: "lax", "matmul" or "auto".
      platform: of the devices: "cpu", "gpu" or "tpu".

    Returns:
      "lax" or "matmul".

    Raises:
      ConfigError: anything else was wanted.

    Example:
      >>> choose_convolution("auto", "gpu"), choose_convolution("auto", "cpu")
      ('lax', 'matmul')
    """
    if wanted == "auto":
        return "matmul" if platform == "cpu" else "lax"
    if wanted not in CONVOLUTIONS:
        raise ConfigError(f"convolution is {wanted!r}; allowed: auto, {', '.join(CONVOLUTIONS)}")
    return wanted


def space_to_depth(images: jax.Array, block: int = 2) -> jax.Array:
    """Moves each block of pixels into the channels.

    Args:
      images: float [batch, height, width, channels]; height and width are multiples of ``block``.
      block: side of a block, in pixels.

    Returns:
      float [batch, height / block, width / block, block * block * channels].

    Raises:
      AssertionError: where ``images`` isn't of rank 4.

    Example:
      >>> space_to_depth(jnp.zeros((5, 28, 28, 1))).shape
      (5, 14, 14, 4)
    """
    chex.assert_rank(images, 4)
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // block, block, width // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // block, width // block, block * block * channels)


def _quads(x):
    """[batch, h, w, c] -> [batch, h // 2, 2, w // 2, 2, c]; an odd last row or column is cut."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over windows of 2x2 with stride 2; an odd last row or column is left out.

    The values and the gradient (which goes to the first of equal maxima) are those of
    ``flax.linen.max_pool(x, (2, 2), (2, 2))``. That one's gradient is XLA's
    select-and-scatter, which is serial on CPU and was the slowest operation of a whole
    train step; written with comparisons it halved the step's time or better.

    Args:
      x: float [batch, height, width, channels].

    Returns:
      float [batch, height // 2, width // 2, channels].

    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    return _quads(x).max((2, 4))


def _max_pool_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(residuals, grad):
    x, y = residuals
    _, height, width, _ = x.shape
    quads = _quads(x)
    top_left, top_right, bottom_left = (
        quads[:, :, i, :, j] == y for i, j in ((0, 0), (0, 1), (1, 0))
    )
    zero = jnp.zeros_like(grad)
    top = jnp.stack(
        [jnp.where(top_left, grad, zero), jnp.where(top_right & ~top_left, grad, zero)], 3
    )
    above = top_left | top_right
    bottom = jnp.stack(
        [
            jnp.where(bottom_left & ~above, grad, zero),
            jnp.where(~(above | bottom_left), grad, zero),
        ],
        3,
    )
    x_grad = jnp.stack([top, bottom], 2).reshape(
        quads.shape[0], height // 2 * 2, width // 2 * 2, -1
    )
    return (jnp.pad(x_grad, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def precision_of(dtype: Any) -> jax.lax.Precision | None:
    """What XLA must be told for products of a type to be of that type.

    A GPU would round factors in float32 to the 10 bits of TF32, and a TPU to the 7 of bfloat16.

    Args:
      dtype: of the factors.

    Example:
      >>> precision_of(jnp.bfloat16) is None, precision_of(jnp.float32).name
      (True, 'HIGHEST')
    """
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def products_in(dtype: Any) -> Any:
    """What ``flax.linen.Dense`` takes as ``dot_general``, with factors rounded to a type.

    Sums and results are float32, in the gradients too: what hardware for bfloat16 does anyway, and
    what XLA's CPU backend needs to use it.

    Args:
      dtype: of the factors.

    Returns:
      ``f(inputs, kernel, dimension_numbers, precision=None)``.

    Example:
      >>> x, w = jnp.full((2, 3), 1.001), jnp.ones((3, 4))
      >>> last_by_first = (((1,), (0,)), ((), ()))
      >>> float(products_in(jnp.bfloat16)(x, w, last_by_first)[0, 0])
      3.0
    """
    if jnp.dtype(dtype) == jnp.float32:

        def product_in_float32(inputs, kernel, dimension_numbers, precision=None):
            precision = precision or precision_of(dtype)
            return jax.lax.dot_general(inputs, kernel, dimension_numbers, precision)

        return product_in_float32

    def product(inputs, kernel, dimension_numbers, precision=None):
        if dimension_numbers != (((inputs.ndim - 1,), (0,)), ((), ())) or inputs.ndim != 2:
            raise ValueError(f"products of matrices only, not {dimension_numbers}")
        return _rounded_product(inputs, kernel, jnp.dtype(dtype))

    return product


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(x, w, dtype):
    return sum_of_products(x.astype(dtype), w.astype(dtype), 1, 0)


def _rounded_product_forward(x, w, dtype):
    x, w = x.astype(dtype), w.astype(dtype)
    return sum_of_products(x, w, 1, 0), (x, w)


def _rounded_product_backward(dtype, residuals, grad):
    x, w = residuals
    grad = grad.astype(dtype)
    return sum_of_products(grad, w, 1, 1), sum_of_products(x, grad, 0, 0)


_rounded_product.defvjp(_rounded_product_forward, _rounded_product_backward)


def sum_of_products(
    a: jax.Array, b: jax.Array, contract_a: int, contract_b: int, *, batched: bool = False
) -> jax.Array:
    """A matrix product whose sums are float32, whatever type its factors are of.

    Args:
      a: [n, k], or [k, n].
      b: [k, m], or [m, k].
      contract_a: the axis of ``a`` that is summed over.
      contract_b: that of ``b``.
      batched: both have another axis before these, the same in both.

    Returns:
      float32 [n, m]; with ``batched`` one for each.

    Example:
      >>> a, b = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16)
      >>> sum_of_products(a, b, 1, 1).shape
      (2, 4)
    """
    batch = ((0,), (0,)) if batched else ((), ())
    dimensions = (((contract_a,), (contract_b,)), batch)
    return jax.lax.dot_general(
        a, b, dimensions, precision_of(a.dtype), preferred_element_type=jnp.float32
    )
