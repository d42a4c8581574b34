"""The table of how accurate it can get: by hand, and from a small ensemble."""

import json

import numpy as np
import pytest

from digits_jax.config import TrainConfig
from digits_jax.errors import DigitsError
from digits_jax.runs.folder import read_run
from digits_jax.training.ensemble import fit_ensemble
from experiments import accuracy
from experiments.accuracy import RECIPES, Recipe, markdown, measure


def score(test_accuracy, first, second, **more):
    return {
        "test_accuracy": test_accuracy,
        "test_count": 10_000,
        "first_half_accuracy": first,
        "second_half_accuracy": second,
        "without_doubtful_accuracy": test_accuracy + 0.001,
        "total_seconds": 120.0,
        **more,
    }


def test_the_table_by_hand(monkeypatch):
    monkeypatch.setitem(RECIPES, "cnn-best", Recipe("--arch=cnn", 0.995, best=0.995, together=1.0))
    members = [score(0.99, 0.98, 1.0), score(0.996, 0.994, 0.998)]
    row = {
        "flags": "--arch=cnn",
        "cores": 2,
        "device": "cpu: a CPU",
        "num_params": 1000,
        "members": members,
        "ensemble": score(0.998, 0.997, 0.999, total_seconds=240.0),
    }
    lines = markdown({"cnn-best": row}).splitlines()
    # The standard deviation of 99.0 and 99.6 is 0.6 / sqrt(2); Wilson's by statsmodels.
    assert (
        "| **99.300%** ± 0.424 | 99.12% to 99.45% | 99.60% | 99.40% | 98.70%, 99.90% |" in lines[2]
    )
    assert lines[2].endswith("| 2.0 min, 2 cores | ≥ 99.50%: no; best ≥ 99.50%: yes |")
    assert lines[3].endswith("| 4.0 min | ≥ 100.00%: no |")
    assert "| `--ensemble=2`" not in lines[2]
    on_a_gpu = {**row, "device": "gpu: NVIDIA H200"}  # whose cores do nothing
    assert "| 2.0 min, NVIDIA H200 |" in markdown({"cnn-best": on_a_gpu})
    assert "... `--ensemble=2` | 2 × 1,000 | **99.80%** | 99.69% to 99.87% |" in lines[3]
    assert "2 seeds" in lines[-1]


def test_what_is_measured(tmp_path):
    config = TrainConfig(
        arch="mlp", dataset="digits", preset="quick", epochs=1.0, hidden_sizes=(16,), ensemble=2
    )
    workdir = tmp_path / "two"
    fit_ensemble(TrainConfig(**{**config.to_dict(), "workdir": str(workdir)}), quiet=True)
    found = measure(workdir)
    for index, member in enumerate(found["members"]):
        run = read_run(workdir / f"member-{index}")
        right = run.logits.argmax(-1) == run.labels
        assert member["seed"] == index
        assert member["test_accuracy"] == pytest.approx(run.results["test_accuracy"])
        assert member["first_half_accuracy"] == np.mean(right[:180])
        assert member["second_half_accuracy"] == np.mean(right[180:])
        assert "without_doubtful_accuracy" not in member
    assert found["ensemble"]["test_errors"] == read_run(workdir).results["test_errors"]
    json.dumps(found)
    line = markdown({"mlp-digits": {"flags": "", "cores": 1, **found}})
    assert "| - |" in line


def test_doubtful_labels_are_left_out():
    """A run that errs exactly on the published list reaches 100% without it."""
    labels = np.zeros(10_000, np.int32)
    logits = np.zeros((10_000, 2), np.float32)
    logits[:, 0] = 1
    wrong = list(accuracy.PUBLISHED_LABEL_ERRORS["mnist"])
    logits[wrong, 1] = 2

    class Run:
        results = {  # noqa: RUF012 - of a run on disk
            "dataset": "mnist",
            "validation_accuracy": 1.0,
            "total_seconds": 1.0,
            "params_sha256": "",
        }

    Run.labels, Run.logits = labels, logits
    found = accuracy._scores(Run)
    assert (found["test_errors"], found["without_doubtful_accuracy"]) == (15, 1.0)


def test_bad_arguments(tmp_path):
    for flags, words in {
        ("--recipes=cnn-huge",): "--recipes=cnn-huge: give some of cnn-standard",
        ("--seeds=1",): "--seeds=1: give 2 or more",
        ("--recipes=mlp-digits", "--seeds=2"): "accuracy.json is of 5 seeds; give --seeds=5",
        ("--recipes=cnn-distilled,cnn-best",): "it learns from cnn-best, which isn't in .*nowhere",
    }.items():
        (tmp_path / "accuracy.json").write_text(json.dumps({"cnn-tiny": {"members": [{}] * 5}}))
        with pytest.raises(DigitsError, match=words):
            accuracy.main([*flags, f"--output={tmp_path}", f"--runs={tmp_path / 'nowhere'}"])


def test_where_the_runs_and_the_data_lie(tmp_path, monkeypatch):
    """Folders with a space reach the training as one word each."""
    said = []

    def train(flags, workdir, *_):
        said.append((flags, workdir))
        raise DigitsError("as far as this goes")

    monkeypatch.setattr(accuracy, "train_members", train)
    runs = tmp_path / "the runs"
    argv = ["--recipes=cnn-distilled", f"--runs={runs}", f"--output={tmp_path}"]
    (runs / "cnn-best").mkdir(parents=True)
    (runs / "cnn-best" / "results.json").write_text("{}")
    with pytest.raises(DigitsError, match="as far"):
        accuracy.main([*argv, "--data-dir=my data"])
    flags, workdir = said[0]
    assert flags[-2:] == [f"--teacher={runs}/cnn-best", "--data-dir=my data"]
    assert workdir == runs / "cnn-distilled"
