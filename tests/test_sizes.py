"""The table of sizes, of a preset that nobody has trained."""

import itertools
from pathlib import Path

import pytest

from digits_jax.config import TrainConfig
from digits_jax.config_checks import PRESET_NAMES
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from digits_jax.training.ensemble import fit_ensemble
from experiments import sizes


def test_an_untrained_preset_has_its_sizes(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sizes, "SINGLE_CALLS", 2)
    monkeypatch.setattr(sizes, "MANY", 4)
    row = sizes.measure("cnn", "tiny", sizes.Arguments(tmp_path, tmp_path, dataset="digits"))
    # Six 3x3 convolutions. BatchNorm is folded into the biases of every other one; behind pooling
    # it stays, a factor and a summand beside the bias. Then 3 x 3 positions to ten classes.
    channels = [1, 7, 7, 9, 9, 11, 11]
    filters = sum(9 * a * b for a, b in itertools.pairwise(channels))
    assert row["parameters"] == filters + (7 + 9 + 11) + 3 * (7 + 9 + 11) + (9 * 11 * 10 + 10)
    assert row["seeds"] == 0
    assert 4 * row["parameters"] < row["npz_bytes"] < 4 * row["parameters"] + 20_000
    assert "not measured" in sizes.markdown([row])
    assert list(Path(tmp_path).iterdir()) == []


def test_an_ensembles_members_are_runs_of_its_preset(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sizes, "SINGLE_CALLS", 2)
    monkeypatch.setattr(sizes, "MANY", 4)
    config = TrainConfig(
        arch="mlp", dataset="digits", preset="tiny", epochs=1.0, ensemble=2,
        workdir=str(tmp_path / "mlp-tiny"),
    )  # fmt: skip
    members = fit_ensemble(config, quiet=True).members
    row = sizes.measure("mlp", "tiny", sizes.Arguments(tmp_path / "no", tmp_path, dataset="digits"))
    assert row["accuracies"] == [run.results["test_accuracy"] for run in members]
    assert row["same_run_accuracy"] == row["accuracies"][0]


@pytest.mark.parametrize("name", ["runs", "ensembles"])
def test_a_folder_that_is_not_there(tmp_path, name):
    with pytest.raises(DigitsError, match=f"--{name}=.*nowhere: no such folder"):
        sizes.main([f"--{name}={tmp_path / 'nowhere'}", f"--output={tmp_path}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arch", ["cnn", "mlp"])
def test_every_preset_can_be_made(arch):
    digits = load_dataset("digits")
    for preset in PRESET_NAMES:
        network = sizes._initial(TrainConfig(arch=arch, preset=preset), digits)
        assert network.num_params > 4000
