"""A training that starts from the parameters of another."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from digits_jax import (
    ConfigError,
    Dataset,
    RunOptions,
    Split,
    TrainConfig,
    fit,
    fit_ensemble,
    load_dataset,
    load_trained,
    read_config,
    read_run,
    resume,
)
from digits_jax.deploy.predictor import Predictor
from digits_jax.training.run_metadata import summarize
from digits_jax.training.scoring import make_scorer
from digits_jax.training.setup import prepare

SOURCE = TrainConfig(
    arch="mlp",
    dataset="digits",
    preset="quick",
    epochs=3.0,
    hidden_sizes=(24,),
    dtype="float32",
    ema_decay=0.9,
)
TUNED = TrainConfig(arch="mlp", dataset="digits", preset="quick", epochs=0.2, learning_rate=1e-4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run whose evaluated parameters are an average."""
    workdir = tmp_path_factory.mktemp("runs") / "source"
    return fit(SOURCE, RunOptions(workdir=workdir, devices=1), quiet=True)


@pytest.fixture(scope="module")
def letters():
    """Images of five classes of other names."""
    digits = load_dataset("digits")

    def first(split):
        kept = split.labels < 5
        return Split(split.images[kept], split.labels[kept])

    splits = {name: first(getattr(digits, name)) for name in ("train", "validation", "test")}
    return Dataset("letters", "1", "here", "b" * 64, class_names=tuple("abcde"), **splits)


def assert_trees_equal(found, wanted):
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_it_starts_where_the_other_ended(source, ema_decay):
    """From the evaluated parameters and statistics; the network's sizes are the other's."""
    config = dataclasses.replace(TUNED, init_from=str(source.workdir), ema_decay=ema_decay)
    setup = prepare(config, RunOptions(devices=1))
    assert setup.config.hidden_sizes == (24,)
    assert "start    " in summarize(setup)
    assert "all 19,114 parameters" in summarize(setup)  # 784 x 24, 2 x 24 and 25 x 10
    state = setup.initial_state()
    assert int(state.step) == 0
    assert_trees_equal(state.variables, source.state.variables)
    assert_trees_equal(state.params, source.state.variables["params"])
    [score] = make_scorer([setup])(state, [setup.dataset.test])
    np.testing.assert_allclose(score.logits, source.test.logits, atol=1e-4)


def test_other_classes_have_a_new_last_layer(source, letters):
    config = dataclasses.replace(TUNED, init_from=str(source.workdir))
    setup = prepare(config, RunOptions(devices=1), letters)
    state = setup.initial_state()
    old = source.state.variables["params"]
    assert_trees_equal(state.params["hidden_0"], old["hidden_0"])
    assert state.params["logits"]["kernel"].shape == (24, 5)
    fresh = prepare(
        dataclasses.replace(TUNED, hidden_sizes=(24,)), RunOptions(devices=1), letters
    ).initial_state()
    assert_trees_equal(state.params["logits"], fresh.params["logits"])
    assert "the last layer is new, for other classes (10 there, 5 here)" in summarize(setup)


def test_a_few_steps_suffice_and_resume_without_the_source(source, tmp_path):
    moved = shutil.copytree(source.workdir, tmp_path / "source")
    config = dataclasses.replace(TUNED, init_from=str(moved))
    result = fit(config, RunOptions(workdir=tmp_path / "run", devices=1), quiet=True)
    assert result.results["steps"] < 5
    assert result.results["test_accuracy"] > 0.9
    shutil.rmtree(moved)
    assert resume(tmp_path / "run", quiet=True).results == result.results
    _, state = load_trained(tmp_path / "run", devices=1)
    assert_trees_equal(state.params, result.state.params)
    # Without a checkpoint the source is needed again, and must be the same.
    for path in (tmp_path / "run").iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match="no such folder"):
        resume(tmp_path / "run", quiet=True)
    fit(dataclasses.replace(SOURCE, seed=5), RunOptions(workdir=moved, devices=1), quiet=True)
    with pytest.raises(ConfigError, match="has other parameters than when the run"):
        resume(tmp_path / "run", quiet=True)


def test_a_pretrained_network_is_a_start():
    predictor = Predictor.pretrained("tiny")
    config = TrainConfig(dataset="digits", preset="quick", init_from="tiny")
    setup = prepare(config, RunOptions(devices=1))
    [score] = make_scorer([setup])(setup.initial_state(), [setup.dataset.test])
    expected = predictor.predict(setup.dataset.test.images).logits
    np.testing.assert_allclose(score.logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_members_start_from_one_source(source, tmp_path):
    config = dataclasses.replace(TUNED, init_from=str(source.workdir), ensemble=2)
    options = RunOptions(workdir=tmp_path / "two", together=True, devices=1)
    ensemble = fit_ensemble(config, options, quiet=True)
    assert all(run.results["test_accuracy"] > 0.9 for run in ensemble.members)
    # A member that begins when the ensemble is resumed starts from the same parameters.
    began, later = (ensemble.workdir / f"member-{i}" for i in range(2))
    shutil.rmtree(later)
    fit_ensemble(*read_config(ensemble.workdir), resuming=True, quiet=True)
    one, other = (json.loads((path / "config.json").read_text()) for path in (began, later))
    assert other["init_from"] == one["init_from"]
    assert read_run(later).results["test_accuracy"] > 0.9
    config = dataclasses.replace(config, ensemble=1, init_from=str(tmp_path / "two"))
    with pytest.raises(ConfigError, match="is an ensemble; give one of its members"):
        prepare(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"init_from": "nowhere"},
            "init_from=nowhere: no such folder; give the folder of a run, or cnn",
        ),
        ({"arch": "cnn"}, r"arch=cnn: init_from=.* has arch=mlp; give arch=mlp"),
        ({"hidden_sizes": (16,)}, r"hidden_sizes=\(16,\): init_from=.* has .*24.*; leave it out"),
        ({"init_from": ""}, "init_from is empty"),
    ],
)
def test_what_cannot_be_started_from(source, values, message):
    values = {"init_from": str(source.workdir), **values}
    with pytest.raises(ConfigError, match=message):
        prepare(dataclasses.replace(TUNED, **values), RunOptions(devices=1))
