"""The notebooks of the docs run from top to bottom, and each cell's last value can be shown.

Their cells hold nothing but Python, so they are executed here: a kernel would add a dozen packages
and prove no more.
"""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # outputs aren't committed
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shown_values(cells):
    """Executes cells in one namespace; yields what a notebook shows below each."""
    names = {"__name__": "__main__"}
    for cell in cells:
        *body, last = ast.parse(cell).body
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            yield eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    if "to_dataframe" in path.read_text(encoding="utf-8"):
        pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    for value in shown_values(code_cells(path)):
        if hasattr(value, "_repr_png_"):
            assert value._repr_png_().startswith(b"\x89PNG")
        elif hasattr(value, "_repr_html_"):
            assert value._repr_html_().startswith("<")


def test_two_networks_are_compared_in_at_most_15_lines():
    [path] = [path for path in NOTEBOOKS if path.stem == "compare_two_networks"]
    lines = [line for cell in code_cells(path) for line in cell.splitlines() if line.strip()]
    assert len(lines) <= 15
