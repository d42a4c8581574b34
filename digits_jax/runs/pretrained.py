"""The trained networks that the package carries, by name.

pretrained/NAME.npz    the variables: int8 kernels with a scale for each output, or float16
pretrained/NAME.json   its card, and what else a network has

`python -m experiments.train_pretrained` trains them and writes these files.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_jax.errors import CheckpointError, ConfigError, shown
from digits_jax.files import read_npz, replace_file

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).with_name("pretrained")
DEFAULT = "cnn"


def pretrained_names() -> list[str]:
    """Lists the networks, the default one first."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    return sorted(names, key=lambda name: name != DEFAULT)


def find_pretrained(source: str | Path) -> str | None:
    """Returns the pretrained network that a word of the user's names; None for a path.

    Raises:
      CheckpointError: neither is there.
    """
    names = pretrained_names()
    if Path(source).exists():
        return None
    if str(source) in names:
        return str(source)
    raise CheckpointError(
        f"{shown(str(source))}: no such folder; give the folder of a run, or {' or '.join(names)}"
    )


def read_card(name: str) -> dict[str, Any]:
    """Reads a network's card: "name", "parameters", "bytes", "test_accuracy" and so on.

    Raises:
      ConfigError: there is none of that name.
    """
    names = pretrained_names()
    if name not in names:
        raise ConfigError(f"{name}: no such pretrained network; give {' or '.join(names)}")
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def read_variables(path: Path) -> dict[str, Any]:
    """Reads {"params": ..., "batch_stats": ...} in float32, as `write_variables` rounded them."""
    import numpy as np
    from flax.traverse_util import unflatten_dict

    arrays = read_npz(path)
    flat = {
        tuple(name.split(".")): array.astype(np.float32) * arrays.get(f"{name}/scale", 1)
        for name, array in arrays.items()
        if not name.endswith("/scale")
    }
    return unflatten_dict(flat)


def write_variables(variables: Mapping[str, Any], path: Path, *, int8: bool) -> None:
    """Writes variables: kernels rounded by `quantize`, or all of them in float16."""
    import numpy as np
    from flax.traverse_util import flatten_dict

    arrays: dict[str, Any] = {}
    flat: dict[Any, Any] = flatten_dict(dict(variables))  # pyright: ignore[reportAssignmentType]
    for key, array in flat.items():
        name = ".".join(key)
        if not int8:
            arrays[name] = array.astype(np.float16)
        elif array.ndim == 1:
            arrays[name] = array
        else:
            arrays[name], arrays[f"{name}/scale"] = quantize(array)
    replace_file(path, lambda file: np.savez_compressed(file, **arrays))


def quantize(kernel: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """Rounds a kernel [..., out] to int8, symmetrically, with a float32 scale for each output.

    Examples:
      >>> import numpy as np
      >>> rounded, scale = quantize(np.array([[1.27, -2.54], [0.01, 0.5]], np.float32))
      >>> rounded.tolist(), [f"{each:.2f}" for each in scale]
      ([[127, -127], [1, 25]], ['0.01', '0.02'])

    Reference:
      Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
      Only Inference, 2018: weights by channel.
    """
    import numpy as np

    largest = np.abs(kernel).max(tuple(range(kernel.ndim - 1)))
    scale = np.maximum(largest / np.float32(127), np.float32(1e-12))
    return np.rint(kernel / scale).astype(np.int8), scale
