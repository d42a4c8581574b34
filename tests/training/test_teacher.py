"""Learning from a trained network: the loss by hand, one step by NumPy, whole runs."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

from digits_jax.config import TrainConfig, read_config
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from digits_jax.models.mlp import MLP
from digits_jax.runs.folder import read_run
from digits_jax.train import main as train
from digits_jax.train import parse_config
from digits_jax.training.ensemble import fit_ensemble
from digits_jax.training.loop import fit, resume
from digits_jax.training.plan import prepare
from digits_jax.training.resuming import load_trained
from digits_jax.training.state import create_train_state
from digits_jax.training.steps import distillation_loss, train_step
from digits_jax.training.teacher import load_teacher

SMALL = TrainConfig(
    arch="mlp", dataset="digits", preset="quick", epochs=1.0, hidden_sizes=(16,), dtype="float32"
)
HOW = {"dtype": "float32", "convolution": "lax", "shards": 1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An ensemble of two CNNs."""
    config = TrainConfig(
        arch="cnn", dataset="digits", preset="quick", epochs=2.0, channels=(8,), ensemble=2
    )
    workdir = tmp_path_factory.mktemp("runs") / "teacher"
    fit_ensemble(dataclasses.replace(config, workdir=str(workdir)), quiet=True)
    return workdir


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_by_hand(temperature):
    rng = np.random.default_rng(0)
    own, theirs = rng.normal(size=(2, 4, 3)).astype(np.float32) * 5
    targets = softmax(theirs / temperature, -1)
    expected = -(temperature**2) * (targets * log_softmax(own / temperature, -1)).sum(-1)
    found = distillation_loss(jnp.asarray(own), jnp.asarray(theirs), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_step_of_a_linear_student_is_numpys():
    """Of softmax regression the gradient is x (p - q): at temperature T, T x (p_T - q_T)."""
    rng = np.random.default_rng(1)
    images = rng.random((6, 28, 28, 1), dtype=np.float32)
    labels = rng.integers(0, 10, 6).astype(np.int32)
    weights = rng.normal(size=(784, 10)).astype(np.float32)
    state = create_train_state(MLP(hidden_sizes=()), optax.sgd(1.0), jax.random.key(0))
    kernel = np.asarray(state.params["logits"]["kernel"])
    batch = {"image": images, "label": labels, "mask": np.ones(6, np.float32)}
    after, _ = train_step(
        state,
        batch,
        jax.random.key(0),
        weights,
        teach=lambda w, x: x.reshape(len(x), -1) @ w,
        teacher_weight=0.75,
        teacher_temperature=2.0,
    )
    x = images.reshape(6, -1)
    hard = softmax(x @ kernel, -1) - np.eye(10)[labels]
    soft = 2.0 * (softmax(x @ kernel / 2, -1) - softmax(x @ weights / 2, -1))
    expected = kernel - x.T @ (0.25 * hard + 0.75 * soft) / 6
    np.testing.assert_allclose(after.params["logits"]["kernel"], expected, atol=2e-5)


def test_a_teacher_answers_as_its_predictions_say(teacher):
    data = load_dataset("digits")
    found = load_teacher(teacher, data, **HOW)
    images = data.test.images.astype(np.float32) / 255
    answers = jax.nn.log_softmax(jax.jit(found.logits)(found.variables, images))
    np.testing.assert_allclose(answers, read_run(teacher).logits, atol=2e-4)
    single = load_teacher(teacher / "member-1", data, **HOW)
    expected = read_run(teacher / "member-1").logits
    np.testing.assert_allclose(single.logits(single.variables, images), expected, atol=2e-4)


def test_a_student_alone_with_its_teacher_comes_to_agree_with_it(teacher, tmp_path):
    """All of the loss is the teacher's, so that only its answers can have taught."""
    config = dataclasses.replace(
        SMALL, epochs=20.0, hidden_sizes=(64,), teacher=str(teacher), teacher_weight=1.0
    )
    result = fit(dataclasses.replace(config, workdir=str(tmp_path / "student")), quiet=True)
    theirs = read_run(teacher).logits.argmax(-1)
    own = read_run(tmp_path / "student").logits.argmax(-1)
    assert (own == theirs).mean() > 0.93
    assert result.results["test_accuracy"] > 0.93


@pytest.mark.parametrize("steps_per_call", ["1", "3"])
def test_a_run_goes_on_with_its_teacher(teacher, tmp_path, steps_per_call):
    config = dataclasses.replace(
        SMALL, teacher=str(teacher), steps_per_call=steps_per_call, workdir=str(tmp_path / "whole")
    )
    whole = fit(config, quiet=True)
    parts = tmp_path / "parts"
    config = dataclasses.replace(config, workdir=str(parts), checkpoint_every_steps=5)
    fit(config, quiet=True)
    last = max(int(p.name) for p in (parts / "checkpoints").iterdir() if p.name.isdigit())
    shutil.rmtree(parts / "checkpoints" / str(last))
    (parts / "checkpoints" / "last_checkpoint.json").unlink(missing_ok=True)
    (parts / "results.json").unlink()
    again = resume(parts, quiet=True)
    assert again.results["params_sha256"] == whole.results["params_sha256"]


def test_another_teacher_in_its_place_is_noticed(teacher, tmp_path):
    copy = tmp_path / "teacher"
    shutil.copytree(teacher / "member-0", copy)
    run = tmp_path / "run"
    fit(dataclasses.replace(SMALL, teacher=str(copy), workdir=str(run)), quiet=True)
    shutil.rmtree(copy)
    # What it taught is recognised without it.
    plan, state = load_trained(run)
    assert plan.teacher is None
    assert int(state.step) == plan.total_steps
    for again in (["--resume", f"--workdir={run}"], [f"--config={run}"]):
        with pytest.raises(
            DigitsError, match=r"teacher.*no such folder, but .* say with --teacher"
        ):
            train(again)
    # It was moved: the same network is in another folder, and is found there from now on.
    assert train(["--resume", f"--workdir={run}", f"--teacher={teacher / 'member-0'}"]) == 0
    assert read_config(run / "config.json").teacher == str(teacher / "member-0")
    resume(run, quiet=True)
    load_trained(run)
    other = teacher / "member-1"
    with pytest.raises(DigitsError, match=f"{other}: another network is there than the one that"):
        train(["--resume", f"--workdir={run}", f"--teacher={other}"])
    with pytest.raises(DigitsError, match=r"--teacher=None: the run in .* has teacher="):
        train(["--resume", f"--workdir={run}", "--teacher=none"])
    # One of before, whose config.json doesn't know who it is: its checkpoints do.
    config = json.loads((run / "config.json").read_text())
    del config["teacher"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(DigitsError, match=f"{other}: another network is there than the one that"):
        train(["--resume", f"--workdir={run}", f"--teacher={other}"])


def test_a_student_is_repeated_with_its_own_teacher(teacher, tmp_path):
    copy, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(teacher / "member-0", copy)
    fit(dataclasses.replace(SMALL, teacher=str(copy), workdir=str(run)), quiet=True)
    again = ["--dry-run", f"--config={run}"]
    assert train(again) == 0
    assert parse_config([*again, "--teacher-weight=0.5"]).teacher_weight == 0.5
    assert parse_config([*again, "--hidden-sizes=8"]).hidden_sizes == (8,)
    shutil.rmtree(copy)
    shutil.copytree(teacher / "member-1", copy)
    with pytest.raises(DigitsError, match=f"{copy}: another network is there than the one that"):
        train(again)
    # To learn from another one may well be meant.
    assert train([*again, f"--teacher={teacher / 'member-1'}"]) == 0


def test_an_ensemble_of_students_finds_a_teacher_that_was_moved(teacher, tmp_path):
    copy, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(teacher / "member-0", copy)
    config = dataclasses.replace(SMALL, teacher=str(copy), workdir=str(run), ensemble=2)
    found = fit_ensemble(config, quiet=True)
    shutil.rmtree(copy)
    (run / "results.json").unlink()
    shutil.rmtree(run / "member-1")
    resumed = ["--resume", f"--workdir={run}"]
    with pytest.raises(DigitsError, match=r"no such folder, but .* say with --teacher"):
        train(resumed)
    with pytest.raises(DigitsError, match="another network is there"):
        train([*resumed, f"--teacher={teacher / 'member-1'}"])
    assert train([*resumed, f"--teacher={teacher / 'member-0'}"]) == 0
    assert read_run(run).results["params_sha256"] == found.results["params_sha256"]
    assert train(resumed) == 0


def test_who_cannot_teach(teacher, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(teacher / "member-0", unfinished)
    (unfinished / "results.json").unlink()
    other = tmp_path / "other"
    shutil.copytree(teacher / "member-0", other)
    results = json.loads((other / "results.json").read_text())
    results |= {"dataset": "kmnist", "dataset_sha256": "0" * 64}
    (other / "results.json").write_text(json.dumps(results))
    ensemble = tmp_path / "ensemble"
    shutil.copytree(teacher, ensemble)
    (ensemble / "results.json").unlink()
    for path, words in {
        tmp_path / "none": "no such folder",
        ensemble: "the ensemble isn't finished",
        unfinished: "isn't finished",
        other: "was trained on kmnist, this run is on digits; give a teacher of the same",
    }.items():
        with pytest.raises(DigitsError, match=words) as caught:
            prepare(dataclasses.replace(SMALL, teacher=str(path)))
        assert str(caught.value).startswith(f"--teacher={path}: ")
    for fields, words in {
        ("teacher_weight", 0.5): "--teacher-weight goes with --teacher=RUN",
        ("teacher_temperature", 2.0): "--teacher-temperature goes with --teacher",
    }.items():
        with pytest.raises(DigitsError, match=words):
            prepare(dataclasses.replace(SMALL, **dict([fields])))
    for fields, words in {
        ("teacher_weight", 1.5): "--teacher-weight=1.5: give a number that is at least 0 and at",
        (
            "teacher_temperature",
            0.0,
        ): "--teacher-temperature=0.0: give a number that is at least",
    }.items():
        with pytest.raises(DigitsError, match=words):
            prepare(dataclasses.replace(SMALL, teacher=str(teacher), **dict([fields])))
