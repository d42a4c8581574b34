"""The program, on run folders made by hand from the embedded digits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digits_jax.compare import main
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError

DIGITS = load_dataset("digits")
LABELS = DIGITS.test.labels


def make_run(folder, arch, seed, rate, **changes):
    """A run folder with about `rate` of its answers wrong; `changes` replace arrays or results."""
    rng = np.random.default_rng([seed, len(arch), int(1000 * rate)])

    def logits(labels):
        answers = np.where(rng.random(labels.size) < rate, (labels + 1) % 10, labels)
        noise = rng.normal(size=(labels.size, 10))
        return (noise + 6 * np.eye(10)[answers]).astype(np.float32)

    known = DIGITS.validation.labels
    arrays = {
        "labels": LABELS,
        "logits": logits(LABELS),
        "validation_labels": known,
        "validation_logits": logits(known),
    }
    results = {"arch": arch, "dataset": "digits", "dataset_sha256": DIGITS.sha256, "seed": seed}
    arrays |= {key: value for key, value in changes.items() if key in arrays}
    results |= {key: value for key, value in changes.items() if key in results}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "results.json").write_text(json.dumps(results))
    np.savez(folder / "predictions.npz", **{k: v for k, v in arrays.items() if v is not None})
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    mlp = [make_run(root / f"mlp-{seed}", "mlp", seed, 0.10) for seed in range(2)]
    cnn = [make_run(root / f"cnn-{seed}", "cnn", seed, 0.04) for seed in range(2)]
    return mlp, cnn


def program(*arguments, cwd):
    command = [sys.executable, "-m", "digits_jax.compare", *map(str, arguments)]
    # Bars and notices aside, a program of ours says nothing on stderr that isn't an error.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=180
    )


def test_two_runs_end_to_end(runs, tmp_path):
    (a, _), (b, _) = runs
    done = program(a, b, "-o", "report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    assert lines[-1] == f"report: {Path('report', 'report.html')}"
    numbers = json.loads((tmp_path / "report" / "overlap.json").read_text())
    wrong = [np.load(Path(r, "predictions.npz"))["logits"].argmax(1) != LABELS for r in (a, b)]
    assert numbers["both_wrong"] == (wrong[0] & wrong[1]).sum()
    assert numbers["repair_rate"] == (wrong[0] & ~wrong[1]).sum() / wrong[0].sum()
    assert (numbers["name_a"], numbers["name_b"]) == ("MLP", "CNN")
    assert numbers["dataset_sha256"] == DIGITS.sha256
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"errors_a.png", "errors_b.png", "hardest.png", "report.html"} <= names
    assert "Made with: python -m digits\\_jax.compare" in (
        (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    )


def test_groups_give_the_same_keys_as_two_runs(runs, capsys):
    mlp, cnn = runs
    assert main([mlp[0], cnn[0], "--json", "--resamples=200"]) == 0
    pair = json.loads(capsys.readouterr().out)
    assert main(["--a", *mlp, "--b", *cnn, "--json", "--resamples=200"]) == 0
    groups = json.loads(capsys.readouterr().out)
    assert list(pair) == list(groups)
    assert groups["runs_a"] == ["mlp-0", "mlp-1"]
    assert len(groups["mcnemar_p_pairs"]) == 2
    assert groups["between_or_within"]["jaccard"]["labelings"] == 6
    assert groups["calibration"]["a"][0]["temperature"]["temperature"] > 0


def test_json_alone_writes_nothing(runs, tmp_path, monkeypatch, capsys):
    (a, _), (b, _) = runs
    monkeypatch.chdir(tmp_path)
    assert main([a, b, "--json", "--resamples=200"]) == 0
    json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_predictions_of_another_framework(runs, tmp_path, capsys):
    files = []
    for name, run in zip(("torch", "keras"), (runs[0][0], runs[1][0]), strict=True):
        files.append(str(tmp_path / f"{name}.npz"))
        logits = np.load(Path(run, "predictions.npz"))["logits"].astype(np.float64)
        np.savez(files[-1], labels=LABELS.astype(np.uint8), logits=logits)
    out = tmp_path / "out"
    assert main(["--predictions", *files, "-o", str(out), "--resamples=200"]) == 0
    said = capsys.readouterr().out
    assert "torch: " in said
    assert "temperature scaling left out" in said
    assert not (out / "errors_a.png").exists()
    again = ["--predictions", *files, "--dataset=digits", "-o", str(out), "--resamples=200"]
    assert main(again) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    assert (out / "errors_a.png").exists()


def test_a_run_with_itself_repairs_nothing(runs, capsys):
    run = runs[0][0]
    assert main([run, run, "--json", "--resamples=200"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["repair_rate"] == found["only_b_wrong"] == 0
    assert found["mcnemar_p"] == found["jaccard"] == 1


def test_runs_without_errors_say_so(tmp_path, capsys):
    paths = [make_run(tmp_path / name, name, 0, 0.0) for name in ("mlp", "cnn")]
    assert main([*paths, "-o", str(tmp_path / "out"), "--resamples=200"]) == 0
    said = capsys.readouterr().out
    assert "CNN makes no errors, so there is no new-error rate" in said
    assert "nan" not in said
    assert json.loads((tmp_path / "out" / "overlap.json").read_text())["repair_rate"] is None


NAN = np.full((LABELS.size, 10), np.nan, np.float32)
BAD_RUNS = {
    "other data set": ({"dataset_sha256": "0" * 64}, "different data sets"),
    "other length": ({"labels": LABELS[:9], "logits": NAN[:9]}, "360 and 9 labels"),
    "other order": ({"labels": np.roll(LABELS, 1)}, "another order"),
    "NaN": ({"logits": NAN}, "NaN or infinity in 360"),
    "labels out of range": ({"labels": LABELS - 1}, "holds -1"),
    "label beyond classes": ({"labels": np.where(LABELS, LABELS, 10)}, "another order"),
    "fewer logits": ({"logits": NAN[:5]}, "5 rows"),
    "other classes": ({"logits": NAN[:, :4]}, "(360, 10) and (360, 4)"),
    "no logits": ({"logits": None}, "has no logits"),
    "no labels": ({"labels": None}, "has no labels"),
    "a vector": ({"logits": LABELS}, "classes"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_bad_run_is_one_line_and_nothing_is_written(case, runs, tmp_path, capsys):
    changes, says = BAD_RUNS[case]
    bad = make_run(tmp_path / "bad", "cnn", 0, 0.1, **changes)
    assert main([runs[0][0], bad, "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert says in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_bad_folders_and_bad_uses(runs, tmp_path, capsys):
    (a, a2), (b, b2) = runs
    shutil.copytree(b, tmp_path / "unpredicted")
    (tmp_path / "unpredicted" / "predictions.npz").unlink()
    shutil.copytree(b, tmp_path / "torn")
    (tmp_path / "torn" / "predictions.npz").write_bytes(b"PK\3\4 torn")
    shutil.copytree(b, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "results.json").unlink()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("")
    cases = [
        ([a, tmp_path / "nowhere"], "nowhere"),
        ([a, tmp_path / "unpredicted"], "no such file"),
        ([a, tmp_path / "torn"], "can't be read"),
        ([a, tmp_path / "unfinished"], "isn't finished"),
        ([a], "runs given: 1; give two"),
        ([], "give RUN_A RUN_B"),
        ([a, b, "--a", a, "--b", b], "give RUN_A RUN_B"),
        (["--a", a, a2, "--b", b], "two seeds each"),
        (["--a", a, a2], "two seeds each"),
        (["--a", a, b, "--b", b2, a2], "mixes CNN and MLP"),
        ([a, b, "--dataset=mnist"], "--dataset goes with"),
        ([a, b, "--resamples=5"], "at least 100"),
        ([a, b, "-o", tmp_path / "full"], "other files"),
        (["--predictions", a, b], "can't be read"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for arguments, says in cases:
        given = [*map(str, arguments)]
        if "-o" not in given:
            given += ["-o", str(tmp_path / "out")]
        assert main(given) == 2, says
        said = capsys.readouterr()
        assert says in said.err, said.err
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def refused(arguments, capsys):
    """The one line that a bad call says."""
    assert main([*map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_run_counts_once(runs, tmp_path, capsys):
    (a, a2), (b, b2) = runs
    copy = tmp_path / "copy"
    shutil.copytree(a, copy)
    assert "given twice" in refused(["--a", a, a, "--b", b, b2, "--json"], capsys)
    assert "given twice" in refused(["--a", a, a2, "--b", b, f"{a}/", "--json"], capsys)
    assert "same logits" in refused(["--a", a, copy, "--b", b, b2, "--json"], capsys)
    assert "same logits" in refused(["--a", a, a2, "--b", copy, b, "--json"], capsys)
    assert main([a, str(copy), "--json", "--resamples=200"]) == 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write")
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    # The runs don't exist: had they been read first, the message would be about them.
    missing = [tmp_path / "x", tmp_path / "y"]
    assert "isn't writable" in refused([*missing, "-o", "/proc/foo"], capsys)
    assert "-o is empty" in refused([*missing, "-o", ""], capsys)


def test_an_output_that_fails_late_is_one_line(runs, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", "x")

    monkeypatch.setattr("digits_jax.evaluation.report.write_report", fail)
    arguments = [runs[0][0], runs[1][0], "-o", tmp_path / "out", "--resamples=100"]
    assert "can't be written" in refused(arguments, capsys)


def test_the_study_checks_its_flags_before_training(tmp_path, monkeypatch):
    from experiments import ann_vs_cnn

    def train(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(ann_vs_cnn, "train_once", train)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("")
    for flags, says in (
        (["--dataset=mnits"], "no such data set"),
        (["--preset=bets"], "preset"),
        (["--seeds=1"], "2 or more"),
        ([f"--output={tmp_path / 'full'}"], "other files"),
    ):
        with pytest.raises(DigitsError, match=says):
            ann_vs_cnn.main([f"--runs={tmp_path / 'runs'}", *flags])
    assert not (tmp_path / "runs").exists()


def test_foreign_files_are_named_in_full(runs, tmp_path, capsys):
    a = runs[0][0]
    array, text = tmp_path / "a.npy", tmp_path / "a.txt"
    np.save(array, LABELS)
    text.write_text("labels")
    for path in (array, text):
        assert f"{path} isn't an .npz file" in refused(["--predictions", path, path], capsys)
    missing = refused(["--predictions", tmp_path / "no.npz", array], capsys)
    assert "no such file" in missing
    assert "evaluate" not in missing
    good = Path(a, "predictions.npz")
    named = ["--predictions", good, good, "--name-a=X", "--name-b=X"]
    assert "both 'X'" in refused(named, capsys)
    bad = make_run(tmp_path / "bad", "cnn", 0, 0.1, validation_logits=NAN[:9])
    assert f"{bad}: validation_logits" in refused([a, bad], capsys)
    (Path(bad) / "results.json").write_text("[]")
    assert "results.json: isn't an object" in refused([a, bad], capsys)
    (Path(bad) / "results.json").write_text("{}")
    assert "doesn't hold arch" in refused([a, bad], capsys)
