"""python -m digits_jax.export: what it writes, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from digits_jax import export as export_program
from digits_jax import load_dataset, read_run
from digits_jax.deploy.network import load_network
from digits_jax.deploy.onnx import onnx_logits
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.preprocessing import preprocess_source

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


def logits_of(file, images):
    """The logits of an exported file's own runtime."""
    if file.suffix == ".onnx":
        return onnx_logits(file, images)
    if file.suffix == ".npz":
        return Predictor.load(file).predict(images).logits
    return np.asarray(jax.export.deserialize(bytearray(file.read_bytes())).call(images))


@pytest.mark.parametrize("format_", ["onnx", "stablehlo", "npz"])
def test_each_format_predicts_as_the_run_did(run, here, tmp_path, format_):
    scored = read_run(run)
    for _ in range(2):  # an export can be made again
        status, out, err = here(export_program, run, f"--format={format_}")
        assert (status, err) == (0, "")
        folder = tmp_path / f"digits-cnn-{format_}"
        file = folder / f"model.{format_}"
        assert out == f"{folder.name}: MODEL_CARD.md, manifest.json, {file.name}, preprocess.py\n"
    images = load_dataset("digits").test.images.astype(np.float32) / 255
    found = logits_of(file, images)
    np.testing.assert_allclose(found, scored.logits, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(-1), scored.logits.argmax(-1))
    about = json.loads((folder / "manifest.json").read_text())
    assert (about["file"], about["class_names"]) == (file.name, list("0123456789"))
    assert about["input"]["shape"] == ["n", 28, 28, 1]
    outputs = ["logits", "probabilities"] if format_ == "onnx" else ["logits"]
    assert [output["name"] for output in about["outputs"]] == outputs
    assert about["facts"]["runs"][0]["params_sha256"] == scored.results["params_sha256"]
    card, network = (folder / "MODEL_CARD.md").read_text(), load_network(run)
    assert card.startswith("# digits-cnn\n")
    for words in (
        f"{scored.results['test_accuracy']:.2%}",
        f"{scored.results['test_errors']} of 360",
        f"{network.num_params:,} parameters",
        f"threshold of {network.threshold:.1%}",
        f"{file.stat().st_size:,} bytes",
        "43 people",
        scored.results["params_sha256"][:16],
    ):
        assert words in card


def test_an_ensemble_is_one_model_with_a_card_of_its_own(run, here, tmp_path):
    again = shutil.copytree(run, tmp_path / "run2")
    argv = (run, again, "--ensemble", "--format=npz", "-o", "both")
    assert here(export_program, *argv)[0] == 0
    predictor = Predictor.load(tmp_path / "both" / "model.npz")
    assert len(predictor.network.members) == 2
    test = load_dataset("digits").test
    once, both = Predictor.load(run).predict(test.images), predictor.predict(test.images)
    np.testing.assert_allclose(both.probabilities, once.probabilities, atol=2e-3)
    # The card states its calibrated probabilities; by hand:
    card = (tmp_path / "both" / "MODEL_CARD.md").read_text()
    shares = both.probabilities[np.arange(360), test.labels].astype(np.float64)
    assert f"({int((both.labels != test.labels).sum())} errors of 360)" in card
    assert f"| mean probability of the prediction | {both.confidence.mean():.2%} |" in card
    assert f"| negative log likelihood, nats | {-np.log(shares).mean():.4f} |" in card
    # An exported file exports again.
    argv = (tmp_path / "both" / "model.npz", "--format=onnx", "-o", "onnx")
    assert here(export_program, *argv)[0] == 0
    logits = onnx_logits(tmp_path / "onnx" / "model.onnx", test.images.astype(np.float32) / 255)
    np.testing.assert_allclose(logits, both.logits, atol=1e-4)


def test_a_page_of_two_runs(run, here, tmp_path):
    status, _, err = here(export_program, run, run, "--format=html", "-o", "d.html")
    assert (status, err) == (0, "")
    text = (tmp_path / "d.html").read_text()
    assert '"digits-cnn (1)"' in text
    assert '"digits-cnn (2)"' in text


def test_int8_states_its_accuracy(run, here, tmp_path):
    status, out, _ = here(export_program, run, "--format=onnx", "--int8", "-o", "out")
    assert status == 0
    test = load_dataset("digits").test
    found = onnx_logits(tmp_path / "out/model.onnx", test.images.astype(np.float32) / 255)
    accuracy = f"{(found.argmax(-1) == test.labels).mean():.2%}"
    assert f"test accuracy, int8: {accuracy}\n" in out
    assert f"| test accuracy, int8 | {accuracy} |" in (tmp_path / "out/MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "out/manifest.json").read_text())["quantized"] is True


PREPROCESS = """
import sys
import numpy as np
from preprocess import DataError, preprocess
assert "digits_jax" not in sys.modules
np.save("images.npy", np.concatenate([preprocess(f"{i}.png") for i in range(int(sys.argv[1]))]))
assert preprocess("blank.png") is None
try:
    preprocess("preprocess.py")
except DataError as error:
    print(error)
"""


def pictures():
    """A 7 on paper of several kinds, thin and thick, and on nothing."""
    y, x = np.mgrid[:160, :200]
    for pen in (2, 9, 25):
        page = np.where((y % 30 < 2) | (x % 30 < 2), 190, 240) - x // 4
        for level, paper in ((0, np.full(page.shape, 255)), (30, page), (255, 255 - page)):
            grey = paper.astype(np.uint8)
            grey[30 : 30 + pen, 60:130] = grey[30:130, 120 : 120 + pen] = level
            yield Image.fromarray(grey)
    clear = Image.new("RGBA", (60, 60))
    clear.paste("white", (20, 10, 26, 50))
    yield clear


def test_preprocess_agrees_with_the_predictor(tmp_path):
    (tmp_path / "preprocess.py").write_text(preprocess_source())
    Image.new("L", (40, 30), 200).save(tmp_path / "blank.png")
    expected, predictor = [], Predictor.pretrained("tiny")
    for i, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{i}.png")
        expected.append(predictor.read(tmp_path / f"{i}.png").image)
    command = [sys.executable, "-c", PREPROCESS, str(len(expected))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("preprocess.py: is not a readable picture")
    images = np.load(tmp_path / "images.npy")
    assert (images.dtype, images.shape[1:]) == (np.float32, (28, 28, 1))
    np.testing.assert_array_equal(images[..., 0], np.float32(np.stack(expected) / 255))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_neighbours_are_not_read(run, here, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    neighbour = shutil.copytree(run, tmp_path / "neighbour")
    for name in ("config.json", "results.json"):
        (neighbour / name).unlink()
        os.mkfifo(neighbour / name)
    assert here(export_program, copy, "--format=npz", "-o", "out")[0] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--format is missing: {html,onnx,"),
        (["--format=npz"], "no RUN is given"),
        (["RUN", "RUN", "--format=onnx"], "holds one model, and 2 runs are given"),
        (["RUN", "--format=npz", "--int8"], "--int8 goes with --format=onnx"),
        (["full", "--format=npz"], "full: holds no run"),
        (["full/file", "--format=npz"], "isn't a network that digits_jax exported"),
        (["RUN", "--format=npz", "-o", "full"], "full: holds other files"),
        (["RUN", "--format=html", "-o", "full/file"], "exists, and isn't a page of this program"),
        (["RUN", "--format=npz", "-o", "full/file"], "full/file: can't be written"),
    ],
)
def test_a_refusal_is_one_line_and_writes_nothing(run, here, tmp_path, argv, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    status, out, err = here(export_program, *[run if word == "RUN" else word for word in argv])
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before
