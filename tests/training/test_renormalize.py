"""BatchNorm's statistics after training: by NumPy, and in whole runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.config import TrainConfig
from digits_jax.models.cnn import CNN
from digits_jax.models.mlp import MLP
from digits_jax.runs.folder import read_run
from digits_jax.training.loop import fit, resume
from digits_jax.training.plan import prepare
from digits_jax.training.renormalize import BATCHES, batch_statistics, renormalize

SMALL = TrainConfig(
    arch="mlp",
    dataset="digits",
    preset="quick",
    epochs=2.0,
    hidden_sizes=(12,),
    dtype="float32",
    augment="affine",
)


def as_floats(images):
    return np.asarray(images, np.float64).reshape(len(images), -1) / 255


def test_the_statistics_of_a_batch_are_numpys():
    module = MLP(hidden_sizes=(5,), batch_norm=True)
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1), np.uint8)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    stats = variables["batch_stats"]
    found = batch_statistics(module.apply, variables["params"], stats, jnp.asarray(images))
    x = as_floats(images) @ np.asarray(variables["params"]["hidden_0"]["kernel"], np.float64)
    np.testing.assert_allclose(found["norm_0"]["mean"], x.mean(0), atol=2e-5)
    np.testing.assert_allclose(found["norm_0"]["var"], x.var(0), rtol=2e-4)


def test_all_batches_count_and_dropout_does_not():
    """With ones for parameters, the first layer's statistics are the images' own."""
    plan = prepare(dataclasses.replace(SMALL, dropout=0.5, batch_size=100))
    state = plan.initial_state()
    after = renormalize(plan, state)
    images = plan.dataset.train.images
    count = min(BATCHES, len(images) // 100)
    x = as_floats(images) @ np.asarray(state.params["hidden_0"]["kernel"], np.float64)
    parts = np.array_split(x[: 100 * count], count)
    mean, var = np.mean([p.mean(0) for p in parts], 0), np.mean([p.var(0) for p in parts], 0)
    np.testing.assert_allclose(after.batch_stats["norm_0"]["mean"], mean, atol=2e-5)
    np.testing.assert_allclose(after.batch_stats["norm_0"]["var"], var, rtol=2e-4)
    assert after.params is state.params


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_what_a_run_recognises_with(tmp_path, ema_decay):
    config = dataclasses.replace(SMALL, ema_decay=ema_decay, renormalize=True)
    done = fit(dataclasses.replace(config, workdir=str(tmp_path / "run")), quiet=True)
    plan = prepare(config)
    again = renormalize(plan, done.state)  # of the same parameters: nothing changes
    for one, other in zip(
        *map(jax.tree.leaves, (done.state.variables, again.variables)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    plain = fit(
        dataclasses.replace(config, renormalize=False, workdir=str(tmp_path / "plain")), quiet=True
    )
    assert plain.results["params_sha256"] == done.results["params_sha256"]
    assert plain.results["validation_loss"] != done.results["validation_loss"]
    # The last epoch's line is of what is saved.
    assert done.metrics[-1]["validation_loss"] == done.results["validation_loss"]
    logits = read_run(tmp_path / "run").logits
    found = resume(tmp_path / "run", quiet=True)
    np.testing.assert_allclose(read_run(tmp_path / "run").logits, logits, atol=1e-5)
    assert found.results["test_errors"] == done.results["test_errors"]


def test_a_network_without_statistics_stays_as_it_is():
    plan = prepare(dataclasses.replace(SMALL, batch_norm=False))
    state = plan.initial_state()
    assert renormalize(plan, state) is state


def test_on_two_devices_it_is_the_same():
    config = dataclasses.replace(SMALL, arch="cnn", hidden_sizes=None, channels=(4,), batch_size=64)
    found = []
    for devices in ("1", "2"):
        plan = prepare(dataclasses.replace(config, devices=devices))
        assert isinstance(plan.module, CNN)
        found.append(jax.device_get(renormalize(plan, plan.initial_state()).batch_stats))
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-6)
