"""The fast path of the CNN against Flax's layers: values and gradients."""

import functools

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from digits_jax.models.cnn import CNN
from digits_jax.models.layers import choose_convolution, max_pool, products_in
from digits_jax.models.planes import PlanesConv, from_planes, max_pool_planes, to_planes

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_there_and_back(shards):
    images = numbers(6, 5, 4, 3)
    planes = to_planes(jnp.asarray(images), shards)
    assert planes.shape == (shards, 3, 5, 4, 6 // shards)
    shard, place = divmod(4, 6 // shards)
    np.testing.assert_array_equal(planes[shard, 2, 1, 3, place], images[4, 1, 3, 2])
    np.testing.assert_array_equal(from_planes(planes), images)


def test_a_batch_that_shards_dont_divide_stays_whole():
    assert to_planes(jnp.zeros((1, 28, 28, 1)), 4).shape == (1, 1, 28, 28, 1)


@pytest.mark.parametrize("shape", [(4, 6, 6, 3), (2, 7, 5, 2)])
def test_max_pool_is_the_same_in_planes(shape):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape).astype(np.float32))
    weights = numbers(*max_pool(images).shape)
    plain = jax.grad(lambda x: (max_pool(x) * weights).sum())(images)
    ours = jax.grad(lambda x: (from_planes(max_pool_planes(to_planes(x, 2))) * weights).sum())
    np.testing.assert_array_equal(ours(images), plain)


# Images, filters, with a bias, shards; each case is compiled once.
CASES = [
    ((4, 6, 7, 1), 5, True, 2),
    ((2, 1, 1, 3), 1, False, 1),
    ((6, 5, 4, 24), 48, False, 2),
    ((2, 14, 14, 4), 24, True, 1),
]


@functools.cache
def both(shape, features, use_bias, shards):
    """Flax's convolution and ours, of the same images and parameters, with their gradients."""
    flax_conv = nn.Conv(features, (3, 3), use_bias=use_bias)
    conv = PlanesConv(features, use_bias=use_bias)

    def plain(variables, images, weights):
        return (flax_conv.apply(variables, images) * weights).sum()

    def ours(variables, images, weights):
        y = from_planes(conv.apply(variables, to_planes(images, shards)))
        return (y * weights).sum()

    init = flax_conv.init(jax.random.key(1), jnp.zeros(shape))
    of = {"argnums": (0, 1)}
    return init, *(jax.jit(jax.value_and_grad(f, **of)) for f in (plain, ours))


@settings(deadline=None, max_examples=30)
@given(case=st.sampled_from(CASES), seed=st.integers(0, 1000))
def test_convolution_is_flaxs(case, seed):
    (shape, features, *_), (variables, plain, ours) = case, both(*case)
    images, weights = numbers(*shape, seed=seed), numbers(*shape[:3], features, seed=seed + 1)
    expected, found = plain(variables, images, weights), ours(variables, images, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def test_a_cropped_convolution_leaves_out_what_pooling_drops():
    images = jnp.asarray(numbers(3, 7, 6, 2))
    whole, cropped = PlanesConv(4), PlanesConv(4, crop=True)
    variables = whole.init(jax.random.key(0), to_planes(images))
    weights = numbers(1, 4, 3, 3, 3)

    def pooled(conv):
        return lambda v, x: (max_pool_planes(conv.apply(v, to_planes(x))) * weights).sum()

    expected = jax.grad(pooled(whole), argnums=(0, 1))(variables, images)
    found = jax.grad(pooled(cropped), argnums=(0, 1))(variables, images)
    assert cropped.apply(variables, to_planes(images)).shape == (1, 4, 6, 6, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, expected)


NETWORKS = {
    "plain": {"channels": (8, 16), "dense_size": 12},
    "deep": {"channels": (6, 9, 5), "convs_per_block": 2, "dense_size": 7},
    "without batch norm": {"channels": (8,), "batch_norm": False, "dense_size": 0},
    "of single pixels": {"channels": (4, 4), "space_to_depth": False, "dense_size": 8},
}


def gradients(module, variables, images, labels):
    def loss(params):
        logits, changed = module.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        loss = -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()
        return loss, (logits, changed)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shards", [1, 4])
def test_the_network_is_the_same(name, shards):
    images = jnp.asarray(np.random.default_rng(0).random((16, 28, 28, 1), np.float32))
    labels = np.arange(16) % 10
    plain = CNN(**NETWORKS[name])
    fast = CNN(**NETWORKS[name], convolution="matmul", shards=shards)
    variables = plain.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, fast.init(jax.random.key(0), images), variables)
    expected = gradients(plain, variables, images, labels)
    found = gradients(fast, variables, images, labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, expected)
    np.testing.assert_allclose(
        fast.apply(variables, images), plain.apply(variables, images), **TOLERANCE
    )


def distance(a, b):
    """Of two trees, relative to the second's length."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("name", ["deep", "without batch norm"])
def test_bfloat16_is_as_near_as_xlas_own(name):
    """Factors have 8 bits; sums of ours are float32, so that it can't be further off."""
    images = jnp.asarray(np.random.default_rng(0).random((16, 28, 28, 1), np.float32))
    labels = np.arange(16) % 10
    exact = CNN(**NETWORKS[name])
    variables = exact.init(jax.random.key(0), images)
    expected = gradients(exact, variables, images, labels)[0]
    rounded = {
        way: gradients(
            CNN(**NETWORKS[name], convolution=way, dtype=jnp.bfloat16), variables, images, labels
        )[0]
        for way in ("lax", "matmul")
    }
    assert distance(rounded["matmul"], expected) < 1.1 * distance(rounded["lax"], expected)
    assert distance(rounded["matmul"], expected) > 0  # that it is bfloat16


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (32, 784, 10)])
def test_rounded_products_are_numpys_of_rounded_factors(shape):
    batch, size, features = shape
    x, w, g = numbers(batch, size), numbers(size, features), numbers(batch, features)
    product = products_in(jnp.bfloat16)
    last_by_first = (((1,), (0,)), ((), ()))
    y, pull = jax.vjp(lambda x, w: product(x, w, last_by_first), x, w)
    x64, w64, g64 = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, w, g))
    assert y.dtype == jnp.float32
    for found, expected in zip((y, *pull(g)), (x64 @ w64, g64 @ w64.T, x64.T @ g64), strict=True):
        np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_the_choice():
    assert [choose_convolution("auto", p) for p in ("cpu", "gpu", "tpu")] == [
        "matmul",
        "lax",
        "lax",
    ]
    assert choose_convolution("lax", "cpu") == "lax"
