"""A network as one ``.npz`` file, to be read with NumPy and the standard library alone.

The entry ``network`` is JSON text; it names the entry of every array:

    file = np.load("model.npz")
    network = json.loads(str(file["network"]))
    for layer in network["members"][0]:
        print(layer["kind"], {name: file[entry].shape for name, entry in layer["arrays"].items()})
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.deploy.network import KINDS, Layer, Network
from digits_jax.deploy.soundness import check_network, list_of_names
from digits_jax.errors import DataError, DigitsError, quoted, shown
from digits_jax.runs.folder import read_npz, replace_file

FORMAT = 1
PREPROCESSING = (
    "Grey images of 28x28 pixels, light ink on dark paper: 0 the paper, 1 the ink (uint8 divided "
    "by 255). The digit is scaled to fit 20x20 pixels, its aspect kept, and placed so that its "
    "centre of mass is the centre of the image; digits_jax.vision.digit does so for any picture."
)


LAYERS = {
    "space_to_depth": "[n, h, w, c] -> [n, h/2, w/2, 4c]: the pixels of each 2x2 block, by rows",
    "conv": "3x3, stride 1, one ring of zeros around; kernel [3, 3, in, out], then + bias [out]",
    "max_pool": "2x2 windows, stride 2; an odd last row or column is left out",
    "scale": "x * factor + offset, by channel (the last axis)",
    "relu": "max(x, 0)",
    "flatten": "[n, h, w, c] -> [n, h * w * c]",
    "dense": "x @ kernel + bias; kernel [in, out]",
    "ensemble": "several members: logits = log(mean over members of softmax(logits of a member))",
    "probabilities": "softmax(logits / temperature)",
}


def describe(network: Network) -> dict[str, Any]:
    """What a reader of any format must know: JSON values."""
    classes = list(network.class_names)
    return {
        "format": FORMAT,
        "name": network.name,
        "class_names": classes,
        "threshold": network.threshold,
        "temperature": network.temperature,
        "input": {"name": "images", "dtype": "float32", "shape": ["n", 28, 28, 1], "range": [0, 1]},
        "output": {"name": "logits", "dtype": "float32", "shape": ["n", len(classes)]},
        "preprocessing": PREPROCESSING,
        "facts": dict(network.facts),
    }


def write_archive(network: Network, path: Path) -> None:
    """Writes a network, whole or not at all."""
    arrays, members = {}, []
    for i, member in enumerate(network.members):
        members.append([])
        for j, layer in enumerate(member):
            entries = {name: f"{i}.{j}.{name}" for name in layer.arrays}
            members[-1].append({"kind": layer.kind, "arrays": entries})
            arrays |= {entries[name]: array for name, array in layer.arrays.items()}
    text = json.dumps({**describe(network), "kinds": LAYERS, "members": members})
    replace_file(path, lambda file: np.savez(file, network=np.array(text), **arrays))


def read_archive(path: Path) -> Network:
    """Reads a network.

    Raises:
      DataError: no such file, or it isn't one that `write_archive` wrote.
    """
    try:
        file = read_npz(path)
        about = json.loads(str(file["network"]))
        if about["format"] != FORMAT:
            raise DataError(
                f"{path}: is of format {shown(about['format'])}, and this program reads {FORMAT}"
            )
        network = Network(
            name=about["name"],
            class_names=list_of_names(about["class_names"]),
            members=tuple(
                tuple(_read_layer(layer, file) for layer in member) for member in about["members"]
            ),
            threshold=_number(about["threshold"]),
            facts=dict(about["facts"]),
            temperature=_number(about["temperature"]),
        )
        check_network(network)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from None
    except DigitsError:
        raise
    # By what is damaged: `read_npz`, json, or a value that isn't what is done with it.
    except Exception as error:
        raise DataError(
            f"{path}: isn't a network that digits_jax exported, or is damaged "
            f"({shown(str(error)) or type(error).__name__}); "
            "give a run's folder, or a file made by --format=npz"
        ) from None
    return network


def _number(value):
    if type(value) not in (int, float):
        raise ValueError(f"{quoted(value)} isn't a number")
    return float(value)


def _read_layer(layer, file):
    kind, entries = layer["kind"], layer["arrays"]
    if set(entries) != set(KINDS[kind]):
        raise ValueError(f"a {kind} layer has the arrays {sorted(KINDS[kind])}")
    arrays = {name: file[entry] for name, entry in entries.items()}
    for array in arrays.values():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError("an array isn't of finite float32")
    return Layer(kind, arrays)
