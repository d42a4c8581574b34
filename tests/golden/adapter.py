"""The only module of the golden tests that imports the package.

When a function moves or is renamed, change this file and nothing else. The stored results never
change with it.
"""

import json
import re
from base64 import b64decode
from pathlib import Path

import numpy as np

# --- programs ------------------------------------------------------------------------------

# A renamed key of results.json or overlap.json: today's name of each new name.
OLD_KEYS: dict[str, str] = {}
DIGITS = tuple("0123456789")


def train(argv: list[str]) -> int:
    """Runs ``python -m digits_jax.train`` in this process; returns its exit status."""
    from digits_jax.train import main

    return main(argv)


def has_checkpoint(workdir: Path) -> bool:
    """Whether a training has written a checkpoint that it can resume from."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def member_folders(workdir: Path) -> list[Path]:
    """The run folders of an ensemble's members, by seed."""
    found = [path.parent for path in workdir.glob("*/results.json")]
    return sorted(found, key=lambda path: json.loads((path / "results.json").read_text())["seed"])


def compare(argv: list[str]) -> int:
    """Runs ``python -m digits_jax.compare`` in this process; returns its exit status."""
    from digits_jax.compare import main

    return main(argv)


def digits_data() -> tuple[np.ndarray, np.ndarray, str]:
    """The embedded data set: test labels, validation labels, SHA-256."""
    from digits_jax.data.datasets import load_dataset

    data = load_dataset("digits")
    return data.test.labels, data.validation.labels, data.sha256


def processor_features() -> list[str]:
    """The processor's instruction sets, sorted."""
    from digits_jax.hardware import processor_features as features

    return sorted(features())


# --- pictures ------------------------------------------------------------------------------


def read_picture(data: bytes, mode: str, score) -> dict:
    """Reads a picture file.

    Args:
      data: the bytes of the file.
      mode: "digit", "line" or "page".
      score: uint8 [n, 28, 28] -> logits float [n, 10].

    Returns:
      "lines": for each line its (uint8 [28, 28], box) pairs; "text": the digits, lines apart by
      newlines, empty for a blank picture; "found": digits found in mode "digit", else None.
    """
    from scipy.special import softmax

    from digits_jax.deploy.predictions import Predictions
    from digits_jax.deploy.reading import read_picture as read
    from digits_jax.vision.decode import decode_image

    def predict(images):
        logits = np.asarray(score(np.asarray(images)), np.float32)
        return Predictions(DIGITS, logits, softmax(logits, -1), 0.5)

    reading = read(decode_image(data, "picture"), [predict], mode)
    (answer,) = reading.answers
    # The box of the one digit was that of the picture when the answers were recorded.
    whole = [0, 0, *reading.grey.shape[::-1]]
    lines = [
        [(digit.image, whole if mode == "digit" else list(digit.box)) for digit in line.digits]
        for line in answer
    ]
    text = "\n".join(line.text for line in answer)
    return {"lines": lines, "text": text, "found": reading.found if mode == "digit" else None}


# --- exports -------------------------------------------------------------------------------


def variable_shapes(settings: dict) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's variables: "params/NAME/kernel" and so on, by today's names."""
    import jax
    import jax.numpy as jnp

    from digits_jax.models.build import build_model

    module = build_model(settings, len(DIGITS))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def _nested(variables):
    tree: dict = {}
    for path, array in variables.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree


def module_logits(settings: dict, variables: dict[str, np.ndarray], images: np.ndarray):
    """Logits of the Flax module in evaluation mode; images: float32 [n, 28, 28, 1]."""
    import jax

    from digits_jax.models.build import build_model

    module = build_model(settings, len(DIGITS))
    return jax.jit(lambda tree: module.apply(tree, images, train=False))(_nested(variables))


def make_network(members: list[tuple[dict, dict[str, np.ndarray]]], temperature: float):
    """What is exported: a network, or the ensemble of several (settings, variables)."""
    from digits_jax.deploy.network import Member, Network, combine

    made = []
    for settings, variables in members:
        member = Member(settings, _nested(variables))
        made.append(Network("golden", DIGITS, (member,), 0.5, {"runs": []}, temperature))
    return combine(made)


def predictor_answers(network, images) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities of the predictor."""
    from digits_jax.deploy.predictor import Predictor

    answers = Predictor(network).predict(images)
    return answers.logits, answers.probabilities


def npz_logits(network, path: Path, images):
    """Logits after ``--format=npz``, computed from the file with NumPy."""
    from digits_jax.deploy.archive import write_archive

    write_archive(network, path)
    with np.load(path) as file:
        about = json.loads(str(file["network"]))
        members = [
            [
                (layer["kind"], {name: file[entry] for name, entry in layer["arrays"].items()})
                for layer in member["layers"]
            ]
            for member in about["members"]
        ]
    return _layers_logits(members, images)


def _layers_logits(members, images):
    """Logits of networks as lists of (kind, arrays)."""
    from numpy_layers import apply_layers  # of tests/: trainings run without it

    from digits_jax.runs.ensembles import mean_log_probabilities

    logits = [apply_layers(layers, images) for layers in members]
    return logits[0] if len(logits) == 1 else mean_log_probabilities(logits)


def onnx_logits(network, path: Path, images, calibration=None):
    """Logits of onnxruntime after ``--format=onnx``; calibration images: quantized to int8."""
    from digits_jax.deploy.onnx import onnx_logits as run
    from digits_jax.deploy.onnx import write_onnx

    write_onnx(network, path, calibration)
    return run(path, images)


def stablehlo_logits(network, path: Path, images):
    """Logits of the function of jax.export after ``--format=stablehlo``."""
    import jax

    from digits_jax.deploy.stablehlo import write_stablehlo

    write_stablehlo(network, path)
    return np.asarray(jax.export.deserialize(bytearray(path.read_bytes())).call(images))


def page_logits(network, images):
    """Logits of the network whose layers the exported page carries, computed with NumPy."""
    from digits_jax.deploy.page import to_html

    html = to_html([network])
    (carried,) = json.loads(re.search(r'id="networks">(.*?)</script>', html, re.S)[1])

    def layer(found):
        arrays = {
            name: np.frombuffer(b64decode(text), "<f4") for name, text in found["arrays"].items()
        }
        if "kernel" in arrays:
            outputs = len(arrays["bias"])
            shape = (3, 3, -1, outputs) if found["kind"] == "conv" else (-1, outputs)
            arrays["kernel"] = arrays["kernel"].reshape(shape)
        return found["kind"], arrays

    return _layers_logits([list(map(layer, member)) for member in carried["members"]], images)
