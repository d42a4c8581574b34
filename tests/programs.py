"""The programs as users start them: in processes of their own, or in this one."""

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


def environment(home):
    """Nobody's settings, and nothing of what this test session has set."""
    mine = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "TFDS_DATA_DIR"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in mine and not name.startswith("DIGITS_JAX")
    }
    # Where packages lie on the path, they are wanted too.
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**kept, "HOME": str(home), "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def start(home, program, *argv, script=None, env=None, closed_stderr=False):
    """A program, or a script, in a process of its own."""
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


def call(home, program, *argv):
    """A program in a process of its own: its status, output and errors."""
    with start(home, program, *argv) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """Calls a program in this process, which has JAX already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # or it would be set for all tests
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


@pytest.fixture(scope="module")
def trained(home):
    """A finished run: its folder, and what its training said. It is read only."""
    said = call(home, "train", *TINY, "--workdir=run")
    return home / "run", said


def assert_one_error_line(status, out, err):
    assert status == 2
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert "Traceback" not in out + err
