"""The fast layers against Flax's and against loops."""

import flax.linen as nn
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from digits_jax.models.layers import max_pool, space_to_depth


def flax_max_pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


def gradient(pool):
    """Of a weighted sum, so that every output has a gradient of its own."""
    return jax.jit(jax.grad(lambda x, weights: (pool(x) * weights).sum()))


# Even and odd sizes; each shape is compiled once.
SHAPES = [(2, 4, 4, 3), (2, 5, 4, 3), (2, 2, 3, 1), (1, 7, 5, 2)]
ours, flaxs = gradient(max_pool), gradient(flax_max_pool)
values, flax_values = jax.jit(max_pool), jax.jit(flax_max_pool)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from(SHAPES),
    levels=st.sampled_from([1, 2, 3, 1000]),  # few levels: many equal maxima
    seed=st.integers(0, 2**32 - 1),
)
def test_max_pool_is_flaxs(shape, levels, seed):
    random = np.random.default_rng(seed)
    x = random.integers(0, levels, shape).astype(np.float32) - levels // 2
    expected = np.asarray(flax_values(x))
    np.testing.assert_array_equal(values(x), expected)
    weights = random.standard_normal(expected.shape).astype(np.float32)
    np.testing.assert_array_equal(ours(x, weights), flaxs(x, weights))


def test_gradient_of_equal_maxima_goes_to_the_first():
    x = np.ones((1, 2, 2, 1), np.float32)
    assert ours(x, np.ones((1, 1, 1, 1), np.float32))[0, :, :, 0].tolist() == [[1, 0], [0, 0]]


def test_max_pool_keeps_bfloat16():
    assert max_pool(jax.numpy.zeros((1, 4, 4, 1), "bfloat16")).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("shape", "block"), [((2, 4, 6, 1), 2), ((1, 6, 3, 2), 3), ((3, 2, 5, 4), 1)]
)
def test_space_to_depth_is_a_loop(shape, block):
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    batch, height, width, channels = shape
    expected = np.empty((batch, height // block, width // block, block * block * channels))
    for row in range(height):
        for column in range(width):
            start = (row % block * block + column % block) * channels
            to = expected[:, row // block, column // block, start : start + channels]
            to[:] = images[:, row, column]
    np.testing.assert_array_equal(space_to_depth(images, block), expected)


def test_space_to_depth_needs_four_axes():
    with pytest.raises(AssertionError):
        space_to_depth(np.zeros((4, 4, 1)))
