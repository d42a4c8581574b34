"""The CNN's fast operations against Flax's, NumPy's and loops: values and gradients."""

import functools

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.flatten_util import ravel_pytree

from digits_jax.models.cnn import CNN
from digits_jax.models.matmul_conv import (
    MatmulConv,
    dense_product,
    from_batch_last,
    max_pool,
    max_pool_batch_last,
    space_to_depth,
    to_batch_last,
)

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- pooling and reshaping -------------------------------------------------------------------


def batch_last_pool(x):
    return from_batch_last(max_pool_batch_last(to_batch_last(x, 2)))


def flax_pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


@jax.jit
def pooled_three_ways(x, weights):
    """Values, and gradients of a weighted sum: every output has a gradient of its own."""

    def value_and_gradient(pool):
        return pool(x), jax.grad(lambda x: (pool(x) * weights).sum())(x)

    return [value_and_gradient(pool) for pool in (flax_pool, max_pool, batch_last_pool)]


# Even and odd sizes; each shape is compiled once.
@settings(deadline=None, max_examples=30)
@given(
    shape=st.sampled_from([(2, 4, 4, 3), (2, 5, 4, 3), (2, 2, 3, 1), (4, 7, 5, 2)]),
    levels=st.sampled_from([1, 2, 3, 1000]),  # few levels: many equal maxima
    seed=st.integers(0, 2**32 - 1),
)
def test_max_pool_equals_flax(shape, levels, seed):
    random = np.random.default_rng(seed)
    x = random.integers(0, levels, shape).astype(np.float32) - levels // 2
    weights = normal(shape[0], shape[1] // 2, shape[2] // 2, shape[3], seed=seed)
    flaxs, *ours = pooled_three_ways(x, weights)
    for found in ours:
        jax.tree.map(np.testing.assert_array_equal, found, flaxs)


@pytest.mark.parametrize(
    ("shape", "block"), [((2, 4, 6, 1), 2), ((1, 6, 3, 2), 3), ((3, 2, 5, 4), 1)]
)
def test_space_to_depth_equals_a_loop(shape, block):
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    batch, height, width, channels = shape
    expected = np.empty((batch, height // block, width // block, block * block * channels))
    for row in range(height):
        for column in range(width):
            start = (row % block * block + column % block) * channels
            to = expected[:, row // block, column // block, start : start + channels]
            to[:] = images[:, row, column]
    np.testing.assert_array_equal(space_to_depth(images, block), expected)


@pytest.mark.parametrize(("shards", "parts"), [(1, 1), (2, 2), (4, 1)])  # 4 doesn't divide 6
def test_batch_last_and_back(shards, parts):
    images = normal(6, 5, 4, 3)
    x = to_batch_last(jnp.asarray(images), shards)
    assert x.shape == (parts, 3, 5, 4, 6 // parts)
    shard, place = divmod(4, 6 // parts)
    np.testing.assert_array_equal(x[shard, 2, 1, 3, place], images[4, 1, 3, 2])
    np.testing.assert_array_equal(from_batch_last(x), images)


# --- convolution and products ------------------------------------------------------------------

# Images, filters, with a bias, shards; each case is compiled once.
CASES = [
    ((4, 6, 7, 1), 5, True, 2),
    ((2, 1, 1, 3), 1, False, 1),
    ((6, 5, 4, 24), 48, False, 2),  # many inputs, many filters: the other order in the gradient
]


@functools.cache
def both_convolutions(shape, features, use_bias, shards):
    """Flax's convolution and ours, of the same parameters, with their gradients."""
    flax_conv = nn.Conv(features, (3, 3), use_bias=use_bias)
    conv = MatmulConv(features, use_bias=use_bias)

    def flaxs(variables, images, weights):
        return (flax_conv.apply(variables, images) * weights).sum()

    def ours(variables, images, weights):
        y = from_batch_last(conv.apply(variables, to_batch_last(images, shards)))
        return (y * weights).sum()

    variables = flax_conv.init(jax.random.key(1), jnp.zeros(shape))
    return variables, *(jax.jit(jax.value_and_grad(f, argnums=(0, 1))) for f in (flaxs, ours))


@settings(deadline=None, max_examples=20)
@given(case=st.sampled_from(CASES), seed=st.integers(0, 1000))
def test_matmul_convolution_equals_flax(case, seed):
    (shape, features, *_), (variables, flaxs, ours) = case, both_convolutions(*case)
    images, weights = normal(*shape, seed=seed), normal(*shape[:3], features, seed=seed + 1)
    expected, found = flaxs(variables, images, weights), ours(variables, images, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (32, 784, 10)])
def test_bfloat16_products_equal_numpys_of_rounded_factors(shape):
    batch, size, features = shape
    x, w, g = normal(batch, size), normal(size, features), normal(batch, features)
    last_by_first = (((1,), (0,)), ((), ()))
    y, pull = jax.vjp(lambda x, w: dense_product(jnp.bfloat16)(x, w, last_by_first), x, w)
    x64, w64, g64 = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, w, g))
    assert y.dtype == jnp.float32
    for found, expected in zip((y, *pull(g)), (x64 @ w64, g64 @ w64.T, x64.T @ g64), strict=True):
        np.testing.assert_allclose(found, expected, **TOLERANCE)


# --- the network -------------------------------------------------------------------------------

NETWORKS = {
    # 14, 7, 3: with "matmul" the second block leaves out what its pooling would drop.
    "deep": {"channels": (6, 9), "convs_per_block": 2, "dense_size": 7, "space_to_depth": False},
    "without batch norm": {"channels": (8,), "batch_norm": False, "dense_size": 0},
}
IMAGES = np.random.default_rng(0).random((16, 14, 14, 1), np.float32)


def train_gradient(module, variables):
    """(gradients, (logits, new statistics)) of the cross-entropy in training."""

    def loss(params):
        logits, changed = module.apply(
            {**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"]
        )
        loss = -jax.nn.log_softmax(logits)[jnp.arange(16), np.arange(16) % 10].mean()
        return loss, (logits, changed)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize("name", NETWORKS)
def test_both_convolutions_make_the_same_network(name):
    lax = CNN(**NETWORKS[name])
    matmul = CNN(**NETWORKS[name], convolution="matmul", shards=4)
    variables = jax.jit(lax.init)(jax.random.key(0), IMAGES)
    assert jax.eval_shape(matmul.init, jax.random.key(0), IMAGES) == jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables
    )
    expected, found = train_gradient(lax, variables), train_gradient(matmul, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, expected)
    scored = [jax.jit(module.apply)(variables, IMAGES) for module in (matmul, lax)]
    np.testing.assert_allclose(*scored, **TOLERANCE)


def test_bfloat16_is_as_close_as_xlas_own():
    """Factors have 8 bits; our sums are float32, so the error can't be larger."""
    network = NETWORKS["without batch norm"]
    exact = CNN(**network)
    variables = jax.jit(exact.init)(jax.random.key(0), IMAGES)
    expected = ravel_pytree(train_gradient(exact, variables)[0])[0]
    errors = {}
    for convolution in ("lax", "matmul"):
        module = CNN(**network, convolution=convolution, dtype=jnp.bfloat16)
        found = ravel_pytree(train_gradient(module, variables)[0])[0]
        errors[convolution] = np.linalg.norm(found - expected)
    assert 0 < errors["matmul"] < 1.1 * errors["lax"]
