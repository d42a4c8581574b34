"""Imports point one way, `import digits_jax` and `--help` are quick, public names are there."""

import ast
import collections
import subprocess
import sys
from pathlib import Path

import pytest

import digits_jax
from digits_jax.cli import PROGRAMS

PACKAGE = Path(digits_jax.__file__).parent
# What each package may import of ours, beside itself and the modules without such imports.
BASE = {"array_checks", "errors", "fields", "figure_style", "files", "formatting", "hardware"}
BASE |= {"temperature"}
ALLOWED = {
    "data": {"vision"},
    "models": set(),
    "vision": set(),
    "evaluation": {"runs"},
    "runs": {"models"},
    "training": {"config", "data", "models", "runs", "vision"},
    "deploy": {"data", "models", "runs", "vision"},
}
SLOW_IMPORTS = {"jax", "flax", "optax", "orbax", "numpy", "scipy", "sklearn", "matplotlib"}
SLOW_IMPORTS |= {"tensorflow_datasets", "grain", "PIL"}


def own_imports(path):
    """The modules of the package that a file imports, as paths of names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (n.split(".")[1:] for n in names if n.startswith("digits_jax."))


def test_imports_point_one_way():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {'.'.join(parts)}"
        for package, allowed in ALLOWED.items()
        for path in (PACKAGE / package).rglob("*.py")
        for parts in own_imports(path)
        if parts[0] not in {package, *allowed, *BASE}
    ]
    assert wrong == []
    for name in BASE:
        assert {parts[0] for parts in own_imports(PACKAGE / f"{name}.py")} <= {"errors"}


def test_file_names_are_unique():
    names = collections.Counter(
        path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_help_imports_nothing_slow():
    script = """
import contextlib, importlib, sys
from digits_jax.cli import PROGRAMS
for name, module in PROGRAMS.items():
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"digits_jax.{module}").main(["--help"])
    print("loaded:", name, *{module.split(".")[0] for module in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded:")]
    slow = {program: SLOW_IMPORTS.intersection(modules) for program, *modules in rows}
    assert slow == {program: set() for program in PROGRAMS}


def test_public_names():
    contract = "TrainConfig fit resume load_dataset MLP CNN create_train_state train_step eval_step"
    assert set(contract.split()) <= set(digits_jax.__all__)
    for name in digits_jax.__all__:
        assert getattr(digits_jax, name).__doc__
    assert set(digits_jax.__all__) <= set(dir(digits_jax))
    with pytest.raises(AttributeError, match="attribute Trainer"):
        digits_jax.Trainer  # noqa: B018
