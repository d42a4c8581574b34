"""One step: against NumPy, against numbers written down, with and without jit."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import KEY, RATE, SHAPE, linear_state, make_batch, numpy_linear, numpy_step, numpy_sums

from digits_jax import (
    CNN,
    MLP,
    create_train_state,
    eval_step,
    make_mesh,
    parallelize,
    predict_step,
    train_step,
)
from digits_jax.training.losses import cross_entropy, distillation_loss, metric_sums
from digits_jax.training.steps import fgsm_perturb, to_float

# --- losses and sums -----------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy(smoothing):
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 5, (20, 7)), random.integers(0, 7, 20)
    targets = np.full((20, 7), smoothing / 7)
    targets[np.arange(20), labels] += 1 - smoothing
    expected = -(targets * scipy.special.log_softmax(logits, axis=-1)).sum(-1)
    found = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), smoothing)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_metric_sums_leave_out_masked_images():
    random = np.random.default_rng(1)
    batch = make_batch(count=30)
    batch["mask"] = random.integers(0, 2, 30).astype(np.float32)
    logits = random.normal(size=(30, 3)).astype(np.float32)
    sums = metric_sums(logits, batch["label"], batch["mask"])
    expected = numpy_sums(logits, batch)
    assert sums.keys() == expected.keys()
    assert 0 < expected["correct"] < expected["count"] < 30
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)


def test_to_float():
    levels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_allclose(to_float(levels), np.arange(256) / 255, rtol=1e-6)
    floats = jnp.array([0.25, 1.0])
    np.testing.assert_array_equal(to_float(floats), floats)
    with pytest.raises(AssertionError, match="images are uint8"):
        to_float(jnp.zeros(3, jnp.int32))


# --- the step ------------------------------------------------------------------------------


class Variants(chex.TestCase):
    """The steps as they are, and under jit."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_train_step_is_numpys(self):
        state, batch = linear_state(), make_batch()
        step = functools.partial(train_step, label_smoothing=0.2)
        after, sums = self.variant(step)(state, batch, KEY)
        expected = numpy_step(state, batch, smoothing=0.2)
        chex.assert_trees_all_close(dict(after.params["logits"]), expected, atol=1e-6)
        _, logits, _ = numpy_linear(state, batch)
        expected = {**numpy_sums(logits, batch), "skipped": 0.0}
        chex.assert_trees_all_close(sums, expected, rtol=1e-5)
        assert int(after.step) == 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_eval_step_is_numpys(self):
        state, batch = linear_state(), make_batch()
        _, logits, _ = numpy_linear(state, batch)
        sums = self.variant(eval_step)(state, batch)
        chex.assert_trees_all_close(sums, numpy_sums(logits, batch), rtol=1e-5)
        predicted = self.variant(predict_step)(state, batch["image"])
        np.testing.assert_allclose(predicted, logits, rtol=1e-5)


def test_a_batch_of_padding_changes_nothing():
    state, batch = linear_state(), make_batch()
    after, sums = train_step(state, {**batch, "mask": np.zeros(6, np.float32)}, KEY)
    chex.assert_trees_all_equal(after.params, state.params)
    assert [float(value) for value in sums.values()] == [0, 0, 0, 0]


def test_augmentation_sees_float_images_and_changes_what_is_trained_on():
    seen = []

    def blacken(key, images):
        seen.append((images.dtype, float(images.max()) <= 1))
        return images * 0

    state, batch = linear_state(), make_batch()
    after, _ = train_step(state, batch, KEY, augment=blacken)
    expected, _ = train_step(state, {**batch, "image": batch["image"] * 0}, KEY)
    chex.assert_trees_all_equal(after.params, expected.params)
    assert seen == [(jnp.float32, True)]


def test_each_step_has_its_own_key():
    drawn = []

    def note(key, images):
        drawn.append(float(jax.random.uniform(key)))
        return images

    state, batch = linear_state(), make_batch()
    for step in (0, 1, 0, 1):
        train_step(state.replace(step=jnp.int32(step)), batch, KEY, augment=note)
    assert drawn[:2] == drawn[2:]  # as it would be after a resume
    assert drawn[0] != drawn[1]
    train_step(state, batch, jax.random.key(8), augment=note)
    assert drawn[-1] != drawn[0]


def test_train_step_is_traced_once():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(train_step, n=1))
    state = linear_state(optax.adam(0.01))
    for seed in range(4):
        state, _ = step(state, make_batch(seed=seed), KEY)
    # The counter counts: another shape is another trace.
    with pytest.raises(AssertionError, match="traced"):
        step(state, make_batch(count=7), KEY)


# --- refused arrays -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image": np.zeros((6, 16), np.uint8)}, 'batch["image"]'),
        ({"label": np.zeros(5, np.int32)}, '"label" and "mask"'),
        ({"mask": np.zeros(7, np.float32)}, '"label" and "mask"'),
        ({"label": np.zeros(6, np.float32)}, 'batch["label"]'),
        ({"mask": np.zeros(6, bool)}, 'batch["mask"]'),
    ],
)
def test_wrong_arrays_are_named(changed, named):
    batch = {**make_batch(), **changed}
    state = linear_state()
    for call in (lambda: train_step(state, batch, KEY), lambda: eval_step(state, batch)):
        with pytest.raises(AssertionError, match=re.escape(named)):
            call()


# --- values that aren't finite, and averages -----------------------------------------------------


@functools.cache  # one module and one optimizer, so that a step is compiled once
def adam_state():
    module = MLP(hidden_sizes=(5,), num_classes=3, batch_norm=True)
    return create_train_state(module, optax.adam(0.1), KEY, SHAPE, averaged=True)


@pytest.mark.parametrize("bad", ["image", "label", "gradient"])
def test_a_step_without_finite_numbers_is_skipped(bad):
    state, batch = adam_state(), make_batch()
    state, _ = jax.jit(train_step)(state, batch, KEY)  # all of it has values now
    batch = {**batch, "image": batch["image"] / np.float32(255), "label": batch["label"].copy()}
    if bad == "label":
        batch["label"][0] = 7  # no class: its loss is NaN
    elif bad == "gradient":
        overflow = jax.custom_vjp(lambda x: x)
        overflow.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.inf,))
        apply = state.apply_fn
        state = state.replace(
            apply_fn=lambda *a, **k: (lambda out: (overflow(out[0]), out[1]))(apply(*a, **k))
        )
    else:
        batch["image"][0, 3, 2] = np.nan
    after, sums = jax.jit(train_step)(state, batch, KEY)
    assert {name: float(value) for name, value in sums.items()} == {
        "loss": 0.0,
        "correct": 0.0,
        "count": 0.0,
        "skipped": 1.0,
    }
    assert int(after.step) == 2  # the next one has another key
    for part in ("params", "batch_stats", "opt_state", "average"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(state, part))


def test_a_skipped_step_is_skipped_on_every_device():
    """One device's share is bad: none of them moves."""
    state, batch = adam_state(), make_batch(count=8)
    batch = {**batch, "image": batch["image"] / np.float32(255)}
    batch["image"][0, 3, 2] = np.nan
    for mode in ("jit", "shard_map"):
        step = parallelize(train_step, make_mesh(jax.devices()[:4]), mode)
        after, sums = step(state, batch, KEY)
        assert (float(sums["skipped"]), float(sums["count"])) == (1, 0)
        chex.assert_trees_all_equal(after.params, state.params)


def test_the_average_is_numpys():
    state, decay = adam_state(), 0.3
    average = jax.tree.map(np.asarray, state.average)
    step = jax.jit(functools.partial(train_step, ema_decay=decay))
    for t in range(6):
        state, _ = step(state, make_batch(), KEY)
        d = min(decay, (1 + t) / (10 + t))
        now = {"params": state.params, "batch_stats": state.batch_stats}
        average = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * np.asarray(b), average, now)
    chex.assert_trees_all_close(state.average, average, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state.variables, state.average)


# --- adversarial images and distillation -----------------------------------------------------


def numpy_image_grads(state, batch):
    """The gradient of the cross-entropy by a linear model's images, and the images as rows."""
    x, _, probabilities = numpy_linear(state, batch)
    kernel = np.asarray(state.params["logits"]["kernel"], np.float64)
    return (probabilities - np.eye(3)[batch["label"]]) @ kernel.T, x


def test_an_adversarial_step_is_numpys():
    state, batch = linear_state(), make_batch()
    after, _ = train_step(state, batch, KEY, adversarial=0.3)
    # The step's augmentation key, and the key folded from it.
    key = jax.random.fold_in(jax.random.split(jax.random.fold_in(KEY, 0))[0], 1)
    epsilons = np.ravel(jax.random.uniform(key, (6, 1, 1, 1), maxval=0.3))
    grads, x = numpy_image_grads(state, batch)
    images = np.clip(x + epsilons[:, None] * np.sign(grads), 0, 1)
    expected = numpy_step(state, {**batch, "image": images.reshape(6, *SHAPE) * 255})
    chex.assert_trees_all_close(dict(after.params["logits"]), expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.01, 1.0))
def test_perturbed_images_never_lower_a_linear_models_loss(seed, epsilon):
    """Its loss is convex: it rises along the gradient's signs, however far, and clipped too."""
    state, batch = linear_state(), make_batch(seed=seed)
    grads, x = numpy_image_grads(state, batch)
    images, grads = (jnp.asarray(a.reshape(6, *SHAPE), jnp.float32) for a in (x, grads))
    found = fgsm_perturb(jax.random.key(seed), images, grads, epsilon)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float(jnp.abs(found - images).max()) <= epsilon + 1e-6
    before, after = (
        cross_entropy(predict_step(state, each), batch["label"]) for each in (images, found)
    )
    assert (after >= before - 1e-5).all()


@pytest.mark.parametrize(("convolution", "dtype"), [("lax", "float32"), ("matmul", "bfloat16")])
def test_the_teacher_sees_the_adversarial_images(convolution, dtype):
    """However convolutions are computed, they have gradients by their images."""
    module = CNN(channels=(4, 8), dense_size=8, convolution=convolution, dtype=jnp.dtype(dtype))
    state = create_train_state(module, optax.sgd(0.1), jax.random.key(0))
    batch, seen = make_batch(shape=(28, 28, 1)), []

    def teacher_apply(_, images):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), images)
        return jnp.zeros((6, 10))

    options = {"adversarial": 0.2, "teacher_apply": teacher_apply, "teacher_weight": 0.5}
    _, sums = jax.jit(functools.partial(train_step, **options))(state, batch, KEY)
    jax.effects_barrier()
    assert float(sums["skipped"]) == 0
    moved = np.abs(seen[0] - batch["image"] / 255)[:4]  # the last two are masked: no gradient
    assert moved.max() <= 0.2 + 1e-6
    assert (moved > 0).mean() > 0.9


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_loss_by_hand(temperature):
    own, teacher = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32) * 5
    targets = scipy.special.softmax(teacher / temperature, -1)
    log_probabilities = scipy.special.log_softmax(own / temperature, -1)
    expected = -(temperature**2) * (targets * log_probabilities).sum(-1)
    found = distillation_loss(jnp.asarray(own), jnp.asarray(teacher), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_linear_students_step_is_numpys():
    """The gradient of softmax regression is x (p - q); at temperature T it is T x (p_T - q_T)."""
    softmax = scipy.special.softmax
    state, batch = linear_state(), make_batch()
    batch["mask"][:] = 1
    weights = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    after, _ = train_step(
        state,
        batch,
        KEY,
        weights,
        teacher_apply=lambda w, images: images.reshape(len(images), -1) @ w,
        teacher_weight=0.75,
        teacher_temperature=2.0,
    )
    x, logits, probabilities = numpy_linear(state, batch)
    hard = probabilities - np.eye(3)[batch["label"]]
    soft = 2.0 * (softmax(logits / 2, -1) - softmax(x @ weights / 2, -1))
    grads = x.T @ (0.25 * hard + 0.75 * soft) / 6
    expected = state.params["logits"]["kernel"] - RATE * grads
    np.testing.assert_allclose(after.params["logits"]["kernel"], expected, atol=2e-6)
