"""A network as a list of plain layers, for what can't run JAX: npz, ONNX and the web page.

`to_layers` gives the network as it was trained, `fold_batch_norm` the same without "batch_norm".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# What a layer of each kind does with its arrays; archives hold this text for their readers.
KINDS = {
    "space_to_depth": "[n, h, w, c] -> [n, h/2, w/2, 4c]: the pixels of each 2x2 block, by rows",
    "conv": "3x3, stride 1, one ring of zeros around; kernel [3, 3, in, out], then + bias, if any",
    "max_pool": "2x2 windows, stride 2; an odd last row or column is left out",
    "batch_norm": "(x - mean) / sqrt(var + 1e-5) * scale + bias, by channel (the last axis)",
    "scale": "x * factor + offset, by channel: a folded batch_norm",
    "relu": "max(x, 0)",
    "flatten": "[n, h, w, c] -> [n, h * w * c]",
    "dense": "x @ kernel + bias, if any; kernel [in, out]",
}
BATCH_NORM_EPSILON = 1e-5  # flax.linen.BatchNorm's default


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: one of ``KINDS``, and its arrays by the names in its text."""

    kind: str
    arrays: Mapping[str, Any] = field(default_factory=dict)


def to_layers(settings: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Layer]:
    """Lists the layers of an `MLP` or a `CNN`.

    Args:
      settings: of `digits_jax.models.build.build_model`.
      variables: "params" and, with BatchNorm, "batch_stats" of the module. The leaves, arrays or
        anything else, become those of the layers.

    Examples:
      >>> names = {"params": {"logits": {"kernel": "a", "bias": "b"}}}
      >>> to_layers({"arch": "mlp", "batch_norm": False, "hidden_sizes": []}, names)[1]
      Layer(kind='dense', arrays={'kernel': 'a', 'bias': 'b'})
    """
    params = variables["params"]

    def weighted(kind: str, name: str, norm: str, *, pooled: bool = False) -> list[Layer]:
        layers = [Layer(kind, params[name])]
        if pooled:
            layers.append(Layer("max_pool"))
        if settings["batch_norm"]:
            arrays = {**params[norm], **variables["batch_stats"][norm]}
            layers.append(Layer("batch_norm", arrays))
        return [*layers, Layer("relu")]

    layers = []
    if settings["arch"] == "mlp":
        layers.append(Layer("flatten"))
        for i in range(len(settings["hidden_sizes"])):
            layers += weighted("dense", f"hidden_{i}", f"norm_{i}")
    else:
        if settings.get("space_to_depth", True):
            layers.append(Layer("space_to_depth"))
        for i in range(len(settings["channels"])):
            for j in range(settings["convs_per_block"]):
                pooled = j == settings["convs_per_block"] - 1
                layers += weighted("conv", f"conv_{i}_{j}", f"norm_{i}_{j}", pooled=pooled)
        layers.append(Layer("flatten"))
        if settings["dense_size"]:
            layers += weighted("dense", "dense", "norm_dense")
    return [*layers, Layer("dense", params["logits"])]


def fold_batch_norm(layers: Iterable[Layer]) -> list[Layer]:
    """Folds each BatchNorm into the layer before it, or makes it a "scale" behind a max-pooling.

    Each convolution and dense layer of the result has a bias; all arrays are float32.

    Examples:
      >>> norm = {"scale": np.ones(1), "bias": np.zeros(1), "mean": np.ones(1), "var": np.ones(1)}
      >>> dense = Layer("dense", {"kernel": np.ones((2, 1))})
      >>> [folded] = fold_batch_norm([dense, Layer("batch_norm", norm)])
      >>> folded.arrays["kernel"].round(4).tolist(), folded.arrays["bias"].round(4).tolist()
      ([[1.0], [1.0]], [-1.0])
    """
    folded: list[Layer] = []
    for layer in layers:
        if layer.kind != "batch_norm":
            arrays = {name: np.asarray(array, np.float32) for name, array in layer.arrays.items()}
            if "kernel" in arrays:
                kernel = arrays["kernel"]
                no_bias = np.zeros(kernel.shape[-1], np.float32)
                arrays = {"kernel": kernel, "bias": arrays.get("bias", no_bias)}
            folded.append(Layer(layer.kind, arrays))
            continue
        # In float64: the result is exact to float32's rounding.
        norm = {name: np.asarray(array, np.float64) for name, array in layer.arrays.items()}
        factor = norm["scale"] / np.sqrt(norm["var"] + BATCH_NORM_EPSILON)
        offset = norm["bias"] - norm["mean"] * factor
        if folded[-1].kind == "max_pool":  # a negative factor doesn't commute with the maximum
            arrays, kind = {"factor": factor, "offset": offset}, "scale"
        else:
            last = folded.pop()
            kernel, bias = last.arrays["kernel"] * factor, last.arrays["bias"] * factor + offset
            arrays, kind = {"kernel": kernel, "bias": bias}, last.kind
        folded.append(Layer(kind, {name: a.astype(np.float32) for name, a in arrays.items()}))
    return folded


def multiply_adds(layers: Iterable[Layer]) -> int:
    """Counts the multiplications with an addition for one image of 28x28 pixels."""
    total, side = 0, 28
    for layer in layers:
        if layer.kind in ("space_to_depth", "max_pool"):
            side //= 2
        elif layer.kind == "conv":
            total += side**2 * layer.arrays["kernel"].size
        elif layer.kind == "dense":
            total += layer.arrays["kernel"].size
    return total
