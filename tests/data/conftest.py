"""A small prepared data set for the tests that read such."""

import shutil

import pytest
from prepared_sets import write_prepared

from digits_jax.data.datasets import load_dataset


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A prepared data set of three files a split: its root, and what was stored."""
    root = tmp_path_factory.mktemp("prepared")
    _, arrays = write_prepared(root)
    return root, arrays


@pytest.fixture(scope="module")
def both(own):
    """The same data set from memory, and from its files."""
    return [load_dataset("tfds/own", own[0], input=way) for way in ("memory", "stream")]


@pytest.fixture
def broken(own, tmp_path):
    """A copy to damage: its root, and the middle file of train."""
    shutil.copytree(own[0], tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob("own-train.array_record-00001-of-00003")
    return tmp_path, path
