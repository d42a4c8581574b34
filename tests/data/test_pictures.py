"""Pictures are the same in one process and in several, which end whatever happens."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from programs import REPOSITORY

from digits_jax import DataError
from digits_jax.data import pictures
from digits_jax.data.pictures import read_picture, read_pictures


@pytest.fixture
def paths(tmp_path):
    """Pictures of a stroke each; the fourth is blank, and the fifth no picture."""
    for number in range(12):
        page = Image.new("L", (60, 60), 230)
        ImageDraw.Draw(page).line((10, 10, 20 + 2 * number, 50), 30, 4)
        (Image.new("L", (60, 60), 230) if number == 3 else page).save(tmp_path / f"{number:02}.png")
    (tmp_path / "04.png").write_bytes(b"not a picture")
    return sorted(tmp_path.glob("*.png"))


@pytest.fixture
def two(monkeypatch):
    """Two processes read, however few pictures there are."""
    monkeypatch.setattr(pictures, "_FEWEST", 1)
    monkeypatch.setattr(pictures, "cpu_count", lambda: 2)


@pytest.mark.parametrize("picture", ["ink", "resize"])
def test_processes_give_the_same_in_the_same_order(paths, two, picture):
    found = read_pictures(paths, picture, "title")
    for answer, path in zip(found, paths, strict=True):
        np.testing.assert_equal(answer, read_picture(path, picture))
    kinds = [type(answer) is str for answer in found]
    assert kinds == [n == 4 or (n == 3 and picture == "ink") for n in range(12)]


def test_a_file_that_cannot_be_read_ends_the_reading(paths, two):
    paths[7].unlink()
    with pytest.raises(DataError, match=r"07.png: can't be read \(No such file"):
        read_pictures(paths, "ink", "title")


def test_a_process_that_dies_is_one_line(paths, two, monkeypatch):
    kill = "import os, signal, sys; sys.stdin.buffer.read(1); os.kill(os.getpid(), signal.SIGTERM)"
    monkeypatch.setattr(pictures, "_SERVE", kill)
    with pytest.raises(DataError, match=r"00.png: the process that read it ended with status -15"):
        read_pictures(paths, "ink", "title")


def test_a_limit_of_processes_leaves_this_one(paths, two, monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert len(read_pictures(paths, "ink", "title")) == 12


SCRIPT = """
import sys
from pathlib import Path
from digits_jax.data import pictures
print("started", flush=True)

def announced(results, *_, **__):
    for number, result in enumerate(results):
        if number == 0:
            print("reading", flush=True)
        yield result

pictures.tqdm = announced
pictures._FEWEST, pictures.cpu_count = 1, lambda: 2
paths = sorted(Path(sys.argv[1]).glob("*.png")) * int(sys.argv[2])
print(len(pictures.read_pictures(paths, "ink", "mine")))
"""


@pytest.fixture
def start(tmp_path, paths):
    """Starts a script that has no `if __name__ == "__main__"`, beside modules of known names."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")

    def run(times):
        return subprocess.Popen(
            [sys.executable, "-P", tmp_path / "script.py", tmp_path, str(times)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )

    return run


def test_a_script_is_not_run_again(start):
    assert start(1).communicate(timeout=60) == (
        "started\nreading\n12\n",
        "reading 12 pictures of mine\n",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left(start, number):
    process = start(1_000)
    assert [process.stdout.readline() for _ in range(2)] == ["started\n", "reading\n"]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.kill()
    # Standard error ends with the last process that has it.
    _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") == (number == signal.SIGINT)
