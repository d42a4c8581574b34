"""What is written is read by others, and answers the same."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from random_networks import SETTINGS, random_images, random_network
from scipy.special import softmax

from digits_jax import DigitsError, load_dataset
from digits_jax.deploy import extras, stablehlo
from digits_jax.deploy.archive import read_archive, write_archive
from digits_jax.deploy.card import model_card
from digits_jax.deploy.network import combine, load_network, numpy_logits
from digits_jax.deploy.onnx import OPSET, onnx_logits, write_onnx
from digits_jax.deploy.stablehlo import read_stablehlo, write_stablehlo

ONES = (1, 7)  # numbers of images
# onnx and onnxruntime have warnings of their own on a newer NumPy.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(params=[*SETTINGS, "ensemble"])
def network(request):
    if request.param == "ensemble":
        return combine([random_network(seed=seed) for seed in (1, 2)])
    return random_network(request.param)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1, np.abs(wanted).max()))


# --- npz -----------------------------------------------------------------------------------


def test_npz_comes_back(network, tmp_path):
    write_archive(network, tmp_path / "model.npz")
    found = read_archive(tmp_path / "model.npz")
    for name in ("name", "class_names", "threshold", "temperature", "facts"):
        assert getattr(found, name) == getattr(network, name)
    images = random_images()
    np.testing.assert_array_equal(numpy_logits(found, images), numpy_logits(network, images))


READER = """
import json, sys
import numpy as np
file = np.load(sys.argv[1], allow_pickle=False)
about = json.loads(str(file["network"]))
x = np.load(sys.argv[2])
for layer in about["members"][0]:
    a = {name: file[entry] for name, entry in layer["arrays"].items()}
    if layer["kind"] == "flatten":
        x = x.reshape(len(x), -1)
    elif layer["kind"] == "dense":
        x = x @ a["kernel"] + a["bias"]
    elif layer["kind"] == "relu":
        x = np.maximum(x, 0)
np.save(sys.argv[3], x)
assert not {"jax", "digits_jax", "scipy"} & set(sys.modules)
"""


def test_npz_is_read_with_numpy_alone(tmp_path):
    network, images = random_network("mlp"), random_images()
    write_archive(network, tmp_path / "model.npz")
    np.save(tmp_path / "images.npy", images)
    files = [tmp_path / name for name in ("model.npz", "images.npy", "logits.npy")]
    subprocess.run([sys.executable, "-c", READER, *files], check=True, timeout=120)
    close(np.load(files[2]), numpy_logits(network, images))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "isn't a network that digits_jax exported"),
        (b"PK\x03\x04", "isn't a network"),
        (b"text", "isn't a network"),
        (None, "can't be read"),
    ],
)
def test_other_files_are_refused(tmp_path, data, said):
    path = tmp_path / "model.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DigitsError, match=said):
        read_archive(path)


def test_archives_that_do_not_fit(tmp_path):
    good = random_network("mlp")
    path = tmp_path / "model.npz"
    for layers in (good.members[0][1:], good.members[0][:-1]):
        write_archive(random_network("mlp", class_names=good.class_names), path)
        write_archive(type(good)("x", good.class_names, (layers,), 0.5, {}, 1.0), path)
        with pytest.raises(DigitsError, match="layers don't"):
            read_archive(path)


def mutate(data, rng):
    data = bytearray(data)
    kind = rng.integers(3)
    if kind == 0:  # some bytes changed
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
    elif kind == 1:  # cut
        del data[rng.integers(len(data)) :]
    else:  # a piece taken out, or doubled
        start = rng.integers(len(data))
        piece = data[start : start + rng.integers(1, 200)]
        data[start : start + len(piece)] = piece * rng.integers(0, 3)
    return bytes(data)


def fuzz_archive(tmp_path, count):
    path, rng = tmp_path / "model.npz", np.random.default_rng(0)
    write_archive(random_network("mlp-linear"), path)
    data, refused = path.read_bytes(), 0
    for _ in range(count):
        path.write_bytes(mutate(data, rng))
        try:
            numpy_logits(read_archive(path), random_images(1))
        except DigitsError:  # anything else fails the test
            refused += 1
    assert refused > count / 2


def test_damaged_archives(tmp_path):
    fuzz_archive(tmp_path, 200)


@pytest.mark.slow
def test_many_damaged_archives(tmp_path):
    fuzz_archive(tmp_path, 10_000)


# --- ONNX ----------------------------------------------------------------------------------


def test_onnx_answers_the_same(network, tmp_path):
    import onnxruntime

    write_onnx(network, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in ONES:
        images = random_images(count)
        logits, probabilities = session.run(None, {"images": images})
        wanted = numpy_logits(network, images)
        close(logits, wanted)
        close(probabilities, softmax(wanted / network.temperature, -1))
    (images,) = session.get_inputs()
    assert (images.name, images.shape, images.type) == (
        "images",
        ["n", 28, 28, 1],
        "tensor(float)",
    )


def test_onnx_states_its_opset(tmp_path):
    import onnx

    write_onnx(random_network(), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert {each.key for each in model.metadata_props} == {
        "class_names",
        "threshold",
        "temperature",
    }
    assert "20x20" in model.doc_string


def test_int8_reads_nearly_as_well(run, tmp_path):
    import onnx

    network, digits = load_network(run), load_dataset("digits")
    images = digits.test.images.astype(np.float32) / 255
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    write_onnx(network, plain)
    write_onnx(network, small, digits.train.images.astype(np.float32) / 255)
    assert small.stat().st_size < 0.7 * plain.stat().st_size  # of so small a one, half is names
    kernels = [each for each in onnx.load(small).graph.initializer if "kernel" in each.name]
    kernels = [each for each in kernels if len(each.dims) > 1]
    assert {each.data_type for each in kernels} == {onnx.TensorProto.INT8}
    # 7 bits, so that two products with 8 bits of an activation fit 16: 2 * 64 * 255 < 2**15.
    assert max(np.abs(onnx.numpy_helper.to_array(each)).max() for each in kernels) == 64
    answers = {path: onnx_logits(path, images).argmax(-1) for path in (plain, small)}
    assert (answers[small] != answers[plain]).mean() < 0.02


def test_an_int8_ensemble_has_finite_logits(run, tmp_path):
    """A share that is rounded to 0 has no logarithm."""
    digits = load_dataset("digits")
    images = digits.train.images.astype(np.float32) / 255
    write_onnx(combine([load_network(run)] * 2), tmp_path / "small.onnx", images)
    assert np.isfinite(onnx_logits(tmp_path / "small.onnx", images)).all()


# --- StableHLO -------------------------------------------------------------------------------


def test_stablehlo_answers_the_same(network, tmp_path):
    write_stablehlo(network, tmp_path / "model.stablehlo")
    answer = read_stablehlo(tmp_path / "model.stablehlo")
    for count in ONES:
        images = random_images(count)
        close(answer(images), numpy_logits(network, images))


def test_stablehlo_is_for_every_platform(tmp_path):
    write_stablehlo(random_network(), tmp_path / "model.stablehlo")
    found = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    assert set(found.platforms) == {"cpu", "cuda", "tpu"}
    assert [str(size) for size in found.in_avals[0].shape] == ["n", "28", "28", "1"]


@pytest.mark.parametrize("data", [None, b"", b"no function of jax's" * 20])
def test_what_is_no_stablehlo(tmp_path, data):
    path = tmp_path / "model.stablehlo"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DigitsError, match=r"model.stablehlo: (can't be read|isn't a function)"):
        read_stablehlo(path)


@pytest.mark.parametrize(
    ("write", "package"), [(write_onnx, "onnx"), (write_stablehlo, "flatbuffers")]
)
def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path, write, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DigitsError, match=rf'needs {package}; .* pip install "digits_jax\[export\]"'
    ):
        write(random_network(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# --- the card ------------------------------------------------------------------------------


def test_a_card_says_what_the_run_says(run):
    network = load_network(run)
    (results,) = network.facts["runs"]
    text = model_card(
        network,
        files={"model.npz": "weights"},
        metrics={"nll": "0.2500"},
        seeds=[0.96, 0.98],
        measured={"size": "12 bytes"},
    )
    assert text.startswith("# digits-cnn\n")
    for words in (
        f"{results['test_accuracy']:.2%}",
        f"{results['test_errors']} of 360",
        f"{network.num_params:,} numbers",
        "97.00% ± 1.41%",  # by hand: sqrt(2 * 0.01^2 / 1)
        "| nll | 0.2500 |",
        "| size | 12 bytes |",
        f"threshold of {network.threshold:.1%}",
        "43 people",
        results["params_sha256"][:16],
    ):
        assert words in text
    assert "Over" not in model_card(network, files={}, seeds=[0.97])


def test_a_card_of_what_says_nothing_of_itself():
    text = model_card(random_network(facts={}), files={"a": "b"})
    assert "Not known." in text
    assert "nan" not in text


def test_extras_import():
    assert extras.need("json").loads("1") == 1
    assert stablehlo.PLATFORMS == ("cpu", "cuda", "tpu")
