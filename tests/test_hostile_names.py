"""Untrusted names of files, folders and classes stay text in every form of output."""

import csv
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from deploy.networks import random_network
from PIL import Image

from digits_jax import checkpoints, predict, train
from digits_jax.deploy.model_card import model_card
from digits_jax.deploy.network import load_network
from digits_jax.evaluation import Run, compare
from digits_jax.evaluation.report import summary_lines, write_report
from digits_jax.formatting import csv_cell, markdown, markdown_table, plain

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b1m\u202e\nerror: forged"
MARKUP = "<script>x</script><img src=x onerror=y>[click](javascript:z) `a` | b"
FORMULA = "=cmd|'/c calc'!A0"


def assert_harmless(text):
    """No control characters but line breaks, no HTML, no link, no new line of a name's."""
    assert text.replace("\n", "").isprintable()
    assert not re.search(r"(?<!\\)<(script|img)", text)
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert not re.search(r"^error: forged", text, re.M)


def test_each_form_has_its_escapes():
    assert plain(ESCAPES) == (r"\x1b]0;title\x07\x1b[2J\x9b1m\u202e\nerror: forged")
    assert plain("Zahl 7, número, 数字") == "Zahl 7, número, 数字"
    assert plain("caf\udce9") == r"caf\udce9"
    assert_harmless(markdown(ESCAPES + MARKUP))
    table = markdown_table([[markdown("a|b\\|c"), "d|e"]], [markdown("|"), "x"])
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()} == {3}
    for text in ("=1", "+1", "-1", "@SUM(1)", " =1", "\t=1", "\r=1"):
        assert csv_cell(text)[:1] == "'", text
    assert [csv_cell(value) for value in ("3.png", -1.0, None, 5)] == ["3.png", -1.0, None, 5]


def test_a_listing_of_checkpoints(here, monkeypatch, trained):
    row = {"step": 1, "bytes": 1, "saved": "2026-01-01T00:00:00", "damage": f"is ({ESCAPES})"}
    monkeypatch.setattr(checkpoints, "describe", lambda _: [row])
    status, out, err = here(checkpoints, trained[0])
    assert status == 1
    assert_harmless(out)
    assert out.count("\n") == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", [ESCAPES, MARKUP, FORMULA, "@SUM(1)", "caf\udce9"])
def test_a_comparison(name, tmp_path, monkeypatch):
    monkeypatch.setattr("digits_jax.evaluation.plots.comparison_figures", lambda *_: {})
    labels = np.arange(40) % 2
    classes = [f"{name} 0", f"{name} 1"]
    a, b = (
        Run(f"{name} {i}", labels, np.eye(2)[np.where(np.arange(40) < i, 1 - labels, labels)])
        for i in (4, 2)
    )
    found = compare([a], [b], class_names=classes, resamples=100)
    for line in summary_lines(found):
        assert line.isprintable()
    folder = write_report(found, tmp_path / "r", notes=[f"Made with: {name}"])
    assert_harmless((folder / "report.md").read_text(encoding="utf-8"))
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|img)", html)
    assert html.replace("\n", "").isprintable()
    rows = list(csv.reader(io.StringIO((folder / "examples.csv").read_text(encoding="utf-8"))))
    assert not [cell for row in rows for cell in row if cell.lstrip()[:1] in tuple("=+@")]


def test_a_model_card():
    facts = {
        **dict.fromkeys(("arch", "preset", "dataset", "device", "jax_version"), ESCAPES + MARKUP),
        **dict.fromkeys(("dataset_sha256", "params_sha256", "dataset_version"), MARKUP),
        **dict.fromkeys(("test_accuracy", "test_loss", "validation_accuracy", "epochs"), 0.5),
        **dict.fromkeys(("seed", "test_errors", "test_count", "batch_size"), 1),
        "config": {"optimizer": MARKUP, "augment": MARKUP},
        "versions": {"jax": MARKUP},
    }
    network = random_network("mlp", class_names=(MARKUP,) * 10, facts={"runs": [facts]})
    text = model_card(network, files={"model.npz": "weights"}, metrics={}, measured={})
    assert_harmless(text)
    assert text.count("click") >= 8


def test_a_data_set_of_folders(here, tmp_path):
    """Its name, its classes and its files are named after folders and files."""
    for label in (ESCAPES, MARKUP.replace("/", ""), FORMULA.replace("/", "")):
        folder = tmp_path / f"data{ESCAPES}" / label
        folder.mkdir(parents=True)
        for number in range(12):
            Image.new("L", (28, 28), 20 * number).save(folder / f"{number}.png")
        (folder / f"{ESCAPES}.png").write_text("no picture")
    flags = (
        "--arch=mlp",
        f"--dataset=data{ESCAPES}",
        "--picture=resize",
        "--batch-size=8",
        "--dry-run",
    )
    status, out, err = here(train, *flags)
    assert status == 0, err
    assert (out + err).replace("\n", "").isprintable()  # a terminal takes markup for text
    assert not re.search(r"^error: forged", out + err, re.M)


def test_a_network_whose_classes_have_such_names(tmp_path, trained):
    """It was trained on such folders, and must not be refused afterwards."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["dataset"]["class_names"][:2] = [ESCAPES, "caf\udce9"]
    (run / "config.json").write_text(json.dumps(config))
    assert load_network(run).class_names[:3] == (plain(ESCAPES), r"caf\udce9", "2")


def test_untrusted_predictions_are_a_table(here, tmp_path, trained, monkeypatch):
    (tmp_path / "test.csv").write_text("\n".join([",".join(["0", "255"] * 392)] * 2))
    names = [FORMULA, 'a,"b"']
    answers = SimpleNamespace(predict=lambda images: SimpleNamespace(names=names))
    monkeypatch.setattr("digits_jax.deploy.predictor.Predictor.load", lambda _: answers)
    status, _, err = here(predict, trained[0], "test.csv", "-o", "answers.csv")
    assert status == 0, err
    rows = list(csv.reader(io.StringIO((tmp_path / "answers.csv").read_text(encoding="utf-8"))))
    assert rows[1:] == [["1", f"'{FORMULA}"], ["2", 'a,"b"']]


def test_a_table_of_predictions(here, trained, tmp_path):
    for name in (FORMULA.replace("/", ""), "-1.png", "@x.png", f"{ESCAPES}.png"):
        Image.new("L", (28, 28), 255).save(tmp_path / name, "PNG")
    status, out, err = here(predict, trained[0], ".", "--csv")
    assert status in (0, 1), err
    rows = list(csv.reader(io.StringIO(out)))
    assert len(rows) >= 5
    assert not [cell for row in rows for cell in row if cell.lstrip()[:1] in tuple("=+-@")]
    assert_harmless(out)
    _, out, _ = here(predict, trained[0], ".")
    assert_harmless(out)
    rows = json.loads(here(predict, trained[0], ".", "--json")[1])  # which has them as they are
    assert any(row["file"].endswith(f"{ESCAPES}.png") for row in rows)
