"""RELIABILITY.md names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "RELIABILITY.md").read_text(encoding="utf-8")
PROMISES = dict(re.findall(r"^\| \*\*(.+?)\*\*.*\|(.*)\|$", PAGE, re.M))


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_its_tests(promise):
    places = re.findall(r"`(tests/\S+)`", PROMISES[promise])
    assert places
    for place in places:
        file, _, name = place.partition("::")
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name in names, place


def test_every_row_of_the_page_is_read():
    assert len(PROMISES) == PAGE.count("\n| **")
