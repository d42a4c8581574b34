"""What the environment of a program holds: platforms, the user's home, the current folder."""

import jax
import pytest
from programs import call

from digits_jax.errors import ConfigError
from digits_jax.hardware import check_backend

PROGRAMS_WITH_JAX = (
    "train --arch=mlp --dataset=digits",
    "evaluate RUN",
    "predict RUN picture.png",
    "export RUN --format=npz",
    "benchmark step --quick",
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
    (tmp_path / "strange.py").write_text("raise SystemExit('code of a stranger')")
    script = """
import sys
sys.path.insert(0, "")
from digits_jax.cli import run_program

def main(argv):
    import strange

run_program(main)
"""
    _, _, err = call(tmp_path, "", script=script)
    assert err.endswith("ModuleNotFoundError: No module named 'strange'\n")


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
