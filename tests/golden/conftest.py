"""Results stored in this folder; `pytest tests/golden --record` replaces them by today's."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from digits_jax.hardware import processor_features

HERE = Path(__file__).resolve().parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pillow")


@pytest.fixture(scope="module")
def golden(request):
    """A function of (name, what was found) that returns what is stored: JSON or an array."""
    path = HERE / request.module.__name__.removeprefix("test_golden_")
    texts, arrays = path.with_suffix(".json"), path.with_suffix(".npz")
    values = json.loads(texts.read_text(encoding="utf-8")) if texts.exists() else {}
    if arrays.exists():
        with np.load(arrays) as file:
            values |= file
    recording = request.config.getoption("--record")

    def stored(name, found):
        if recording:
            values[name] = found
        return values[name]

    yield stored
    of_numpy = {name: each for name, each in values.items() if isinstance(each, np.ndarray)}
    rows = [f"{json.dumps(n)}:{json.dumps(v)}" for n, v in values.items() if n not in of_numpy]
    if recording and rows:
        texts.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    if recording and of_numpy:
        np.savez_compressed(arrays, **of_numpy)


@pytest.fixture(scope="session")
def same_machine(request) -> bool:
    """Whether results are equal to the last bit: the same processor, cores and versions."""
    key = {name: version(name) for name in PACKAGES}
    features = " ".join(sorted(processor_features()))
    key["processor"] = hashlib.sha256(features.encode()).hexdigest()[:16]
    key["cores"] = str(len(os.sched_getaffinity(0)))
    path = HERE / "machine.json"
    if request.config.getoption("--record"):
        path.write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8")) == key
