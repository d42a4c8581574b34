"""A run's folder: what is written is read again, whole or not at all, by one process alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from digits_jax.errors import DigitsError
from digits_jax.runs import folder
from digits_jax.runs.folder import (
    METRICS_FIELDS,
    append_metrics,
    check_free,
    check_run,
    hold_workdir,
    keep_metrics,
    new_workdir,
    read_json,
    read_metrics,
    read_results,
    read_run,
    write_json,
    write_predictions,
)

HOLD = """
import sys
from pathlib import Path
from digits_jax.runs.folder import hold_workdir
with hold_workdir(Path(sys.argv[1]), new=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def arrays():
    random = np.random.default_rng(0)
    return {
        "labels": np.arange(7, dtype=np.int32) % 3,
        "logits": random.normal(size=(7, 3)).astype(np.float32),
        "validation_labels": np.arange(5, dtype=np.int32) % 3,
        "validation_logits": random.normal(size=(5, 3)).astype(np.float32),
    }


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run."""
    write_json(tmp_path / "config.json", {"config": {}})
    write_json(tmp_path / "results.json", {"test_accuracy": 0.5})
    write_predictions(tmp_path, **arrays())
    return tmp_path


# --- reading what was written --------------------------------------------------------------


def test_a_run_comes_back(run):
    found = read_run(run)
    assert found.path == run
    assert found.results == {"test_accuracy": 0.5}
    for name, array in arrays().items():
        np.testing.assert_array_equal(getattr(found, name), array)
        assert getattr(found, name).dtype == array.dtype


def test_an_unfinished_run(run):
    (run / "results.json").unlink()
    for read in (read_results, read_run):
        with pytest.raises(DigitsError, match=r"isn't finished .*--resume --workdir="):
            read(run)


@pytest.mark.parametrize("read", [check_run, read_results, read_run])
def test_no_run(tmp_path, read):
    with pytest.raises(DigitsError, match=r"nowhere: no such folder; give the folder of a run"):
        read(tmp_path / "nowhere")
    with pytest.raises(DigitsError, match=r"holds no run \(no config.json\)"):
        read(tmp_path)


def test_missing_predictions(run):
    (run / "predictions.npz").unlink()
    with pytest.raises(DigitsError, match=r"has no predictions.npz; write it with"):
        read_run(run)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other", "incomplete"])
def test_damaged_predictions(run, damage):
    path = run / "predictions.npz"
    whole = path.read_bytes()
    if damage == "incomplete":
        np.savez(path, labels=np.zeros(3))
    else:
        middle = len(whole) // 3
        path.write_bytes(
            {
                "cut": whole[: len(whole) // 2],
                "changed": whole[:middle] + bytes(64) + whole[middle + 64 :],
                "empty": b"",
                "other": b"labels, logits\n",
            }[damage]
        )
    with pytest.raises(DigitsError, match=r"predictions.npz: can't be read .*is it whole"):
        read_run(run)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "\udcff"])
def test_json_that_is_none(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DigitsError, match=r"config.json: isn't JSON"):
        read_json(path)


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(DigitsError, match=r"gone.json: can't be read \(No such file"):
        read_json(tmp_path / "gone.json")


# --- metrics -------------------------------------------------------------------------------


def row(step):
    """An epoch's line, with a field that later versions may add."""
    return {**dict.fromkeys(METRICS_FIELDS, 0.25), "step": step, "more": "x"}


def test_metrics_are_added_line_by_line(tmp_path):
    assert read_metrics(tmp_path) == []
    rows = [row(10), row(20)]
    for each in rows:
        append_metrics(tmp_path, each)
    assert read_metrics(tmp_path) == rows
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    "bad",
    [b'{"step": 20, "train_lo', b"5\n", b"{}\n", b"\xff\xfe\n", b'{"step": "x"}\n', b"[" * 10**5],
)
def test_lines_that_are_none_are_left_out(tmp_path, bad):
    append_metrics(tmp_path, row(10))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(bad)
    assert read_metrics(tmp_path) == [row(10)]
    # A resumed run goes on from a whole file.
    assert keep_metrics(tmp_path, 10) == [row(10)]
    append_metrics(tmp_path, row(20))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(bad.rstrip(b"\n") + b"\n")
    append_metrics(tmp_path, row(30))
    append_metrics(tmp_path, {**row(20), "train_loss": 0.5})  # the later one counts
    rows = [row(10), {**row(20), "train_loss": 0.5}, row(30)]
    assert read_metrics(tmp_path) == rows
    assert keep_metrics(tmp_path, 20) == rows[:2]


def test_metrics_that_are_a_folder(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DigitsError, match=r"metrics\.jsonl: can't be read \(Is a directory\)"):
        read_metrics(tmp_path)


def test_later_metrics_are_dropped(tmp_path):
    for step in (10, 20, 30):
        append_metrics(tmp_path, row(step))
    assert keep_metrics(tmp_path, 20) == [row(10), row(20)]
    assert read_metrics(tmp_path) == [row(10), row(20)]


# --- whole or not at all -------------------------------------------------------------------


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_json_has_no_nan(run):
    before = files(run)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(run / "results.json", {"test_loss": float("nan")})
    assert files(run) == before


@pytest.mark.parametrize("stage", ["write", "rename"])
@pytest.mark.parametrize(
    "write",
    [
        lambda run: write_predictions(run, labels=np.zeros(1000)),
        lambda run: write_json(run / "results.json", {"other": 1}),
        lambda run: keep_metrics(run, 0),
    ],
    ids=["predictions", "json", "metrics"],
)
def test_a_failed_write_leaves_the_old_file_alone(run, monkeypatch, write, stage):
    append_metrics(run, {"step": 10})
    before = files(run)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if stage == "rename":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)  # after the bytes were written
    with pytest.raises(OSError, match="No space"):
        write(run)
    monkeypatch.undo()
    assert files(run) == before


def test_a_writer_that_fails_midway_leaves_nothing(tmp_path):
    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.replace_file(tmp_path / "file", write)
    assert files(tmp_path) == {}


# --- whose folder it is --------------------------------------------------------------------


def test_new_folders_get_numbers(tmp_path):
    names = [new_workdir("cnn-mnist", tmp_path / "runs").name for _ in range(3)]
    assert names == ["cnn-mnist", "cnn-mnist-2", "cnn-mnist-3"]


def test_a_folder_that_holds_a_run_is_taken(run):
    for check in (check_free, lambda path: hold_workdir(path, new=True).__enter__()):
        with pytest.raises(DigitsError, match=r"already holds a run; .*--resume"):
            check(run)
    with hold_workdir(run, new=False):
        pass


def test_resuming_needs_a_run(tmp_path):
    for path, said in ((tmp_path, "holds no run"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(DigitsError, match=said), hold_workdir(path, new=False):
            pass
    assert files(tmp_path) == {}


def test_a_workdir_that_cannot_be_written(tmp_path):
    """A file where a folder should be: permissions don't stop root."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run"
    with pytest.raises(DigitsError, match=r"--workdir=.*can't be written"):
        check_free(path)
    with pytest.raises(DigitsError, match=r"--workdir=.*can't be written \(Not a directory\)"):
        hold_workdir(path, new=True).__enter__()
    with pytest.raises(DigitsError, match=r"can't be written"):
        new_workdir("run", tmp_path / "file")


def test_checking_makes_nothing(tmp_path):
    check_free(tmp_path / "a" / "b")
    assert files(tmp_path) == {}


def test_a_second_process_is_refused(tmp_path):
    """The lock is the operating system's: it goes with a process that is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(DigitsError, match="in use by another process"):
                hold_workdir(tmp_path, new=True).__enter__()
        finally:
            other.kill()
            other.wait(timeout=60)
    with hold_workdir(tmp_path, new=True):
        pass


def test_files_that_belong_together_are_all_there_or_none(tmp_path):
    files = {tmp_path / "a.json": b"1", tmp_path / "gone" / "b.md": b"2"}
    with pytest.raises(FileNotFoundError, match="gone"):
        folder.replace_files(files)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "gone").mkdir()
    folder.replace_files(files)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "b.md", "gone"]
