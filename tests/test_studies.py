"""The studies: their tables by hand, what they measure, and what they refuse."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from digits_jax import DigitsError, RunOptions, TrainConfig, fit_ensemble, load_dataset, read_run
from digits_jax.deploy.predictor import Predictor
from digits_jax.vision.decode import decode_image
from experiments import (
    accuracy,
    ann_vs_cnn,
    choose,
    drawing,
    drawn_kinds,
    handwriting,
    large_data,
    out_of_distribution,
    rejector,
    rows,
    sizes,
    study,
)

CHOICES = study.RESULTS / "choices"
SMALL = "--arch=mlp --preset=quick --epochs=0.2 --hidden-sizes=8"


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """Two tiny MLPs, as `experiments.sizes` looks for them."""
    config = TrainConfig(arch="mlp", dataset="digits", preset="tiny", epochs=1.0, ensemble=2)
    workdir = tmp_path_factory.mktemp("runs") / "mlp-tiny"
    return fit_ensemble(config, RunOptions(workdir=str(workdir)), quiet=True).workdir


# --- what they share -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_trained_once_and_isnt_taken_for_another(tmp_path, capfd):
    flags = [*SMALL.split(), "--dataset=digits"]
    first = study.train_run(flags, tmp_path / "run")
    assert first["process_seconds"] > 0
    assert study.train_run(flags, tmp_path / "run") == first
    assert capfd.readouterr().out.count("test accuracy") == 1
    with pytest.raises(DigitsError, match=r"hidden_sizes=\(8,\), not \(9,\)"):
        study.train_run([*flags, "--hidden-sizes=9"], tmp_path / "run")


@pytest.mark.slow
def test_a_failed_training_ends_the_study(tmp_path):
    flags = [*SMALL.split(), "--dataset=digits", "--batch-size=99999"]
    with pytest.raises(DigitsError, match="ended with status 2"):
        study.train_run(flags, tmp_path / "run")


def test_folds_are_of_one_size_and_begin_with_the_validation_split(digits):
    folds = [study.hold_out(digits, index, 5) for index in range(5)]
    held = [image.tobytes() for fold in folds for image in np.asarray(fold.validation.images)]
    everything = [*np.asarray(digits.train.images), *digits.validation.images]
    assert set(held) <= {image.tobytes() for image in everything}
    assert {len(fold.train) for fold in folds} == {1150}
    assert all(fold.test is fold.validation for fold in folds)
    first = folds[0].validation.images[: len(digits.validation)]
    np.testing.assert_array_equal(first, digits.validation.images)


PROGRAMS = [accuracy, ann_vs_cnn, choose, handwriting, large_data]
PROGRAMS += [out_of_distribution, rejector, rows, sizes]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_have_a_help(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert f"python -m {program.__name__}" in capsys.readouterr().out


def test_published_tables_are_those_of_their_results():
    tables = {
        "accuracy": accuracy.accuracy_table,
        "teachers/accuracy": accuracy.accuracy_table,
        "training": accuracy.training_table,
        "handwriting": handwriting.markdown,
        "out_of_distribution": out_of_distribution.markdown,
        "rows": rows.markdown,
        "sizes": sizes.markdown,
        **{f"choices/{path.stem}": choose.markdown for path in CHOICES.glob("*.json")},
    }
    assert len(tables) > 10
    for name, make in tables.items():
        path = study.RESULTS / f"{name}.json"
        table = json.loads(path.read_text())
        assert path.with_suffix(".md").read_text() == make(table) + "\n", name


# --- accuracy ------------------------------------------------------------------------------


def test_the_table_of_accuracy_by_hand():
    def score(accuracy, first, second, seconds):
        halves = {"first_half_accuracy": first, "second_half_accuracy": second}
        return {"test_accuracy": accuracy, "test_count": 10_000, "total_seconds": seconds, **halves}

    row = {
        "flags": "--arch=cnn",
        "cores": 2,
        "device": "cpu: a CPU",
        "num_params": 1000,
        "members": [score(0.99, 0.98, 1.0, 120.0), score(0.996, 0.994, 0.998, 120.0)],
        "ensemble": score(0.998, 0.997, 0.999, 240.0),
    }
    lines = accuracy.accuracy_table({"cnn-best": row}).splitlines()
    # The standard deviation of 99.0 and 99.6 is 0.6 / sqrt(2); Wilson's by statsmodels.
    cells = "| **99.300%** ± 0.424 | 99.12% to 99.45% | 99.60% | – | 98.70%, 99.90% | 2.0 min, "
    assert cells in lines[2]
    assert "... `--ensemble=2` | 2 × 1,000 | **99.80%** | 99.69% to 99.87% |" in lines[3]


def test_accuracy_is_that_of_each_network_and_of_all(ensemble):
    found = accuracy.measure(ensemble)
    for index, member in enumerate(found["members"]):
        run = read_run(ensemble / f"member-{index}")
        correct = run.logits.argmax(-1) == run.labels
        assert member["test_accuracy"] == pytest.approx(run.results["test_accuracy"])
        assert member["first_half_accuracy"] == np.mean(correct[:180])
        assert "without_doubtful_accuracy" not in member
    assert found["ensemble"]["test_errors"] == read_run(ensemble).results["test_errors"]


def test_doubtful_labels_are_left_out():
    labels, logits = np.zeros(10_000, np.int32), np.tile([1.0, 0.0], (10_000, 1))
    logits[list(accuracy.PUBLISHED_LABEL_ERRORS["mnist"]), 1] = 2
    results = dict.fromkeys(("validation_accuracy", "total_seconds", "params_sha256"), 1.0)
    run = SimpleNamespace(labels=labels, logits=logits, results={"dataset": "mnist", **results})
    found = accuracy.score(run)
    assert (found["test_errors"], found["without_doubtful_accuracy"]) == (15, 1.0)


@pytest.mark.parametrize("flag", ["--recipes=cnn-huge", "--seeds=1"])
def test_bad_arguments_are_refused_before_anything_is_trained(flag, tmp_path):
    with pytest.raises(DigitsError, match=flag):
        accuracy.main([flag, f"--runs={tmp_path}", f"--output={tmp_path}"])
    assert not list(tmp_path.iterdir())


# --- choose --------------------------------------------------------------------------------


def outcome(correct, loss=0.1, seconds=2.0):
    return {
        "correct": correct,
        "count": 1000,
        "loss": loss,
        "train_seconds": seconds,
        "device": "cpu: Z80",
    }


def test_the_table_of_candidates_by_hand():
    """The gain is over the seeds that both have: 990 - 980 and 994 - 986 of 1,000."""
    runs = {
        "--a": {"0": outcome(980), "1": outcome(986), "2": outcome(800)},
        "--b": {"0": outcome(990, 0.2), "1": outcome(994, 0.4, 4.0)},
        "--c": {"0": {"note": "it diverged"}},
        "--d": {},
    }
    table = {"dataset": "mnist", "folds": 0, "command": "choose", "runs": runs}
    lines = choose.markdown(table).splitlines()
    # A standard error of two numbers is half their distance.
    assert lines[2].startswith("| `--a` | 3 | 92.200 ± 10.570% | 0.1000 | – |")
    assert lines[3] == "| `--b` | 2 | 99.200 ± 0.283% | 0.3000 | +0.900 ± 0.100 | 3.00 s |"
    assert lines[4] == "| `--c` | 1 | it diverged | – | – | – |"
    assert lines[5] == "| `--d` | 0 | not trained yet | – | – | – |"
    assert "seed K on part K of 12" in choose.markdown({**table, "folds": 12})


@pytest.mark.slow
def test_it_trains_what_is_missing_and_refuses_another_recipe(tmp_path):
    own = ["--name=x", "--dataset=digits", f"--output={tmp_path}", "--seeds=2"]
    candidates = ["--", *SMALL.split(), "--", *SMALL.split(), "--dropout=0.5"]
    choose.main([*own, "--folds=5", *candidates])
    path = tmp_path / "x.json"
    table = json.loads(path.read_text())
    first = table["runs"][SMALL].copy()
    assert {run["count"] for runs in table["runs"].values() for run in runs.values()} == {287}
    del table["runs"][SMALL]["1"]
    path.write_text(json.dumps(table))
    choose.main([*own, "--folds=5", *candidates])
    table = json.loads(path.read_text())
    assert [table["runs"][SMALL][seed]["correct"] for seed in "01"] == [
        first[seed]["correct"] for seed in "01"
    ]
    assert table["runs"][SMALL]["0"] == first["0"]
    with pytest.raises(DigitsError, match=r"--folds=4: .* has --folds=5"):
        choose.main([*own, "--folds=4", *candidates])
    table["recipes"][SMALL]["epochs"] = 7.0
    path.write_text(json.dumps(table))
    with pytest.raises(DigitsError, match="with other epochs than today"):
        choose.main([*own, "--folds=5", *candidates])


A, B = ["--", "--arch=cnn"], ["--", "--arch=mlp"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (A, "two or more different candidates"),
        (["--seeds=1", *A, *B], "--seeds=1"),
        (["--folds=3", "--seeds=4", *A, *B], "--folds=3"),
        ([*A, *B, "--seed=3"], "--seed isn't for one candidate"),
        ([*A, *B, "--dropout=2"], "dropout=2"),
    ],
)
def test_what_cannot_be_compared_is_refused(argv, words, tmp_path):
    with pytest.raises(DigitsError, match=words):
        choose.main(["--name=x", "--dataset=digits", f"--output={tmp_path}", *argv])
    assert not list(tmp_path.iterdir())


# --- pictures, sizes and large data --------------------------------------------------------


def test_pictures_of_digits_are_read_as_those_digits(digits):
    images = np.asarray(digits.test.images[:4, :, :, 0])
    for name in drawing.CONDITIONS:
        pairs = handwriting.read_pictures(name, images, 0)
        seen = [glyph for _, glyph in pairs if glyph is not None]
        assert len(seen) >= 3, name
    again = handwriting.read_pictures(name, images[3:4], 3)
    np.testing.assert_array_equal(again[0][0], pairs[3][0])
    rng = np.random.Generator(np.random.Philox(key=1))
    row = drawing.compose(images[:3], rng, (0, 2))
    page = decode_image(drawing.draw(row.max(axis=0), drawing.CONDITIONS["inverted"], rng), "row")
    assert page.shape[0] == 56


def test_digits_that_touch_are_one_piece_and_others_are_not(digits):
    images, rng = np.asarray(digits.test.images[:3, :, :, 0]), np.random.default_rng(0)
    for overlap, pieces in ((None, 3), ((0, 2), 1)):
        row = drawing.compose(images, rng, overlap)
        assert row.shape[:2] == (3, 56)
        assert ndimage.label(row.max(axis=0) > 50, np.ones((3, 3)))[1] == pieces


def test_rows_are_counted(digits):
    images, labels = digits.test.rows(np.arange(20))
    row = rows.measure(rows.KINDS[0], 2, images[..., 0], labels, Predictor.pretrained(), 5)
    assert row["rows"] == 5
    assert row["accuracy"] >= 0.6
    assert row["wrong_and_confident"] <= 1 - row["accuracy"]
    table = {"run": "cnn", "split": "test", "rows": [row]}
    assert "| apart | 2 | 5 | 100.0% |" in rows.markdown(table)


def test_what_is_no_digit_is_measured():
    pages = [*out_of_distribution.scribbles(5), *out_of_distribution.circles(1)]
    row = out_of_distribution.measure("a", pages, None, Predictor.pretrained())
    assert (row["kind"], row["count"], row["right"]) == ("a", 6, None)
    assert row["wrong_and_confident"] == row["confident"] <= row["confident_by_probability"]
    ones = np.full((1, 60, 60), 255, np.uint8)
    ones[:, 15:45, 28:32] = 0
    row = out_of_distribution.measure("b", ones, ["1"], Predictor.pretrained())
    assert (row["right"], row["wrong_and_confident"]) == (1, 0)
    table = {"run": "cnn", "split": "test", "rows": [row]}
    assert "| b | 1 | 100.0% |" in out_of_distribution.markdown(table)


def test_drawn_pictures_are_counted_by_kind(tmp_path):
    page = np.full((120, 200), 255, np.uint8)
    page[40:90, 50:56] = page[40:90, 140:146] = 0
    for name, picture in {
        "rows-a/000_11": page,
        "rows-a/001_17": page,
        "b/000_1": page[:, :90],
    }.items():
        path = tmp_path / "drawn" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    drawn_kinds.main([str(tmp_path / "drawn"), f"-o={tmp_path}"])
    rows = json.loads((tmp_path / "drawn_kinds.json").read_text())
    names = ("kind", "pictures", "right", "wrong and confident")
    assert rows == [
        dict(zip(names, row, strict=True)) for row in (("b", 1, 1, 0), ("rows-a", 2, 1, 1))
    ]
    assert "| all | 3 | 2 | 1 |" in (tmp_path / "drawn_kinds.md").read_text()


@pytest.mark.slow
def test_sizes_of_a_preset_with_and_without_runs(ensemble, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sizes, "REPEATS", 1)
    monkeypatch.setattr(sizes, "SECONDS", 0.01)
    arguments = sizes.Arguments(tmp_path, ensemble.parent, dataset="digits")
    trained, untrained = (sizes.measure("mlp", preset, arguments) for preset in ("tiny", "quick"))
    runs = [read_run(ensemble / f"member-{index}") for index in range(2)]
    assert trained["accuracies"] == [run.results["test_accuracy"] for run in runs]
    assert trained["same_run_accuracy"] == trained["accuracies"][0]
    # BatchNorm has a scale and a bias for each unit.
    assert untrained["parameters"] == 784 * 512 + 512 * 512 + 4 * 512 + 512 * 10 + 10
    assert untrained["npz_bytes"] > 4 * 669_706  # BatchNorm folded
    assert "not measured" in sizes.markdown([trained, untrained])


def test_large_data_is_a_repeatable_stock_data_set(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(large_data, "TEST_COUNT", 200)
    size = {"gigabytes": 0.0012, "shard_megabytes": 0.1}
    folders = [
        large_data.write_large(large_data.Arguments(tmp_path / name, seed=seed, **size))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    a, b, c = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert a == b
    assert a != c
    source = tfds.builder_from_directory(folders[0]).as_data_source("train")
    dataset = load_dataset("tfds/large_digits", tmp_path / "a", input="stream")
    assert len(source) == 1024 == len(dataset.train) + len(dataset.validation)
    assert len(dataset.test) == 200
    images, labels = dataset.train.rows(np.arange(20))
    assert len(np.unique(labels)) > 5
    assert 20 < np.median(images) < 44  # noise, up to 63
    for name, changes, words in (
        ("a", size, "is there already"),
        ("d", {"gigabytes": 1e6}, "GB free"),
        ("e", {"gigabytes": 1e-6}, "give at least"),
    ):
        with pytest.raises(DigitsError, match=words):
            large_data.write_large(large_data.Arguments(tmp_path / name, **changes))
