"""The synthetic data set that is larger than memory, small."""

import numpy as np
import pytest

from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from experiments import large_data
from experiments.large_data import Arguments, write_large

SIZES = {"gigabytes": 0.0012, "shard_megabytes": 0.1}


@pytest.fixture(autouse=True)
def _few_to_test(monkeypatch):
    monkeypatch.setattr(large_data, "TEST_COUNT", 200)


def test_it_is_a_stock_data_set_and_repeatable(tmp_path):
    import tensorflow_datasets as tfds

    folders = [write_large(Arguments(tmp_path / name, **SIZES)) for name in ("a", "b")]
    files = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 2 + 11 + 2  # what tfds writes about it, train, test
    for name in files[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    builder = tfds.builder_from_directory(folders[0])
    source = builder.as_data_source("train")
    dataset = load_dataset("tfds/large_digits", tmp_path / "a", input="stream")
    assert len(source) == 1024 == len(dataset.train) + len(dataset.validation)
    assert len(dataset.test) == 200
    stored = {source[index]["image"].tobytes(): source[index]["label"] for index in range(30)}
    images, labels = dataset.train.rows(np.arange(20))
    assert all(
        stored[image.tobytes()] == label for image, label in zip(images, labels, strict=True)
    )
    assert len(np.unique(labels)) > 5
    assert 160 < images.max(axis=(1, 2, 3)).mean() < 256
    assert 20 < np.median(images) < 44  # noise, up to 63


def test_another_seed_is_another_data_set(tmp_path):
    sums = set()
    for seed in (0, 1):
        write_large(Arguments(tmp_path / str(seed), seed=seed, **SIZES))
        sums.add(load_dataset("tfds/large_digits", tmp_path / str(seed), input="stream").sha256)
    assert len(sums) == 2


def test_what_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(DigitsError, match="give at least"):
        write_large(Arguments(tmp_path, gigabytes=1e-6))
    with pytest.raises(DigitsError, match="GB free, and"):
        write_large(Arguments(tmp_path, gigabytes=1e6))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(large_data, "write_metadata", fail)
    with pytest.raises(OSError, match="No space left"):
        write_large(Arguments(tmp_path, **SIZES))
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setattr(large_data, "TEST_COUNT", 200)
    write_large(Arguments(tmp_path, **SIZES))
    with pytest.raises(DigitsError, match="is there already"):
        write_large(Arguments(tmp_path, **SIZES))
