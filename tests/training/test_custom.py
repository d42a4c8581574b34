"""A module, a loss and an optimizer that the caller brings."""

import dataclasses
import shutil
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from flax import nnx
from interrupting import interrupted_at
from linear import KEY, RATE, linear_state, make_batch, numpy_linear
from programs import assert_refused

from digits_jax import (
    CheckpointError,
    ConfigError,
    RunOptions,
    TrainConfig,
    fit,
    load_trained,
    resume,
    train_step,
)
from digits_jax import checkpoints as checkpoints_program
from digits_jax import compare as compare_program
from digits_jax import evaluate as evaluate_program
from digits_jax import export as export_program
from digits_jax import predict as predict_program
from digits_jax import train as train_program
from digits_jax.training.scoring import make_scorer
from digits_jax.training.setup import prepare

DIGITS = TrainConfig(dataset="digits", preset="quick", epochs=3.0)


class Squares(nn.Module):
    """It takes neither ``train`` nor ``axis_name``."""

    width: int = 32

    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(nn.Dense(self.width)(images.reshape(len(images), -1)) ** 2)


class Normalized(nnx.Module):
    """Dropout and BatchNorm, in Flax's other interface."""

    def __init__(self, width, rngs):
        self.first = nnx.Linear(784, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images, train):
        x = self.norm(self.first(images.reshape(len(images), -1)), use_running_average=not train)
        return self.last(self.dropout(nnx.relu(x), deterministic=not train))


def squared_error(logits, labels):
    return jnp.sum((logits - jax.nn.one_hot(labels, 10)) ** 2, -1)


CUSTOM = {"module": Squares(), "loss": squared_error, "tx": optax.adam(3e-3)}
NNX = {"module": nnx.bridge.to_linen(Normalized, 32)}


def test_a_step_with_a_loss_of_ones_own_is_numpys():
    """Half the squared error: of a linear model the gradient is x (z - y)."""
    state, batch = linear_state(), make_batch()

    def loss(logits, labels):
        return 0.5 * jnp.sum((logits - jax.nn.one_hot(labels, 3)) ** 2, -1)

    after, sums = jax.jit(partial(train_step, loss=loss))(state, batch, KEY)
    x, logits, _ = numpy_linear(state, batch)
    error = (logits - np.eye(3)[batch["label"]]) * batch["mask"][:, None] / batch["mask"].sum()
    expected = state.params["logits"]["kernel"] - RATE * x.T @ error
    np.testing.assert_allclose(after.params["logits"]["kernel"], expected, atol=1e-6)
    kept = batch["mask"] == 1  # what is reported is still the cross-entropy
    log_probabilities = scipy.special.log_softmax(logits, -1)[kept]
    reported = -log_probabilities[np.arange(kept.sum()), batch["label"][kept]].sum()
    np.testing.assert_allclose(sums["loss"], reported, rtol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "custom"
    return fit(DIGITS, RunOptions(workdir=workdir, devices=1), quiet=True, **CUSTOM)


def test_it_is_trained_and_scored(run):
    assert run.results["arch"] == "Squares"
    assert run.results["num_params"] == 785 * 32 + 33 * 10
    assert run.results["test_accuracy"] > 0.9
    setup, state = load_trained(run.workdir, module=Squares(), tx=CUSTOM["tx"], devices=1)
    params = jax.tree.map(np.float64, jax.device_get(state.params))
    last, first = params["Dense_0"], params["Dense_1"]
    images = setup.dataset.test.images.reshape(360, 784) / 255
    hidden = (images @ first["kernel"] + first["bias"]) ** 2
    expected = hidden @ last["kernel"] + last["bias"]
    [score] = make_scorer([setup])(state, [setup.dataset.test])
    np.testing.assert_allclose(score.logits, expected, rtol=1e-3, atol=1e-3)
    assert score.correct == (expected.argmax(-1) == setup.dataset.test.labels).sum()


@pytest.mark.parametrize("custom", [CUSTOM, NNX], ids=["linen", "nnx"])
def test_it_resumes_exactly(run, custom, tmp_path):
    options = [RunOptions(workdir=tmp_path / name, devices=1) for name in "ab"]
    straight = run if custom is CUSTOM else fit(DIGITS, options[0], quiet=True, **custom)
    assert straight.results["test_accuracy"] > 0.9
    with interrupted_at(22):
        fit(DIGITS, options[1], quiet=True, **custom)
    resumed = resume(tmp_path / "b", quiet=True, devices=1, **custom)
    assert resumed.results["params_sha256"] == straight.results["params_sha256"]
    assert resumed.results["test_loss"] == straight.results["test_loss"]


def test_it_is_compared_with_another_run(run, trained, here, tmp_path):
    status, out, err = here(compare_program, run.workdir, trained[0], "-o", tmp_path / "report")
    assert status == 0, err
    assert "Squares" in (tmp_path / "report" / "report.md").read_text()
    status, out, _ = here(checkpoints_program, run.workdir)
    assert status == 0
    assert out.splitlines()[0].endswith("good")


def test_what_it_cannot_do_is_one_line(run, here, tmp_path):
    for program, *argv in (
        (predict_program, run.workdir, tmp_path / "no.png"),
        (export_program, run.workdir, "--format=onnx", "-o", tmp_path / "exported"),
        (evaluate_program, run.workdir),
        (train_program, "--resume", f"--workdir={run.workdir}"),
        (train_program, f"--config={run.workdir}", "--dry-run"),
        (train_program, f"--teacher={run.workdir}", "--dataset=digits", "--dry-run"),
    ):
        ending = here(program, *argv)
        assert_refused(ending, "module")
        assert_refused(ending, "load_trained")
        assert ending[1] == ""  # no network of ours is announced


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"module": Squares(width=16)}, r"module=Squares.*width = 16.*has Squares.*width = 32"),
        ({"module": None}, "module=None"),
        ({"loss": None}, "loss=None: the run in .* has <function squared_error>"),
        ({"tx": None}, "tx=None"),
    ],
)
def test_it_is_resumed_with_the_same(run, other, message):
    with pytest.raises(ConfigError, match=message):
        resume(run.workdir, quiet=True, devices=1, **{**CUSTOM, **other})


def test_another_optimizers_state_is_refused(run, tmp_path):
    workdir = shutil.copytree(run.workdir, tmp_path / "run")
    with pytest.raises((ConfigError, CheckpointError)):
        load_trained(workdir, module=Squares(), tx=optax.sgd(0.1, momentum=0.9), devices=1)


class Counting(nn.Module):
    """It has variables that a training state doesn't keep."""

    @nn.compact
    def __call__(self, images):
        self.variable("counts", "calls", jnp.zeros, ())
        return nn.Dense(10)(images.reshape(len(images), -1))


@pytest.mark.parametrize(
    ("config", "custom", "message"),
    [
        ({}, {"module": nn.Dense(10)}, r"returns float32\[2, 28, 28, 10\] for 2 images"),
        ({}, {"module": Counting()}, "module: has variables counts"),
        ({}, {"module": Squares}, "module=Squares: isn't a linen module; give an instance"),
        ({}, {"module": "cnn"}, "module=str: isn't a linen module"),
        ({}, {"module": nn.Sequential([lambda x: x])}, "module: has no parameters to train"),
        ({}, {"loss": "mse"}, "loss is a str: must be a function of logits, labels"),
        ({}, {"loss": lambda x, y: x.mean()}, r"loss: returns float32\[\] for 2 images; must be"),
        ({}, {"loss": lambda x, y: x.argmax(-1)}, r"loss: returns int32\[2\] for 2 images"),
        ({}, {"loss": lambda x, y: None}, "loss: returns NoneType for 2 images"),
        ({}, {"tx": optax.adam}, "tx is a function: must be an optimizer of optax"),
        ({}, {"tx": "adam"}, "tx is a str: must be an optimizer of optax"),
        ({"channels": (4,)}, {"module": Squares()}, "channels: has no effect beside module"),
        ({"label_smoothing": 0.1}, {"loss": squared_error}, "label_smoothing: has no effect"),
        ({"learning_rate": 0.1}, {"tx": optax.sgd(0.1)}, "learning_rate: has no effect beside tx"),
    ],
)
def test_what_cannot_be_trained(tmp_path, config, custom, message):
    config = dataclasses.replace(DIGITS, **config)
    with pytest.raises(ConfigError, match=message):
        prepare(config, RunOptions(devices=1), **custom)
