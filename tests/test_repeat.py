"""A run is repeated from its config.json: the same parameters, to the last bit."""

import json
import subprocess
import sys

import pytest

from digits_jax.config import TrainConfig, recipe_of
from digits_jax.errors import DigitsError
from digits_jax.train import parse_config

FLAGS = ("--arch=cnn", "--dataset=digits", "--preset=quick", "--epochs=0.3", "--channels=4,8")


def train(*flags):
    command = [sys.executable, "-m", "digits_jax.train", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with dropout, augmentation and an average, on two devices."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    more = ("--dropout=0.2", "--augment=elastic", "--ema-decay=0.9", "--devices=2", "--seed=3")
    done = train(*FLAGS, *more, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def params_of(workdir):
    return json.loads((workdir / "results.json").read_text())["params_sha256"]


def test_the_same_parameters_to_the_last_bit(run, tmp_path):
    again = train(f"--config={run / 'config.json'}", f"--workdir={tmp_path / 'again'}")
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert params_of(tmp_path / "again") == params_of(run)
    said = json.loads((tmp_path / "again" / "config.json").read_text())["config"]
    assert (said["seed"], said["devices"], said["config"]) == (3, "2", str(run / "config.json"))


def test_what_is_given_is_another_run(run, tmp_path):
    other = train(f"--config={run}", "--seed=4", f"--workdir={tmp_path / 'other'}")
    assert other.returncode == 0, other.stderr
    assert params_of(tmp_path / "other") != params_of(run)
    assert parse_config([f"--config={run}", "--seed=4"]).ema_decay == 0.9


def test_another_place_is_named(run, tmp_path):
    described = json.loads((run / "config.json").read_text())
    described["versions"]["jax"] = "0.1"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(described))
    found = train(f"--config={path}", "--dry-run")
    assert found.returncode == 0
    (line,) = found.stderr.splitlines()
    assert line.startswith("note: jax is ")
    assert line.endswith(", was 0.1 there: the last bits may differ")


def test_other_data_are_refused(run, tmp_path):
    described = json.loads((run / "config.json").read_text())
    described["dataset"]["sha256"] = "0" * 64
    path = tmp_path / "config.json"
    path.write_text(json.dumps(described))
    found = train(f"--config={path}", f"--workdir={tmp_path / 'new'}")
    assert found.returncode == 2
    assert "was trained on another version of 'digits'" in found.stderr
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_repeated(run, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    for flags, words in {
        (f"--config={tmp_path}",): "can't be read",
        (f"--config={tmp_path / 'results.json'}",): "is it a run's config.json?",
        (f"--config={run}", "--resume", f"--workdir={run}"): "--config starts a run anew",
        ("--config=",): "can't be read",
        (f"--config={run}", "--arch=mlp"): "all that it fills in; leave --arch out",
        (f"--config={run}", "--preset=best"): "leave --preset out, or give no --config",
    }.items():
        with pytest.raises(DigitsError, match=words):
            parse_config(flags)


def test_a_teacher_can_be_taken_back(run, tmp_path):
    described = json.loads((run / "config.json").read_text())
    taught = {"teacher": "runs/other", "teacher_weight": 0.9, "teacher_temperature": 2.0}
    described["config"] |= taught
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert parse_config([f"--config={tmp_path}"]).teacher_weight == 0.9
    found = parse_config([f"--config={tmp_path}", "--teacher=none"])
    assert (found.teacher, found.teacher_weight, found.teacher_temperature) == (None, None, None)
    with pytest.raises(DigitsError, match="--teacher-weight goes with --teacher=RUN"):
        parse_config([f"--config={tmp_path}", "--teacher=none", "--teacher-weight=0.5"])
    assert parse_config(["--teacher=none"]).teacher is None


def test_an_ensemble_side_by_side(tmp_path):
    flags = ("--arch=mlp", "--dataset=digits", "--preset=quick", "--epochs=1", "--hidden-sizes=8")
    first = train(*flags, "--ensemble=2", "--together", f"--workdir={tmp_path / 'a'}")
    assert first.returncode == 0, first.stderr
    assert "network 2 of 2" in first.stdout
    for flag, name in (("--together", "b"), ("--no-together", "c")):
        again = train(f"--config={tmp_path / 'a'}", flag, f"--workdir={tmp_path / name}")
        assert again.returncode == 0, again.stderr
    for member in ("member-0", "member-1"):
        assert params_of(tmp_path / "a" / member) == params_of(tmp_path / "b" / member)
    with pytest.raises(DigitsError, match="--together goes with --ensemble=N"):
        parse_config([f"--config={tmp_path / 'a'}", "--ensemble=1", "--together"])


def test_one_network_of_an_ensemble(run, tmp_path):
    described = json.loads((run / "config.json").read_text())
    described["config"] |= {"ensemble": 3, "together": False}
    (tmp_path / "config.json").write_text(json.dumps(described))
    config = parse_config([f"--config={tmp_path}", "--ensemble=1", "--preset=quick"])
    assert (config.ensemble, config.together, config.ema_decay) == (1, None, 0.9)


def test_in_the_library(run):
    recipe = recipe_of(run)
    assert (recipe.seed, recipe.devices, recipe.workdir) == (3, "2", None)
    assert TrainConfig(config="x").config == "x"
