"""The networks that the package carries: rounding by hand, cards that are true, the command."""

import dataclasses
import json

import numpy as np
import pytest
from networks import SETTINGS, random_images, random_network

from digits_jax import ConfigError, load_dataset
from digits_jax import list_models as models_program
from digits_jax.deploy import Predictor
from digits_jax.deploy.network import Member, from_card, load_pretrained
from digits_jax.deploy.onnx import onnx_logits, write_onnx
from digits_jax.runs.pretrained import (
    FOLDER,
    pretrained_names,
    read_card,
    read_variables,
    write_variables,
)
from experiments import train_pretrained as study


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_is_rounded_and_read_back(tmp_path, name, int8):
    network = random_network(name)
    write_variables(network.members[0].variables, tmp_path / "a.npz", int8=int8)
    member = Member(SETTINGS[name], read_variables(tmp_path / "a.npz"))
    found = dataclasses.replace(network, members=(member,))
    params, expected = (each.members[0].variables["params"] for each in (found, network))
    for layer in expected:
        for entry, values in expected[layer].items():
            rounded = params[layer][entry]
            assert (rounded.dtype, rounded.shape) == (np.float32, values.shape)
            if not int8:  # 11 bits
                np.testing.assert_allclose(rounded, values, rtol=2**-11, atol=1e-7)
            elif entry == "kernel":  # half of a 127th of the largest value of each output
                largest = np.abs(values).max(tuple(range(values.ndim - 1)))
                assert (np.abs(rounded - values) <= largest / 254 * 1.001).all()
            else:
                np.testing.assert_array_equal(rounded, values)
    answers = [
        Predictor(each).predict(random_images(20)).probabilities for each in (found, network)
    ]
    np.testing.assert_allclose(*answers, atol=0.05)


def test_the_package_carries_networks_of_at_most_one_and_a_half_megabytes():
    assert pretrained_names()[0] == "cnn"
    assert "tiny" in pretrained_names()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 1_500_000
    for name in pretrained_names():
        card, predictor = read_card(name), Predictor.pretrained(name)
        assert card["bytes"] == (FOLDER / f"{name}.npz").stat().st_size
        assert card["parameters"] == predictor.network.num_params
        assert card["trained_on"]
        assert card["command"].startswith("python -m digits_jax.train ")
    with pytest.raises(ConfigError, match=r"^ann: no such pretrained network; give cnn or "):
        Predictor.pretrained("ann")


@pytest.mark.mnist
@pytest.mark.filterwarnings("default::DeprecationWarning")  # of onnx
def test_the_cards_accuracy_is_that_of_the_file(mnist_dir, tmp_path):
    test = load_dataset("mnist", mnist_dir).test
    for name in pretrained_names():
        write_onnx(load_pretrained(name), tmp_path / "model.onnx")
        labels = onnx_logits(tmp_path / "model.onnx", test.images.astype(np.float32) / 255).argmax(
            -1
        )
        # Another processor rounds sums elsewhere.
        accuracy = read_card(name)["test_accuracy"]
        assert (labels == test.labels).mean() == pytest.approx(accuracy, abs=3e-4)
    assert read_card("cnn")["test_accuracy"] >= 0.995


def test_a_table_and_json_of_the_networks(here):
    status, out, _ = here(models_program)
    assert status == 0
    assert out.startswith("name  ")
    assert [line.split()[0] for line in out.splitlines()[1:]] == pretrained_names()
    cards = json.loads(here(models_program, "--json")[1])
    assert cards == [read_card(name) for name in pretrained_names()]


@pytest.mark.slow
def test_the_command_trains_writes_and_scores(here, tmp_path):
    argv = ("tiny", "--quick", "-o", "out", "--runs", "runs")
    status, out, err = here(study, *argv)
    assert status == 0, err
    card = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert f"tiny: {card['bytes']:,} bytes, test accuracy {card['test_accuracy']:.2%} (" in out
    network = from_card(card, tmp_path / "out" / "tiny.npz")
    digits = load_dataset("digits").test
    labels = Predictor(network).predict(digits.images).labels
    assert (labels == digits.labels).mean() == pytest.approx(card["test_accuracy"], abs=3e-3)
