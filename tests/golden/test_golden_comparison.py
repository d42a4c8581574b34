"""Comparisons of made-up predictions give the stored `overlap.json` and the report's numbers."""

import json
import re

import numpy as np
import pytest

from digits_jax.compare import main as compare
from digits_jax.data.datasets import load_dataset


def predictions(rng, labels, rate):
    """Logits that classify a share of the images wrong."""
    wrong = rng.random(labels.size) < rate
    answers = np.where(wrong, (labels + rng.integers(1, 10, labels.size)) % 10, labels)
    noise = rng.integers(-2000, 2001, (labels.size, 10)) / 1000
    return (noise + 5 * np.eye(10)[answers]).astype(np.float32)


def write_pair(root):
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 10, 500).astype(np.int32)
    for name, rate in (("first", 0.12), ("second", 0.06)):
        validation = rng.integers(0, 10, 100).astype(np.int32)
        write_predictions(root / f"{name}.npz", rng, labels, validation, rate)
    return ["--predictions", f"{root}/first.npz", f"{root}/second.npz"]


def write_groups(root):
    data, rng = load_dataset("digits"), np.random.default_rng(12)
    groups = {"mlp": [], "cnn": []}
    for arch, rate in (("mlp", 0.1), ("cnn", 0.05)):
        for seed in range(3):
            run = root / f"{arch}-{seed}"
            run.mkdir()
            results = {"arch": arch, "dataset": "digits", "seed": seed}
            results["dataset_sha256"] = data.sha256
            (run / "results.json").write_text(json.dumps(results))
            (run / "config.json").write_text("{}")
            splits = data.test.labels, data.validation.labels
            write_predictions(run / "predictions.npz", rng, *splits, rate)
            groups[arch].append(str(run))
    return ["--a", *groups["mlp"], "--b", *groups["cnn"]]


def write_predictions(path, rng, labels, validation, rate):
    logits, others = (predictions(rng, each, rate) for each in (labels, validation))
    of_validation = {"validation_labels": validation, "validation_logits": others}
    np.savez(path, labels=labels, logits=logits, **of_validation)


def value(number):
    return float(number.replace(",", "").rstrip("%"))


def report_numbers(text):
    """The distinct decimal numbers and percentages of a report, in order of appearance."""
    kept = [line for line in text.splitlines() if "Made with:" not in line]
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?%?", "\n".join(kept))
    return list(dict.fromkeys(found))


def assert_close(found, stored, path):
    """Compares JSON values: floats nearly, all else exactly."""
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), path
        for key in stored:
            assert_close(found[key], stored[key], f"{path}.{key}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), path
        for index, pair in enumerate(zip(found, stored, strict=True)):
            assert_close(*pair, f"{path}[{index}]")
    else:
        nearly = isinstance(stored, float)
        assert found == (pytest.approx(stored, rel=1e-5, abs=1e-9) if nearly else stored), path


@pytest.mark.parametrize(("name", "write"), [("pair", write_pair), ("groups", write_groups)])
def test_comparison(golden, tmp_path, name, write):
    out = tmp_path / "report"
    assert not compare([*write(tmp_path), f"--output={out}", "--resamples=500"])
    text = (out / "overlap.json").read_text(encoding="utf-8").replace(str(tmp_path), "")
    report = report_numbers((out / "report.md").read_text(encoding="utf-8"))
    found = {"overlap": json.loads(text), "report": report}
    stored = golden(name, found)
    assert_close(found["overlap"], stored["overlap"], "overlap")
    # A report of other words may show more: these numbers are still there.
    assert set(map(value, stored["report"])) <= set(map(value, report))
