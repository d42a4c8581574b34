"""An ensemble: trained, gone on with, and opened by every program as a run is."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import chex
import numpy as np
import pytest
from scipy.special import softmax

from digits_jax.config import TrainConfig, read_config
from digits_jax.deploy.network import load_network
from digits_jax.deploy.predictor import Predictor
from digits_jax.errors import DigitsError
from digits_jax.evaluate import main as evaluate
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import list_steps
from digits_jax.runs.ensembles import mean_log_probabilities, members_of
from digits_jax.runs.folder import read_metrics, read_run
from digits_jax.train import main as train
from digits_jax.training import together as side_by_side
from digits_jax.training.ensemble import fit_ensemble
from digits_jax.training.interrupts import Interrupted, StopRequest
from digits_jax.training.loop import fit
from digits_jax.training.plan import prepare
from digits_jax.training.record import describe_run
from digits_jax.training.resuming import load_trained
from digits_jax.training.scoring import make_scorer, score_of, score_of_sums
from digits_jax.training.together import SideBySide, member_plan, train_together

SMALL = TrainConfig(
    arch="mlp", dataset="digits", preset="quick", epochs=1.0, hidden_sizes=(16,), seed=4
)


def programs(name, *arguments):
    command = [sys.executable, "-m", f"digits_jax.{name}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "three"
    flags = "--arch=mlp --dataset=digits --preset=quick --epochs=1 --hidden-sizes=16 --seed=4"
    done = programs("train", *flags.split(), "--ensemble=3", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "ensemble 3 networks, seeds 4 to 6" in done.stdout
    assert "3 members of " in done.stdout.splitlines()[-1]
    return workdir


def test_the_members_are_runs_of_their_own(ensemble, tmp_path):
    members = [read_run(ensemble / f"member-{i}") for i in range(3)]
    assert [run.results["seed"] for run in members] == [4, 5, 6]
    assert [read_config(run.path / "config.json").ensemble for run in members] == [1, 1, 1]
    assert all((run.path / "curves.png").exists() for run in members)
    alone = tmp_path / "alone"
    done = programs("train", f"--config={members[1].path}", f"--workdir={alone}")
    assert done.returncode == 0, done.stderr
    assert read_run(alone).results["params_sha256"] == members[1].results["params_sha256"]


def test_together_they_answer_with_their_mean_probability(ensemble):
    members = [read_run(ensemble / f"member-{i}") for i in range(3)]
    together = read_run(ensemble)
    expected = np.mean([softmax(run.logits.astype(np.float64), -1) for run in members], 0)
    np.testing.assert_allclose(np.exp(together.logits), expected, rtol=1e-5)
    results = together.results
    errors = int((expected.argmax(-1) != together.labels).sum())
    assert (results["test_errors"], results["arch"]) == (errors, "mlp-ensemble")
    chosen = expected[np.arange(len(expected)), together.labels]
    assert results["test_loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    accuracies = [run.results["test_accuracy"] for run in members]
    assert results["member_test_accuracies"] == accuracies
    assert results["num_params"] == 3 * members[0].results["num_params"]


def test_every_program_takes_it_as_a_run(ensemble, tmp_path):
    together = read_run(ensemble)
    found = programs("evaluate", ensemble, "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["test_errors"] == together.results["test_errors"]
    assert said["test_loss"] == pytest.approx(together.results["test_loss"], abs=1e-5)
    again = programs("train", "--eval-only", f"--workdir={ensemble}")
    assert f"{together.results['test_errors']} errors of 360" in again.stdout
    compared = programs("compare", ensemble, ensemble / "member-0", "-o", tmp_path / "comparison")
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "comparison" / "report.html").exists()
    exported = programs("export", ensemble, "--format=npz", "-o", tmp_path / "exported")
    assert exported.returncode == 0, exported.stderr
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    answers = [
        Predictor.load(p).predict(images) for p in (ensemble, tmp_path / "exported/model.npz")
    ]
    np.testing.assert_allclose(answers[0].logits, answers[1].logits, atol=1e-5)
    assert answers[0].labels.shape == (5,)
    listed = programs("checkpoints", ensemble)
    assert listed.returncode == 2
    assert "is an ensemble; give one of its members" in listed.stderr


def test_the_network_answers_as_the_predictions_say(ensemble):
    from digits_jax.data.datasets import load_dataset

    together = read_run(ensemble)
    answers = Predictor.load(ensemble).predict(load_dataset("digits").test.images)
    np.testing.assert_allclose(answers.logits, together.logits, atol=2e-4)


def test_what_was_stopped_goes_on_with_the_member_it_was_at(tmp_path):
    workdir = tmp_path / "stopped"
    config = dataclasses.replace(SMALL, ensemble=3, workdir=str(workdir))

    def stop(result):
        if result.results["seed"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(config, quiet=True, each=stop)
    assert (workdir / "member-1" / "results.json").exists()
    assert not (workdir / "member-2").exists()
    with pytest.raises(DigitsError, match="holds a run"):
        fit_ensemble(config, quiet=True)
    before = (workdir / "member-0" / "results.json").stat().st_mtime_ns
    assert train(["--resume", f"--workdir={workdir}"]) == 0
    assert (workdir / "member-0" / "results.json").stat().st_mtime_ns == before
    unbroken = fit_ensemble(dataclasses.replace(config, workdir=str(tmp_path / "unbroken")))
    assert read_run(workdir).results["params_sha256"] == unbroken.results["params_sha256"]


def test_what_cannot_be_trained_or_opened(ensemble, tmp_path):
    for flags, words in {
        ("--ensemble=0",): "--ensemble=0: give a number that is at least 1",
        ("--ensemble=2", "--seed=2147483647"): "the last network's seed is more than 2147483647",
        ("--no-together",): "--no-together goes with --ensemble=N",
        ("--ensemble=2", "--num-processes=2"): "--ensemble trains in one process",
        ("--resume", f"--workdir={ensemble}", "--ensemble=2"): "has ensemble=3",
        ("--ensemble=2", f"--workdir={ensemble}"): "already holds a run",
    }.items():
        with pytest.raises(DigitsError, match=words):
            train(["--dataset=digits", "--arch=mlp", *flags])
    with pytest.raises(DigitsError, match="`fit` trains one network"):
        fit(dataclasses.replace(SMALL, ensemble=2))
    copy = tmp_path / "copy"
    shutil.copytree(ensemble, copy)
    shutil.rmtree(copy / "member-1")
    with pytest.raises(DigitsError, match="names a member 'member-1', which isn't there"):
        members_of(copy)
    shutil.copytree(ensemble, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "results.json").unlink()
    for opened in (members_of, load_network, lambda path: evaluate([str(path)])):
        with pytest.raises(
            DigitsError, match=r"the ensemble isn't finished .* --resume --workdir="
        ):
            opened(tmp_path / "unfinished")
    assert members_of(ensemble / "member-0") == []
    assert members_of(tmp_path) == []


def test_the_mean_of_probabilities_by_hand():
    logits = [np.log([[0.9, 0.1], [0.2, 0.8]]), np.log([[0.5, 0.5], [0.4, 0.6]])]
    found = mean_log_probabilities([each + 3 for each in logits])
    np.testing.assert_allclose(np.exp(found), [[0.7, 0.3], [0.3, 0.7]], rtol=1e-6)
    assert found.dtype == np.float32
    score = score_of(np.array([0, 0]), found)
    assert (score.correct, score.errors) == (1, 1)
    assert score.loss == pytest.approx(-(np.log(0.7) + np.log(0.3)) / 2, rel=1e-6)


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    flags = ["--dataset=digits", "--arch=mlp", "--ensemble=2", "--dry-run"]
    assert train([*flags, f"--workdir={tmp_path / 'none'}"]) == 0
    assert "seeds 0 to 1" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


TOGETHER = dataclasses.replace(SMALL, ensemble=3, dtype="float32", ema_decay=0.9, augment="affine")


@pytest.mark.parametrize(
    "more",
    [
        {"devices": "1"},
        {"devices": "3", "batch_size": 48, "steps_per_call": "4"},
        {"arch": "cnn", "hidden_sizes": None, "channels": (4,), "renormalize": True},
    ],
)
def test_together_they_come_to_what_each_comes_to_alone(tmp_path, more):
    """The same numbers but for their rounding, which 20 steps of a small network hardly magnify."""
    config = dataclasses.replace(TOGETHER, **more)
    for together in (True, False):
        config = dataclasses.replace(
            config, together=together, workdir=str(tmp_path / f"{together}")
        )
        fit_ensemble(config, quiet=True)
    for index in range(3):
        one, other = (read_run(tmp_path / name / f"member-{index}") for name in ("True", "False"))
        assert one.results["seed"] == other.results["seed"] == 4 + index
        np.testing.assert_allclose(one.logits, other.logits, atol=2e-3)
        rows = [read_metrics(run.path) for run in (one, other)]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
        for name in ("train_loss", "validation_loss", "learning_rate"):
            found, expected = ([row[name] for row in each] for each in rows)
            np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert (
        len({read_run(tmp_path / f"True/member-{i}").results["test_loss"] for i in range(3)}) == 3
    )


@pytest.mark.parametrize("devices", ["1", "3"])
def test_together_each_begins_and_is_scored_as_if_alone(devices):
    config = dataclasses.replace(TOGETHER, devices=devices, batch_size=48, ema_decay=0.9)
    plan = prepare(config)
    # Several batches, and the last one short.
    split = plan.dataset.train
    plan = dataclasses.replace(plan, dataset=dataclasses.replace(plan.dataset, validation=split))
    steps = SideBySide([member_plan(plan, index) for index in range(3)])
    for index in range(3):
        alone, own = member_plan(plan, index).initial_state(), steps.state(index)
        chex.assert_trees_all_equal(own, alone)
        chex.assert_trees_all_equal_dtypes(own, alone)
    for done in range(5):
        steps.take(done, 1)
    score = make_scorer(plan.for_scoring(plan.abstract_state), plan.mesh, 48)
    found = [score_of_sums(*own) for own in steps.answers()]
    assert len({each.loss for each in found}) == 3
    for index, each in enumerate(found):
        alone = score(plan.for_scoring(steps.state(index)), split)
        assert (each.count, each.correct) == (1257, alone.correct)
        assert each.loss == pytest.approx(alone.loss, rel=1e-5)
        np.testing.assert_allclose(each.logits, alone.logits, atol=1e-4)
        assert (each.labels == split.labels).all()


def test_together_nothing_passes_between_devices(monkeypatch):
    plan = prepare(dataclasses.replace(TOGETHER, devices="3", batch_size=48))
    steps = SideBySide([member_plan(plan, index) for index in range(3)])
    compiled = steps._many.as_text()
    assert len(steps._sharding.mesh.devices.flat) == 3
    for word in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        assert word not in compiled
    # A member's state is taken from its own device, too.
    pick, asked = side_by_side._pick, []

    def noting(leaves, index):
        asked.append({device for leaf in leaves for device in leaf.devices()})
        return pick(leaves, index)

    monkeypatch.setattr(side_by_side, "_pick", noting)
    for index in range(3):
        steps.state(index)
    assert asked == [{device} for device in steps._sharding.mesh.devices.flat]


def test_together_stopped_while_they_are_scored(tmp_path, monkeypatch):
    config = dataclasses.replace(TOGETHER, together=True, epochs=2.0)
    plan, stop = prepare(config), StopRequest()
    whole = fit_ensemble(dataclasses.replace(config, workdir=str(tmp_path / "whole")), quiet=True)
    workdir = tmp_path / "run"
    paths = [workdir / f"member-{index}" for index in range(3)]
    answers = SideBySide.answers

    def stopped(steps, between):
        stop.signal_number = signal.SIGTERM
        return answers(steps, between)

    monkeypatch.setattr(SideBySide, "answers", stopped)
    with folder.hold_workdir(workdir, new=True):
        folder.write_json(workdir / "config.json", describe_run(plan))
        with pytest.raises(Interrupted):
            train_together(plan, paths, stop, quiet=True)
    assert [list_steps(path / "checkpoints") for path in paths] == [[20]] * 3
    assert train(["--resume", f"--workdir={workdir}"]) == 0
    found = read_run(workdir)
    np.testing.assert_allclose(found.logits, read_run(whole.workdir).logits, atol=2e-3)
    for index, path in enumerate(paths):  # The epoch is scored once, when each goes on.
        rows = [read_metrics(each) for each in (path, whole.workdir / f"member-{index}")]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [20, 40]


def test_together_stopped_they_go_on_one_after_another(tmp_path):
    workdir = tmp_path / "run"
    config = dataclasses.replace(TOGETHER, together=True, checkpoint_every_steps=2)
    plan = prepare(config)
    stop = StopRequest()
    paths = [workdir / f"member-{index}" for index in range(3)]
    config = dataclasses.replace(config, workdir=str(workdir))
    whole = fit_ensemble(dataclasses.replace(config, workdir=str(tmp_path / "whole")), quiet=True)
    with folder.hold_workdir(workdir, new=True):
        folder.write_json(workdir / "config.json", describe_run(plan))
        stop.signal_number = signal.SIGINT  # at the end of the first step
        with pytest.raises(Interrupted):
            train_together(plan, paths, stop, quiet=True)
    assert [list_steps(path / "checkpoints") for path in paths] == [[1]] * 3
    with pytest.raises(DigitsError, match="has not all of its 3 networks yet; train it with"):
        load_trained(workdir)
    assert train(["--resume", f"--workdir={workdir}"]) == 0
    found = read_run(workdir)
    np.testing.assert_allclose(found.logits, read_run(whole.workdir).logits, atol=2e-3)


def test_a_student_ensemble_has_one_teacher(tmp_path, ensemble):
    config = dataclasses.replace(TOGETHER, teacher=str(ensemble), epochs=0.5)
    for together in (True, False):
        config = dataclasses.replace(
            config, together=together, workdir=str(tmp_path / f"{together}")
        )
        fit_ensemble(config, quiet=True)
    one, other = (read_run(tmp_path / name / "member-2") for name in ("True", "False"))
    np.testing.assert_allclose(one.logits, other.logits, atol=2e-3)


def test_what_cannot_be_together():
    with pytest.raises(DigitsError, match="--together goes with --ensemble=N"):
        prepare(dataclasses.replace(SMALL, together=True))
