"""Images moved to where the loss is larger: against NumPy, and as the convex loss has it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import KEY, SHAPE, linear_state, make_batch, numpy_linear, numpy_step

from digits_jax import CNN, create_train_state, predict_step, train_step
from digits_jax.config import with_later_fields
from digits_jax.training.steps import cross_entropy, worsened


def numpy_worsened(state, batch, amounts):
    """By the textbook's gradient: of cross-entropy by a linear model's inputs."""
    x, _, probabilities = numpy_linear(state, batch)
    kernel = np.asarray(state.params["logits"]["kernel"], np.float64)
    slopes = (probabilities - np.eye(3)[batch["label"]]) @ kernel.T
    return np.clip(x + amounts[:, None] * np.sign(slopes), 0, 1), x


def test_adversarial_images_are_numpys():
    state, batch = linear_state(), make_batch()
    after, _ = train_step(state, batch, KEY, adversarial=0.3)
    # The key of the augmentation, and of it the next one.
    key = jax.random.fold_in(jax.random.split(jax.random.fold_in(KEY, 0))[0], 1)
    amounts = np.ravel(jax.random.uniform(key, (6, 1, 1, 1), maxval=0.3))
    assert 0 < amounts.min() < amounts.max() < 0.3
    images, _ = numpy_worsened(state, batch, amounts)
    changed = {**batch, "image": images.reshape(6, *SHAPE) * 255}
    expected = numpy_step(state, changed)
    chex.assert_trees_all_close(dict(after.params["logits"]), expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.01, 1.0))
def test_worsened_images_are_never_easier_for_a_linear_model(seed, most):
    """Its loss is convex: along the gradient's signs it rises, however far, and clipped too."""
    state, batch = linear_state(), make_batch(seed=seed)
    x, _, probabilities = numpy_linear(state, batch)
    kernel = np.asarray(state.params["logits"]["kernel"], np.float64)
    slopes = (probabilities - np.eye(3)[batch["label"]]) @ kernel.T
    images, grads = (jnp.asarray(a.reshape(6, *SHAPE), jnp.float32) for a in (x, slopes))
    found = np.asarray(worsened(jax.random.key(seed), images, grads, most), np.float64)
    assert found.min() >= 0
    assert found.max() <= 1
    moved = np.abs(found - images)
    assert moved.max() <= most + 1e-6
    before = cross_entropy(predict_step(state, images), batch["label"])
    after = cross_entropy(predict_step(state, jnp.asarray(found, jnp.float32)), batch["label"])
    assert (after >= before - 1e-5).all()


def test_no_adversary_is_the_step_as_it_was():
    state, batch = linear_state(), make_batch()
    plain, _ = train_step(state, batch, KEY)
    without, _ = train_step(state, batch, KEY, adversarial=0.0)
    chex.assert_trees_all_equal(plain.params, without.params)


def test_a_teacher_sees_the_images_that_are_trained_on():
    seen = []

    def teach(_, images):
        seen.append(np.asarray(images))
        return jnp.zeros((6, 3))

    state, batch = linear_state(), make_batch()
    train_step(state, batch, KEY, adversarial=0.3, teach=teach, teacher_weight=0.5)
    assert np.abs(seen[0] - batch["image"] / 255).max() > 0.05


def test_a_run_of_before_had_no_adversary():
    assert with_later_fields({"arch": "mlp"})["adversarial"] == 0.0


@pytest.mark.parametrize("convolution", ["lax", "matmul"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolutions_have_gradients_of_their_images(convolution, dtype):
    """However they are computed: of a step's images none but blank corners stay as they are."""
    module = CNN(channels=(4, 8), dense_size=8, convolution=convolution, dtype=jnp.dtype(dtype))
    state = create_train_state(module, optax.sgd(0.1), jax.random.key(0))
    batch = make_batch(shape=(28, 28, 1))
    seen = []

    def teach(_, images):
        seen.append(np.asarray(images))
        return jnp.zeros((6, 10))

    after, sums = train_step(state, batch, KEY, adversarial=0.2, teach=teach, teacher_weight=0.5)
    assert float(sums["skipped"]) == 0
    moved = np.abs(seen[0] - batch["image"] / 255)[:4]  # the last two are masked: no loss, no slope
    assert moved.max() <= 0.2 + 1e-6
    assert (moved > 0).mean() > 0.9
    assert int(after.step) == 1
