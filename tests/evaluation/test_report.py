"""The report: whole or not at all, the same numbers everywhere, and a page that stands alone."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from digits_jax.errors import DigitsError
from digits_jax.evaluation.comparison import Group, Run, compare
from digits_jax.evaluation.page import Page, to_html, to_markdown
from digits_jax.evaluation.report import check_output, write_report
from digits_jax.evaluation.sources import groups_of, mixed_presets, source_of
from digits_jax.evaluation.summary import Table, summary_lines

KEYS = (
    *("n", "both_right", "only_a_wrong", "only_b_wrong", "both_wrong", "both_wrong_same_label"),
    *("repair_rate", "new_error_rate", "jaccard", "error_consistency", "yule_q", "phi"),
    *("disagreement", "double_fault", "mcnemar_p", "accuracy_a", "accuracy_b"),
)
WITH_INTERVALS = set(KEYS) - {"n", "mcnemar_p"}


@pytest.fixture(scope="module")
def report(tmp_path_factory, comparison):
    found = comparison(names=("<b>MLP</b>", "C|NN"))
    images = np.random.default_rng(1).integers(0, 256, (400, 28, 28, 1), np.uint8)
    folder = tmp_path_factory.mktemp("report") / "deep" / "folder"
    return found, write_report(found, folder, images=images, notes=("Made by hand",))


@pytest.mark.parametrize("seeds", [1, 3])
def test_overlap_json_has_every_key(seeds, comparison):
    found = comparison(seeds=seeds).to_dict()
    text = json.dumps(found, allow_nan=False)
    assert "NaN" not in text
    for key in KEYS:
        assert isinstance(found[key], int | float), key
    for key in WITH_INTERVALS:
        low, high = found[f"{key}_ci95"]
        assert low <= found[key] <= high, key
    assert set(found["between_or_within"]) == (
        {"error_consistency", "jaccard"} if seeds > 1 else set()
    )
    assert (found["between_or_within_reason"] is None) == (seeds > 1)


def test_the_same_keys_for_two_runs_and_for_groups(comparison):
    assert list(comparison(seeds=1).to_dict()) == list(comparison(seeds=2).to_dict())


def test_ten_lines_always(comparison):
    for rates in ((0.1, 0.05), (0.0, 0.1), (0.1, 0.0), (0.0, 0.0)):
        for seeds in (1, 2):
            found = comparison(seeds=seeds, rates=rates)
            lines = summary_lines(found, "0123456789")
            assert len(lines) == 10
            assert not any("nan" in line or "None" in line for line in lines)


def test_what_is_undefined_is_null_with_a_reason(comparison):
    found = comparison(seeds=1, rates=(0.0, 0.1)).to_dict()
    assert found["repair_rate"] is None
    assert found["repair_rate_ci95"] is None
    assert "no errors" in found["undefined"]["repair_rate"]


def test_everything_is_written(report):
    found, folder = report
    names = {path.name for path in folder.iterdir()}
    assert {"overlap.json", "report.md", "report.html", "examples.csv", "errors_a.png"} <= names
    assert [p.name for p in folder.parent.iterdir()] == ["folder"]
    assert json.loads((folder / "overlap.json").read_text()) == found.to_dict()
    linked = re.findall(r"\]\((\w+\.png)\)", (folder / "report.md").read_text())
    assert sorted(linked) == sorted(name for name in names if name.endswith(".png"))


def test_examples_are_a_row_per_image(report):
    found, folder = report
    text = (folder / "examples.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 400
    assert [int(row["label"]) for row in rows] == found.labels.tolist()
    name, run = found.a.runs[0].name, found.a.runs[0]
    answers = [int(row[f"{name} prediction"]) for row in rows]
    right = np.array([int(row[f"{name} right"]) for row in rows])
    assert right.mean() == accuracy_score(found.labels, answers)
    exp = np.exp(run.logits)
    expected = log_loss(found.labels, exp / exp.sum(axis=1, keepdims=True), labels=range(10))
    assert np.mean([float(row[f"{name} loss"]) for row in rows]) == pytest.approx(expected, 1e-4)


def test_names_are_escaped(report):
    _, folder = report
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<b>MLP" not in html
    assert "&lt;b&gt;MLP&lt;/b&gt;" in html
    assert "C\\|NN" in (folder / "report.md").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing(report):
    html = (report[1] / "report.html").read_text(encoding="utf-8")
    for target in re.findall(r'(?:src|srcset|href)="([^"]*)"', html):
        assert target.startswith("data:")
    assert "<script" not in html
    assert "url(" not in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_markdown_tables_have_as_many_cells_as_headers():
    table = Table("t", ("x", "a|b"), [("1", "2|3")], "note")
    text = to_markdown(Page("h", ["s"], [], [table], []))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert "2|3" in to_html(Page("h", ["s"], [], [table], []))


def test_without_images_the_sheets_are_left_out_and_it_is_said(tmp_path, comparison):
    folder = write_report(comparison(seeds=1), tmp_path / "r")
    assert not (folder / "errors_a.png").exists()
    assert "Left out: the misclassified images" in (folder / "report.md").read_text()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch, comparison):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("digits_jax.evaluation.report.to_html", fail)
    monkeypatch.setattr(
        "digits_jax.evaluation.report._page", lambda *_: (Page("h", [], [], [], []), [])
    )
    with pytest.raises(OSError, match="disk full"):
        write_report(comparison(seeds=1), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_only_an_older_report_is_replaced(tmp_path, comparison, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(DigitsError, match="other files"):
        check_output(tmp_path / "mine", overwrite=True)
    old = tmp_path / "old"
    old.mkdir()
    (old / "overlap.json").write_text("{}")
    with pytest.raises(DigitsError, match="--overwrite"):
        check_output(old)
    monkeypatch.setattr(
        "digits_jax.evaluation.report._page", lambda *_: (Page("h", [], [], [], []), [])
    )
    write_report(comparison(seeds=1), old, overwrite=True)
    assert (old / "report.html").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "old"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DigitsError, match="is a file"):
        check_output(tmp_path / "file")


def test_wrong_images_or_names_are_refused(tmp_path, comparison):
    found = comparison(seeds=1)
    with pytest.raises(DigitsError, match="3 images for 400"):
        write_report(found, tmp_path / "r", images=np.zeros((3, 28, 28, 1), np.uint8))
    with pytest.raises(DigitsError, match="2 class names"):
        write_report(found, tmp_path / "r", class_names=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_published_label_errors_are_looked_at_on_mnist():
    labels = np.zeros(10_000, int)
    wrong = np.zeros(10_000, int)
    wrong[[947, 1621, 5]] = 1
    logits = 5 * np.eye(2)[wrong]
    group = Group("A", (Run("a", logits),))
    found = compare(labels, group, group, dataset="mnist", resamples=100)
    assert [image.index for image in found.hardest] == [5, 947, 1621]
    assert [image.known for image in found.hardest] == [False, True, True]
    cleaned = found.to_dict()["without_published_label_errors"]
    assert cleaned["n"] == 9985
    assert cleaned["accuracy_a"] == pytest.approx(1 - 1 / 9985)
    other = compare(labels, group, group, dataset="fashion_mnist", resamples=100)
    assert other.to_dict()["without_published_label_errors"] is None


def test_compare_names_the_run_that_is_wrong():
    labels = np.array([0, 1])
    good = Group("A", (Run("good", np.eye(2)),))
    for logits, says in ((np.full((2, 2), np.nan), "NaN"), (np.eye(3)[:2], "numbers of classes")):
        with pytest.raises(DigitsError, match=says):
            compare(labels, good, Group("B", (Run("bad", logits),)), resamples=100)
    with pytest.raises(DigitsError, match="B has no run"):
        compare(labels, good, Group("B", ()), resamples=100)


def test_groups_are_named_so_that_they_can_be_told_apart():
    def one(name, kind):
        return source_of(name, name, {"labels": [0, 1], "logits": np.eye(2)}, {"arch": kind})

    def names(a, b, **given):
        return [g.name for g in groups_of(a, b, **given)]

    assert names([one("x", "mlp")], [one("y", "cnn")]) == ["MLP", "CNN"]
    assert names([one("x", "cnn")], [one("y", "cnn")]) == ["x", "y"]
    assert names([one("x", "cnn")], [one("x", "cnn")]) == ["x A", "x B"]
    twice = [one("x", "cnn"), one("y", "cnn")]
    assert names(twice, twice) == ["CNN A", "CNN B"]
    assert names(twice, twice, name_a="old", name_b="new") == ["old", "new"]
    assert all(len(n) <= 24 for n in names([one("l" * 90, "m" * 90)], [one("y", "cnn")]))
    with pytest.raises(DigitsError, match="mixes"):
        groups_of([one("x", "cnn"), one("y", "mlp")], twice)


def test_long_names_are_cut_at_the_end_and_stay_apart():
    def one(name, **results):
        return source_of(name, name, {"labels": [0, 1], "logits": np.eye(2)}, results)

    names = [g.name for g in groups_of([one("l" * 90 + "1")], [one("l" * 90 + "2")])]
    assert names == [f"{'l' * 21}… A", f"{'l' * 21}… B"]
    with pytest.raises(DigitsError, match="two different names"):
        groups_of([one("x")], [one("y")], name_a="N", name_b="N")
    group = [one("x", preset="quick"), one("y", preset="best")]
    [note] = mixed_presets(group, [one("z", preset="best")])
    assert "best, quick" in note


def test_sentences_name_the_better_one_and_count_in_words(comparison):
    lines = summary_lines(comparison(seeds=1, rates=(0.02, 0.1)), "0123456789")
    assert "MLP is more accurate than CNN: +" in lines[5]
    lines = summary_lines(comparison(seeds=1, rates=(0.02, 0.0)), "0123456789")
    assert lines[3] == "new errors: CNN makes no errors, so there is no new-error rate"
    assert not any("-0" in line or "1 errors" in line for line in lines)


def test_where_the_interval_is_surer_than_the_test_the_sentence_says_which_decides():
    """Four errors to none: resampled, some are nearly always left; the exact test has p = 1/8."""
    labels = np.arange(360, dtype=np.int32) % 10
    right = np.eye(10, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[:4] = np.roll(right[:4], 1, axis=1)
    a, b = (Group(n, (Run(n, 9 * x),)) for n, x in (("MLP", wrong), ("CNN", right)))
    line = summary_lines(compare(labels, a, b, resamples=1000), "0123456789")[5]
    assert line.startswith("MLP and CNN can't be told apart, CNN minus MLP: +1.11 points [+0.")
    assert "p = 0.12" in line
    assert line.endswith("of few errors: the test decides")


def open_in_browser(page, folder, width):
    """What Chromium says on stderr, and the URLs that the page (not the browser) asked for."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    flags += "--disable-background-networking --disable-component-update --enable-logging=stderr"
    command = [browser, *flags.split(), f"--user-data-dir={folder / 'profile'}"]
    # Chromium has requests of its own; they resolve to nothing.
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},900"]
    command += [f"--log-net-log={folder / 'net.json'}", f"--screenshot={folder / 'page.png'}"]
    done = subprocess.run([*command, page], capture_output=True, text=True, timeout=90)
    log = json.loads((folder / "net.json").read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [e["params"] for e in log["events"] if e["type"] == start and "params" in e]
    # A page from a file has the origin "null"; the browser's own requests have none.
    urls = [request["url"] for request in asked if request.get("initiator") == "null"]
    return done.stderr, [url for url in urls if not url.startswith("data:")]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_an_error_or_a_request(report, tmp_path, width):
    page = (report[1] / "report.html").as_uri()
    said, asked = open_in_browser(page, tmp_path, width)
    assert (tmp_path / "page.png").stat().st_size > 5_000, said
    assert "CONSOLE" not in said
    assert asked == []


@pytest.mark.browser
def test_the_browser_test_would_notice(tmp_path):
    html = "<img src='http://example.invalid/x.png'><script>console.error('x')</script>"
    (tmp_path / "bad.html").write_text(html)
    said, asked = open_in_browser((tmp_path / "bad.html").as_uri(), tmp_path, 390)
    assert "CONSOLE" in said
    assert asked == ["http://example.invalid/x.png"]
