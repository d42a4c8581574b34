"""The pages: links, flags and tests that they name exist, and tables are as commands wrote them."""

import ast
import functools
import importlib
import re
import subprocess
import sys

import pytest
from programs import REPOSITORY, call

from digits_jax.cli import PROGRAMS
from experiments.study import replace_block

PAGES = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/*.md"),
    REPOSITORY / "experiments/README.md",
]
FLAG = re.compile(r"(?<!\S)--?[a-z][a-z-]*")
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_have_flags_that_exist(program, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"digits_jax.{PROGRAMS[program]}").main(["--help"])
    known = set(FLAG.findall(capsys.readouterr().out))
    command = re.compile(rf"(?:digits_jax\.|digits-jax ){program}\b([^\n`|#]*)")
    used = {
        (page.name, flag)
        for page in PAGES
        for arguments in command.findall(page.read_text(encoding="utf-8"))
        for flag in FLAG.findall(arguments.split(" -- ")[0])
    }
    assert {(name, flag) for name, flag in used if flag not in known} == set()


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@functools.cache
def functions(path):
    """The names of a file's functions and methods."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_tests_that_exist():
    text = (REPOSITORY / "RELIABILITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert len(rows) >= 15
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert tests, row
        for path, name in tests:
            assert (REPOSITORY / path).is_file(), path
            assert not name or name in functions(path), f"{path}::{name}"


def snippets(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def blocks(page):
    """What commands wrote between a page's marks, by name."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", text, re.DOTALL))


@pytest.mark.slow
def test_the_readmes_example_prints_what_stands_below_it(tmp_path, request):
    readme = REPOSITORY / "README.md"
    [snippet] = snippets(readme)
    status, out, err = call(tmp_path, None, script=snippet)
    assert status == 0, err
    if request.config.getoption("--record"):
        page = replace_block(readme.read_text(encoding="utf-8"), "example", f"```\n{out}```")
        readme.write_text(page, encoding="utf-8")
    shown = blocks(readme)["example"].strip("`\n")
    lines = [re.sub(r"\d+\.\d+", "0.0", text).splitlines() for text in (out, shown)]
    assert lines[0] == lines[1]  # but for fractions: speed and rounding are the machine's
    accuracies = [float(re.findall(r"([\d.]+)%", text)[-1]) for text in (out, shown)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=2)
    assert min(accuracies) > 90


def test_tables_are_those_that_commands_wrote():
    tables = {name: text for page in PAGES for name, text in blocks(page).items()}
    del tables["example"]
    assert {"training", "sizes", "extras"} <= set(tables)
    for name, text in tables.items():
        written = (REPOSITORY / f"experiments/results/{name}.md").read_text(encoding="utf-8")
        assert text in written, name


@pytest.mark.slow
def test_python_in_the_pages_passes_the_type_checker(tmp_path):
    pytest.importorskip("pyright")
    for page in PAGES:
        for number, snippet in enumerate(snippets(page)):
            code = f"from typing import Any\n\nimages: Any = None\n{snippet}"
            (tmp_path / f"{page.stem.lower()}_{number}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout
