"""Command lines -> dataclasses, and what happened -> one line and a status."""

import errno
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from digits_jax import TrainConfig
from digits_jax.cli import parse, run_program
from digits_jax.errors import DigitsError

DOC = "Does it: python -m digits_jax.train"


def train(*argv):
    return parse(TrainConfig, argv, doc=DOC)


@pytest.mark.parametrize(
    "argv",
    [
        ("--batch-size=64", "--learning-rate=0.5"),
        ("--batch_size=64", "--learning_rate", "0.5"),
        ("--learning-rate=.5", "--batch-size", "64"),
    ],
)
def test_flags(argv):
    assert train(*argv) == TrainConfig(batch_size=64, learning_rate=0.5)


@pytest.mark.parametrize(
    "argv",
    [
        ("--channels=32,64", "--seed=3"),
        ("--channels", "32", "64", "--seed=3"),
        ("--channels", "32,64", "--seed=3"),
        ("--seed=3", "--channels=32", "64"),
    ],
)
def test_lists(argv):
    assert train(*argv) == TrainConfig(channels=(32, 64), seed=3)


def test_switches():
    assert train("--resume", "--no-batch-norm") == TrainConfig(resume=True, batch_norm=False)
    assert train("--batch-norm").batch_norm is True
    assert train() == TrainConfig()


def test_defaults_can_be_given():
    own = TrainConfig(arch="mlp", hidden_sizes=(8,), epochs=3.0)
    found = parse(TrainConfig, ["--epochs=5"], doc=DOC, default=own)
    assert found == TrainConfig(arch="mlp", hidden_sizes=(8,), epochs=5.0)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--epoch=3"], r"unknown flag --epoch; did you mean --epochs\? --help lists"),
        (["--learing-rate", "1"], r"unknown flag --learing-rate; did you mean --learning-rate"),
        (["--zzz"], r"unknown flag --zzz; --help lists them all"),
        (["--batch=64"], r"unknown flag --batch; did you mean --batch-norm\?"),
        (["--epochs=many"], "^--epochs=many: give a number$"),
        (["--batch_size", "2.5", "--seed=1"], r"^--batch-size=2\.5: give a whole number$"),
        (["--channels=8,x", "--seed=1"], "^--channels=8,x: give whole numbers, like 32,64$"),
        (["--channels=8,"], "^--channels=8,: give whole numbers"),
        (["--channels="], "^--channels needs a value: give whole numbers"),
        (["--channels", "--seed=1"], "^--channels needs a value"),
        (["--seed"], "^--seed needs a value: give a whole number$"),
        (["--workdir", "--resume"], "^--workdir needs a value: give a word$"),
        (["--batch-norm=False"], "it is a switch; give --batch-norm, or --no-batch-norm, with no"),
        (["--no-resume=1"], "it is a switch; give --resume, or --no-resume"),
        (["cnn"], "^cnn: not understood; flags begin with --"),
    ],
)
def test_bad_flags_are_one_line(argv, said):
    with pytest.raises(DigitsError, match=said) as caught:
        train(*argv)
    message = str(caught.value)
    # No box, no colour, no line break.
    assert re.fullmatch(r"[ -~]+", message), message
    assert "---" not in message


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        train("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    flags = "arch preset dataset data-dir workdir epochs batch-size learning-rate optimizer "
    flags += "weight-decay label-smoothing dropout hidden-sizes channels dense-size augment seed "
    flags += "dtype devices platform checkpoint-every-steps resume eval-only dry-run"
    assert [flag for flag in flags.split() if f"--{flag}" not in text] == []
    assert "python -m digits_jax.train" in text


def test_a_dataclass_of_ones_own():
    @dataclass(frozen=True)
    class Arguments:
        size: int = 1

    assert parse(Arguments, ["--size=2"], doc=DOC) == Arguments(2)


# --- endings -------------------------------------------------------------------------------


def ending(monkeypatch, capsys, result):
    """The status and the output of a program that ends so."""

    def main(argv):
        assert argv == ["--a"]
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(sys, "argv", ["program", "--a"])
    status = run_program(main)
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("result", "status", "said"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (143, 143, ""),
        (DigitsError("--a: not so"), 2, "error: --a: not so\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/x"),
            1,
            "error: No space left on device (run/x); free some space, then start again\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "error: Permission denied\n"),
    ],
)
def test_endings(monkeypatch, capsys, result, status, said):
    assert ending(monkeypatch, capsys, result) == (status, "", said)


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.ENOENT, "No such file")])
def test_bugs_are_not_hidden(monkeypatch, capsys, error):
    with pytest.raises(type(error)) as caught:
        ending(monkeypatch, capsys, error)
    assert caught.value is error


LEAVE = """
import atexit, sys, threading
from digits_jax.cli import leave
atexit.register(print, "at the end")
if sys.argv[1] == "thread":
    # It is still there when leave() is called: it begins to print only then.
    threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
print("said")
leave(3)
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [("nothing", ["said", "at the end"]), ("thread", ["said", "thread", "at the end"])],
)
def test_leaving_does_what_is_left_to_do(what, said):
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, what], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (3, said, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(("status", "expected"), [(0, 1), (3, 3)])
def test_output_that_could_not_be_written_is_a_failure(status, expected):
    code = f"from digits_jax.cli import leave; print('said'); leave({status})"
    # Unbuffered, it would be print() that fails.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=env
        )
    assert done.returncode == expected
    assert done.stderr == "error: No space left on device (output)\n"


def test_a_line_is_there_when_it_is_said():
    """Through a pipe, too, whatever the environment says of buffers."""
    script = (
        "import sys; from digits_jax.cli import run_program\n"
        "sys.exit(run_program(lambda argv: (print('here'), sys.stdin.read())[2:] or 0))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=env, **pipes) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        try:
            assert process.stdout.readline() == "here\n"
        finally:
            guard.cancel()
            process.stdin.close()
    assert process.returncode == 0
