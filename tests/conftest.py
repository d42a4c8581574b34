"""Shared by all tests: fake devices, strict JAX."""

import os

# Before JAX starts its backend: 8 CPU devices, so that every parallel mode is tested anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("MPLBACKEND", "Agg")
# Workers share the cores, and OpenBLAS's threads wait in a loop: a third of the CPU time of
# tests/golden/test_golden_pictures.py.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import signal
from pathlib import Path

import jax
import programs
import pytest
from browser import browser, visit  # noqa: F401 - fixtures
from programs import here, home, trained  # noqa: F401 - fixtures

# A script's background job ignores Ctrl-C, and so does every process that it starts: those that a
# test interrupts would never end. A handler isn't inherited: the default takes its place.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile much and compute little. Code compiled with optimizations runs in test_programs.
jax.config.update("jax_disable_most_optimizations", True)
jax.devices()  # Started here, or the first `fit` would choose the number of devices.

REPOSITORY = Path(__file__).resolve().parent.parent
MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="store today's results")


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Equal programs are compiled once in a session, by whichever worker."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    programs.CACHE = root / "cache"
    jax.config.update("jax_compilation_cache_dir", str(root / "xla"))
    # A program that is called in this process leaves it at that.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(root / "xla")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def _restore_signal_handlers():
    """A program leaves its signal handlers in place, as its process is about to end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with the four MNIST files; skips where there is none."""
    candidates = [os.environ.get("DIGITS_JAX_DATA_DIR"), REPOSITORY.parent / "shared/data/mnist"]
    for folder in (Path(c) for c in candidates if c):
        if all((folder / name).is_file() for name in MNIST_FILES):
            return folder
    pytest.skip("the MNIST files are not here: set DIGITS_JAX_DATA_DIR to their folder")
