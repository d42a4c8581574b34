"""One exported ensemble of an MLP and a CNN gives the stored logits in every format."""

import json
import re
from base64 import b64decode

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy_layers import apply_layers

from digits_jax.deploy.archive import write_archive
from digits_jax.deploy.network import Member, Network, combine
from digits_jax.deploy.onnx import onnx_logits, write_onnx
from digits_jax.deploy.page import to_html
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.stablehlo import write_stablehlo
from digits_jax.models.build import build_model
from digits_jax.runs.ensembles import mean_log_probabilities

# onnx and onnxruntime have warnings of their own on a newer NumPy.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")
SETTINGS = {
    "mlp": {"arch": "mlp", "batch_norm": True, "hidden_sizes": (24, 16)},
    "cnn": {
        "arch": "cnn", "batch_norm": True, "channels": (5, 7), "convs_per_block": 2,
        "dense_size": 12, "space_to_depth": True,
    },
}  # fmt: skip
# int8 on another processor: onnxruntime rounds elsewhere, by a share of the largest logit.
INT8_SHARE = 0.1


def network(name):
    """A network with variables by a NumPy seed, none of them trivial."""
    module, rng = build_model(SETTINGS[name], 10), np.random.default_rng(list(name.encode()))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    variables = {}
    for path, leaf in sorted(flatten_dict(shapes).items()):
        if path[-1] in ("var", "scale"):
            values = 0.5 + 1.5 * rng.random(leaf.shape)
        else:
            spread = np.sqrt(36 / np.prod(leaf.shape[:-1])) if path[-1] == "kernel" else 1.0
            values = spread * (rng.random(leaf.shape) - 0.5)
        variables[path] = values.astype(np.float32)
    member = Member(SETTINGS[name], unflatten_dict(variables))
    return Network("golden", tuple("0123456789"), (member,), 0.5, {"runs": []}, 0.7)


def coarse_images(count, seed):
    """Float32 [n, 28, 28, 1] in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 7, 7)) * (rng.random((count, 7, 7)) < 0.4)
    levels = np.kron(coarse, np.ones((1, 4, 4), np.int64))
    return (levels[..., None] / 255).astype(np.float32)


def archive_layers(path):
    with np.load(path) as file:
        for member in json.loads(str(file["network"]))["members"]:
            yield [
                (layer["kind"], {name: file[entry] for name, entry in layer["arrays"].items()})
                for layer in member["layers"]
            ]


def page_layers(html):
    (carried,) = json.loads(re.search(r'id="networks">(.*?)</script>', html, re.S)[1])
    for member in carried["members"]:
        layers = []
        for layer in member:
            arrays = {
                name: np.frombuffer(b64decode(t), "<f4") for name, t in layer["arrays"].items()
            }
            if "kernel" in arrays:
                outputs = len(arrays["bias"])
                shape = (3, 3, -1, outputs) if layer["kind"] == "conv" else (-1, outputs)
                arrays["kernel"] = arrays["kernel"].reshape(shape)
            layers.append((layer["kind"], arrays))
        yield layers


def numpy_logits(members, images):
    return mean_log_probabilities([apply_layers(layers, images) for layers in members])


def test_exports(golden, same_machine, tmp_path):
    pytest.importorskip("onnxruntime")
    ensemble, images = combine([network("mlp"), network("cnn")]), coarse_images(16, 21)
    write_archive(ensemble, tmp_path / "model.npz")
    write_onnx(ensemble, tmp_path / "model.onnx")
    write_onnx(ensemble, tmp_path / "int8.onnx", coarse_images(64, 22))
    write_stablehlo(ensemble, tmp_path / "model.stablehlo")
    exported = bytearray((tmp_path / "model.stablehlo").read_bytes())
    answers = Predictor(ensemble).predict(images)
    found = {
        "predictor": answers.logits,
        "probabilities": answers.probabilities,
        "npz": numpy_logits(archive_layers(tmp_path / "model.npz"), images),
        "onnx": onnx_logits(tmp_path / "model.onnx", images),
        "int8": onnx_logits(tmp_path / "int8.onnx", images),
        "stablehlo": np.asarray(jax.export.deserialize(exported).call(images)),
        "page": numpy_logits(page_layers(to_html([ensemble])), images),
    }
    for way, values in found.items():
        stored = golden(way, values.astype(np.float32))
        rounding = way == "int8" and not same_machine
        atol = INT8_SHARE * np.abs(stored).max() if rounding else 1e-4
        np.testing.assert_allclose(values, stored, rtol=0, atol=atol, err_msg=way)
