"""What a notebook shows: short texts, tables, figures, and the comparison of two results."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from digits_jax import Run, RunOptions, TrainConfig, compare_results, fit, load_dataset, read_run
from digits_jax.deploy import Predictor
from digits_jax.errors import DataError
from digits_jax.formatting import html_table

DIGITS = load_dataset("digits")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two trainings of a small network."""
    config = TrainConfig(arch="mlp", dataset="digits", preset="quick", hidden_sizes=(16,), epochs=2)
    folder = tmp_path_factory.mktemp("runs")
    return [
        fit(
            TrainConfig(**{**config.to_dict(), "seed": seed}),
            RunOptions(workdir=folder / f"mlp-{seed}"),
            quiet=True,
        )
        for seed in range(2)
    ]


def is_png(data):
    return data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 5000


def test_results_have_short_texts_and_tables(results):
    errors, accuracy = results[0].test.errors, results[0].results["test_accuracy"]
    assert repr(results[0]).startswith(
        f"FitResult(mlp on digits, seed 0: test accuracy {accuracy:.2%}, {errors} errors of 360"
    )
    found = compare_results(*results, resamples=100)
    predictions = Predictor.load(results[0].workdir).predict(DIGITS.test.images[:30])
    shown = [results[0], DIGITS, found, found.runs[0][0], predictions]
    for each in shown:
        assert len(repr(each)) < 250, each
        assert "\n" not in repr(each)
        html = each._repr_html_()
        assert html.startswith("<table>")
        assert len(html) < 3000
    assert repr(DIGITS) == (
        f"Dataset(digits {DIGITS.version}: 1,257 train, 180 validation, 360 test images; "
        "10 classes)"
    )
    assert re.fullmatch(
        r"Predictions\(30 images: (\d \(\d+\.\d%\), ){5}\.\.\.\)", repr(predictions)
    )
    assert "<script>" not in html_table({"<script>": "<script>"}, "<script>")


def test_curves_are_shown_inline(results):
    assert is_png(results[0].plot_curves()._repr_png_())


def test_two_results_are_compared(results, tmp_path):
    a, b = results
    found = compare_results(a, b, resamples=100)
    wrong = [r.test.logits.argmax(-1) != r.test.labels for r in results]
    assert found.overlap.both_wrong == (wrong[0] & wrong[1]).sum()
    assert found.names == ("mlp-0", "mlp-1")
    for figure in (found.plot_errors(), found.plot_errors("b"), found.plot_overlap()):
        assert is_png(figure._repr_png_())
    assert is_png(found.plot_confusions()._repr_png_())
    assert repr(found.report()).count("\n") == 9
    assert found.report()._repr_html_().count("<table>") == 5
    assert (found.write_report(tmp_path / "report") / "errors_a.png").exists()


@pytest.mark.parametrize("form", ["run", "folder", "text"])
def test_every_form_of_a_result_gives_the_same(form, results):
    forms = {"run": read_run, "folder": Path, "text": str}
    expected = compare_results(*results, resamples=100).to_dict()
    given = [forms[form](result.workdir) for result in results]
    found = compare_results(*given, resamples=100).to_dict()
    assert found == expected


def test_groups_of_seeds_and_equal_names(results):
    labels = DIGITS.test.labels
    logits = [np.random.default_rng(i).normal(size=(len(labels), 10)) for i in range(2)]
    other = [Run("mlp-0", labels, each, results={"arch": "cnn"}) for each in logits]
    found = compare_results(results, other, resamples=100)
    assert found.mcnemar_p_pairs.shape == (2, 2)
    names = [run.name for side in found.runs for run in side]
    assert names == ["mlp-0 A1", "mlp-1 A2", "mlp-0 B1", "mlp-0 B2"]


def test_a_row_per_test_image(results, monkeypatch):
    found = compare_results(*results, resamples=100)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DataError, match="to_dataframe needs pandas; pip install pandas"):
        found.to_dataframe()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    table = found.to_dataframe()
    assert len(table) == 360
    assert table["mlp-0 right"].sum() == results[0].test.correct
    assert (table["label"] == DIGITS.test.labels).all()


def test_what_is_no_result_is_refused(results, tmp_path):
    with pytest.raises(DataError, match="a dict can't be compared: give what fit returned"):
        compare_results(results[0], {"logits": 1})
    labels = DIGITS.validation.labels
    bare = [Run(n, labels, np.eye(10)[(labels + i) % 10]) for i, n in enumerate("ab")]
    with pytest.raises(DataError, match="a names no data set"):
        compare_results(*bare, resamples=100).plot_errors()
    with pytest.raises(DataError, match="a is not of this digits"):
        compare_results(*bare, dataset=DIGITS, resamples=100)
