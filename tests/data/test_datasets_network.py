"""Data sets with a network, without one, and with other processes at the same time.

The stand-in for MNIST is that of ``test_datasets_files``.
"""

import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_datasets_files import MNIST_FILES, NAMES, check, leftovers, stand_in, write_files

from digits_jax.data import datasets, files, originals, tfds_prepare
from digits_jax.data.datasets import load_dataset
from digits_jax.data.tfds_prepare import UnavailableError
from digits_jax.errors import DigitsError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("DIGITS_JAX_DATA_DIR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


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


# --- a network -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_download(name, server, home, monkeypatch):
    address, folder = server
    write_files(folder)
    stand_in(monkeypatch, url=address)
    dataset = check(load_dataset(name))
    assert (dataset.name, dataset.notice) == ("mnist", "")
    assert (home / "mnist/3.0.1/dataset_info.json").is_file()
    assert not leftovers(home)


@pytest.mark.parametrize("fault", ["absent", "another"])
def test_failed_download(fault, server, home, monkeypatch):
    address, folder = server
    write_files(folder)
    stand_in(monkeypatch, url=address)
    path = folder / NAMES["test_labels"]
    if fault == "absent":
        path.unlink()
    else:
        path.write_bytes(b"please log in")
    with pytest.raises(UnavailableError, match="mnist can't be downloaded from") as error:
        load_dataset("mnist")
    assert "\n" not in str(error.value)
    assert not leftovers(home)
    assert not (home / "mnist").exists()
    digits = load_dataset("auto")
    assert digits.name == "digits"
    assert "can't be downloaded" in digits.notice


# --- no network ----------------------------------------------------------------------------


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_refused_connection(monkeypatch, home):
    stand_in(monkeypatch, url=f"http://127.0.0.1:{closed_port()}/")
    start = time.monotonic()
    digits = load_dataset("auto")
    assert time.monotonic() - start < 5
    assert digits.name == "digits"
    assert "NOT MNIST" in digits.notice
    assert "\n" not in digits.notice
    with pytest.raises(DigitsError, match="mnist is not in") as error:
        load_dataset("mnist")
    message = str(error.value)
    assert str(home) in message
    assert "no connection" in message
    assert "--data-dir" in message
    assert all(file in message for file in NAMES.values())
    assert not home.exists()


def test_server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        reason = originals.why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/x", 0.3)
        assert 0.25 < time.monotonic() - start < 2
    assert reason


def test_name_lookup_that_blocks(monkeypatch):
    def block(*_, **__):
        time.sleep(1.0)
        raise socket.gaierror("a test")

    monkeypatch.setattr(socket, "getaddrinfo", block)
    start = time.monotonic()
    reason = originals.why_unreachable("http://data.example/x", 0.2)
    assert time.monotonic() - start < 0.9
    assert "no answer within" in reason


def test_limit_leaves_room_below_five_seconds():
    assert originals.REACH_SECONDS <= 3.5


@pytest.mark.parametrize(("path", "reason"), [("there", ""), ("elsewhere", "HTTP status 404")])
def test_reachable(path, reason, server):
    address, folder = server
    (folder / "there").touch()
    assert originals.why_unreachable(address + path) == reason


# --- other processes -----------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
import pytest, tensorflow_datasets
from test_datasets_files import check, stand_in
from digits_jax.data.datasets import load_dataset
root, me = Path(sys.argv[1]), sys.argv[2]
with pytest.MonkeyPatch.context() as patch:
    stand_in(patch)
    (root.parent / f"ready-{me}").touch()
    while not (root.parent / "go").exists():
        time.sleep(0.001)
    print(check(load_dataset("mnist", root)).sha256)
"""


def test_two_processes_prepare_at_once(tmp_path, monkeypatch):
    spec = stand_in(monkeypatch)
    root = write_files(tmp_path / "data")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root), str(me)],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(2)
    ]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    sums = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sums[0] == sums[1]
    assert not leftovers(root)
    assert files.read_cache(datasets.cache_folder(spec, root)) is not None
    assert tfds_prepare.read_prepared(spec, root)["train_labels"].shape == (120,)


def test_killed_process_leaves_no_harm(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    root = write_files(tmp_path / "data")
    for folder in (root, root / "digits_jax_cache"):
        (folder / ".digits_jax-1-00000000/mnist/3.0.1").mkdir(parents=True)
    (root / "mnist/3.0.1").mkdir(parents=True)  # not even a complete one in place
    check(load_dataset("mnist", root))


def folder_with(path, text):
    path.mkdir(parents=True)
    (path / "content").write_text(text)
    return path


@pytest.mark.parametrize("before", [None, "good", "damaged"])
def test_install_folder(tmp_path, before):
    fresh, target = folder_with(tmp_path / "scratch/new", "new"), tmp_path / "target"
    if before:
        folder_with(target, before)
    files.install_folder(
        fresh, target, lambda: target.exists() and (target / "content").read_text() != "damaged"
    )
    assert (target / "content").read_text() == ("good" if before == "good" else "new")


def test_install_folder_loses_a_race(tmp_path):
    fresh, target = folder_with(tmp_path / "scratch/new", "new"), tmp_path / "target"
    answers = iter([False, True])

    def is_good():
        answer = next(answers)
        if answer:
            return True
        # Between this question and the rename, another process installs its own.
        real = Path.rename

        def rename(self, other):
            if self == fresh:
                patch.undo()
                folder_with(target, "theirs")
            return real(self, other)

        patch.setattr(Path, "rename", rename)
        return False

    with pytest.MonkeyPatch.context() as patch:
        files.install_folder(fresh, target, is_good)
    assert (target / "content").read_text() == "theirs"


def test_scratch_folder_is_open_to_others_and_removed(tmp_path):
    with files.scratch_folder(tmp_path) as folder:
        mask = os.umask(0)
        os.umask(mask)
        assert folder.stat().st_mode & 0o777 == 0o777 & ~mask
        write_files(folder, MNIST_FILES)
    assert not list(tmp_path.iterdir())
