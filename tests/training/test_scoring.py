"""The state, its score, recalibrated BatchNorm, and views of an image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from digits_jax import MLP, RunOptions, Split, TrainConfig, create_train_state, load_dataset
from digits_jax.training.multi_step import initial_state
from digits_jax.training.scoring import (
    RECALIBRATION_BATCHES,
    augmented_view,
    batch_statistics,
    make_scorer,
    recalibrate_batch_norm,
    score_logits,
    score_views,
)
from digits_jax.training.setup import prepare
from digits_jax.training.state import count_params

SMALL = TrainConfig(
    arch="mlp",
    dataset="digits",
    preset="quick",
    hidden_sizes=(12,),
    dtype="float32",
    augment="affine",
)


def test_initial_state():
    module, key = MLP(3, hidden_sizes=()), jax.random.key(0)
    state = create_train_state(module, optax.sgd(0.1), key, (4, 4, 1))
    other = create_train_state(module, optax.sgd(0.1), jax.random.key(1), (4, 4, 1))
    assert (int(state.step), state.step.dtype) == (0, np.int32)
    assert state.variables == {"params": state.params, "batch_stats": {}}
    assert count_params(state.params) == 16 * 3 + 3
    kernels = [each.params["logits"]["kernel"] for each in (state, other)]
    assert (kernels[0] != kernels[1]).all()


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (4, 12), (4, 13)])
def test_every_image_is_scored_once(count, devices):
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    split = Split(images, random.integers(0, 10, count, dtype=np.int32))
    config = dataclasses.replace(SMALL, hidden_sizes=(), batch_norm=False)
    setup = prepare(config, RunOptions(devices=devices))
    few = Split(np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int32))
    setup = dataclasses.replace(
        setup, dataset=dataclasses.replace(setup.dataset, validation=few, test=few)
    )
    assert setup.eval_batch_size == 4
    state = setup.initial_state()
    [score] = make_scorer([setup])(state, [split])
    kernel = np.asarray(state.params["logits"]["kernel"], np.float64)
    logits = split.images.reshape(count, -1) / 255 @ kernel
    log_probabilities = scipy.special.log_softmax(logits, axis=-1)[np.arange(count), split.labels]
    correct = int((logits.argmax(-1) == split.labels).sum())
    assert (score.count, score.correct, score.errors) == (count, correct, count - correct)
    assert score.accuracy == correct / count
    np.testing.assert_allclose(score.loss, -log_probabilities.mean(), rtol=1e-5)
    np.testing.assert_allclose(score.logits, logits, rtol=1e-4, atol=1e-5)
    assert (score.logits.dtype, score.labels.dtype) == (np.float32, np.int32)


def test_members_are_initialized_and_scored_as_if_alone():
    setup = prepare(dataclasses.replace(SMALL, batch_size=48), RunOptions(devices=3))
    setups = [setup.with_seed(seed) for seed in range(3)]
    split = setup.dataset.train  # several batches, and the last one short
    together = initial_state(setups)
    scores = make_scorer(setups)(together, [split] * 3)
    for index, own in enumerate(setups):
        alone = own.initial_state()
        for a, b in zip(*map(jax.tree.leaves, (together, alone)), strict=True):
            np.testing.assert_array_equal(a[index], b)
        [expected] = make_scorer([own])(alone, [split])
        assert (scores[index].count, scores[index].correct) == (1257, expected.correct)
        np.testing.assert_allclose(scores[index].logits, expected.logits, atol=1e-4)


# --- BatchNorm's statistics ------------------------------------------------------------------


def hidden(images, kernel):
    """The inputs of the first BatchNorm, in float64."""
    flat = np.asarray(images, np.float64).reshape(len(images), -1) / 255
    return flat @ np.asarray(kernel, np.float64)


def test_batch_statistics_are_numpys():
    module = MLP(hidden_sizes=(5,), batch_norm=True)
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1), np.uint8)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    params, stats = variables["params"], variables["batch_stats"]
    found = batch_statistics(module.apply, params, stats, jnp.asarray(images))
    x = hidden(images, params["hidden_0"]["kernel"])
    np.testing.assert_allclose(found["norm_0"]["mean"], x.mean(0), atol=2e-5)
    np.testing.assert_allclose(found["norm_0"]["var"], x.var(0), rtol=2e-4)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_recalibration_averages_over_batches_without_dropout(ema_decay):
    config = dataclasses.replace(SMALL, dropout=0.5, batch_size=100, ema_decay=ema_decay)
    setup = prepare(config)
    state = setup.initial_state()
    after = recalibrate_batch_norm(state, [setup])
    images = setup.dataset.train.images
    count = min(RECALIBRATION_BATCHES, len(images) // 100)
    x = hidden(images[: 100 * count], state.params["hidden_0"]["kernel"])
    parts = np.array_split(x, count)
    mean, var = np.mean([p.mean(0) for p in parts], 0), np.mean([p.var(0) for p in parts], 0)
    found = after.variables["batch_stats"]["norm_0"]
    np.testing.assert_allclose(found["mean"], mean, atol=2e-5)
    np.testing.assert_allclose(found["var"], var, rtol=2e-4)
    assert after.params is state.params


def test_recalibration_is_the_same_on_two_devices():
    config = dataclasses.replace(SMALL, arch="cnn", hidden_sizes=None, channels=(4,), batch_size=64)
    found = []
    for devices in (1, 2):
        setup = prepare(config, RunOptions(devices=devices))
        state = recalibrate_batch_norm(setup.initial_state(), [setup])
        found.append(jax.device_get(state.batch_stats))
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-6)


# --- views -----------------------------------------------------------------------------------


def test_views_are_reproducible_and_differ_a_little():
    images = load_dataset("digits").test.images
    views = [augmented_view(images, number) for number in range(3)]
    assert views[0] is images
    for number in (1, 2):
        np.testing.assert_array_equal(augmented_view(images, number), views[number])
        ink = views[number].sum((1, 2, 3)) / images.sum((1, 2, 3))
        assert 0.8 < ink.min() < ink.max() < 1.25
        pairs = zip(views[number], images, strict=True)
        correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]
        assert 0.6 < np.median(correlations) < 0.99
        assert not any((views[number] == other).all() for other in views[:number])


def test_the_mean_over_views_by_hand():
    split = Split(np.zeros((2, 28, 28, 1), np.uint8), np.array([0, 1], np.int32))
    logits = [np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])]
    given = iter(logits)
    found = score_views(
        lambda state, splits: [score_logits(splits[0].labels, next(given))], None, split, 2
    )
    mean = np.mean([scipy.special.softmax(each, -1) for each in logits], 0)
    np.testing.assert_allclose(scipy.special.softmax(found.logits, -1), mean, rtol=1e-6)
    assert found.correct == int((mean.argmax(-1) == [0, 1]).sum())
