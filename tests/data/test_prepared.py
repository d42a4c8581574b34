"""What can be wrong with prepared data sets and their files: one line each."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from prepared_sets import assert_same, write_prepared

from digits_jax.data import records
from digits_jax.data.datasets import load_dataset
from digits_jax.data.records import Layout, RecordSplit
from digits_jax.data.stream import open_stream
from digits_jax.errors import DigitsError

quick = settings(deadline=None, max_examples=25)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tfds/nothing", r"no such prepared data set in .*\(there: tfds/own:1\.0\.0\)"),
        ("tfds/own:2.0.0", "no such prepared data set"),
        ("tfds/own:1", "give tfds/NAME or tfds/NAME:VERSION"),
        ("tfds/../own", "give tfds/NAME or tfds/NAME:VERSION"),
        ("tfds/", "give tfds/NAME or tfds/NAME:VERSION"),
        ("tfds/mnist", "give --dataset=mnist"),
        ("digits", "give --input=memory"),
    ],
)
def test_names_that_cannot_be_streamed(own, name, said):
    with pytest.raises(DigitsError, match=said) as caught:
        load_dataset(name, own[0], input="stream")
    assert "\n" not in str(caught.value)


def test_unknown_input(own):
    with pytest.raises(DigitsError, match="--input=disk: allowed are memory, stream"):
        load_dataset("tfds/own", own[0], input="disk")


def wrong_sets():
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(shape=(28, 28, 1)), tfds.features.ClassLabel(num_classes=10)
    return {
        "wide": {"image": tfds.features.Image(shape=(28, 32, 1)), "label": label},
        "coloured": {"image": tfds.features.Image(shape=(28, 28, 3)), "label": label},
        "unnamed": {"picture": image, "label": label},
        "unlabelled": {"image": image, "label": tfds.features.Scalar(np.int64)},
    }


@pytest.mark.parametrize("wrong", ["wide", "coloured", "unnamed", "unlabelled"])
def test_wrong_features_are_named(wrong, tmp_path):
    write_prepared(tmp_path, features=wrong_sets()[wrong], counts={"train": 12, "test": 3})
    with pytest.raises(DigitsError, match=r"has the features .*; needed are image") as caught:
        load_dataset("tfds/own", tmp_path, input="stream")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"train": 24}, "and no test"),
        ({"train": 11, "test": 3}, "11 training and 3 test examples"),
    ],
)
def test_splits_that_are_needed(counts, said, tmp_path):
    write_prepared(tmp_path, counts=counts, shards=1)
    with pytest.raises(DigitsError, match=said):
        load_dataset("tfds/own", tmp_path, input="stream")


def test_another_format(broken):
    root, path = broken
    info = path.with_name("dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DigitsError, match="tfrecord format, which can't be read in any order"):
        load_dataset("tfds/own", root, input="stream")
    info.write_text("{")
    with pytest.raises(DigitsError, match="can't be read") as caught:
        load_dataset("tfds/own", root, input="stream")
    assert "\n" not in str(caught.value)


def remove(path):
    path.unlink()


def empty(path):
    os.truncate(path, 0)


def cut(path):
    os.truncate(path, path.stat().st_size - 100)


def swap(path):
    shutil.copyfile(path.with_name("own-test.array_record-00000-of-00003"), path)


@pytest.mark.parametrize("harm", [remove, empty, cut, swap], ids=lambda harm: harm.__name__)
def test_harmed_files_are_noticed_at_the_start(broken, harm):
    root, path = broken
    harm(path)
    with pytest.raises(DigitsError, match=path.name) as caught:
        load_dataset("tfds/own", root, input="stream")
    assert "\n" not in str(caught.value)


def all_batches(stream):
    for step in range(23):
        yield stream.batch(step)


@quick
@given(place=st.integers(1_000, 45_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(own, both, place, bit):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(own[0], folder, dirs_exist_ok=True)
        (path,) = Path(folder).rglob("own-train.array_record-00001-of-00003")
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << bit
        path.write_bytes(content)
        try:
            train = load_dataset("tfds/own", folder, input="stream").train
            images, labels = train.rows(np.arange(138))
        except DigitsError as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(images, both[0].train.images)
            np.testing.assert_array_equal(labels, both[0].train.labels)
            return
        assert re.match(rf"{re.escape(str(path))} can't be read \([^\n]+$", said)


def test_flipped_bytes_are_noticed_in_training(broken):
    root, path = broken
    dataset = load_dataset("tfds/own", root, input="stream")
    content = bytearray(path.read_bytes())
    for place in range(1_000, 45_000, 500):  # one in each record, at least
        content[place] ^= 255
    path.write_bytes(content)
    with (
        open_stream(dataset.train, seed=0, batch_size=6) as stream,
        pytest.raises(DigitsError, match=f"{path.name} can't be read") as caught,
    ):
        list(all_batches(stream))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("many", [2, 128])
def test_a_file_that_is_cut_under_way_is_named(many, broken, monkeypatch):
    monkeypatch.setattr(records, "MANY", many)
    root, path = broken
    dataset = load_dataset("tfds/own", root, input="stream")
    os.truncate(path, 1_000)
    with (
        open_stream(dataset.train, seed=0, batch_size=6) as stream,
        pytest.raises(DigitsError, match=f"{path.name} can't be read"),
    ):
        list(all_batches(stream))


def test_a_file_that_is_deleted_under_way_is_still_read(broken, both):
    root, path = broken
    dataset = load_dataset("tfds/own", root, input="stream")
    path.unlink()
    with open_stream(dataset.train, seed=0, batch_size=6) as stream:
        whole = list(all_batches(stream))
    with open_stream(both[0].train, seed=0, batch_size=6) as stream:
        for one, other in zip(whole, all_batches(stream), strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("harm", ["label", "pixels", "no png", "no image"])
def test_records_of_another_kind(harm, tmp_path):
    from tensorflow_datasets.proto import tf_example_pb2

    from digits_jax.data.originals import encode_png

    folder, _ = write_prepared(tmp_path, shards=1)
    png = {"pixels": encode_png(np.zeros((28, 30), np.uint8)), "no png": b"?"}
    example = tf_example_pb2.Example()
    if harm != "no image":
        image = png.get(harm, encode_png(np.zeros((28, 28), np.uint8)))
        example.features.feature["image"].bytes_list.value.append(image)
    label = 10 if harm == "label" else 3
    example.features.feature["label"].int64_list.value.append(label)
    path = folder / "own-train.array_record-00000-of-00001"
    split = RecordSplit([path], [150], Layout(10))
    with pytest.raises(DigitsError, match=rf"{path.name} can't be read \([^\n]+\)"):
        split._decode([example.SerializeToString()], np.zeros(1, np.int64))
