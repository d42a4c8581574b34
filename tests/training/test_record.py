"""The state, its score, and what is written about a run."""

import hashlib

import jax
import numpy as np
import optax
import pytest
import scipy.special

from digits_jax import CNN, MLP, create_train_state, make_mesh
from digits_jax.data.splits import Split
from digits_jax.runs.checkpoint import tree_sha256
from digits_jax.training.scoring import Score, make_scorer
from digits_jax.training.state import abstract_train_state, count_params

SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def linear():
    module = MLP(num_classes=3, hidden_sizes=())
    return create_train_state(module, optax.sgd(0.1), jax.random.key(0), SHAPE)


def test_initial_state(linear):
    assert (int(linear.step), linear.step.dtype) == (0, np.int32)
    assert linear.batch_stats == {}
    assert linear.variables == {"params": linear.params, "batch_stats": {}}
    assert count_params(linear.params) == 16 * 3 + 3


def test_the_key_decides_the_parameters(linear):
    def kernel(seed):
        key = jax.random.key(seed)
        state = create_train_state(MLP(3, hidden_sizes=()), optax.sgd(0.1), key, SHAPE)
        return np.asarray(state.params["logits"]["kernel"])

    np.testing.assert_array_equal(kernel(0), linear.params["logits"]["kernel"])
    assert (kernel(1) != kernel(0)).all()


def test_abstract_state_is_that_of_the_state():
    module = CNN(channels=(2,), dense_size=3)
    state = create_train_state(module, optax.adam(0.1), jax.random.key(0))
    shape = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), state)
    abstract = abstract_train_state(module, optax.adam(0.1))
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), abstract)
    for part in ("step", "params", "batch_stats", "opt_state"):
        assert getattr(found, part) == getattr(shape, part)
    assert abstract.params["conv_0_0"]["kernel"].shape == (3, 3, 4, 2)
    # The momenta of two moments, and a count.
    assert count_params(state.opt_state) == 2 * count_params(state.params) + 1


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("count", [1, 12, 13])
def test_every_image_is_scored_once(linear, count, devices):
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    split = Split(images, random.integers(0, 3, count, dtype=np.int32))
    score = make_scorer(linear, make_mesh(jax.devices()[:devices]), 4, SHAPE)(linear, split)
    kernel = np.asarray(linear.params["logits"]["kernel"], np.float64)
    logits = split.images.reshape(count, -1) / 255 @ kernel
    log_probabilities = scipy.special.log_softmax(logits, -1)[np.arange(count), split.labels]
    right = int((logits.argmax(-1) == split.labels).sum())
    assert (score.count, score.correct, score.errors) == (count, right, count - right)
    assert score.accuracy == right / count
    np.testing.assert_allclose(score.loss, -log_probabilities.mean(), rtol=1e-5)
    np.testing.assert_allclose(score.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(score.labels, split.labels)
    assert (score.logits.dtype, score.labels.dtype) == (np.float32, np.int32)


def test_accuracy_of_a_score():
    score = Score(loss=0.5, correct=9_987, count=10_000, labels=np.zeros(0), logits=np.zeros(0))
    assert (score.accuracy, score.errors) == (0.9987, 13)


def test_params_sha256_is_over_bytes_by_sorted_path():
    params = {
        "norm": {"scale": np.float32([5, 6])},
        "dense": {"kernel": np.float32([[1, 2]]).T, "bias": np.float32([3, 4])},
    }
    written = b"".join(np.float32([value]).tobytes() for value in (3, 4, 1, 2, 5, 6))
    assert tree_sha256(params) == hashlib.sha256(written).hexdigest()
    changed = {**params, "norm": {"scale": np.float32([5, 7])}}
    assert tree_sha256(changed) != tree_sha256(params)


def test_params_sha256_sorts_whole_paths():
    """A tree's order of keys is another: there "a" comes before "a-b"."""
    params = {"a": {"z": np.float32([1])}, "a-b": {"c": np.float32([2])}}
    assert "a-b/c" < "a/z"
    expected = hashlib.sha256(np.float32([2, 1]).tobytes()).hexdigest()
    assert tree_sha256(params) == expected
