"""Training data read from files: the same batches as from memory, or one clear line."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from prepared_sets import assert_same, png_by_pillow, write_prepared
from programs import REPOSITORY

from digits_jax.data import prepared, records, splits
from digits_jax.data.datasets import load_dataset
from digits_jax.data.pipeline import TrainStream
from digits_jax.data.records import Layout, RecordSplit
from digits_jax.data.stream import PrefetchedStream, open_stream

quick = settings(deadline=None, max_examples=25)


def prefetching():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


# --- what comes ----------------------------------------------------------------------------


def test_what_is_held(own, both):
    check_what_is_held(own, both)


def test_reading_many_at_once_is_the_same(own, both, monkeypatch):
    monkeypatch.setattr(records, "MANY", 2)
    check_what_is_held(own, both)


def check_what_is_held(own, both):
    memory, stream = both
    assert (stream.name, stream.version, stream.num_classes) == ("tfds/own:1.0.0", "1.0.0", 10)
    assert stream.sha256 == memory.sha256
    assert stream.class_names == tuple("0123456789")
    assert (len(stream.train), len(stream.validation), len(stream.test)) == (138, 12, 24)
    images, labels = own[1]["train"]
    train, validation = splits.validation_indices(150)
    for split, rows in ((memory.train, train), (stream.validation, validation)):
        np.testing.assert_array_equal(split.images, images[rows])
        np.testing.assert_array_equal(split.labels, labels[rows])
    np.testing.assert_array_equal(stream.test.images, own[1]["test"][0])
    assert isinstance(stream.train, RecordSplit)
    for dataset in both:
        assert_rows(dataset.train, images[train], labels[train])


def assert_rows(split, images, labels):
    for rows in ([0], [5, 3, 5], np.arange(len(labels))[::-1], np.empty(0, np.int64)):
        found, numbers = split.rows(np.asarray(rows))
        assert (found.dtype, numbers.dtype, found.shape[1:]) == (np.uint8, np.int32, (28, 28, 1))
        np.testing.assert_array_equal(found, images[rows])
        np.testing.assert_array_equal(numbers, labels[rows])


@quick
@given(
    seed=st.integers(0, 2**31 - 1),
    batch_size=st.sampled_from([2, 6, 50, 138, 200]),
    share=st.sampled_from([(0, 1), (0, 2), (1, 2)]),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    threads=st.integers(1, 3),
    at_once=st.sampled_from([1, 50, 4096]),
)
def test_batches_are_those_from_memory(both, seed, batch_size, share, steps, threads, at_once):
    """At any step, after any other: so a run can be resumed in the middle of an epoch."""
    memory, stream = (dataset.train for dataset in both)
    order = {"seed": seed, "batch_size": batch_size, "share": share}
    expected = TrainStream(memory.images, memory.labels, **order)
    with PrefetchedStream(stream, threads=threads, at_once=at_once, **order) as batches:
        for step in [*steps, *range(steps[-1] + 1, steps[-1] + 5)]:
            assert_same(batches.batch(step), expected.batch(step))
            np.testing.assert_array_equal(batches.indices(step), expected.indices(step))


def test_open_stream_takes_either(both):
    kinds = []
    for dataset in both:
        with open_stream(dataset.train, seed=1, batch_size=8, share=(1, 2)) as stream:
            kinds.append(type(stream))
            last = stream.batch(17)
    assert kinds == [TrainStream, PrefetchedStream]
    assert last["image"].shape == (4, 28, 28, 1)


@pytest.mark.mnist
@pytest.mark.slow  # it is prepared twice
def test_mnist_is_the_same_from_files(mnist_dir, tmp_path):
    for path in mnist_dir.glob("*.gz"):
        shutil.copyfile(path, tmp_path / path.name)
    memory = load_dataset("mnist", tmp_path)
    stream = load_dataset("mnist", tmp_path, input="stream")
    assert stream.sha256 == memory.sha256
    images, labels = stream.train.rows(np.arange(55_000))
    np.testing.assert_array_equal(images, memory.train.images)
    np.testing.assert_array_equal(labels, memory.train.labels)
    shutil.rmtree(tmp_path / "mnist")  # what was decoded is still there
    assert len(load_dataset("mnist", tmp_path, input="stream").train) == 55_000


def test_pngs_of_other_programs(tmp_path):
    folder, arrays = write_prepared(tmp_path, encode=png_by_pillow)
    split = RecordSplit(sorted(folder.glob("*train*")), [50] * 3, Layout(10))
    assert_rows(split, *arrays["train"])


def test_transposed_and_counted_from_one(own):
    paths = sorted((own[0] / "own/1.0.0").glob("*test*"))
    images, labels = RecordSplit(paths, [8] * 3, Layout(12, -2, transposed=True)).rows(
        np.arange(24)
    )
    np.testing.assert_array_equal(images.transpose(0, 2, 1, 3), own[1]["test"][0])
    np.testing.assert_array_equal(labels, own[1]["test"][1] + 2)


def test_validation_of_a_large_set_is_capped(own, monkeypatch):
    monkeypatch.setattr(prepared, "MAX_VALIDATION", 5)
    dataset = load_dataset("tfds/own", own[0], input="stream")
    assert (len(dataset.train), len(dataset.validation)) == (145, 5)
    images, _ = own[1]["train"]
    held = {image.tobytes() for image in dataset.validation.images}
    rest = [image for image in images if image.tobytes() not in held]
    np.testing.assert_array_equal(dataset.train.rows(np.arange(145))[0], rest)


@quick
@given(count=st.integers(1, 300), size=st.integers(0, 40), chunk=st.integers(1, 50))
def test_lowest_words_are_the_first_in_order(count, size, chunk):
    size = min(size, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_CHUNK", chunk)
        found = splits.lowest_words(count, size)
    words = np.random.Philox(key=1998).random_raw(count)
    assert found.tolist() == sorted(sorted(range(count), key=lambda i: words[i])[:size])


def test_the_newest_version_unless_one_is_named(own, tmp_path):
    shutil.copytree(own[0], tmp_path, dirs_exist_ok=True)
    write_prepared(tmp_path, version="1.10.0")
    write_prepared(tmp_path, version="1.9.0")
    assert load_dataset("tfds/own", tmp_path, input="stream").name == "tfds/own:1.10.0"
    older = load_dataset("tfds/own:1.0.0", tmp_path, input="stream")
    assert (older.name, older.version) == ("tfds/own:1.0.0", "1.0.0")


def test_sha256_tells_data_sets_apart(own, both, tmp_path):
    write_prepared(tmp_path, counts={"train": 151, "test": 24})
    assert load_dataset("tfds/own", tmp_path, input="stream").sha256 != both[0].sha256
    assert load_dataset("tfds/own", own[0], input="stream").sha256 == both[0].sha256


def test_an_error_leaves_the_order_as_it_was(both, monkeypatch):
    memory, stream = (dataset.train for dataset in both)
    expected = TrainStream(memory.images, memory.labels, seed=0, batch_size=8)
    real, failing = RecordSplit.rows, set(expected.indices(3).tolist())

    def rows(self, indices):
        if failing and set(indices.tolist()) == failing:
            failing.clear()
            raise OSError(5, "Input/output error")
        return real(self, indices)

    monkeypatch.setattr(RecordSplit, "rows", rows)
    with PrefetchedStream(stream, seed=0, batch_size=8, at_once=8) as batches:
        for step in range(3):
            assert_same(batches.batch(step), expected.batch(step))
        with pytest.raises(OSError, match="Input/output"):
            batches.batch(3)
        for step in range(3, 6):
            assert_same(batches.batch(step), expected.batch(step))


# --- ends ----------------------------------------------------------------------------------


def test_threads_end_when_it_is_closed(both):
    with open_stream(both[1].train, seed=0, batch_size=8) as stream:
        stream.batch(0)
        assert prefetching()
    for thread in prefetching():
        thread.join(timeout=30)
        assert not thread.is_alive()


FOREVER = """
import itertools, sys
from digits_jax.data.datasets import load_dataset
from digits_jax.data.stream import open_stream

stream = open_stream(load_dataset("tfds/own", sys.argv[1], input="stream").train,
                     seed=0, batch_size=8)
for step in itertools.count():
    stream.batch(step)
    if step == 20:
        print("reading", flush=True)
"""


def started(script, *argv):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_process_that_is_stopped(own, number):
    with started(FOREVER, own[0]) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()  # where it didn't end; else leaving the block would wait for ever
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    with pytest.raises(ProcessLookupError):  # no process of its group is alive
        os.killpg(process.pid, 0)


PEAK = """
import resource, sys
from digits_jax.data.datasets import load_dataset
from digits_jax.data.stream import open_stream

train = load_dataset("tfds/large_digits", sys.argv[1], input="stream").train
with open_stream(train, seed=0, batch_size=256) as stream:
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
    with started(PEAK, tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    count, early, late = map(int, out.split())
    assert count * 784 > 47e6
    assert (late - early) * 1024 < 16e6
