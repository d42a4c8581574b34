"""The trained networks that the package carries, by name.

pretrained/NAME.npz    the variables: int8 kernels with a scale for each output, or float16
pretrained/NAME.json   its card, and what else a `Network` has

`python -m experiments.pretrained` trains them and writes these files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from digits_jax.deploy.fold import quantize
from digits_jax.deploy.network import RUN_FACTS, SETTINGS, Member, Network
from digits_jax.errors import ConfigError
from digits_jax.runs.folder import read_npz, replace_file

FOLDER = Path(__file__).with_name("pretrained")
DEFAULT = "cnn"


def pretrained_names() -> list[str]:
    """Lists the networks, the default one first."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    return sorted(names, key=lambda name: name != DEFAULT)


def read_card(name: str) -> dict[str, Any]:
    """Reads a network's card: "name", "parameters", "bytes", "test_accuracy" and so on.

    Raises:
      ConfigError: there is none of that name.
    """
    names = pretrained_names()
    if name not in names:
        raise ConfigError(f"{name}: no such pretrained network; give {' or '.join(names)}")
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def load_pretrained(name: str = DEFAULT) -> Network:
    """Loads a network that the package carries; raises a ConfigError where there is none."""
    return unpack(read_card(name), FOLDER / f"{name}.npz")


def unpack(card: dict[str, Any], path: Path) -> Network:
    """Makes the network of a card and of a file of arrays, as `pack` makes them."""
    arrays = read_npz(path)
    variables = {
        tuple(path.split(".")): array.astype(np.float32) * arrays.get(f"{path}/scale", 1)
        for path, array in arrays.items()
        if not path.endswith("/scale")
    }
    return Network(
        name=card["name"],
        class_names=tuple(card["class_names"]),
        members=(Member(card["settings"], unflatten_dict(variables)),),
        threshold=card["threshold"],
        facts={"runs": [card["run"]]},
        temperature=card["temperature"],
    )


def pack(network: Network, path: Path, *, int8: bool) -> dict[str, Any]:
    """Writes the arrays of a network of one member; returns what its card holds of the network.

    Args:
      network: of one run.
      path: of the ``.npz`` file.
      int8: kernels are rounded by `quantize`; otherwise all arrays to float16.
    """
    (member,), (run,) = network.members, network.facts["runs"]
    arrays: dict[str, Any] = {}
    flat: dict[Any, Any] = flatten_dict(dict(member.variables))  # pyright: ignore[reportAssignmentType]
    for key, array in flat.items():
        name = ".".join(key)
        if not int8:
            arrays[name] = array.astype(np.float16)
        elif array.ndim == 1:
            arrays[name] = array
        else:
            arrays[name], arrays[f"{name}/scale"] = quantize(array)
    replace_file(path, lambda file: np.savez_compressed(file, **arrays))
    facts = [name for names in RUN_FACTS for name in names.split()]
    config = {name: run["config"][name] for name in ("optimizer", "learning_rate", "augment")}
    return {
        "name": network.name,
        "parameters": network.num_params,
        "bytes": path.stat().st_size,
        "class_names": network.class_names,
        "threshold": network.threshold,
        "temperature": network.temperature,
        "settings": {name: member.settings[name] for name in SETTINGS if name in member.settings},
        "run": {**{name: run[name] for name in facts}, "config": config},
    }
