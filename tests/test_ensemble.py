"""An ensemble: trained one by one or together, resumed, and read by every program as a run is."""

import contextlib
import dataclasses
import io
import json
import shutil
import signal

import numpy as np
import pytest
from programs import call
from scipy.special import softmax

from digits_jax import ConfigError, DigitsError, RunOptions, TrainConfig, fit_ensemble, load_trained
from digits_jax.config import read_config
from digits_jax.deploy.predictor import Predictor
from digits_jax.runs.checkpoint import list_steps
from digits_jax.runs.folder import read_metrics, read_run
from digits_jax.train import main as train
from digits_jax.training import scoring
from digits_jax.training.interrupts import Interrupted
from digits_jax.training.loop import train_members
from digits_jax.training.multi_step import MultiStep
from digits_jax.training.setup import prepare

SMALL = TrainConfig(
    arch="mlp", dataset="digits", preset="quick", epochs=1.0, hidden_sizes=(16,), seed=4, ensemble=3
)
CNN = {"arch": "cnn", "hidden_sizes": None, "channels": (4,)}
TOGETHER = dataclasses.replace(SMALL, dtype="float32", ema_decay=0.9, augment="affine")


@pytest.fixture(scope="module")
def ensemble(home):
    flags = "--arch=mlp --dataset=digits --preset=quick --epochs=1 --hidden-sizes=16 --seed=4"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert train([*flags.split(), "--ensemble=3", f"--workdir={home / 'three'}"]) == 0
    assert "ensemble 3 networks, seeds 4 to 6" in out.getvalue()
    assert "3 members of " in out.getvalue().splitlines()[-1]
    return home / "three"


def test_members_are_runs_of_their_own(ensemble, home):
    members = [read_run(ensemble / f"member-{i}") for i in range(3)]
    assert [run.results["seed"] for run in members] == [4, 5, 6]
    assert [read_config(run.path)[0].ensemble for run in members] == [1, 1, 1]
    assert all((run.path / "curves.png").exists() for run in members)
    assert train([f"--config={members[1].path}", f"--workdir={home / 'alone'}"]) == 0
    alone = read_run(home / "alone").results
    assert alone["params_sha256"] == members[1].results["params_sha256"]


def test_an_ensemble_predicts_the_mean_probability(ensemble):
    members = [read_run(ensemble / f"member-{i}") for i in range(3)]
    run = read_run(ensemble)
    expected = np.mean([softmax(each.logits.astype(np.float64), -1) for each in members], 0)
    np.testing.assert_allclose(np.exp(run.logits), expected, rtol=1e-5)
    results, rows = run.results, np.arange(len(expected))
    errors = int((expected.argmax(-1) != run.labels).sum())
    assert (results["test_errors"], results["arch"]) == (errors, "mlp-ensemble")
    loss = -np.log(expected[rows, run.labels]).mean()
    assert results["test_loss"] == pytest.approx(loss, rel=1e-5)
    accuracies = [each.results["test_accuracy"] for each in members]
    assert results["member_test_accuracies"] == accuracies


@pytest.mark.slow
def test_every_program_reads_it_as_a_run(ensemble, home):
    status, out, err = call(home, "evaluate", "three", "--json")
    assert status == 0, err
    assert json.loads(out)["test_errors"] == read_run(ensemble).results["test_errors"]
    status, _, err = call(home, "compare", "three", "three/member-0", "-o", "comparison")
    assert status == 0, err
    status, _, err = call(home, "export", "three", "--format=npz", "-o", "exported")
    assert status == 0, err
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    logits = [
        Predictor.load(path).predict(images).logits
        for path in (ensemble, home / "exported" / "model.npz")
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    status, _, err = call(home, "checkpoints", "three")
    assert status == 2
    assert "is an ensemble; give one of its members" in err


def test_a_stopped_ensemble_resumes_with_the_unfinished_member(ensemble, tmp_path):
    workdir = tmp_path / "stopped"

    def stop(result):
        if result.results["seed"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(SMALL, RunOptions(workdir=workdir), quiet=True, on_member=stop)
    assert (workdir / "member-1" / "results.json").exists()
    assert not (workdir / "member-2").exists()
    with pytest.raises(DigitsError, match="holds a run"):
        fit_ensemble(SMALL, RunOptions(workdir=workdir), quiet=True)
    written = (workdir / "member-0" / "results.json").stat().st_mtime_ns
    assert train(["--resume", f"--workdir={workdir}"]) == 0
    assert (workdir / "member-0" / "results.json").stat().st_mtime_ns == written
    resumed, undisturbed = read_run(workdir).results, read_run(ensemble).results
    assert resumed["params_sha256"] == undisturbed["params_sha256"]


def test_what_cannot_be_trained_or_read(ensemble, tmp_path):
    for flags, message in {
        ("--ensemble=2", "--num-processes=2"): "ensemble=2: its networks are trained by one",
        ("--resume", f"--workdir={ensemble}", "--ensemble=2"): "has ensemble=3",
        ("--ensemble=2", f"--workdir={ensemble}"): "already holds a run",
        ("--ensemble=2", "--together", "--input=stream"): "memory",
    }.items():
        with pytest.raises(DigitsError, match=message):
            train(["--dataset=digits", "--arch=mlp", *flags])
    unfinished = shutil.copytree(ensemble, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    with pytest.raises(DigitsError, match="isn't finished"):
        Predictor.load(unfinished)
    with pytest.raises(DigitsError, match="not all of its 3 networks yet"):
        load_trained(unfinished)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param(
            {"batch_size": 48},
            {"devices": 3, "steps_per_call": 4},
            id="three devices",
            marks=pytest.mark.slow,
        ),
        pytest.param({"teacher": "TEACHER"}, {}, id="teacher", marks=pytest.mark.slow),
        pytest.param(CNN, {"devices": 1}, id="cnn", marks=pytest.mark.slow),
    ],
)
def test_together_and_one_by_one_agree(ensemble, tmp_path, config, options):
    """Up to rounding differences, which 20 steps of a small network hardly magnify."""
    if "teacher" in config:
        config = {**config, "teacher": str(ensemble)}
    config = dataclasses.replace(TOGETHER, recalibrate_batch_norm=True, **config)
    for together in (True, False):
        place = RunOptions(workdir=tmp_path / str(together), together=together, **options)
        fit_ensemble(config, place, quiet=True)
    for index in range(3):
        one, other = (read_run(tmp_path / name / f"member-{index}") for name in ("True", "False"))
        assert one.results["seed"] == other.results["seed"] == 4 + index
        np.testing.assert_allclose(one.logits, other.logits, atol=2e-3)
        for row, expected in zip(*(read_metrics(run.path) for run in (one, other)), strict=True):
            for name in ("step", "train_loss", "validation_loss", "learning_rate"):
                assert row[name] == pytest.approx(expected[name], rel=1e-3)
    losses = {read_run(tmp_path / f"True/member-{i}").results["test_loss"] for i in range(3)}
    assert len(losses) == 3


def test_members_on_several_devices_need_no_collectives():
    config = dataclasses.replace(TOGETHER, batch_size=48)
    setup = prepare(config, RunOptions(devices=3, steps_per_call=2))
    compiled = MultiStep([setup.with_seed(seed) for seed in range(3)])._compiled.as_text()
    for word in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        assert word not in compiled


@pytest.mark.parametrize("moment", ["steps", pytest.param("scoring", marks=pytest.mark.slow)])
def test_stopped_together_they_go_on_one_by_one(tmp_path, monkeypatch, moment):
    config = dataclasses.replace(TOGETHER, epochs=2.0)
    undisturbed = fit_ensemble(config, RunOptions(workdir=tmp_path / "a", together=True))
    workdir = tmp_path / "run"
    real, signalled = (MultiStep.__call__, scoring.eval_batches), []

    def step(self, state, first, count):
        if moment == "steps" and first == 1:
            signal.raise_signal(signal.SIGTERM)
        return real[0](self, state, first, count)

    def eval_batches(*arguments):  # once: a second signal would end the process
        if not signalled:
            signalled.append(True)
            signal.raise_signal(signal.SIGTERM)
        return real[1](*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MultiStep, "__call__", step)
        if moment == "scoring":
            patch.setattr(scoring, "eval_batches", eval_batches)
        with pytest.raises(Interrupted):
            fit_ensemble(config, RunOptions(workdir=workdir, together=True), quiet=True)
    steps = [2] if moment == "steps" else [20]
    for index in range(3):
        assert list_steps(workdir / f"member-{index}" / "checkpoints") == steps
    assert train(["--resume", f"--workdir={workdir}"]) == 0
    found, expected = read_run(workdir), read_run(undisturbed.workdir)
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-3)
    rows = read_metrics(workdir / "member-0")
    assert [row["step"] for row in rows] == [20, 40]  # each epoch is scored once


def test_too_many_members_in_several_processes(monkeypatch):
    setup = prepare(SMALL)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match="by one process"):
        train_members([setup, setup.with_seed(1)])
