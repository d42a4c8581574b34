"""What is written is read by others, and predicts the same."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from networks import SETTINGS, assert_close, numpy_logits, random_images, random_network
from numpy_layers import apply_layers
from scipy.special import softmax

from digits_jax import DataError, load_dataset
from digits_jax.deploy.archive import read_archive, write_archive
from digits_jax.deploy.model_card import model_card
from digits_jax.deploy.network import Member, combine, load_network
from digits_jax.deploy.onnx import OPSET, onnx_logits, write_onnx
from digits_jax.deploy.stablehlo import PLATFORMS, write_stablehlo

# onnx and onnxruntime have warnings of their own on a newer NumPy.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(params=[*SETTINGS, "ensemble"])
def network(request):
    if request.param == "ensemble":
        return combine([random_network("cnn", seed) for seed in (1, 2)])
    return random_network(request.param)


# --- npz -----------------------------------------------------------------------------------


def test_an_archive_gives_the_network_back(network, tmp_path):
    write_archive(network, tmp_path / "model.npz")
    found = read_archive(tmp_path / "model.npz")
    for name in ("name", "class_names", "threshold", "temperature", "facts"):
        assert getattr(found, name) == getattr(network, name)
    for ours, theirs in zip(found.members, network.members, strict=True):
        assert json.dumps(ours.settings) == json.dumps(theirs.settings)
        jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_archive_is_computed_with_numpy_alone(name, tmp_path):
    network, images = random_network(name), random_images()
    write_archive(network, tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        (member,) = json.loads(str(file["network"]))["members"]
        layers = [
            (layer["kind"], {array: file[entry] for array, entry in layer["arrays"].items()})
            for layer in member["layers"]
        ]
    assert_close(apply_layers(layers, images), numpy_logits(network, images))


RUN = {
    **dict.fromkeys(("arch", "preset", "dataset", "dataset_sha256", "params_sha256"), "x"),
    **dict.fromkeys(("device", "jax_version"), "x"),
    **dict.fromkeys(("seed", "batch_size", "test_errors", "test_count"), 1),
    **dict.fromkeys(("epochs", "test_accuracy", "test_loss", "validation_accuracy"), 0.5),
}
SHORTER = {**SETTINGS["mlp"], "hidden_sizes": (12, 8)}


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": float("nan")},
        {"threshold": 7.0},
        {"name": "a\nb"},
        {"class_names": tuple("012")},
        {"members": ()},
        {"members": (Member(SHORTER, random_network("mlp").members[0].variables),)},
        {"facts": {"runs": [{}]}},
        {"facts": {"runs": [{**RUN, "seed": "1"}]}},
        {"facts": {"runs": [{**RUN, "test_loss": float("inf")}]}},
        {"facts": {"runs": [{**RUN, "config": []}]}},
    ],
)
def test_archives_that_hold_no_network_are_refused(tmp_path, change):
    network = random_network("mlp", facts={"runs": [RUN]})
    write_archive(network, tmp_path / "model.npz")
    read_archive(tmp_path / "model.npz")
    write_archive(dataclasses.replace(network, **change), tmp_path / "model.npz")
    with pytest.raises(DataError, match=r"isn't a network .* or is damaged"):
        read_archive(tmp_path / "model.npz")


# --- ONNX and StableHLO --------------------------------------------------------------------------


def test_onnx_and_stablehlo_compute_the_same(network, tmp_path):
    import onnxruntime

    write_onnx(network, tmp_path / "model.onnx")
    write_stablehlo(network, tmp_path / "model.stablehlo")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    stablehlo = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    for count in (1, 7):
        images = random_images(count)
        expected = numpy_logits(network, images)
        logits, probabilities = session.run(None, {"images": images})
        assert_close(logits, expected)
        assert_close(probabilities, softmax(expected / network.temperature, -1))
        assert_close(stablehlo.call(images), expected)


def test_onnx_and_stablehlo_state_their_input(tmp_path):
    import onnx

    write_onnx(random_network("linear"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    about = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert about == {"class_names": list("0123456789"), "threshold": 0.5, "temperature": 0.7}
    assert "20x20" in model.doc_string
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["n", 28, 28, 1]
    write_stablehlo(random_network("linear"), tmp_path / "model.stablehlo")
    found = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    assert set(found.platforms) == set(PLATFORMS) == {"cpu", "cuda", "tpu"}
    assert [str(size) for size in found.in_avals[0].shape] == ["n", "28", "28", "1"]


def test_int8_predicts_nearly_the_same(run, tmp_path):
    import onnx

    network, digits = load_network(run), load_dataset("digits")
    images = digits.test.images.astype(np.float32) / 255
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    write_onnx(network, plain)
    write_onnx(network, small, digits.train.images.astype(np.float32) / 255)
    assert small.stat().st_size < 0.7 * plain.stat().st_size  # in a small one, half is names
    kernels = [each for each in onnx.load(small).graph.initializer if "kernel" in each.name]
    kernels = [each for each in kernels if len(each.dims) > 1]
    assert {each.data_type for each in kernels} == {onnx.TensorProto.INT8}
    # 7 bits, so that two products with 8 bits of an activation fit 16: 2 * 64 * 255 < 2**15.
    assert max(np.abs(onnx.numpy_helper.to_array(each)).max() for each in kernels) == 64
    labels = {path: onnx_logits(path, images).argmax(-1) for path in (plain, small)}
    assert (labels[small] != labels[plain]).mean() < 0.02
    # A probability that is rounded to 0 has no finite logarithm.
    write_onnx(combine([network] * 2), small, digits.train.images.astype(np.float32) / 255)
    assert np.isfinite(onnx_logits(small, images)).all()


@pytest.mark.parametrize(
    ("write", "package"), [(write_onnx, "onnx"), (write_stablehlo, "flatbuffers")]
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, write, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf'needs {package}; .* pip install "digits_jax\[export\]"'):
        write(random_network("linear"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_card_without_facts_says_so():
    text = model_card(random_network(facts={}), files={"a": "b"}, metrics={}, measured={})
    assert "Not known." in text
