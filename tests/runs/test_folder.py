"""A run's folder: what is written is read back, all or nothing, by one process at a time."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from digits_jax.errors import CheckpointError
from digits_jax.files import read_json, read_npz, replace_files, write_json
from digits_jax.runs.folder import (
    METRICS_FIELDS,
    append_metrics,
    check_free,
    check_run,
    hold_workdir,
    keep_metrics,
    new_workdir,
    read_metrics,
    read_results,
    read_run,
    write_predictions,
)


def arrays():
    random = np.random.default_rng(0)
    return {
        "labels": np.arange(7, dtype=np.int32) % 3,
        "logits": random.normal(size=(7, 3)).astype(np.float32),
        "validation_labels": np.arange(5, dtype=np.int32) % 3,
        "validation_logits": random.normal(size=(5, 3)).astype(np.float32),
    }


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run."""
    write_json(tmp_path / "config.json", {"config": {}})
    write_json(tmp_path / "results.json", {"test_accuracy": 0.5})
    write_predictions(tmp_path, **arrays())
    return tmp_path


# --- reading what was written --------------------------------------------------------------


def test_a_run_is_read_back(run):
    found = read_run(run)
    assert (found.path, found.results) == (run, {"test_accuracy": 0.5})
    for name, array in arrays().items():
        np.testing.assert_array_equal(getattr(found, name), array)


@pytest.mark.parametrize("read", [check_run, read_results, read_run])
def test_no_run(tmp_path, read):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no run \(no config.json\)"):
        read(tmp_path)


def test_an_unfinished_run(run):
    (run / "results.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"isn't a JSON object; .*--resume --workdir="):
        read_run(run)
    (run / "results.json").unlink()
    with pytest.raises(CheckpointError, match=r"isn't finished .*--resume --workdir="):
        read_run(run)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.full(7, 3, np.int32)},
        {"labels": np.zeros(6, np.int32)},
        {"validation_logits": np.zeros((5, 3), "U1")},
        {"validation_logits": np.full((5, 3), np.nan, np.float32)},
    ],
)
def test_predictions_that_are_wrong(run, change):
    write_predictions(run, **{**arrays(), **change})
    with pytest.raises(CheckpointError, match=r"predictions.npz: can't be read \(.*(labels|logit)"):
        read_run(run)


def test_predictions_that_are_missing_or_incomplete(run):
    path = run / "predictions.npz"
    half = path.read_bytes()[:500]
    for change, said in (
        (lambda: np.savez(path, labels=np.zeros(3)), "it holds no logits"),
        (lambda: path.write_bytes(half), "File is not a zip file"),
        (path.unlink, "No such file or directory"),
    ):
        change()
        with pytest.raises(CheckpointError, match=rf"can't be read \({said}\); .*--resume"):
            read_run(run)


@pytest.mark.parametrize("text", [b"", b"\xff", b"NaN", b"1e999", b"[" * 10**5])
def test_what_is_not_json(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match="isn't JSON"):
        read_json(tmp_path / "config.json")


def test_files_that_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "large", "wb") as file:
        file.truncate(10**10)
    for name, said in {
        "gone": "No such file",
        "pipe": "not a regular file",
        "folder": "Is a directory",
        "large": "has more than 50,000,000 bytes",
    }.items():
        with pytest.raises(CheckpointError, match=rf"{name}: can't be read \({said}"):
            read_json(tmp_path / name)


# --- arrays --------------------------------------------------------------------------------


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    """Orders of bytes and of axes, text, no elements, no axes."""
    saved = {
        "big": np.arange(6, dtype=">i8").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "half": np.float16([0.5, np.nan]),
        "bool": np.array([True, False]),
        "text": np.array("é and more"),
        "none": np.zeros((0, 3), np.float32),
        "one": np.float32(5),
    }
    np.savez_compressed(tmp_path / "a.npz", **saved)
    found = read_npz(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as wanted:
        assert list(found) == wanted.files
        for name, array in found.items():
            assert (array.dtype, array.flags.writeable) == (wanted[name].dtype, True)
            np.testing.assert_array_equal(array, wanted[name])


def zip_of(path, *, shape="(3,)", descr="<f4", data=bytes(12), method=zipfile.ZIP_STORED):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\0" + bytes([len(header), 0]) + header + data)
    return path


@pytest.mark.parametrize(
    "other",
    [
        {"descr": "|O"},
        {"descr": [("x", "<f4")]},
        {"data": bytes(8)},
        {"method": zipfile.ZIP_LZMA},  # it takes the memory that the file asks for
    ],
)
def test_arrays_that_are_refused(tmp_path, other):
    assert read_npz(zip_of(tmp_path / "a.npz"))["a"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_npz(zip_of(tmp_path / "a.npz", **other))


# --- metrics -------------------------------------------------------------------------------


def row(step):
    return {**dict.fromkeys(METRICS_FIELDS, 0.25), "step": step, "more": "x"}


def test_metrics_are_lines(tmp_path):
    assert read_metrics(tmp_path) == []
    rows = [row(10), row(20), row(30)]
    for each in rows:
        append_metrics(tmp_path, each)
    assert read_metrics(tmp_path) == rows
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert keep_metrics(tmp_path, 20) == rows[:2] == read_metrics(tmp_path)


LARGE = json.dumps({**row(20), "step": 10**400}).encode()
CUT = b'{"step": 20, "train_lo'


@pytest.mark.parametrize("bad", [CUT, b"{}\n", b"\xff\xfe\n", b"[" * 10**5, LARGE])
def test_other_lines_are_left_out(tmp_path, bad):
    append_metrics(tmp_path, row(10))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(bad.rstrip(b"\n") + b"\n")
    append_metrics(tmp_path, row(20))
    append_metrics(tmp_path, {**row(20), "train_loss": 0.5})  # the later one counts
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(bad)
    rows = [row(10), {**row(20), "train_loss": 0.5}]
    assert read_metrics(tmp_path) == rows == keep_metrics(tmp_path, 20)


# --- all or nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize(
    "write",
    [
        lambda run: write_predictions(run, labels=np.zeros(1000)),
        lambda run: write_json(run / "results.json", {"other": 1}),
        lambda run: keep_metrics(run, 0),
    ],
    ids=["predictions", "json", "metrics"],
)
def test_a_failed_write_leaves_the_old_file(run, monkeypatch, write, stage):
    append_metrics(run, row(10))
    before = files(run)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(OSError, match="No space"):
        write(run)
    assert files(run) == before


def test_files_that_belong_together_are_all_there_or_none(tmp_path):
    wanted = {tmp_path / "a.json": b"1", tmp_path / "gone" / "b.md": b"2"}
    with pytest.raises(FileNotFoundError, match="gone"):
        replace_files(wanted)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "gone").mkdir()
    replace_files(wanted)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == wanted


# --- whose folder it is --------------------------------------------------------------------


def hold(path, *, new=True):
    with hold_workdir(path, new=new):
        pass


def test_a_new_run_needs_a_free_folder_and_a_resumed_one_a_run(run):
    for check in (check_free, hold):
        with pytest.raises(CheckpointError, match="already holds a run"):
            check(run)
    check_free(run / "a" / "b")
    assert not (run / "a").exists()
    hold(run, new=False)
    (run / "other").mkdir()
    for path in (run / "other", run / "nowhere"):
        with pytest.raises(CheckpointError, match=r"holds no run|no such folder"):
            hold(path, new=False)
        assert not path.exists() or not files(path)


@pytest.mark.parametrize("check", [check_free, hold, lambda path: new_workdir("x", path)])
def test_a_folder_that_cannot_be_written(tmp_path, check):
    """A file where a folder should be: permissions don't stop root."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/run.*: can't be written \(Not a directory\)"):
        check(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
@pytest.mark.parametrize("there", [True, False])
def test_links_are_not_followed(tmp_path, name, there):
    """Nor is a pipe opened, which would block."""
    victim, path = tmp_path / "victim", tmp_path / "run" / name
    path.parent.mkdir()
    path.symlink_to(victim)
    if there:
        victim.write_text("precious")

    def write():
        hold(path.parent) if name == ".lock" else append_metrics(path.parent, row(1))

    with pytest.raises(CheckpointError, match=f"{name}: is a link; move it away"):
        write()
    assert not victim.exists() or victim.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"{name}: isn't a regular file"):
        write()


@pytest.mark.parametrize("check", [check_free, hold, lambda path: new_workdir("x", path)])
def test_folders_that_cannot_be(tmp_path, check):
    """A link to nowhere, and a name that isn't UTF-8, which Orbax doesn't take."""
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(CheckpointError, match=r"link: is a link to .*gone, which isn't there"):
            check(path)
    with pytest.raises(CheckpointError, match="the name isn't UTF-8"):
        check(tmp_path / os.fsdecode(b"caf\xe9"))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    hold(tmp_path)
    assert "can't be locked" in capsys.readouterr().err


HOLD = """
import sys
from pathlib import Path
from digits_jax.runs.folder import hold_workdir
with hold_workdir(Path(sys.argv[1]), new=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused(tmp_path):
    """The lock is the operating system's: it goes with a process that is killed."""
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(other.kill)
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="in use by another process"):
            hold(tmp_path)
    hold(tmp_path)
