"""The registered data sets: where they are found, what can be wrong, and downloads."""

import errno
import functools
import gzip
import hashlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small_mnist import (
    FILES,
    NAMES,
    TEST,
    TRAIN,
    check,
    leftovers,
    stand_in,
    stand_in_emnist,
    write_files,
)

from digits_jax.data import datasets, download, files
from digits_jax.data.datasets import DATASETS, cache_path, load_dataset
from digits_jax.data.originals import REGISTERED, UnavailableError, read_idx
from digits_jax.data.splits import validation_indices
from digits_jax.data.tfds import STOCK_BUILDERS
from digits_jax.errors import DataError

MNIST_SHA256 = "d8c5b5ec8410847a161c24e0ebd79c1e6d540f520fb32462aa8535cb4f348184"


def refused(what, *args, **kwargs):
    """The one line with which the library refuses to load something."""
    with pytest.raises(DataError) as caught:
        load_dataset(*args, **kwargs)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names and folders ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "hint"),
    [("minst", "mnist"), ("MNIST", "mnist"), ("emnist/leters", "emnist/letters"), ("x", "")],
)
def test_unknown_name_lists_the_allowed(given, hint):
    message = refused(f"dataset={given}: must be one of {', '.join(DATASETS)}", given)
    assert (f"did you mean {hint}?" in message) if hint else ("did you mean" not in message)


def test_folder_must_exist(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for name in ("auto", "digits"):
        refused("data_dir=", name, tmp_path / "nowhere")
        refused("is not a folder", name, tmp_path / "file")
    monkeypatch.setenv("DIGITS_JAX_DATA_DIR", str(tmp_path / "nowhere"))
    refused(f"DIGITS_JAX_DATA_DIR={tmp_path / 'nowhere'}: does not exist", "auto")


def test_input_must_be_known():
    refused("input=disk: must be one of memory, stream", "mnist", input="disk")
    refused("input=stream: reads files that tfds prepared", "digits", input="stream")


@pytest.mark.parametrize("name", REGISTERED)
def test_table_agrees_with_tfds(name, tmp_path):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    data = REGISTERED[name]
    stock = getattr(tfds.image_classification, STOCK_BUILDERS[data.base_name])
    assert (stock.name, str(stock.VERSION)) == (data.base_name, data.version)
    known = checksums.get_all_url_infos()
    for file, digest in data.sha256.items():
        assert known[data.url + file].checksum == digest
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
    assert not second.train.images.flags.writeable
    assert capsys.readouterr() == ("", "")
    assert not leftovers(tmp_path)


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
    run_python(code, tmp_path)


def run_python(code, *argv):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, *map(str, argv)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})


@pytest.mark.mnist
def test_mnist_is_the_original(mnist_dir, tmp_path):
    for path in mnist_dir.glob("*.gz"):
        (tmp_path / path.name).symlink_to(path)
    for mnist in (load_dataset("mnist", tmp_path), load_dataset("mnist", tmp_path)):
        assert (mnist.version, mnist.class_names) == ("3.0.1", tuple("0123456789"))
        assert mnist.sha256 == MNIST_SHA256
    total = hashlib.sha256()  # the documented sum, written again
    for split in (mnist.train, mnist.validation, mnist.test):
        total.update(f"|u1[{len(split)}, 28, 28, 1]".encode() + split.images.tobytes())
        total.update(f"<i4[{len(split)}]".encode() + split.labels.tobytes())
    assert total.hexdigest() == MNIST_SHA256

    def content(part, header):
        return np.frombuffer(gzip.decompress((mnist_dir / NAMES[part]).read_bytes())[header:], "u1")

    assert np.array_equal(mnist.test.images.reshape(-1), content("test_images", 16))
    assert np.array_equal(mnist.test.labels, content("test_labels", 8))
    images = content("train_images", 16).reshape(-1, 28, 28, 1)
    labels = content("train_labels", 8)
    splits = mnist.train, mnist.validation
    for split, rows in zip(splits, validation_indices(60_000), strict=True):
        assert np.array_equal(split.images, images[rows])
        assert np.array_equal(split.labels, labels[rows])


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
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_file_is_refused(small, tmp_path, name, damage):
    path = write_files(tmp_path) / NAMES["train_images"]
    good = path.read_bytes()
    bad = good[:-100] if damage == "cut" else good[:500] + b"?" + good[501:]
    path.write_bytes(bad)
    message = refused(f"{path} is truncated, damaged", name, tmp_path)
    for content in (good, bad):
        assert hashlib.sha256(content).hexdigest()[:12] in message


def test_missing_and_unpacked_files_are_named(small, tmp_path):
    write_files(tmp_path)
    (tmp_path / NAMES["test_labels"]).unlink()
    message = refused("3 of the 4 files of mnist", "auto", tmp_path)
    assert NAMES["test_labels"] in message
    assert NAMES["test_images"] not in message
    for name in NAMES.values():
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "train-images.idx3-ubyte").touch()
    refused("train-images.idx3-ubyte is unpacked", "auto", tmp_path)


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_an_idx_file_or_refused(data, packed):
    try:
        array = read_idx(gzip.compress(data, mtime=0) if packed else data, 1, "the file")
    except DataError as error:
        assert str(error).startswith("the file ")  # noqa: PT017 - or it is right
    else:
        assert data[4 + 4 * data[3] :].startswith(array.tobytes())


def test_idx_with_too_few_entries():
    with pytest.raises(DataError, match="fewer than 121"):
        read_idx(FILES[NAMES["train_images"]], TRAIN + 1, "the file")
    with pytest.raises(DataError, match="the file"):
        read_idx(FILES[NAMES["train_images"]][:-9], TRAIN, "the file")


# --- the cache -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_cache_is_never_used(tmp_path_factory, place, bit, cut):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        data = stand_in(patch)
        load_dataset("mnist", write_files(root))
        path = cache_path(data, root)
        content = bytearray(path.read_bytes())
        where = int(place * len(content))
        content[where] ^= 1 << bit
        path.write_bytes(content[:where] if cut else content)
        found = datasets._read_cache(data, root)
        assert found is None or check(found).name == "mnist"  # a flag of no meaning was flipped
        check(load_dataset("mnist", root))
        if found is None:
            assert datasets._read_cache(data, root) is not None


def test_no_room_for_the_cache(small, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    check(load_dataset("mnist", write_files(tmp_path)))
    assert "notice: no cache in" in capsys.readouterr().err
    assert not leftovers(tmp_path)


# --- folders that can't be written ---------------------------------------------------------


def make_read_only(patch, *folders):
    # Not by chmod: it doesn't bind root, as whom containers run.
    real = files.scratch_folder

    def scratch_folder(parent):
        if any(parent.is_relative_to(folder) for folder in folders):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(parent)

    patch.setattr(files, "scratch_folder", scratch_folder)


def test_read_only_folder_is_cached_elsewhere(small, tmp_path, home, monkeypatch, capsys):
    root = write_files(tmp_path / "data")
    before = sorted(root.rglob("*"))
    make_read_only(monkeypatch, root)
    check(load_dataset("mnist", root))
    assert sorted(root.rglob("*")) == before
    assert cache_path(small, home).is_file()
    make_read_only(monkeypatch, tmp_path)
    cache_path(small, home).unlink()
    check(load_dataset("mnist", root))
    assert "notice: no cache" in capsys.readouterr().err


# --- downloads -----------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Address and folder of a web server."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


def test_download(server, home, monkeypatch):
    address, folder = server
    write_files(folder)
    stand_in(monkeypatch, url=address)
    dataset = check(load_dataset("auto"))
    assert (dataset.name, dataset.notice) == ("mnist", "")
    assert {path.name for path in (home / "mnist").iterdir()} == set(NAMES.values())
    assert not leftovers(home)


@pytest.mark.parametrize("fault", ["absent", "another"])
def test_failed_download_leaves_nothing(fault, server, home, monkeypatch):
    address, folder = server
    write_files(folder)
    stand_in(monkeypatch, url=address)
    path = folder / NAMES["test_labels"]
    if fault == "absent":
        path.unlink()
    else:
        path.write_bytes(b"please log in")
    with pytest.raises(UnavailableError):
        load_dataset("mnist")
    assert not list(home.iterdir())
    digits = load_dataset("auto")
    assert digits.name == "digits"
    assert address in digits.notice


def test_without_a_network(monkeypatch, home):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    stand_in(monkeypatch, url=f"http://127.0.0.1:{port}/")
    digits = load_dataset("auto")
    assert (digits.name, "NOT MNIST" in digits.notice) == ("digits", True)
    message = refused("mnist is not in", "mnist")
    for word in (str(home), "no connection", "data_dir", *NAMES.values()):
        assert word in message
    assert not home.exists()


def test_server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        assert download.why_unreachable(url, 0.2)


def test_name_lookup_that_blocks(monkeypatch):
    done = threading.Event()

    def block(*_, **__):
        done.wait(30)
        raise socket.gaierror("a test")

    monkeypatch.setattr(socket, "getaddrinfo", block)
    assert "no answer within" in download.why_unreachable("http://data.example/x", 0.1)
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
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    sums = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(sums) == 1
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
