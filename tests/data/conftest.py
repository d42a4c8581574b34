"""Small data sets for the tests that read such."""

import shutil

import pytest
from prepared_sets import write_prepared
from small_mnist import stand_in

from digits_jax.data import originals
from digits_jax.data.datasets import load_dataset


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Hides the user's data: the default folder is a new one, and there is no network."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("DIGITS_JAX_DATA_DIR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(originals, "REACH_SECONDS", 0.5)
    return tmp_path / "home"


@pytest.fixture
def small(monkeypatch):
    """A small data set in the place of mnist."""
    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A prepared data set of three files a split: its root, and what was stored."""
    root = tmp_path_factory.mktemp("prepared")
    _, arrays = write_prepared(root)
    return root, arrays


@pytest.fixture(scope="module")
def both(own):
    """The same data set in memory, and in its files."""
    return [load_dataset("tfds/own", own[0], input=way) for way in ("memory", "stream")]


@pytest.fixture
def broken(own, tmp_path):
    """A copy to damage: its root, and the middle file of train."""
    shutil.copytree(own[0], tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob("own-train.array_record-00001-of-00003")
    return tmp_path, path
