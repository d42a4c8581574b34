"""python -m digits_jax.export: what it writes, and what it refuses."""

import json
import shutil
import sys

import numpy as np
import pytest

from digits_jax import export as export_program
from digits_jax import load_dataset, read_run
from digits_jax.deploy.onnx import onnx_logits
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.stablehlo import read_stablehlo

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")
FORMATS = ("onnx", "stablehlo", "npz")


def answers(file, images):
    """The logits of an exported file's own runtime."""
    if file.suffix == ".onnx":
        return onnx_logits(file, images)
    if file.suffix == ".npz":
        return Predictor.load(file).predict(images).logits
    return np.asarray(read_stablehlo(file)(images))


@pytest.mark.parametrize("format_", FORMATS)
def test_each_format_answers_as_the_run_did(trained, here, tmp_path, format_):
    run = read_run(trained[0])
    status, out, err = here(export_program, trained[0], f"--format={format_}", "-o", "out")
    assert (status, err) == (0, "")
    folder = tmp_path / "out"
    file = folder / f"model.{format_}"
    assert out == f"out: MODEL_CARD.md, manifest.json, {file.name}\n"
    images = load_dataset("digits").test.images.astype(np.float32) / 255
    found = answers(file, images)
    np.testing.assert_allclose(found, run.logits, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(-1), run.logits.argmax(-1))
    about = json.loads((folder / "manifest.json").read_text())
    assert (about["file"], about["class_names"]) == (file.name, list("0123456789"))
    assert about["input"]["shape"] == ["n", 28, 28, 1]
    assert about["facts"]["runs"][0]["params_sha256"] == run.results["params_sha256"]
    card = (folder / "MODEL_CARD.md").read_text()
    assert f"{run.results['test_accuracy']:.2%}" in card
    assert f"{file.stat().st_size:,} bytes" in card


def test_an_export_can_be_made_again_and_its_name_is_the_runs(trained, here, tmp_path):
    for _ in range(2):
        status, out, _ = here(export_program, trained[0], "--format=npz")
        assert status == 0
        assert out.startswith("run-npz: ")
    assert {path.name for path in (tmp_path / "run-npz").iterdir()} == {
        "MODEL_CARD.md",
        "manifest.json",
        "model.npz",
    }


def test_an_ensemble_is_one_model(trained, here, tmp_path):
    again = shutil.copytree(trained[0], tmp_path / "run2")
    argv = (trained[0], again, "--ensemble", "--format=npz", "-o", "both")
    assert here(export_program, *argv)[0] == 0
    predictor = Predictor.load(tmp_path / "both" / "model.npz")
    assert len(predictor.network.members) == 2
    images = load_dataset("digits").test.images
    once = Predictor.load(trained[0]).predict(images)
    both = predictor.predict(images)
    np.testing.assert_allclose(both.probabilities, once.probabilities, atol=2e-3)
    # An exported file exports again.
    argv = (tmp_path / "both" / "model.npz", "--format=onnx", "-o", "onnx")
    assert here(export_program, *argv)[0] == 0
    logits = onnx_logits(tmp_path / "onnx" / "model.onnx", images.astype(np.float32) / 255)
    np.testing.assert_allclose(logits, both.logits, atol=1e-4)


def test_a_card_tells_of_the_model_that_it_lies_beside(trained, here, tmp_path):
    """Of its calibrated probabilities, by hand: and of an ensemble, not of its members alone."""
    again = shutil.copytree(trained[0], tmp_path / "run2")
    here(export_program, trained[0], again, "--ensemble", "--format=npz", "-o", "both")
    card = (tmp_path / "both" / "MODEL_CARD.md").read_text()
    answers = Predictor.load(tmp_path / "both" / "model.npz").predict(
        load_dataset("digits").test.images
    )
    labels = load_dataset("digits").test.labels
    errors = int((answers.labels != labels).sum())
    shares = answers.probabilities[np.arange(360), labels].astype(np.float64)
    assert f"({errors} errors of 360)" in card
    assert f"| mean probability of the answer | {answers.confidence.mean():.2%} |" in card
    assert f"| negative log likelihood, nats | {-np.log(shares).mean():.4f} |" in card


def test_another_formats_export_is_not_mixed_in(trained, here, tmp_path):
    assert here(export_program, trained[0], "--format=npz", "-o", "out")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    status, _, err = here(export_program, trained[0], "--format=stablehlo", "-o", "out")
    assert status == 2
    assert "out: holds other files" in err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_page_can_be_made_again(trained, here, tmp_path):
    for _ in range(2):
        status, _, err = here(
            export_program, trained[0], trained[0], "--format=html", "-o", "d.html"
        )
        assert (status, err) == (0, "")
    text = (tmp_path / "d.html").read_text()
    assert '"run (1)"' in text
    assert '"run (2)"' in text


def test_int8_says_what_it_reaches(trained, here, tmp_path):
    status, out, _ = here(export_program, trained[0], "--format=onnx", "--int8", "-o", "out")
    assert status == 0
    images = load_dataset("digits").test
    found = onnx_logits(tmp_path / "out/model.onnx", images.images.astype(np.float32) / 255)
    accuracy = (found.argmax(-1) == images.labels).mean()
    assert f"test accuracy, int8: {accuracy:.2%}\n" in out
    assert (
        f"| test accuracy, int8 | {accuracy:.2%} |" in (tmp_path / "out/MODEL_CARD.md").read_text()
    )
    assert json.loads((tmp_path / "out/manifest.json").read_text())["quantized"] is True


def test_seeds_beside_a_run_are_in_its_card(trained, here, tmp_path):
    for seed in (1, 2):
        copy = shutil.copytree(trained[0], tmp_path / f"run-seed{seed}")
        config = json.loads((copy / "config.json").read_text())
        config["config"]["seed"] = seed
        (copy / "config.json").write_text(json.dumps(config))
        results = json.loads((copy / "results.json").read_text())
        results["test_accuracy"] = 0.5 + 0.1 * seed
        (copy / "results.json").write_text(json.dumps(results))
    here(export_program, tmp_path / "run-seed1", "--format=npz", "-o", "out")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "Over 2 runs that differ in their seed alone: test accuracy 65.00% ± 7.07%" in card


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: RUN, --format"),
        (["run"], "the following arguments are required: --format"),
        (["run", "--format=pdf"], "invalid choice: 'pdf'"),
        (["run", "run", "--format=onnx"], "holds one model, and 2 runs are given"),
        (["run", "--format=npz", "--int8"], "--int8 goes with --format=onnx"),
        (["nowhere", "--format=npz"], "nowhere: no such folder"),
        (["full", "--format=npz"], "full: holds no run"),
        (["full/file", "--format=npz"], "isn't a network that digits_jax exported"),
        (["run", "--format=npz", "-o", "full"], "full: holds other files"),
        (["run", "--format=html", "-o", "full/file"], "is there already, and is no page of this"),
        (["run", "--format=npz", "-o", "full/file"], "full/file: can't be written"),
    ],
)
def test_bad_input_is_one_line(trained, here, tmp_path, argv, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    argv = [trained[0] if word == "run" else word for word in argv]
    before = sorted(tmp_path.rglob("*"))
    status, out, err = here(export_program, *argv)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_missing_is_named_before_anything_is_written(trained, here, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, err = here(export_program, trained[0], "--format=onnx", "-o", "out")
    assert status == 2
    assert 'pip install "digits_jax[export]"' in err
    assert not (tmp_path / "out" / "MODEL_CARD.md").exists()
