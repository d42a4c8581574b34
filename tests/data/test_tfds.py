"""Prepared tfds data sets and their streams: the same batches as from memory, or one clear line."""

import errno
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from unittest.mock import Mock

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from PIL import Image
from prepared_sets import assert_same, png, write_prepared
from programs import call, start
from small_mnist import (
    TEST,
    TRAIN,
    check,
    make_arrays,
    stand_in,
    stand_in_emnist,
    write_files,
)

from digits_jax.data import tfds as our_tfds
from digits_jax.data.cache import cache_path
from digits_jax.data.datasets import load_dataset
from digits_jax.data.pipeline import TrainStream
from digits_jax.data.splits import validation_indices
from digits_jax.data.tfds import RecordSplit, stored_order
from digits_jax.errors import DataError

quick = settings(deadline=None, max_examples=15)


def refused(said, name, root):
    """A data set is refused with one line."""
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(name, root, input="stream")
    assert "\n" not in str(caught.value)


# --- what is read --------------------------------------------------------------------------


def test_splits_and_rows(own, both):
    memory, stream = both
    assert (stream.name, stream.version, stream.num_classes) == ("tfds/own:1.0.0", "1.0.0", 10)
    assert stream.sha256 == memory.sha256
    assert stream.class_names == tuple("0123456789")
    assert (len(stream.train), len(stream.validation), len(stream.test)) == (138, 12, 24)
    images, labels = own[1]["train"]
    train, validation = validation_indices(150)
    for split, rows in ((memory.train, train), (stream.validation, validation)):
        np.testing.assert_array_equal(split.images, images[rows])
        np.testing.assert_array_equal(split.labels, labels[rows])
    np.testing.assert_array_equal(stream.test.images, own[1]["test"][0])
    assert isinstance(stream.train, RecordSplit)
    for rows in ([0], [5, 3, 5], np.arange(138)[::-1], np.empty(0, np.int64)):
        for dataset in both:
            found, numbers = dataset.train.rows(np.asarray(rows))
            assert (found.dtype, numbers.dtype) == (np.uint8, np.int32)
            np.testing.assert_array_equal(found, images[train][rows])
            np.testing.assert_array_equal(numbers, labels[train][rows])


@quick
@given(
    seed=st.integers(0, 2**31 - 1),
    batch_size=st.sampled_from([2, 6, 50, 138, 200]),
    share=st.sampled_from([(0, 1), (0, 2), (1, 2)]),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    threads=st.integers(1, 3),
    at_once=st.sampled_from([1, 50, 300]),
)
def test_batches_are_those_from_memory(both, seed, batch_size, share, steps, threads, at_once):
    """At any step, after any other: so a run can be resumed in the middle of an epoch."""
    memory, stream = (dataset.train for dataset in both)
    order = {"seed": seed, "batch_size": batch_size, "share": share}
    expected = TrainStream(memory, **order)
    with TrainStream(stream, threads=threads, at_once=at_once, **order) as batches:
        for step in [*steps, steps[-1] + 1, steps[-1] + 2]:
            assert_same(batches.batch(step), expected.batch(step))
            np.testing.assert_array_equal(batches.indices(step), expected.indices(step))


def test_validation_of_a_large_set_is_capped(own, monkeypatch):
    monkeypatch.setattr(our_tfds, "MAX_VALIDATION", 5)
    dataset = load_dataset("tfds/own", own[0], input="stream")
    assert (len(dataset.train), len(dataset.validation)) == (145, 5)


def test_versions_and_sha256(own, both, tmp_path):
    shutil.copytree(own[0], tmp_path, dirs_exist_ok=True)
    write_prepared(tmp_path, version="1.10.0", counts={"train": 151, "test": 24})
    write_prepared(tmp_path, version="1.9.0")
    newest = load_dataset("tfds/own", tmp_path, input="stream")
    older = load_dataset("tfds/own:1.0.0", tmp_path, input="stream")
    assert (newest.name, older.name) == ("tfds/own:1.10.0", "tfds/own:1.0.0")
    assert older.sha256 == both[0].sha256 != newest.sha256


def test_registered_data_set_from_prepared_files(tmp_path, monkeypatch, capsys):
    stand_in(monkeypatch)
    memory = check(load_dataset("mnist", write_files(tmp_path)))
    stream = check(load_dataset("mnist", tmp_path, input="stream"))
    assert isinstance(stream.train, RecordSplit)
    assert stream.sha256 == memory.sha256
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"preparing mnist in {tmp_path} (once) ...\n")
    # The stock reader of tfds reads it, and what it holds is enough.
    source = tfds.data_source("mnist", data_dir=tmp_path, split="train")
    assert [int(source[i]["label"]) for i in range(9)] == [
        make_arrays()["train_labels"][i] for i in stored_order("train", TRAIN)[:9]
    ]
    for path in (*tmp_path.glob("*.gz"), cache_path("mnist-3.0.1", tmp_path)):
        path.unlink()
    again = check(load_dataset("mnist", tmp_path))
    assert again.sha256 == memory.sha256


def test_emnist_is_prepared_as_its_files_are(tmp_path, monkeypatch):
    arrays = stand_in_emnist(monkeypatch, tmp_path)
    memory = load_dataset("emnist/letters", tmp_path)
    stream = load_dataset("emnist/letters", tmp_path, input="stream")
    images, labels = stream.train.rows(np.arange(110))
    np.testing.assert_array_equal(images, memory.train.images)
    np.testing.assert_array_equal(labels, memory.train.labels)
    source = tfds.builder_from_directory(tmp_path / "emnist/letters/3.1.0").as_data_source("test")
    for place, row in enumerate(stored_order("test", TEST)):
        np.testing.assert_array_equal(source[place]["image"][..., 0], arrays["test_images"][row])
        assert source[place]["label"] == arrays["test_labels"][row]


def test_stored_order_never_changes():
    # Of MNIST's test images: their labels are 2, 0, 4, 8, as tfds publishes it.
    assert stored_order("test", 10_000)[:4].tolist() == [9933, 5669, 163, 6686]


def test_a_full_disk_leaves_nothing(small, tmp_path, monkeypatch):
    load_dataset("mnist", write_files(tmp_path))
    before = sorted(tmp_path.rglob("*"))

    monkeypatch.setattr(
        Image.Image, "save", Mock(side_effect=OSError(errno.ENOSPC, "No space left"))
    )
    refused("mnist can't be prepared in .*No space left", "mnist", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


# --- what can be wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tfds/nothing", r"no such prepared data set in .*\(there: tfds/own:1\.0\.0\)"),
        ("tfds/own:2.0.0", "no such prepared data set"),
        ("tfds/../own", "give tfds/NAME or tfds/NAME:VERSION"),
        ("tfds/", "give tfds/NAME or tfds/NAME:VERSION"),
        ("tfds/mnist", "give dataset=mnist"),
    ],
)
def test_names_that_cannot_be_loaded(own, name, said):
    refused(said, name, own[0])


IMAGE, LABEL = tfds.features.Image(shape=(28, 28, 1)), tfds.features.ClassLabel(num_classes=10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": {"picture": IMAGE, "label": LABEL}}, "has other features .* must be image"),
        (
            {"features": {"image": IMAGE, "label": tfds.features.Scalar(np.int64)}},
            "has other features .* must be image",
        ),
        ({"counts": {"train": 24}}, "has the splits train .* needed are train and test"),
        ({"counts": {"train": 11, "test": 3}}, "11 training and 3 test examples"),
        ({"features": {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=2)}}, "label"),
        ({"encode": lambda image: png(image[:20])}, "not 28x28 grey"),
        ({"encode": lambda image: png(image.repeat(3, -1))}, "mode RGB"),
        ({"encode": lambda image: b"?"}, r"own-.*array_record-00000-of-00001 can't be read"),
    ],
    ids=range(8),
)
def test_stored_examples_that_are_no_digits_are_refused(changes, said, tmp_path):
    write_prepared(tmp_path, shards=1, **{"counts": {"train": 12, "test": 3}} | changes)
    refused(said, "tfds/own", tmp_path)


@pytest.mark.parametrize("name", ["tfds/own", "mnist"])
def test_a_custom_feature_is_not_imported(name, tmp_path, monkeypatch):
    """tfds would import the module: a data set from elsewhere must not run code."""
    folder, _ = write_prepared(tmp_path, name.removeprefix("tfds/"), "3.0.1")
    (tmp_path / "payload.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    file = folder / "features.json"
    features = json.loads(file.read_text())
    features["featuresDict"]["features"]["image"]["pythonClassName"] = "payload.Image"
    file.write_text(json.dumps(features))
    with pytest.raises(DataError, match="has other features"):
        load_dataset(name, tmp_path)
    assert "payload" not in sys.modules


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json", "label.labels.txt"])
def test_a_pipe_does_not_block(broken, file):
    root, path = broken
    path.with_name(file).unlink(missing_ok=True)
    os.mkfifo(path.with_name(file))
    refused(f"{file} is missing, no regular file", "tfds/own", root)


def test_incompatible_packages_are_not_called_damage(broken, monkeypatch):
    fails = Mock(side_effect=AttributeError("FieldDescriptor has no attribute 'label'"))
    monkeypatch.setattr(tfds, "builder_from_directory", fails)
    with pytest.raises(DataError, match=r"with protobuf .*install versions that fit") as caught:
        load_dataset("tfds/own", broken[0])
    assert "delete" not in str(caught.value)


def test_other_file_formats_are_refused(broken):
    root, path = broken
    info = path.with_name("dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    refused("in the tfrecord format: needed .* random access", "tfds/own", root)
    info.write_text("{")
    refused("can't be read", "tfds/own", root)


def test_damaged_files_are_noticed_at_the_start(broken):
    root, path = broken
    shutil.copyfile(path.with_name("own-test.array_record-00000-of-00003"), path)
    refused(path.name, "tfds/own", root)
    shutil.copyfile(path.with_name("own-train.array_record-00000-of-00003"), path)
    os.truncate(path, path.stat().st_size - 100)
    refused(path.name, "tfds/own", root)
    path.unlink()
    refused(path.name, "tfds/own", root)


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
        except DataError as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(images, both[0].train.images)
            np.testing.assert_array_equal(labels, both[0].train.labels)
            return
        assert re.match(rf"{re.escape(str(path))} can't be read \([^\n]+$", said)


def test_a_file_that_is_cut_under_way_is_named(broken):
    root, path = broken
    dataset = load_dataset("tfds/own", root, input="stream")
    os.truncate(path, 1_000)
    with (
        TrainStream(dataset.train, seed=0, batch_size=138) as stream,
        pytest.raises(DataError, match=f"{path.name} can't be read"),
    ):
        stream.batch(0)


def test_an_error_leaves_the_order_as_it_was(both):
    class Failing:
        """A split that fails once, at step 3."""

        def __len__(self):
            return len(memory)

        def rows(self, rows):
            if failing and set(rows.tolist()) == failing:
                failing.clear()
                raise OSError(5, "Input/output error")
            return memory.rows(rows)

    memory = both[0].train
    expected = TrainStream(memory, seed=0, batch_size=8)
    failing = set(expected.indices(3).tolist())
    with TrainStream(Failing(), seed=0, batch_size=8, at_once=8) as batches:
        for step in range(3):
            assert_same(batches.batch(step), expected.batch(step))
        with pytest.raises(OSError, match="Input/output"):
            batches.batch(3)
        for step in range(3, 6):
            assert_same(batches.batch(step), expected.batch(step))


# --- ends ----------------------------------------------------------------------------------


def test_threads_end_when_it_is_closed(both):
    with TrainStream(both[1].train, seed=0, batch_size=8, at_once=64) as stream:
        stream.batch(0)
        threads = [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]
        assert threads
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


FOREVER = """
import itertools, os, sys
os.setsid()
from digits_jax.data.datasets import load_dataset
from digits_jax.data.pipeline import TrainStream

train = load_dataset("tfds/own", sys.argv[1], input="stream").train
stream = TrainStream(train, seed=0, batch_size=8, at_once=64)
for step in itertools.count():
    stream.batch(step)
    if step == 20:
        print("reading", flush=True)
"""


def test_nothing_is_left_of_a_process_that_is_stopped(own, tmp_path):
    with start(tmp_path, None, own[0], script=FOREVER) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()  # if it didn't end; else leaving the block would never end
    assert process.returncode == -signal.SIGINT
    with pytest.raises(ProcessLookupError):  # no process of its group is alive
        os.killpg(process.pid, 0)


PEAK = """
import resource, sys
from digits_jax.data.datasets import load_dataset
from digits_jax.data.pipeline import TrainStream

train = load_dataset("tfds/large_digits", sys.argv[1], input="stream").train
with TrainStream(train, seed=0, batch_size=256) as stream:
    peaks = []
    for step in range(2 * len(train) // 256):
        stream.batch(step)
        if step in (20, 2 * len(train) // 256 - 1):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(len(train), *peaks)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux")
def test_memory_stays_bounded(tmp_path):
    """Two epochs of 63 MB of records, 50 MB of pixels, are read in a few MB."""
    from experiments.large_data import Arguments, write_large

    write_large(Arguments(folder=Path(tmp_path), gigabytes=0.075, shard_megabytes=10))
    status, out, err = call(tmp_path, None, tmp_path, script=PEAK)
    assert status == 0, err
    count, early, late = map(int, out.split())
    assert count * 784 > 47e6
    assert (late - early) * 1024 < 16e6
