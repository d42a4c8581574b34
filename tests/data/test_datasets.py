"""The registered data sets: where they are found, what can be wrong, and downloads."""

import dataclasses
import errno
import functools
import gzip
import http.server
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small_mnist import (
    NAMES,
    TEST,
    arrays_sha256,
    check,
    leftovers,
    stand_in,
    stand_in_emnist,
    write_files,
)

from digits_jax import files
from digits_jax.data.cache import cache_path
from digits_jax.data.datasets import DATASETS, load_dataset
from digits_jax.data.idx import read_idx
from digits_jax.data.originals import REGISTERED, UnavailableError
from digits_jax.errors import DataError

MNIST_SHA256 = "d8c5b5ec8410847a161c24e0ebd79c1e6d540f520fb32462aa8535cb4f348184"
KEY = "mnist-3.0.1"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refused(what, *args, **kwargs):
    """The one line with which the library refuses to load something."""
    with pytest.raises(DataError) as caught:
        load_dataset(*args, **kwargs)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names and folders ---------------------------------------------------------------------


def test_unknown_names_and_folders_are_refused(tmp_path, monkeypatch):
    message = refused(f"dataset=MINST: must be one of {', '.join(DATASETS)}", "MINST")
    assert "did you mean mnist?" in message
    assert "did you mean" not in refused("dataset=x: must be one of", "x")
    refused("input=disk: must be memory or stream", "mnist", input="disk")
    refused("input=stream: digits has no files", "digits", input="stream")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        for name in ("auto", "digits"):
            refused(f"data_dir={folder}: does not exist, is not a folder", name, folder)
    monkeypatch.setenv("DIGITS_JAX_DATA_DIR", str(tmp_path / "nowhere"))
    refused(f"DIGITS_JAX_DATA_DIR={tmp_path / 'nowhere'}: does not exist", "auto")


@pytest.mark.parametrize("name", REGISTERED)
def test_table_agrees_with_tfds(name, tmp_path):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    from digits_jax.data.tfds import STOCK_BUILDERS

    data = REGISTERED[name]
    stock = getattr(tfds.image_classification, STOCK_BUILDERS[data.base_name])
    assert (stock.name, str(stock.VERSION)) == (data.base_name, data.version)
    known = checksums.get_all_url_infos()
    for file, digest in data.sha256.items():
        assert known[data.urls[0] + file].checksum == digest
    builder = stock(data_dir=tmp_path, config=data.config)
    names = builder.info.features["label"].names
    if data.config:
        assert builder.builder_config.train_examples == data.train_count
        assert builder.builder_config.test_examples == data.test_count
    if name == "emnist/letters":
        assert data.class_names[0] + data.class_names[-1] == "AZ"  # tfds declares 37
    elif not data.config:
        assert tuple(names) == data.class_names
    else:
        assert len(names) == len(data.class_names)


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "mnist"])
def test_original_files_and_their_cache(small, tmp_path, monkeypatch, capsys, folder):
    root = tmp_path / "data"
    write_files(root / folder)
    monkeypatch.setenv("DIGITS_JAX_DATA_DIR", str(root))
    first = check(load_dataset("mnist"))
    assert str(root / folder) in first.source
    for path in (root / folder).glob("*.gz"):
        path.unlink()
    second = check(load_dataset("auto"))  # from the cache
    assert (second.name, second.notice, second.source) == ("mnist", "", first.source)
    assert second.sha256 == first.sha256
    assert capsys.readouterr() == ("", "")
    assert not leftovers(tmp_path)


def python(code, *argv, **pipes):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, *map(str, argv)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, **pipes)


def test_files_need_numpy_alone(tmp_path):
    write_files(tmp_path)
    code = (
        "import sys, pytest; from small_mnist import *\n"
        "for name in ('tensorflow_datasets', 'grain', 'sklearn', 'scipy', 'PIL', 'jax', 'ssl'):\n"
        "    sys.modules[name] = None\n"
        "from digits_jax.data.datasets import load_dataset\n"
        "stand_in(pytest.MonkeyPatch())\n"
        "for _ in range(2): check(load_dataset('mnist', sys.argv[1]))\n"
    )
    assert python(code, tmp_path).wait() == 0


@pytest.mark.mnist
def test_mnist_is_the_original(mnist_dir, tmp_path):
    arrays = {}
    for part, name in NAMES.items():
        (tmp_path / name).symlink_to(mnist_dir / name)
        shape = (-1, 28, 28) if part.endswith("images") else (-1,)
        content = gzip.decompress((mnist_dir / name).read_bytes())
        arrays[part] = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    for mnist in (load_dataset("mnist", tmp_path), load_dataset("mnist", tmp_path)):
        assert (mnist.version, mnist.class_names) == ("3.0.1", tuple("0123456789"))
        assert mnist.sha256 == MNIST_SHA256 == arrays_sha256(arrays)
    assert np.array_equal(mnist.test.images[..., 0], arrays["test_images"])


@pytest.mark.parametrize("prefix", ["", "emnist"])
def test_emnist_is_turned_upright_and_counted_from_zero(tmp_path, monkeypatch, prefix):
    arrays = stand_in_emnist(monkeypatch, tmp_path / prefix)
    letters = load_dataset("emnist/letters", tmp_path)
    upright = arrays["test_images"][:TEST].transpose(0, 2, 1)
    assert np.array_equal(letters.test.images[..., 0], upright)
    assert np.array_equal(letters.test.labels, arrays["test_labels"][:TEST].astype(int) - 1)
    assert (letters.num_classes, letters.class_names[letters.test.labels[2]]) == (26, "C")


def test_files_of_another_data_set_are_not_taken(small, tmp_path):
    with pytest.raises(UnavailableError, match="fashion_mnist is not in"):
        load_dataset("fashion_mnist", write_files(tmp_path))


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_files_that_are_damaged_missing_or_unpacked_are_named(small, tmp_path, name):
    path = write_files(tmp_path) / NAMES["train_images"]
    good = path.read_bytes()
    for bad in (good[:-100], good[:500] + b"?" + good[501:]):
        path.write_bytes(bad)
        refused(f"mnist: {path.name} in {tmp_path} are missing, damaged", name, tmp_path)
    path.unlink()
    refused(f"mnist: {path.name} in {tmp_path} are missing, damaged", name, tmp_path)
    for path in tmp_path.glob("*.gz"):
        path.unlink()
    (tmp_path / "train-images.idx3-ubyte").touch()
    refused("train-images.idx3-ubyte: isn't an IDX file", name, tmp_path)
    refused("train-images.idx3-ubyte is unpacked", "kmnist", tmp_path)


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_an_idx_file_or_refused(data, packed):
    try:
        array = read_idx(gzip.compress(data, mtime=0) if packed else data, "the file")
    except DataError as error:
        assert str(error).startswith("the file: ")  # noqa: PT017 - or it is right
    else:
        assert data == struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + bytes(
            array.reshape(-1)
        )


# --- the cache, and folders that can't be written ------------------------------------------


@settings(deadline=None, max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_cache_is_never_used(tmp_path_factory, place, bit, cut):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        load_dataset("mnist", write_files(root))
        path = cache_path(KEY, root)
        good = path.read_bytes()
        content, where = bytearray(good), int(place * len(good))
        content[where] ^= 1 << bit
        path.write_bytes(content[:where] if cut else content)
        check(load_dataset("mnist", root))
        assert path.read_bytes() in (good, content)  # made again, or a flag of no meaning


def read_only(patch, *folders):
    # Not by chmod: it doesn't bind root, as whom containers run.
    real = files.scratch_folder

    def scratch_folder(parent):
        if any(parent.is_relative_to(folder) for folder in folders):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(parent)

    patch.setattr(files, "scratch_folder", scratch_folder)


def test_a_cache_that_cannot_be_written(small, tmp_path, home, monkeypatch, capsys):
    """In a read-only folder it is put elsewhere; without room there is a notice."""
    root = write_files(tmp_path / "data")
    before = sorted(root.rglob("*"))
    read_only(monkeypatch, root)
    check(load_dataset("mnist", root))
    assert cache_path(KEY, home).is_file()
    cache_path(KEY, home).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", Mock(side_effect=FULL))
        check(load_dataset("mnist", root))
    assert "notice: mnist isn't cached: No space left" in capsys.readouterr().err
    read_only(monkeypatch, tmp_path)
    check(load_dataset("mnist", root))
    assert "notice: mnist isn't cached: no folder can be written" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before
    assert not leftovers(tmp_path)


def test_without_a_home_nothing_is_kept(small, tmp_path, monkeypatch, capsys):
    """As for a user of a container who has no name: no folder "~" in the current one."""
    root = write_files(tmp_path / "data")
    read_only(monkeypatch, root)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    check(load_dataset("mnist", root))
    assert capsys.readouterr().err.count("\n") == 1
    refused("mnist is not in any folder (data_dir isn't given, and HOME isn't set)", "mnist")
    refused("no such prepared data set in any folder", "tfds/own")
    assert list(tmp_path.iterdir()) == [root]


# --- downloads -----------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address and folder of a web server with the files of mnist."""
    folder = write_files(tmp_path / "served")
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}/"
        stand_in(monkeypatch, url=address)
        yield address, folder
        running.shutdown()
        thread.join()


def test_download_from_a_mirror(server, home, monkeypatch):
    urls = ("http://127.0.0.1:9/", server[0])  # nothing listens at the first
    data = dataclasses.replace(REGISTERED["mnist"], urls=urls)
    monkeypatch.setitem(REGISTERED, "mnist", data)
    dataset = check(load_dataset("auto"))
    assert (dataset.name, dataset.notice) == ("mnist", "")
    assert {path.name for path in (home / "mnist").iterdir()} == set(NAMES.values())
    assert not leftovers(home)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("absent", "404"), ("another", "isn't the original"), ("full", "No space left")],
)
def test_failed_download_leaves_nothing(fault, reason, server, home, monkeypatch):
    address, folder = server
    path = folder / NAMES["test_labels"]
    if fault == "absent":
        path.unlink()
    elif fault == "another":
        path.write_bytes(b"please log in")
    else:
        monkeypatch.setattr(Path, "replace", Mock(side_effect=FULL))
    assert reason in refused(f"can't be downloaded ({address}: ", "mnist")
    assert not list(home.rglob("*.gz"))
    assert not leftovers(home)
    digits = load_dataset("auto")
    assert (digits.name, address in digits.notice) == ("digits", True)


def test_without_a_network(monkeypatch, home):
    """The server refuses, never answers, or can't be looked up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        stand_in(monkeypatch, url=url)
        refused("no answer within", "mnist")
    digits = load_dataset("auto")
    assert (digits.name, "NOT MNIST" in digits.notice) == ("digits", True)
    message = refused("mnist is not in", "mnist")
    for word in (str(home), "refused", "data_dir", *NAMES.values()):
        assert word in message
    assert not home.exists()
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(30))
    stand_in(monkeypatch, url="http://data.example/")
    refused("no answer within", "mnist")
    done.set()


# --- other processes and signals -----------------------------------------------------------

WORKER = """
import sys, pytest
from small_mnist import check, stand_in
from digits_jax.data.datasets import load_dataset
import tensorflow_datasets
stand_in(pytest.MonkeyPatch())
print("ready", flush=True)
input()
print(check(load_dataset("mnist", sys.argv[1], input="stream")).sha256)
"""


def test_two_processes_prepare_at_once(tmp_path):
    write_files(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [python(WORKER, tmp_path, **pipes) for _ in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    sums = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(sums) == 1
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_scratch_folder(tmp_path, number):
    """Even if the handler that was there before never returns."""
    seen = []
    before = signal.signal(number, lambda *_: seen.append(list(tmp_path.iterdir())))
    try:
        with files.scratch_folder(tmp_path) as folder:
            assert folder.is_dir()
            signal.raise_signal(number)
            assert seen == [[]]
    finally:
        signal.signal(number, before)
    with files.scratch_folder(tmp_path) as folder:
        (folder / "file").touch()
    assert not list(tmp_path.iterdir())
