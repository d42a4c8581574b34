"""Whole runs that learn from a trained network."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from digits_jax import (
    RunOptions,
    TrainConfig,
    fit,
    fit_ensemble,
    load_dataset,
    load_trained,
    resume,
)
from digits_jax.config import read_config
from digits_jax.deploy import Predictor
from digits_jax.errors import ConfigError, DigitsError
from digits_jax.runs.folder import read_run
from digits_jax.train import main as train
from digits_jax.training.distillation import load_teacher
from digits_jax.training.setup import prepare

SMALL = TrainConfig(
    arch="mlp", dataset="digits", preset="quick", epochs=1.0, hidden_sizes=(16,), dtype="float32"
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An ensemble of two CNNs."""
    config = TrainConfig(
        arch="cnn", dataset="digits", preset="quick", epochs=2.0, channels=(8,), ensemble=2
    )
    workdir = tmp_path_factory.mktemp("runs") / "teacher"
    fit_ensemble(config, RunOptions(workdir=workdir, devices=1), quiet=True)
    return workdir


@pytest.mark.parametrize("member", ["", "member-1"])
def test_a_teachers_logits_are_its_predictions(teacher, member):
    path, data = teacher / member, load_dataset("digits")
    found = load_teacher(path, data, {"dtype": "float32", "convolution": "lax"})
    images = data.test.images.astype(np.float32) / 255
    logits = jax.jit(found.logits)(found.variables, images)
    expected = jax.nn.log_softmax(read_run(path).logits)
    np.testing.assert_allclose(jax.nn.log_softmax(logits), expected, atol=3e-4)


def test_a_student_without_labels_agrees_with_its_teacher(teacher, tmp_path):
    config = dataclasses.replace(
        SMALL, epochs=20.0, hidden_sizes=(64,), teacher=str(teacher), teacher_weight=1.0
    )
    result = fit(config, RunOptions(workdir=tmp_path / "student"), quiet=True)
    predicted = read_run(teacher).logits.argmax(-1)
    assert (result.test.logits.argmax(-1) == predicted).mean() > 0.93
    assert result.results["test_accuracy"] > 0.93


@pytest.mark.parametrize("steps_per_call", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_student_resumes_exactly(teacher, tmp_path, steps_per_call):
    config = dataclasses.replace(SMALL, teacher=str(teacher))
    options = {"steps_per_call": steps_per_call, "checkpoint_every_steps": 5}
    undisturbed = fit(config, RunOptions(workdir=tmp_path / "run", **options), quiet=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    again = resume(tmp_path / "run", quiet=True)
    assert again.results["params_sha256"] == undisturbed.results["params_sha256"]


def test_a_teacher_is_known_by_its_parameters(teacher, tmp_path):
    moved, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(teacher / "member-0", moved)
    fit(dataclasses.replace(SMALL, teacher=str(moved)), RunOptions(workdir=run), quiet=True)
    shutil.rmtree(moved)
    setup, state = load_trained(run)  # scoring needs no teacher
    assert setup.teacher is None
    assert int(state.step) == setup.total_steps
    for again in (["--resume", f"--workdir={run}"], [f"--config={run}"]):
        with pytest.raises(DigitsError, match="no such folder"):
            train(again)
    assert train(["--resume", f"--workdir={run}", f"--teacher={teacher / 'member-0'}"]) == 0
    assert read_config(run)[0].teacher == str(teacher / "member-0")
    resume(run, quiet=True)
    with pytest.raises(ConfigError, match="isn't the network that"):
        train(["--resume", f"--workdir={run}", f"--teacher={teacher / 'member-1'}"])
    with pytest.raises(ConfigError, match=r"teacher=None: the run in .* has teacher="):
        train(["--resume", f"--workdir={run}", "--teacher=none"])
    # A repeated run may have another teacher, if it is named.
    assert train([f"--config={run}", f"--teacher={teacher / 'member-1'}", "--dry-run"]) == 0


def test_what_cannot_teach(teacher, tmp_path):
    unfinished, other = tmp_path / "unfinished", tmp_path / "other"
    shutil.copytree(teacher / "member-0", unfinished)
    (unfinished / "results.json").unlink()
    shutil.copytree(teacher / "member-0", other)
    results = json.loads((other / "results.json").read_text())
    results |= {"dataset": "kmnist", "dataset_sha256": "0" * 64}
    (other / "results.json").write_text(json.dumps(results))
    for path, message in {
        tmp_path / "none": "no such folder",
        unfinished: "isn't finished",
        other: "was trained on kmnist, this run is on digits",
        "mlp": "was trained on mnist, this run is on digits",  # of the package
    }.items():
        with pytest.raises(ConfigError, match=message) as caught:
            prepare(dataclasses.replace(SMALL, teacher=str(path)))
        assert str(caught.value).startswith(f"teacher={path}: ")


@pytest.mark.mnist
def test_a_network_of_the_package_teaches(mnist_dir):
    data = load_dataset("mnist", mnist_dir)
    found = load_teacher("tiny", data, {"dtype": "float32", "convolution": "lax"})
    images = data.test.images[:100]
    logits = jax.jit(found.logits)(found.variables, images.astype(np.float32) / 255)
    expected = Predictor.pretrained("tiny").predict(images).logits
    np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=1e-3)
