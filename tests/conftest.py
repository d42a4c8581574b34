"""Shared by all tests: fake devices, strict JAX."""

import os

# Before JAX starts its backend: 8 CPU devices, so that every parallel mode is tested anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).resolve().parent.parent
MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with the four MNIST files; skips where there is none."""
    candidates = [os.environ.get("DIGITS_JAX_DATA_DIR"), REPOSITORY.parent / "shared/data/mnist"]
    for folder in (Path(c) for c in candidates if c):
        if all((folder / name).is_file() for name in MNIST_FILES):
            return folder
    pytest.skip("the MNIST files are not here: set DIGITS_JAX_DATA_DIR to their folder")
