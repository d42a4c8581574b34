"""A network as one ``.npz`` file, to be read with NumPy and the standard library alone.

The entry ``network`` is JSON text; it names the entry of every array:

    file = np.load("model.npz")
    network = json.loads(str(file["network"]))
    for layer in network["members"][0]["layers"]:
        print(layer["kind"], {name: file[entry].shape for name, entry in layer["arrays"].items()})

The arrays are the trained parameters, so that `read_archive` gives the network as it was trained.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from digits_jax.deploy.fold import KINDS, to_layers
from digits_jax.deploy.network import Member, Network, validate
from digits_jax.errors import DataError, shown
from digits_jax.files import read_npz, replace_file

FORMAT = 2
PREPROCESSING = (
    "Grey images of 28x28 pixels, light ink on dark paper: 0 the paper, 1 the ink (uint8 divided "
    "by 255). The digit is scaled to fit 20x20 pixels, its aspect kept, and placed so that its "
    "centre of mass is the centre of the image; preprocess.py does so for any picture."
)
_OTHER_STEPS = {
    "ensemble": "several members: logits = log(mean over members of softmax(logits of a member))",
    "probabilities": "softmax(logits / temperature)",
}


def describe(network: Network) -> dict[str, Any]:
    """Returns what a reader of any format must know, as JSON values."""
    classes = list(network.class_names)
    return {
        "format": FORMAT,
        "name": network.name,
        "class_names": classes,
        "threshold": network.threshold,
        "temperature": network.temperature,
        "input": {"name": "images", "dtype": "float32", "shape": ["n", 28, 28, 1], "range": [0, 1]},
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["n", len(classes)]}],
        "preprocessing": PREPROCESSING,
        "facts": dict(network.facts),
    }


def write_archive(network: Network, path: Path) -> None:
    """Writes a network; the file appears complete or not at all."""
    arrays, members = {}, []
    for i, member in enumerate(network.members):
        flat = flatten_dict(member.variables)
        names = {key: ".".join([str(i), *key]) for key in flat}
        arrays |= {names[key]: array for key, array in flat.items()}
        layers = to_layers(member.settings, unflatten_dict(names))
        layers = [{"kind": layer.kind, "arrays": dict(layer.arrays)} for layer in layers]
        members.append({"settings": dict(member.settings), "layers": layers})
    text = json.dumps({**describe(network), "kinds": {**KINDS, **_OTHER_STEPS}, "members": members})
    replace_file(path, lambda file: np.savez(file, network=np.array(text), **arrays))


def read_archive(path: Path) -> Network:
    """Reads a network that `write_archive` wrote; raises a `DataError` for any other file."""
    try:
        arrays = read_npz(path)
        about = json.loads(str(arrays.pop("network")))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {shown(about['format'])}, not {FORMAT}")
        trees = unflatten_dict({tuple(name.split(".")): array for name, array in arrays.items()})
        members = [
            Member(member["settings"], trees.pop(str(i)))
            for i, member in enumerate(about["members"])
        ]
        if trees:
            raise ValueError(f"it holds arrays of no member: {shown(min(trees))}")
        network = Network(
            name=about["name"],
            class_names=tuple(about["class_names"]),
            members=tuple(members),
            threshold=float(about["threshold"]),
            facts=dict(about["facts"]),
            temperature=float(about["temperature"]),
        )
        validate(network)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from None
    # By what is damaged: `read_npz`, json, or a value of another type.
    except Exception as error:
        raise DataError(
            f"{path}: isn't a network that digits_jax exported, or is damaged "
            f"({shown(str(error)) or type(error).__name__}); "
            "give a run's folder, or a file made by --format=npz"
        ) from None
    return network
