"""All 10,000 test images of MNIST, through every format and the training's own code."""

import numpy as np
import pytest

from digits_jax import TrainConfig, fit, load_dataset, read_run
from digits_jax.deploy.archive import read_archive, write_archive
from digits_jax.deploy.network import load_network, numpy_logits
from digits_jax.deploy.onnx import onnx_logits, write_onnx
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.stablehlo import read_stablehlo, write_stablehlo

pytestmark = [
    pytest.mark.mnist,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default::DeprecationWarning"),
]


@pytest.fixture(scope="module", params=["cnn", "mlp"])
def trained(request, mnist_dir, tmp_path_factory):
    """A run of a third of an epoch: what it answers matters, not how well."""
    config = TrainConfig(
        arch=request.param,
        dataset="mnist",
        data_dir=mnist_dir,
        preset="quick",
        epochs=0.3,
        devices=1,
        workdir=tmp_path_factory.mktemp("runs") / request.param,
    )
    return fit(config, quiet=True).workdir


def test_every_format_answers_as_training_did(trained, mnist_dir, tmp_path):
    network, run = load_network(trained), read_run(trained)
    images = load_dataset("mnist", mnist_dir).test.images
    scaled = images.astype(np.float32) / 255
    paths = {name: tmp_path / f"model.{name}" for name in ("npz", "onnx", "stablehlo")}
    write_archive(network, paths["npz"])
    write_onnx(network, paths["onnx"])
    write_stablehlo(network, paths["stablehlo"])
    answers = {
        "numpy": np.concatenate(
            [numpy_logits(read_archive(paths["npz"]), part) for part in np.split(scaled, 10)]
        ),
        "onnx": onnx_logits(paths["onnx"], scaled),
        "stablehlo": np.asarray(read_stablehlo(paths["stablehlo"])(scaled)),
        "predictor": Predictor(network).predict(images).logits,
    }
    assert run.logits.shape == (10_000, 10)
    for name, logits in answers.items():
        np.testing.assert_allclose(logits, run.logits, atol=1e-4, err_msg=name)
        assert (logits.argmax(-1) == run.logits.argmax(-1)).all(), name
