"""A network as an ONNX file, in float32 or quantized to int8.

Input "images": float32 [n, 28, 28, 1] in [0, 1]; outputs "logits" and "probabilities": float32
[n, classes]. Any n. ONNX computes with channels first, so images are transposed once at the start,
and back before they are flattened.
"""

import importlib
import json
import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.deploy.archive import describe
from digits_jax.deploy.fold import Layer
from digits_jax.deploy.network import Network
from digits_jax.errors import DataError
from digits_jax.files import replace_file

# Of 2022: runtimes on phones and in browsers have had time to learn it.
OPSET = 17


def import_extra(name: str) -> Any:
    """Imports a module of the extra "export"; raises a `DataError` where it isn't installed.

    Examples:
      >>> import_extra("no_such_package.module")
      Traceback (most recent call last):
      digits_jax.errors.DataError: this format needs no_such_package; install it with pip ...
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"this format needs {name.partition('.')[0]}; install it with "
            'pip install "digits_jax[export]"'
        ) from None


def to_onnx(network: Network) -> Any:
    """Returns a network as an ``onnx.ModelProto``."""
    onnx = import_extra("onnx")
    graph = _Graph(onnx)
    logits = [graph.add_member(m.layers, f"m{i}_") for i, m in enumerate(network.members)]
    if len(logits) == 1:
        graph.add("Identity", logits, "logits")
    else:
        shares = [graph.add("Softmax", [each], axis=-1) for each in logits]
        # int8 rounds a small probability to 0, whose logarithm isn't finite.
        least = graph.constant("least", np.array([1e-7], np.float32))
        graph.add("Log", [graph.add("Max", [graph.add("Mean", shares), least])], "logits")
    temperature = graph.constant("temperature", np.array([network.temperature], np.float32))
    graph.add("Softmax", [graph.add("Div", ["logits", temperature])], "probabilities", axis=-1)
    about, classes = describe(network), len(network.class_names)

    def value(name: str, shape: Sequence[str | int]) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "digits_jax",
            [value("images", ["n", 28, 28, 1])],
            [value(name, ["n", classes]) for name in ("logits", "probabilities")],
            graph.arrays,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=8,  # of the file's format: the one that came with the opset
        producer_name="digits_jax",
        doc_string=about["preprocessing"],
    )
    names = ("class_names", "threshold", "temperature")
    onnx.helper.set_model_props(model, {name: json.dumps(about[name]) for name in names})
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes and constants of a graph while it is written."""

    def __init__(self, onnx: Any):
        self._onnx, self.nodes, self.arrays = onnx, [], []

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        self.arrays.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add_member(self, layers: Iterable[Layer], prefix: str) -> str:
        """Adds the layers of a network; returns the name of its logits."""
        x, channels_first = "images", False
        for i, layer in enumerate(layers):
            arrays = dict(layer.arrays)
            if not channels_first and layer.kind in ("space_to_depth", "conv", "max_pool"):
                x, channels_first = self.add("Transpose", [x], perm=[0, 3, 1, 2]), True
            if channels_first and layer.kind == "flatten":
                x, channels_first = self.add("Transpose", [x], perm=[0, 2, 3, 1]), False
            if layer.kind == "conv":
                arrays["kernel"] = arrays["kernel"].transpose(3, 2, 0, 1)
            if layer.kind == "scale" and channels_first:
                arrays = {name: array[:, None, None] for name, array in arrays.items()}
            given = [self.constant(f"{prefix}{i}_{name}", array) for name, array in arrays.items()]
            if layer.kind == "scale":  # factor, offset
                x = self.add("Add", [self.add("Mul", [x, given[0]]), given[1]])
            else:
                kind, attributes = _OPERATORS[layer.kind]
                x = self.add(kind, [x, *given], **attributes)
        return x


# With one channel, ONNX orders the depth as `space_to_depth` does.
_OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "space_to_depth": ("SpaceToDepth", {"blocksize": 2}),
    "conv": ("Conv", {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}),
    "max_pool": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "relu": ("Relu", {}),
    "flatten": ("Flatten", {"axis": 1}),
    "dense": ("Gemm", {}),
}


def write_onnx(network: Network, path: Path, calibration: np.ndarray | None = None) -> None:
    """Writes a network; the file appears complete or not at all.

    Args:
      network: any.
      path: of the file.
      calibration: float32 [n, 28, 28, 1] in [0, 1], training images: quantize to int8, with the
        ranges of the activations that these images have. None: float32.

    Reference:
      Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
      Only Inference, 2018: post-training quantization, weights by channel.
    """
    model = to_onnx(network)
    if calibration is not None:
        model = _quantize(model, calibration)
    replace_file(path, model.SerializeToString())


def _quantize(model: Any, images: np.ndarray) -> Any:
    quantization, onnx = import_extra("onnxruntime.quantization"), import_extra("onnx")
    batches = iter(np.array_split(images, max(1, len(images) // 100)))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": batch}

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing that isn't needed
    with tempfile.TemporaryDirectory(prefix="digits_jax-") as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        onnx.save(model, plain)
        quantization.quantize_static(
            plain,
            small,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Weights of 7 bits: processors without VNNI add pairs of products in 16 bits, which
            # those of 8 overflow (ONNX Runtime's notes on quantization; here 0.4 points).
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        quantized = onnx.load(small)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def onnx_logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Returns the logits that onnxruntime computes for images, float32 [n, 28, 28, 1]."""
    runtime = import_extra("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = np.array_split(images, len(images) // 500 + 1)
    return np.concatenate([session.run(["logits"], {"images": part})[0] for part in parts])
