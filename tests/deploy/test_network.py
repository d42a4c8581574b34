"""Networks: their layers, ensembles, threshold and temperature, and what is loaded from runs."""

import json
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SETTINGS, assert_close, numpy_logits, random_images, random_network
from numpy_layers import apply_layers
from scipy.special import softmax

from digits_jax import DigitsError
from digits_jax.deploy.confidence import choose_threshold
from digits_jax.deploy.fold import KINDS, to_layers
from digits_jax.deploy.network import calibrate, combine, load_network, make_logits


def jax_logits(network, images):
    variables = [member.variables for member in network.members]
    return jax.jit(make_logits(network))(variables, images)


@pytest.mark.parametrize("name", SETTINGS)
def test_layers_compute_what_the_module_does(name):
    network, images = random_network(name), random_images()
    expected = np.asarray(jax_logits(network, images))
    (member,) = network.members
    trained = to_layers(member.settings, member.variables)
    pairs = [(layer.kind, layer.arrays) for layer in trained]
    assert_close(apply_layers(pairs, images), expected)
    assert_close(numpy_logits(network, images), expected)
    assert {layer.kind for layer in trained} <= set(KINDS) - {"scale"}
    assert {layer.kind for layer in member.layers} <= set(KINDS) - {"batch_norm"}
    arrays = [array for layer in member.layers for array in layer.arrays.values()]
    assert all(array.dtype == np.float32 for array in arrays)


def test_sizes_counted_by_hand():
    network = random_network("cnn")
    # 3x3x4x3, scale and bias of 3; 3x3x3x5, of 5; 3x3x5 -> 7, of 7; 7 -> 10.
    assert network.num_params == (108 + 6) + (135 + 10) + (45 * 7 + 14) + (7 * 10 + 10)
    assert network.multiply_adds == 14 * 14 * 108 + 7 * 7 * 135 + 45 * 7 + 7 * 10


# --- ensembles -----------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities():
    networks = [random_network("mlp", seed) for seed in range(3)]
    images = random_images()
    mean = np.mean([softmax(numpy_logits(n, images), -1) for n in networks], 0)
    together = combine(networks)
    np.testing.assert_allclose(softmax(numpy_logits(together, images), -1), mean, atol=1e-5)
    np.testing.assert_allclose(softmax(jax_logits(together, images), -1), mean, atol=1e-5)
    assert together.num_params == 3 * networks[0].num_params
    assert combine(networks[:1]) is networks[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "an ensemble needs a network"),
        ([{}, {"class_names": tuple("abcdefghij")}], "cnn has the classes a b c"),
        (
            [{"facts": {"runs": [{"dataset_sha256": sha256}]}} for sha256 in "ab"],
            "were trained on different data sets",
        ),
    ],
)
def test_networks_that_make_no_ensemble(changes, message):
    with pytest.raises(DigitsError, match=message):
        combine([random_network(**each) for each in changes])


# --- threshold and temperature -----------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 0.9), st.integers(0, 2**31))
def test_the_threshold_is_the_highest_within_the_allowed_share(count, max_below, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 4)) * 3
    labels = rng.integers(0, 4, count)
    threshold, cost = choose_threshold(labels, logits, max_below)
    confidence = softmax(logits, -1).max(-1)
    right = confidence[logits.argmax(-1) == labels]
    if not len(right):
        assert (threshold, cost) == (1.0, 0.0)
        return
    assert cost == np.mean(right < threshold) <= max_below + 1e-9
    above = right[right > threshold]
    assert not len(above) or np.mean(right < above.min()) > max_below - 1e-9


@pytest.mark.parametrize(("labels", "bound"), [([0, 1], 0.25), ([1, 0], 4)])
def test_the_temperature_has_bounds(labels, bound):
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert calibrate(random_network(), np.array(labels), logits).temperature == bound


# --- runs ------------------------------------------------------------------------------------


def change_results(path, **values):
    results = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps({**results, **values}))


def change_config(path, part="config", **values):
    about = json.loads((path / "config.json").read_text())
    about[part] |= values
    (path / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda p: (p / "results.json").unlink(), "isn't finished"),
        (lambda p: shutil.rmtree(p / "checkpoints"), "holds no checkpoint"),
        (lambda p: (p / "config.json").write_text("[]"), "isn't an intact run"),
        (
            lambda p: change_config(p, "dataset", class_names=["a", "b"]),
            r"bias is float32\[10\], not float32\[2\]",
        ),
        (lambda p: change_config(p, dense_size=10**9), r"it has [\d,]+ bytes; 1,000,000,000 are"),
        (
            lambda p: change_config(p, convs_per_block=10**6),
            "it has 2000000 layers; 100 are allowed",
        ),
        (lambda p: change_results(p, params_sha256="0" * 64), "params_sha256 differs"),
    ],
)
def test_folders_that_are_no_finished_run(run, tmp_path, act, message):
    copy = shutil.copytree(run, tmp_path / "copy")
    act(copy)
    with pytest.raises(DigitsError, match=message):
        load_network(copy)
