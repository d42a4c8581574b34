"""Where results are equal to the last bit: the same processor features, cores and versions."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import adapter

HERE = Path(__file__).resolve().parent
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "onnxruntime", "pillow")


def machine_key() -> dict[str, str]:
    """The key that `generate.py` records."""
    key = {name: version(name) for name in _PACKAGES}
    features = " ".join(adapter.processor_features())
    key["processor"] = hashlib.sha256(features.encode()).hexdigest()[:16]
    key["cores"] = str(len(os.sched_getaffinity(0)))
    return key


def recorded(name: str):
    """A stored JSON file."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def same_machine() -> bool:
    """Whether the results were recorded on a machine like this one."""
    return recorded("machine.json") == machine_key()
