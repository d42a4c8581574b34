"""The report: complete or absent, the same numbers everywhere, and a page that stands alone."""

import csv
import json
import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from digits_jax.errors import DataError
from digits_jax.evaluation import Run, compare, plots
from digits_jax.evaluation.report import check_output, summary_lines, write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory, comparison):
    found = comparison(names=("<b>MLP</b>", "C|NN"))
    images = np.random.default_rng(1).integers(0, 256, (400, 28, 28, 1), np.uint8)
    folder = tmp_path_factory.mktemp("report") / "deep" / "folder"
    return found, write_report(found, folder, images=images, notes=["Made by hand"])


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("digits_jax.evaluation.plots.comparison_figures", lambda *_: {})


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_number_of_overlap_json_lies_in_its_interval(seeds, comparison):
    found = comparison(seeds=seeds).to_dict()
    json.dumps(found, allow_nan=False)
    names = [key.removesuffix("_ci95") for key in found if key.endswith("_ci95")]
    assert len(names) == 18
    for name in names:
        low, high = found[f"{name}_ci95"]
        assert low <= found[name] <= high, name
    assert len(found["between_or_within"]) == (2 if seeds > 1 else 0)
    assert (found["between_or_within_reason"] is None) == (seeds > 1)
    assert list(found) == list(comparison(seeds=2).to_dict())


def test_undefined_numbers_are_null_with_a_reason(comparison):
    found = comparison(seeds=1, rates=(0.0, 0.1)).to_dict()
    assert found["repair_rate"] is found["repair_rate_ci95"] is None
    assert "no errors" in found["undefined"]["repair_rate"]


@pytest.mark.parametrize("rates", [(0.1, 0.05), (0.0, 0.1), (0.1, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_summary_has_ten_lines(rates, seeds, comparison):
    lines = summary_lines(comparison(seeds=seeds, rates=rates))
    assert len(lines) == 10
    wrong = ("nan", "None", "-0", "1 errors", " ,", " .", "%[", "  ")
    assert not any(text in line for line in lines for text in wrong)
    better = "MLP is more accurate than CNN: CNN minus MLP −"
    assert lines[5].startswith(better) == (rates == (0.0, 0.1))


def test_where_interval_and_test_disagree_the_test_decides():
    """Four errors to none: resampled, some are nearly always left; the exact test has p = 1/8."""
    labels = np.arange(360) % 10
    wrong = np.where(np.arange(360) < 4, (labels + 1) % 10, labels)
    a, b = (Run(n, labels, 9 * np.eye(10)[x]) for n, x in (("A", wrong), ("B", labels)))
    line = summary_lines(compare([a], [b], resamples=1000))[5]
    assert line.startswith(
        "A and B don't differ significantly in accuracy: B minus A +1.11 points [+0."
    )
    assert "p = 0.12" in line
    assert line.endswith("the test decides")


def test_all_files_hold_the_same(report):
    found, folder = report
    names = {path.name for path in folder.iterdir()}
    assert {"overlap.json", "report.md", "report.html", "examples.csv", "errors_a.png"} <= names
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777  # for others, too
    assert json.loads((folder / "overlap.json").read_text()) == found.to_dict()
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((\w+\.png)\)", markdown)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert sorted(linked) == sorted(name for name in names if name.endswith(".png"))
    assert re.findall(r'<figure id="(\w+)"', html) == [name[:-4] for name in linked]
    assert all(target.startswith("data:") for target in re.findall(r'(?:src|href)="([^"]*)"', html))
    cells = re.findall(r"<td>(\d+\.\d+%)</td>", html)
    assert len(cells) > 30
    assert cells == re.findall(r"\| (?=(\d+\.\d+%) \|)", markdown)


def test_examples_are_a_row_per_image(report):
    found, folder = report
    text = (folder / "examples.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["label"]) for row in rows] == found.labels.tolist()
    run = found.runs[0][0]
    answers = [int(row[f"{run.name} prediction"]) for row in rows]
    right = np.array([int(row[f"{run.name} right"]) for row in rows])
    assert right.mean() == accuracy_score(found.labels, answers)
    exp = np.exp(run.logits)
    expected = log_loss(found.labels, exp / exp.sum(axis=1, keepdims=True), labels=range(10))
    assert np.mean([float(row[f"{run.name} loss"]) for row in rows]) == pytest.approx(
        expected, 1e-4
    )


def test_a_failure_leaves_nothing(tmp_path, monkeypatch, comparison, no_figures):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("digits_jax.evaluation.report.examples_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(comparison(seeds=1), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_fails_is_left_out(tmp_path, monkeypatch, comparison, capsys):
    def fail():
        raise RuntimeError("no\x1bfont")

    real = plots.comparison_figures
    some = lambda *given: {"overlap": fail, "seeds": real(*given)["seeds"]}  # noqa: E731
    monkeypatch.setattr(plots, "comparison_figures", some)
    folder = write_report(comparison(seeds=1), tmp_path / "r")
    assert {"overlap.json", "report.html", "seeds.png"} <= {path.name for path in folder.iterdir()}
    note = r"Left out: the figure overlap, which failed (no\x1bfont)."
    assert capsys.readouterr().err == f"warning: {note}\n"
    assert note in (folder / "report.html").read_text(encoding="utf-8")


def test_only_an_older_report_is_replaced(tmp_path, comparison, no_figures):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="other files"):
        check_output(tmp_path / "mine", overwrite=True)
    old = tmp_path / "old"
    old.mkdir()
    (old / "overlap.json").write_text("{}")
    with pytest.raises(DataError, match="overwrite"):
        check_output(old)
    write_report(comparison(seeds=1), old, overwrite=True)
    assert (old / "report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "old"]
    with pytest.raises(DataError, match="is a file"):
        check_output(old / "report.html")


def test_wrong_images_or_names_are_refused(tmp_path, comparison):
    found = comparison(seeds=1)
    with pytest.raises(DataError, match="2 class names"):
        compare(*found.runs, class_names=["a", "b"])
    with pytest.raises(DataError, match="3 images"):
        write_report(found, tmp_path / "r", images=np.zeros((3, 28, 28, 1), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_a_browser_shows_it_without_an_error_or_a_request(report, visit):
    page = visit(report[1] / "report.html", viewport={"width": 390, "height": 900})
    assert page.evaluate("[...document.images].every(each => each.naturalWidth > 100)")
    assert page.locator("script").count() == 0
