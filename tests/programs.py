"""The programs as users start them: in processes of their own, or in this one."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from digits_jax.cli import run_program

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 240
# 1,257 images in batches of 64: 19.6 steps in an epoch.
TINY = ("--arch=mlp", "--dataset=digits", "--preset=quick", "--epochs=1.5", "--hidden-sizes=16")
TINY = (*TINY, "--batch-norm", "--batch-size=64")


# Of the programs; conftest.py gives all processes of a session the same: 3.6 of the 6.4 CPU
# seconds of `TINY` compile.
CACHE = Path()


def environment(home):
    """The environment without the settings of the user and of this test session."""
    removed = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in removed and not name.startswith("DIGITS_JAX")
    }
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(CACHE), "JAX_PLATFORMS": "cpu"}
    return {**kept, **own, "PYTHONPATH": path}


def start(home, program, *argv, script=None, env=None, closed_stderr=False):
    """Starts a program, or a script, in a process of its own."""
    what = ["-c", script] if script else ["-m", f"digits_jax.{program}"]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"] if closed_stderr else []
    return subprocess.Popen(
        [*shell, sys.executable, *what, *map(str, argv)],
        cwd=home,
        env={**environment(home), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(home, program, *argv, **options):
    """Returns the status, the output and the errors of a program in a process of its own."""
    with start(home, program, *argv, **options) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


@contextlib.contextmanager
def training(home, *argv, until, **options):
    """A training in a process of its own, once it has printed a line that begins with a text."""
    with start(home, "train", *argv, **options) as process:
        try:
            wait_for(process, until)
            yield process
        finally:
            process.kill()


def wait_for(process, *wanted):
    """Reads a process's output until there were lines with these beginnings."""
    wanted = set(wanted)
    while wanted:
        line = process.stdout.readline()
        assert line, process.communicate()
        wanted = {start for start in wanted if not line.startswith(start)}


def children(process):
    """The ids of the processes that a process has started, in that order."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return sorted(int(pid) for pid in path.read_text().split())


def stop(process, *signals):
    """Sends signals, and returns the status and the errors of the process."""
    for number in signals:
        process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, err


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """Calls a program in this process, which has JAX already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DIGITS_JAX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def run(program, *argv):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, argv)])
        status = run_program(program.main)
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run, for reading only: its folder, and what `call` returned."""
    parent = tmp_path_factory.mktemp("trained")
    return parent / "run", call(parent, "train", *TINY, "--workdir=run")


def without_seconds(rows):
    """Rows of metrics without what differs from one training to the next."""
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def assert_refused(ending, said):
    """A program ended with status 2 and one line of error, which has a text."""
    status, out, err = ending
    assert (status, "Traceback" in out) == (2, False)
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert said in err
