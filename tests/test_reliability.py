"""RELIABILITY.md names tests that there are, and its table counts what they tried."""

import ast
import json
from pathlib import Path

import pytest

from experiments import reliability

REPOSITORY = Path(__file__).resolve().parent.parent
PROMISES = reliability.read_promises((REPOSITORY / "RELIABILITY.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_is_held_by_tests(promise):
    assert PROMISES[promise]
    for place in PROMISES[promise]:
        file, _, name = place.partition("::")
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name in names, place


def test_every_row_of_the_page_is_read():
    page = (REPOSITORY / "RELIABILITY.md").read_text(encoding="utf-8")
    assert len(PROMISES) == page.split("<!-- tried -->")[0].count("\n| **")


def test_what_was_tried_is_counted(tmp_path, monkeypatch):
    """Tests of its own: one that tries many, one that is lost, one that is skipped."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "import json, os, pytest\n"
        "def test_many():\n"
        "    line = {'tried': 30, 'survived': 29, 'lost': 1,\n"
        "            'test': os.environ['PYTEST_CURRENT_TEST'].rpartition(' ')[0]}\n"
        "    with open(os.environ['DIGITS_JAX_FAULTS_LOG'], 'a') as file:\n"
        "        file.write(json.dumps(line) + '\\n')\n"
        "@pytest.mark.parametrize('x', [1, 2])\n"
        "def test_two(x):\n"
        "    assert x == 1\n"
        "def test_skipped():\n"
        "    pytest.skip('no')\n"
    )
    monkeypatch.setattr(reliability, "REPOSITORY", tmp_path)
    promises = {"a": ["tests/test_it.py::test_many"], "b": ["tests/test_it.py"]}
    rows, seconds = reliability.try_all(promises, 1)
    numbers = [[row[name] for name in ("tests", "tried", "survived", "lost")] for row in rows]
    assert numbers == [[1, 30, 29, 1], [3, 32, 30, 2]]
    assert [row["skipped"] for row in rows] == [0, 1]
    text = reliability.table(
        {"promises": rows, "seconds": seconds, "cores": 2, "command": "python x"}
    )
    assert "| a | 1 | 30 | 29 | 1 |" in text
    assert "4 tests, 62 faults, 3 lost" in text
    json.dumps(rows)
