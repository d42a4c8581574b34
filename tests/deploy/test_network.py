"""Modules taken apart answer as they did whole."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_networks import SETTINGS, random_images, random_module, random_network
from scipy.special import softmax

from digits_jax import DigitsError, load_dataset, read_run
from digits_jax.deploy.forward import jax_logits, weights_of
from digits_jax.deploy.network import (
    KINDS,
    choose_threshold,
    combine,
    fit_temperature,
    load_network,
    numpy_logits,
)


@pytest.mark.parametrize("name", SETTINGS)
def test_layers_answer_as_the_module_does(name):
    module, variables = random_module(name)
    images = random_images()
    wanted = np.asarray(module.apply(variables, images, train=False))
    network = random_network(name)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(numpy_logits(network, images), wanted, atol=2e-5 * scale)
    found = jax_logits(network, weights_of(network), jnp.asarray(images))
    np.testing.assert_allclose(found, wanted, atol=2e-5 * scale)
    for layer in network.members[0]:
        assert set(layer.arrays) == set(KINDS[layer.kind])
        assert all(array.dtype == np.float32 for array in layer.arrays.values())


def test_sizes_counted_by_hand():
    network = random_network("cnn")
    # 3x3x4x3 + 3, factor and offset of 3; 3x3x3x5 + 5, of 5; 3x3x5 -> 7, 7 -> 10.
    assert network.num_params == (108 + 3 + 6) + (135 + 5 + 10) + (45 * 7 + 7) + (7 * 10 + 10)
    assert network.multiply_adds == 14 * 14 * 108 + 7 * 7 * 135 + 45 * 7 + 7 * 10


# --- ensembles -----------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities():
    networks = [random_network("cnn", seed) for seed in range(3)]
    images = random_images()
    mean = np.mean([softmax(numpy_logits(n, images), -1) for n in networks], 0)
    together = combine(networks)
    np.testing.assert_allclose(softmax(numpy_logits(together, images), -1), mean, atol=1e-6)
    logits = jax_logits(together, weights_of(together), jnp.asarray(images))
    np.testing.assert_allclose(softmax(logits, -1), mean, atol=1e-5)
    assert together.num_params == 3 * networks[0].num_params
    assert combine(networks[:1]) is networks[0]


OTHER = {
    "none": ([], "an ensemble needs a network"),
    "classes": ([{}, {"class_names": tuple("abcdefghij")}], "cnn has the classes a b c"),
    "data": (
        [{"facts": {"runs": [{"dataset_sha256": sha256}]}} for sha256 in "ab"],
        "were trained on different data sets",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_what_makes_no_ensemble(case):
    changes, said = OTHER[case]
    with pytest.raises(DigitsError, match=said):
        combine([random_network(**each) for each in changes])


# --- the threshold ---------------------------------------------------------------------------


@given(st.integers(1, 60), st.floats(0, 0.9), st.integers(0, 2**31))
def test_the_threshold_costs_no_more_than_allowed(count, give_up, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 4)) * 3
    labels = rng.integers(0, 4, count)
    threshold, cost = choose_threshold(logits, labels, give_up)
    confidence = softmax(logits, -1).max(-1)
    right = confidence[logits.argmax(-1) == labels]
    if len(right):
        assert cost == np.mean(right < threshold) <= give_up
        # A higher one among the right answers' would cost more than allowed, or is a tie.
        above = right[right > threshold]
        if len(above):
            assert np.mean(right < above.min()) > give_up
    else:
        assert (threshold, cost) == (1.0, 0.0)


@given(st.integers(0, 2**31), st.floats(0.4, 2.5))
def test_the_temperature_undoes_a_scale(seed, scale):
    """Labels that are drawn from the softmax need the temperature by which it was scaled."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, 3)) * 2
    shares = softmax(logits, -1).cumsum(-1)
    labels = np.minimum((rng.uniform(size=(4000, 1)) > shares).sum(-1), 2)
    assert fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.15)


def test_the_temperature_has_bounds():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(0.25, rel=1e-3)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(4, rel=1e-3)


# --- runs ------------------------------------------------------------------------------------


def test_a_run_is_loaded(run):
    network, found = load_network(run), read_run(run)
    images = load_dataset("digits").test.images.astype(np.float32) / 255
    np.testing.assert_allclose(numpy_logits(network, images), found.logits, atol=1e-4)
    assert network.class_names == tuple("0123456789")
    assert network.name == "digits-cnn"
    (facts,) = network.facts["runs"]
    assert facts["test_accuracy"] == found.results["test_accuracy"]
    json.dumps(dict(network.facts))


def damage(path, name, text):
    (path / name).write_text(text)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda p: shutil.rmtree(p), "no such folder"),
        (lambda p: (p / "results.json").unlink(), "isn't finished"),
        (
            lambda p: (p / "predictions.npz").unlink(),
            r"predictions.npz: can't be read \(No such file.*--res",
        ),
        (lambda p: shutil.rmtree(p / "checkpoints"), "holds no checkpoint"),
        (lambda p: damage(p, "config.json", '{"config": {"arch": "mlp"}}'), "isn't a whole run"),
        (lambda p: damage(p, "config.json", "[]"), "isn't a whole run"),
    ],
)
def test_what_is_no_finished_run(run, tmp_path, act, said):
    copy = shutil.copytree(run, tmp_path / "copy")
    act(copy)
    with pytest.raises(DigitsError, match=said) as caught:
        load_network(copy)
    assert "\n" not in str(caught.value)


def test_other_parameters_are_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    results = json.loads((copy / "results.json").read_text())
    damage(copy, "results.json", json.dumps({**results, "params_sha256": "0" * 64}))
    with pytest.raises(DigitsError, match="params_sha256 differs"):
        load_network(copy)
