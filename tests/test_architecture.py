"""Who imports whom, what is public, and what a start costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import digits_jax

PACKAGE = Path(digits_jax.__file__).parent
REPOSITORY = PACKAGE.parent
ROOMS = {"data", "models", "training", "runs", "evaluation", "deploy", "benchmarks"}
# What everybody may import, as they import nothing of ours.
LEAVES = {"errors", "formatting", "processor", "versions"}
# What each room may import of ours, beside itself and the leaves.
ALLOWED = {
    "data": set(),
    "models": set(),
    "runs": set(),
    "evaluation": set(),
    "training": {"data", "models", "runs"},
    "deploy": {"data", "models", "runs"},
    # What is measured is all the rest: only its program knows this room.
    "benchmarks": {"training", "deploy", "data", "models", "runs", "config", "config_checks"},
}
HEAVY = {"tensorflow_datasets", "grain", "array_record"}
HEAVY |= {"matplotlib", "orbax", "onnx", "seaborn", "tensorboardX"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path, *, at_start_only=False):
    """The modules that a file imports, "a.b" for ``from a import b`` where that is a module."""
    found = set()

    def visit(node):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return  # names for the type checker: nothing is loaded
        for child in ast.iter_child_nodes(node):
            inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            if not (at_start_only and isinstance(child, inner)):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def ours(path):
    """What a file imports of the package, by parts after its name."""
    names = (name.split(".") for name in imports(path))
    return {tuple(parts[1:]) for parts in names if parts[0] == "digits_jax"}


def in_rooms():
    return [path for path in FILES if path.parent != PACKAGE]


def name_of(path):
    return str(path.relative_to(PACKAGE))


def test_every_folder_has_its_rules():
    assert {path.parent.relative_to(PACKAGE).parts[0] for path in in_rooms()} <= ROOMS


@pytest.mark.parametrize("path", in_rooms(), ids=name_of)
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0]
    allowed = ALLOWED[room] | {room, *LEAVES}
    if name_of(path) in [
        f"training/{name}.py" for name in ("ensemble", "loop", "plan", "resuming")
    ]:
        allowed |= {"config", "config_checks"}
    wrong = sorted(".".join(parts) for parts in ours(path) if parts[0] not in allowed)
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_its_program_knows_the_benchmarks(path):
    if path.parent.name != "benchmarks" and path.name != "benchmark.py":
        assert "benchmarks" not in {parts[0] for parts in ours(path)}


def test_what_lies_beside_the_programs():
    """The configuration reads JSON and knows the recipes; the parser raises errors; no more."""
    assert {parts[0] for parts in ours(PACKAGE / "config.py")} == {
        *("config_checks", "errors", "recipes", "runs")
    }
    assert {parts[0] for parts in ours(PACKAGE / "config_checks.py")} == {"errors"}
    assert ours(PACKAGE / "recipes.py") == set()
    assert ours(PACKAGE / "cli.py") == {("errors", "DigitsError")}
    assert [ours(PACKAGE / f"{name}.py") for name in sorted(LEAVES)] == [set()] * len(LEAVES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_package_needs_no_experiments_and_no_tests(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"experiments", "tests", "pytest"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_imports_are_in_functions(path):
    room = path.relative_to(PACKAGE).parts[0]
    heavy = HEAVY - ({"matplotlib", "seaborn"} if room == "evaluation" else set())
    found = {name.split(".")[0] for name in imports(path, at_start_only=True)}
    assert found & heavy == set()


def test_the_walk_finds_what_it_looks_for(tmp_path):
    """The tests above can fail."""
    (tmp_path / "file.py").write_text(
        "import matplotlib.pyplot\n"
        "from digits_jax.training import steps\n"
        "def f():\n    from digits_jax.config import TrainConfig\n    import orbax.checkpoint\n"
    )
    assert imports(tmp_path / "file.py", at_start_only=True) == {
        "matplotlib.pyplot",
        "digits_jax.training.steps",
    }
    assert ours(tmp_path / "file.py") == {("training", "steps"), ("config", "TrainConfig")}


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_help_imports_no_jax(program):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"digits_jax.{program}", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "tyro" in loaded
    assert loaded & {"jax", "jaxlib", "flax", "optax", "numpy", "scipy", "sklearn", *HEAVY} == set()


# --- public names --------------------------------------------------------------------------


@pytest.mark.parametrize("name", digits_jax.__all__)
def test_public_names(name):
    assert getattr(digits_jax, name).__name__ == name
    assert getattr(digits_jax, name).__doc__
    assert name in dir(digits_jax)


def test_public_names_are_those_that_users_want():
    wanted = "TrainConfig fit MLP CNN create_train_state train_step eval_step load_dataset"
    assert set(wanted.split()) <= set(digits_jax.__all__)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        digits_jax.Trainer  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("digits_jax.")
        for node in block.body
        for alias in node.names
    }
    assert seen == digits_jax._HOME


PAGES = [*REPOSITORY.glob("*.md"), REPOSITORY / "experiments/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_pages_link_to_what_is_there(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in files if not (page.parent / link).exists()] == []
