"""A network as an ONNX file, in float32 or quantized to int8.

Input "images": float32 [n, 28, 28, 1] in [0, 1]; outputs "logits" and "probabilities": float32
[n, classes]. Any n. ONNX computes with channels first, so images are turned once at the start,
and back before they are flattened.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.deploy.archive import describe
from digits_jax.deploy.extras import need
from digits_jax.deploy.network import Network
from digits_jax.runs.folder import replace_file

# Of 2022: what runtimes on phones and in browsers have had time to learn.
OPSET = 17
CALIBRATION_IMAGES = 1000
_PROPERTIES = ("class_names", "threshold", "temperature")


def to_onnx(network: Network) -> Any:
    """An ``onnx.ModelProto`` of a network.

    Raises:
      DataError: onnx isn't installed.
    """
    onnx = need("onnx")
    graph = _Graph(onnx)
    answers = [graph.member(layers, f"m{i}_") for i, layers in enumerate(network.members)]
    if len(answers) == 1:
        graph.add("Identity", answers, "logits")
    else:
        shares = [graph.add("Softmax", [logits], axis=-1) for logits in answers]
        # int8 rounds a small share to 0, whose logarithm is no number.
        least = graph.constant("least", np.float32([1e-7]))
        graph.add("Log", [graph.add("Max", [graph.add("Mean", shares), least])], "logits")
    temperature = graph.constant("temperature", np.float32([network.temperature]))
    graph.add("Softmax", [graph.add("Div", ["logits", temperature])], "probabilities", axis=-1)
    kinds = onnx.TensorProto.FLOAT
    value, classes = onnx.helper.make_tensor_value_info, len(network.class_names)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "digits_jax",
            [value("images", kinds, ["n", 28, 28, 1])],
            [value(name, kinds, ["n", classes]) for name in ("logits", "probabilities")],
            graph.arrays,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        # The version of the file's format that came with the opset.
        ir_version=8,
        producer_name="digits_jax",
        doc_string=describe(network)["preprocessing"],
    )
    about = {name: json.dumps(describe(network)[name]) for name in _PROPERTIES}
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes of a graph while it is written."""

    def __init__(self, onnx):
        self._onnx, self.nodes, self.arrays = onnx, [], []

    def add(self, kind, inputs, output=None, **attributes):
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name, array):
        self.arrays.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def member(self, layers, prefix):
        """Adds the layers of a network; returns the name of its logits."""
        x, channels_first = "images", False
        for i, layer in enumerate(layers):
            arrays, name = layer.arrays, f"{prefix}{i}_"
            if layer.kind == "flatten":
                if channels_first:
                    x = self.add("Transpose", [x], perm=[0, 2, 3, 1])
                x = self.add("Flatten", [x], axis=1)
                continue
            if not channels_first and layer.kind in ("space_to_depth", "conv", "max_pool"):
                x, channels_first = self.add("Transpose", [x], perm=[0, 3, 1, 2]), True
            if layer.kind == "space_to_depth":
                # With one channel, ONNX's order of the depth is ours.
                x = self.add("SpaceToDepth", [x], blocksize=2)
            elif layer.kind == "conv":
                kernel = self.constant(f"{name}kernel", arrays["kernel"].transpose(3, 2, 0, 1))
                bias = self.constant(f"{name}bias", arrays["bias"])
                x = self.add("Conv", [x, kernel, bias], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
            elif layer.kind == "max_pool":
                x = self.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            elif layer.kind == "scale":
                shape = (-1, 1, 1) if channels_first else (-1,)
                for kind, part in (("Mul", "factor"), ("Add", "offset")):
                    x = self.add(kind, [x, self.constant(name + part, arrays[part].reshape(shape))])
            elif layer.kind == "relu":
                x = self.add("Relu", [x])
            else:
                kernel = self.constant(f"{name}kernel", arrays["kernel"])
                x = self.add("Gemm", [x, kernel, self.constant(f"{name}bias", arrays["bias"])])
        return x


def write_onnx(network: Network, path: Path, calibration: np.ndarray | None = None) -> None:
    """Writes a network, whole or not at all.

    Args:
      network: any.
      path: of the file.
      calibration: float32 [n, 28, 28, 1] in [0, 1], training images: quantize to int8, the
        ranges of the activations being those that these images have. None: float32.

    Raises:
      DataError: onnx, or for int8 onnxruntime, isn't installed.

    Reference:
      Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
      Only Inference, 2018: post-training quantization, weights by channel.
    """
    model = to_onnx(network)
    if calibration is not None:
        model = _quantized(model, calibration[:CALIBRATION_IMAGES])
    data = model.SerializeToString()
    replace_file(path, lambda file: file.write(data))


def _quantized(model, images):
    quantization = need("onnxruntime.quantization")
    onnx = need("onnx")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._batches = iter(np.array_split(images, max(1, len(images) // 100)))

        def get_next(self):
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch}

    logging.getLogger().setLevel(logging.ERROR)  # It warns that it likes models preprocessed.
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


def onnx_logits(path: Path, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """What onnxruntime answers with a file.

    Args:
      path: of the file.
      images: float32 [n, 28, 28, 1] in [0, 1].
      batch_size: images at once.

    Returns:
      float32 [n, classes].

    Raises:
      DataError: onnxruntime isn't installed.
    """
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    starts = range(0, len(images), batch_size)
    return np.concatenate(
        [session.run(["logits"], {"images": images[i : i + batch_size]})[0] for i in starts]
    )
