"""What the environment of a program holds: platforms, the user's home, the current folder."""

import math

import jax
import numpy as np
import pytest
from PIL import Image
from programs import TINY, call

from digits_jax import hardware, train
from digits_jax.cli import PROGRAMS
from digits_jax.errors import ConfigError
from digits_jax.hardware import check_backend
from digits_jax.training.fit_result import FitResult

PROGRAMS_WITH_JAX = (
    "train --arch=mlp --dataset=digits",
    "evaluate RUN",
    "predict RUN picture.png",
    "export RUN --format=npz",
    "benchmark step --quick",
    "checkpoints RUN",
)


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_missing_platform_is_named(monkeypatch, error):
    def fail():
        raise error("Unable to initialize backend")

    monkeypatch.setattr(jax, "local_devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(ConfigError, match=r"^JAX_PLATFORMS=cuda: JAX finds no such platform here"):
        check_backend()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(error):  # then the cause is another one
        check_backend()


@pytest.mark.slow
@pytest.mark.parametrize("command", PROGRAMS_WITH_JAX)
def test_missing_platform_is_one_line_of_every_program(command, tmp_path, trained):
    words = command.replace("RUN", str(trained[0])).split()
    status, _, err = call(tmp_path, *words, env={"JAX_PLATFORMS": "no_such_platform"})
    assert (status, err) == (
        2,
        "error: JAX_PLATFORMS=no_such_platform: JAX finds no such platform here; unset it, or set "
        "it to cpu\n",
    )


def test_nothing_is_cached_without_a_home(tmp_path):
    # os.path.expanduser leaves "~" as it is where neither HOME nor the user is known.
    script = """
import os
os.path.expanduser = lambda path: path
from digits_jax.hardware import compilation_cache, user_cache
assert (compilation_cache(), user_cache()) == (None, None)
"""
    status, _, err = call(tmp_path, "", script=script, env={"XDG_CACHE_HOME": ""})
    assert status == 0, err
    assert err.splitlines() == [
        "warning: this user has no home folder, so nothing is cached; set XDG_CACHE_HOME"
    ]
    assert list(tmp_path.iterdir()) == []


def test_programs_import_nothing_from_the_current_folder(tmp_path):
    for name in ("tyro", "difflib", "typing_extensions", "lazy_loader", "numpy", "jax", "PIL"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('untrusted code')")
    Image.new("L", (28, 28)).save(tmp_path / "blank.png")
    status, out, err = call(tmp_path, "predict", "blank.png")
    assert (status, out, err) == (0, "blank.png: no digit\n", "")


def test_all_modules_are_imported_without_posix(tmp_path):
    script = """
import importlib, pkgutil, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # importing it fails, as on Windows
for name in ("SIGHUP", "SIGSTOP", "SIGCONT", "SIGPIPE", "SIGKILL"):
    delattr(signal, name)
import digits_jax
for module in pkgutil.walk_packages(digits_jax.__path__, "digits_jax."):
    importlib.import_module(module.name)
"""
    status, _, err = call(tmp_path, "", script=script)
    assert status == 0, err


# --- matplotlib's settings -----------------------------------------------------------------


def test_programs_draw_whatever_the_settings_of_matplotlib_are(tmp_path):
    """A notebook's backend, and TeX, which isn't installed."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: nosuch\nsavefig.dpi: x\n")
    env = {"MPLBACKEND": "module://matplotlib_inline.missing", "MATPLOTLIBRC": "matplotlibrc"}
    script = """
from digits_jax.cli import run_program

def main(argv):
    from pathlib import Path
    from digits_jax.figure_style import save_figure
    from digits_jax.training.curves import draw_curves

    row = {f"{split}_{name}": 0.5 for split in ("train", "validation") for name in ("loss", "accuracy")}
    save_figure(draw_curves([{"epoch": 1.0, **row}], "$mlp$ on {x^"), Path("curves.png"))

raise SystemExit(run_program(main))
"""  # noqa: E501
    status, out, err = call(tmp_path, "", script=script, env=env)
    assert (status, out, err) == (0, "", "")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_that_fail_are_a_warning(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise RuntimeError("no font\nof that name")

    monkeypatch.setattr("digits_jax.training.curves.draw_curves", fail)
    facts = {"arch": "mlp", "dataset": "digits", "seed": 0}
    train.write_curves(FitResult(None, facts, tmp_path, [{"epoch": 1.0}], None, None))
    assert (
        capsys.readouterr().err == "warning: curves.png can't be drawn (no font\\nof that name)\n"
    )


# --- a container's share of the processor --------------------------------------------------

GROUPS = {
    # Files below /sys/fs/cgroup, /proc/self/cgroup, and the cores that are allowed.
    "version 2": ({"pod/cpu.max": "250000 100000"}, "0::/pod", 2.5),
    "version 2, a limit above": (
        {"cpu.max": "100000 50000", "a/b/cpu.max": "max 100000"},
        "0::/a/b",
        2.0,
    ),
    "version 2 without a limit": ({"cpu.max": "max 100000"}, "0::/", math.inf),
    "version 1": (
        {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        "5:memory:/x\n4:cpu,cpuacct:/docker/not-seen-in-the-container",
        1.5,
    ),
    "version 1 without a limit": (
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        "4:cpu,cpuacct:/",
        math.inf,
    ),
    "no groups": ({}, "", math.inf),
    "something else": ({"cpu.max": "x"}, "0::/", math.inf),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_cores_are_those_of_the_containers_quota(kind, tmp_path, monkeypatch):
    files, own, expected = GROUPS[kind]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "cgroup").write_text(own)
    monkeypatch.setattr(hardware, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert hardware.cpu_quota() == expected
    assert hardware.cpu_count() == min(64, math.ceil(min(expected, 64)))


# --- python -OO ----------------------------------------------------------------------------


def test_programs_have_a_help_without_docstrings(tmp_path):
    script = """
import contextlib, importlib
from digits_jax.cli import PROGRAMS
for module in PROGRAMS.values():
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"digits_jax.{module}").main(["--help"])
"""
    status, out, err = call(tmp_path, "", script=script, env={"PYTHONOPTIMIZE": "2"})
    assert (status, err) == (0, "")
    assert out.count("usage: ") == len(PROGRAMS)


@pytest.mark.slow
def test_programs_work_without_docstrings_and_assertions(tmp_path):
    Image.fromarray(np.full((28, 28), 255, np.uint8)).save(tmp_path / "blank.png")
    for command, expected in {
        f"train {' '.join(TINY)} --workdir=run": "digits test accuracy",
        "evaluate run": "digits test accuracy",
        f"train {' '.join(TINY)} --seed=1 --workdir=other": "digits test accuracy",
        "compare run other -o report": "report: report/report.html",
        "predict run blank.png": "blank.png: no digit",
        "export run --format=npz": "model.npz",
        "checkpoints run": "the run is finished",
        "benchmark step --quick --dataset=digits --arch=mlp --seconds=0.01": "| mlp |",
        f"launch --num-processes=2 -- {' '.join(TINY)} --workdir=two": "digits test accuracy",
    }.items():
        status, out, err = call(tmp_path, *command.split(), env={"PYTHONOPTIMIZE": "2"})
        assert (status, expected in out) == (0, True), (command, out, err)
