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
import tyro
from programs import call

from digits_jax import TrainConfig
from digits_jax.cli import PROGRAMS, parse, parse_known, run_program
from digits_jax.config import RunOptions
from digits_jax.errors import ConfigError
from digits_jax.train import Arguments

DOC = "Does it: python -m digits_jax.train"
CONTRACT = """
arch preset dataset data-dir workdir epochs batch-size learning-rate hidden-sizes channels dropout
augment seed devices platform checkpoint-every-steps resume ensemble teacher
"""


def train(*argv):
    return parse(Arguments, argv, doc=DOC)


@pytest.mark.parametrize(
    "argv",
    [
        ("--batch-size=64", "--channels=32,64", "--devices=2"),
        ("--batch_size", "64", "--channels", "32", "64", "--devices", "2"),
        ("--channels", "32,64", "--batch-size=64", "--devices=2"),
        ("--devices=2", "--batch-size=64", "--channels=32", "64"),
    ],
)
def test_flags_and_lists(argv):
    config = TrainConfig(batch_size=64, channels=(32, 64))
    assert train(*argv) == Arguments(config, RunOptions(devices=2))


def test_switches():
    assert train("--resume", "--no-batch-norm").modes.resume is True
    assert train("--no-batch-norm").config.batch_norm is False
    assert train() == Arguments()


def test_defaults_can_be_given():
    own = Arguments(TrainConfig(arch="mlp", hidden_sizes=(8,), epochs=3.0))
    found = parse(Arguments, ["--epochs=5"], doc=DOC, default=own)
    assert found.config == TrainConfig(arch="mlp", hidden_sizes=(8,), epochs=5.0)


@dataclass(frozen=True)
class Own:
    pictures: tyro.conf.Positional[tuple[str, ...]] = ()
    names: tuple[str, ...] = ("x", "y")
    size: int = 1


def test_commas_split_lists_but_not_file_names():
    found = parse(Own, ["a,b.png", "c.png", "--names=u,v"], doc=DOC)
    assert found == Own(("a,b.png", "c.png"), ("u", "v"))


def test_other_flags_can_be_ignored():
    assert parse_known(Own, ["--size=3", "--other=5", "--help"]).size == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch=3"], r"unknown flag --epoch; did you mean --epochs\?"),
        (["--learing-rate", "1"], r"unknown flag --learing-rate; did you mean --learning-rate"),
        (["--batch_s=64"], r"unknown flag --batch_s; did you mean --batch-size\?"),
        (["--zzz"], "unknown flag --zzz; --help lists them all"),
        (["--epochs=many"], "--epochs=many: give FLOAT"),
        (["--batch_size", "2.5", "--seed=1"], r"--batch-size=2\.5: give INT"),
        (["--channels=8,x", "--seed=1"], "--channels=8,x: give INT,INT,"),
        (["--channels=8,"], "--channels=8,: give INT,INT"),
        (["--channels", "--seed=1"], "--channels=: give INT,INT"),
        (["--workdir", "--resume"], "--workdir needs a value"),
        (["--batch-norm=False"], "--batch-norm=False: is a switch; give --batch-norm without"),
        (["cnn"], "cnn: not understood; flags begin with --"),
        (["--arch=rnn"], "--arch=rnn: give cnn, mlp, ann"),
        (["--epochs=-1"], "epochs=-1.0: must be more than 0"),
    ],
)
def test_bad_flags_are_one_line(argv, message):
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        train(*argv)
    assert re.fullmatch(r"[ -~]+", str(caught.value))  # no box, no colour, no line break


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("batch_size=0: must be at least 1", "--batch-size=0: must be at least 1"),
        (
            "hidden_sizes isn't for arch=cnn; resume it",
            "--hidden-sizes isn't for --arch=cnn; resume it",
        ),
        ("config starts a new run", "--config starts a new run"),
        ("runs/config.json: batch_size=0: too few", "runs/config.json: batch_size=0: too few"),
        ("other=3: not a field", "other=3: not a field"),
    ],
)
def test_errors_of_the_library_speak_of_flags(monkeypatch, capsys, raised, shown):
    def main(argv):
        train(*argv)
        raise ConfigError(raised)

    monkeypatch.setattr(sys, "argv", ["program"])
    assert run_program(main) == 2
    assert capsys.readouterr().err == f"error: {shown}\n"


def test_help_and_version(capsys):
    with pytest.raises(SystemExit) as caught:
        train("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [flag for flag in CONTRACT.split() if not re.search(rf"--{flag}[ ,]", text)] == []
    with pytest.raises(SystemExit):
        train("--version")
    assert re.fullmatch(r"digits_jax [\d.]+\n", capsys.readouterr().out)


def test_the_console_script(home):
    status, out, err = call(home, "cli", "--help")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == [*PROGRAMS]
    _, _, err = call(home, "cli", "trian")
    assert err.startswith("error: trian: unknown program; did you mean train?")
    ending = call(home, "cli", "train", "--epoch=3")
    assert ending == (2, "", "error: unknown flag --epoch; did you mean --epochs?\n")


# --- endings -------------------------------------------------------------------------------


@pytest.fixture
def ending(monkeypatch, capsys):
    """A function of what a program returns or raises: its status, output and errors."""

    def run(result):
        def main(argv):
            assert argv == ["--a"]
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(sys, "argv", ["program", "--a"])
        return run_program(main), *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("result", "status", "said"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (143, 143, ""),
        (ConfigError("a=1: not so"), 2, "error: a=1: not so\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/x"),
            1,
            "error: No space left on device (run/x); free some space, then start again\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "error: Permission denied\n"),
    ],
)
def test_endings(ending, result, status, said):
    assert ending(result) == (status, "", said)


@pytest.mark.parametrize("error", [ValueError("bug"), FileNotFoundError(errno.ENOENT, "No file")])
def test_a_bug_keeps_its_traceback(ending, error):
    status, out, err = ending(error)
    assert (status, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith(f"{type(error).__name__}: {error}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_under_the_output_is_a_failure():
    script = "from digits_jax.cli import run_program; exit(run_program(lambda argv: print(3)))"
    command = ["sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device")


def test_a_pipe_gets_each_line_at_once():
    script = """
import sys
from digits_jax.cli import run_program

def main(argv):
    print("here")
    sys.stdin.read()

sys.exit(run_program(main))
"""
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
