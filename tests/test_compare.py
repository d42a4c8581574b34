"""The program, on run folders made by hand from the embedded digits."""

import json
import re
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
        "labels": LABELS.astype(np.int32),
        "logits": logits(LABELS),
        "validation_labels": known.astype(np.int32),
        "validation_logits": logits(known),
    }
    results = {"arch": arch, "dataset": "digits", "dataset_sha256": DIGITS.sha256, "seed": seed}
    results["preset"] = "quick"
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


def test_two_runs_end_to_end(runs, tmp_path, capsys):
    (a, _), (b, _) = runs
    assert main([a, b, "-o", str(tmp_path / "report"), "--resamples=200"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert len(lines) == 11
    assert lines[-1] == f"report: {tmp_path / 'report' / 'report.html'}"
    numbers = json.loads((tmp_path / "report" / "overlap.json").read_text())
    wrong = [np.load(Path(r, "predictions.npz"))["logits"].argmax(1) != LABELS for r in (a, b)]
    assert numbers["both_wrong"] == (wrong[0] & wrong[1]).sum()
    assert numbers["repair_rate"] == (wrong[0] & ~wrong[1]).sum() / wrong[0].sum()
    assert (numbers["name_a"], numbers["name_b"]) == ("MLP", "CNN")
    assert numbers["dataset_sha256"] == DIGITS.sha256
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"errors_a.png", "errors_b.png", "hardest.png", "report.html"} <= names
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Made with: python -m digits\\_jax.compare" in markdown


def test_without_the_data_only_the_images_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DIGITS_JAX_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    a, b = (
        make_run(tmp_path / arch, arch, 0, 0.1, dataset="tfds/mine", dataset_sha256="a" * 64)
        for arch in ("mlp", "cnn")
    )
    flags = [a, b, "-o", str(tmp_path / "report"), "--resamples=200"]
    assert main(flags) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 11
    assert re.fullmatch(r"note: The misclassified images aren't shown: .*tfds/mine.*\n", said.err)
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"overlap.json", "report.html", "classes.png"} <= names
    assert not names & {"errors_a.png", "errors_b.png", "hardest.png"}
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "the test set isn't at hand" in markdown
    assert "aren't shown" in markdown
    # What is asked for has to be there.
    (tmp_path / "data").mkdir()
    with pytest.raises(DigitsError, match="tfds/mine"):
        main([*flags, "--overwrite", f"--data-dir={tmp_path / 'data'}"])
    with pytest.raises(DigitsError, match="is not of this digits"):
        main([*flags, "--overwrite", "--dataset=digits"])


def compared(arguments, capsys):
    """What --json prints."""
    assert main([*map(str, arguments), "--json", "--resamples=200"]) == 0
    return json.loads(capsys.readouterr().out)


def test_groups(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mlp, cnn = runs
    found = compared(["--a", *mlp, "--b", *cnn], capsys)
    assert found["runs_a"] == ["mlp-0", "mlp-1"]
    assert len(found["mcnemar_p_pairs"]) == 2
    assert found["between_or_within"]["jaccard"]["labelings"] == 6
    assert found["calibration"]["a"][0]["temperature"]["temperature"] > 0
    assert list(tmp_path.iterdir()) == []  # --json alone writes nothing
    other = make_run(tmp_path / "best", "mlp", 9, 0.1, preset="best")
    assert main(["--a", mlp[0], other, "--b", *cnn, "--json", "--resamples=200"]) == 0
    assert "several presets (best, quick)" in capsys.readouterr().err


def test_predictions_of_another_framework(runs, tmp_path, capsys):
    files = []
    for name, run in zip(("torch", "keras"), (runs[0][0], runs[1][0]), strict=True):
        files.append(tmp_path / f"{name}.npz")
        logits = np.load(Path(run, "predictions.npz"))["logits"].astype(np.float64)
        np.savez(files[-1], labels=LABELS.astype(np.uint8), logits=logits)
    found = compared(["--predictions", *files], capsys)
    assert (found["name_a"], found["runs_b"]) == ("torch", ["keras"])
    assert "temperature scaling left out" in found["calibration"]["a"][0]["reason"]
    np.savez(tmp_path / "other.npz", labels=np.roll(LABELS, 1), logits=logits)
    given = [tmp_path / "other.npz"] * 2
    said = refused(["--predictions", *given, "--dataset=digits", "-o", tmp_path / "out"])
    assert "is not of this digits" in said
    # Files of one name are told apart by their folders.
    names = compared(["--predictions", *(Path(r[0], "predictions.npz") for r in runs)], capsys)
    assert (names["name_a"], names["name_b"]) == ("mlp-0", "cnn-0")


def test_a_run_with_itself_repairs_nothing(runs, capsys):
    found = compared([runs[0][0], runs[0][0]], capsys)
    assert found["repair_rate"] == found["only_b_wrong"] == 0
    assert found["mcnemar_p"] == found["jaccard"] == 1


def refused(arguments):
    """The one line of a refusal."""
    with pytest.raises(DigitsError) as caught:
        main([*map(str, arguments)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset_sha256": "0" * 64}, "different data sets"),
        ({"logits": np.full((LABELS.size, 10), np.nan, np.float32)}, "finite"),
        ({"logits": None}, "no logits"),
        ({"dataset": None}, "doesn't hold arch, dataset"),
    ],
)
def test_a_bad_run_is_refused_and_nothing_is_written(changes, says, runs, tmp_path):
    bad = make_run(tmp_path / "bad", "cnn", 0, 0.1, **changes)
    assert says in refused([runs[0][0], bad, "-o", tmp_path / "out"])
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_bad_arguments_are_refused(runs, tmp_path):
    (a, a2), (b, b2) = runs
    good, text, bare = Path(a, "predictions.npz"), tmp_path / "a.txt", tmp_path / "bare.npz"
    np.savez(bare, logits=np.eye(10))
    text.write_text("labels")
    cases = [
        ([a, tmp_path / "nowhere"], "nowhere"),
        ([a], "give two"),
        ([], "give RUN_A RUN_B"),
        ([a, b, "--a", a, "--b", b], "give RUN_A RUN_B"),
        (["--a", a, a2, "--b", b], "two seeds or more"),
        (["--a", a, b, "--b", b2, a2], "A mixes CNN and MLP"),
        ([a, b, "--resamples=5"], "at least 100"),
        (["--predictions", a, b], "can't be read"),
        (["--predictions", good], "give two"),
        (["--predictions", text, good], f"{text}: isn't an intact .npz file"),
        (["--predictions", good, bare], "has no labels"),
        # The runs don't exist: had they been read first, the message would be about them.
        ([tmp_path / "x", tmp_path / "y", "-o", tmp_path], "other files"),
    ]
    if Path("/proc").is_dir():
        cases.append(([tmp_path / "x", tmp_path / "y", "-o", "/proc/foo"], "isn't writable"))
    before = sorted(tmp_path.rglob("*"))
    for arguments, says in cases:
        output = [] if "-o" in arguments else ["-o", tmp_path / "out"]
        assert says in refused([*arguments, *output])
    assert sorted(tmp_path.rglob("*")) == before
