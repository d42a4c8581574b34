"""Several data sets as one."""

import dataclasses

import numpy as np
import pytest

from digits_jax import RunOptions, TrainConfig, fit, load_dataset, read_run
from digits_jax.data import strokes
from digits_jax.data.mixing import mix_datasets
from digits_jax.data.splits import Dataset, Split
from digits_jax.errors import DataError


def dataset(name, value, sizes, class_names=("a", "b")):
    parts = {
        split: Split(np.full((n, 28, 28, 1), value, np.uint8), np.arange(n) % 2)
        for split, n in zip(("train", "validation", "test"), sizes, strict=True)
    }
    return Dataset(name, "1", "made here", name, class_names, **parts)


def test_splits_follow_each_other_and_training_images_are_repeated():
    mixed = mix_datasets([dataset("one", 1, (4, 2, 2)), dataset("two", 2, (2, 3, 2))], [1, 3])
    assert mixed.train.images[:, 0, 0, 0].tolist() == [1] * 4 + [2] * 6
    assert mixed.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert mixed.validation.images[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert mixed.test.labels.tolist() == [0, 1, 0, 1]
    assert (mixed.name, mixed.parts) == ("one+two", (("one", 2, 2), ("two", 3, 2)))


def test_data_sets_that_cannot_be_mixed_are_refused():
    one = dataset("one", 1, (4, 2, 2))
    with pytest.raises(DataError, match=r"^dataset=one\+two: the classes differ; give .* \(a, b\)"):
        mix_datasets([one, dataset("two", 2, (4, 2, 2), ("a", "c"))])
    with pytest.raises(DataError, match=r"^mix=1,2,3: must be 2 numbers from 1, one for each"):
        mix_datasets([one, one], [1, 2, 3])
    for times in ((0, 0), (1, -1), (1, 1.5), ("1", "2"), 2):
        with pytest.raises(DataError, match=r"^mix=.*: must be 2 numbers from 1, one for each"):
            mix_datasets([one, one], times)
    with pytest.raises(DataError, match=r"^mix=1,1000000: makes 4,000,004 training images; 4,000"):
        mix_datasets([one, one], [1, 1_000_000])


def test_names_with_plus_are_mixed(monkeypatch, tmp_path):
    monkeypatch.setattr(strokes, "COUNTS", {"train": 20, "validation": 10, "test": 10})
    mixed = load_dataset("digits+strokes", tmp_path, mix=(2, 3))
    assert (len(mixed.train), len(mixed.validation)) == (2 * 1257 + 3 * 20, 180 + 10)
    drawn = load_dataset("strokes", tmp_path)  # now of the cache
    np.testing.assert_array_equal(drawn.test.images, mixed.test.images[-10:])
    with pytest.raises(DataError, match=r"^mix=2: dataset=digits is one data set; leave mix out"):
        load_dataset("digits", mix=(2,))


def test_each_part_has_accuracies_of_its_own(tmp_path):
    digits = load_dataset("digits")
    one = dataclasses.replace(digits, name="one")
    two = dataclasses.replace(digits, name="two", test=Split(*digits.test.rows(np.arange(50))))
    config = TrainConfig(arch="mlp", preset="quick", epochs=0.5, hidden_sizes=(8,))
    result = fit(
        config, RunOptions(workdir=str(tmp_path / "run")), dataset=mix_datasets([one, two])
    )
    run = read_run(tmp_path / "run")
    right = run.logits.argmax(-1) == run.labels
    parts = result.results["parts"]
    assert parts["one"]["test_accuracy"] == pytest.approx(right[:360].mean())
    assert parts["two"]["test_accuracy"] == pytest.approx(right[360:].mean())
    assert parts["one"]["validation_accuracy"] == parts["two"]["validation_accuracy"]


def test_the_preset_for_handwriting_mixes_writers():
    config = TrainConfig(preset="handwriting")
    assert config.sources() == ("mnist+digits+strokes", (1, 5, 1))
    assert TrainConfig(preset="handwriting", dataset="digits").sources() == ("digits", None)
