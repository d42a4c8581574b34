"""Comparing recipes on the validation split, and training members at once."""

import json

import numpy as np
import pytest

from digits_jax import hardware as processor
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from digits_jax.hardware import cpu_count
from digits_jax.presets import RECIPES
from digits_jax.runs.folder import hold_folder, read_run
from experiments import choose
from experiments.cores import shares
from experiments.members import train_members

SMALL = "--arch=mlp --preset=quick --epochs=1 --hidden-sizes=8"


def outcome(correct, loss=0.1, seconds=2.0):
    return {"correct": correct, "count": 1000, "loss": loss, "train_seconds": seconds}


def test_the_table_by_hand():
    """The gain is over the seeds that both have: 990 - 980 and 994 - 986 of 1,000."""
    table = {
        "processor": "Z80",
        "command": "choose",
        "candidates": {
            "--a": {"0": outcome(980), "1": outcome(986), "2": outcome(800)},
            "--b": {"0": outcome(990, 0.2), "1": outcome(994, 0.4, 4.0)},
            "--not-yet": {},
            "--c": {"0": {"status": "diverged", "correct": None, "note": ""}},
            "--d": {k: {"status": "failed", "correct": None, "note": "too many"} for k in "01"},
        },
    }
    lines = choose.markdown(table).splitlines()
    # Standard deviations of two numbers are their distance by sqrt(2).
    assert lines[3] == "| `--b` | 2 | 99.200% ± 0.283 | 0.3000 | +0.900 ± 0.141 | 3.0 s |"
    assert lines[4] == "| `--c` | 1 | no finite numbers | | | |"
    assert lines[5] == "| `--d` | 2 | too many | | | |"
    assert lines[2].startswith("| `--a` | 3 | 92.200% ± 10.570 | 0.1000 |  |")


def test_folds_are_said_and_not_mixed_with_the_validation_split(tmp_path):
    path = tmp_path / "x.json"
    rows = {"--arch=cnn": {"0": outcome(980), "1": outcome(986)}, "--arch=mlp": {}}
    table = {"processor": "Z80", "command": "choose", "candidates": rows, "dataset": "digits"}
    assert "on the validation split alone" in choose.markdown(table)
    table |= {"folds": 12}
    assert "seed K on part K of 12 of the training and validation images" in choose.markdown(table)
    path.write_text(json.dumps(table))
    for given in ((), ("--folds=5",)):
        argv = ["--name=x", "--dataset=digits", f"-o={tmp_path}", *given]
        with pytest.raises(DigitsError, match=r"--folds=[05]: .*x\.json is of --folds=12; give"):
            choose.main([*argv, "--", "--arch=cnn", "--", "--arch=mlp"])
    assert json.loads(path.read_text()) == table


def test_a_preset_that_is_another_recipe_by_now_is_refused(tmp_path, monkeypatch):
    table, path = {"candidates": {"--preset=tiny": {}}, "dataset": "digits"}, tmp_path / "x.json"
    choose.note_recipes(table, ["--preset=tiny"], path)
    noted = table["recipes"]["--preset=tiny"]
    assert (noted["epochs"], noted["channels"]) == (200.0, [7, 9, 11])
    assert "seed" not in noted
    table = json.loads(json.dumps(table))
    choose.note_recipes(table, ["--preset=tiny", "--preset=tiny --epochs=2"], path)  # level
    changed = {**RECIPES["cnn", "small"]["tiny"], "epochs": 7.0}
    monkeypatch.setitem(RECIPES["cnn", "small"], "tiny", changed)
    with pytest.raises(
        DigitsError, match=r"it was trained with epochs=200.0, and today it has 7.0"
    ):
        choose.note_recipes(table, ["--preset=tiny"], path)
    # Of what was trained before recipes were noted, nothing is known, and nothing is claimed.
    old = {"candidates": {"--preset=tiny": {"0": outcome(980)}}, "dataset": "digits"}
    choose.note_recipes(old, ["--preset=tiny"], path)
    assert old["recipes"] == {}


@pytest.mark.slow  # Two new processes that import JAX.
def test_it_goes_on_with_more_seeds(tmp_path, capsys):
    jobs = min(2, cpu_count())
    own = ["--name=x", "--dataset=digits", f"-o={tmp_path}", f"--jobs={jobs}"]
    candidates = ["--", *SMALL.split(), "--", *SMALL.split(), "--dropout=0.5"]
    choose.main([*own, "--seeds=2", *candidates])
    first = json.loads((tmp_path / "x.json").read_text())["candidates"]
    assert {flags: sorted(runs) for flags, runs in first.items()} == {
        SMALL: ["0", "1"],
        f"{SMALL} --dropout=0.5": ["0", "1"],
    }
    # As many as the validation split has, and not those of the test split.
    count = len(load_dataset("digits").validation)
    assert {run["count"] for runs in first.values() for run in runs.values()} == {count}
    capsys.readouterr()
    choose.main([*own, "--seeds=3", *candidates])
    assert capsys.readouterr().out.count(", seed ") == 2  # one more of each
    after = json.loads((tmp_path / "x.json").read_text())["candidates"]
    assert {f: {s: r for s, r in runs.items() if s != "2"} for f, runs in after.items()} == first
    (tmp_path / "x.md").unlink()
    choose.main([*own, "--seeds=3", *candidates])  # nothing is missing but the page
    assert (tmp_path / "x.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "give two or more candidates that differ"),
        (["--", "--arch=cnn"], "give two or more candidates that differ"),
        (["--", "--arch=cnn", "--", "--arch=cnn"], "give two or more candidates that differ"),
        (["--seeds=1", "--", "--arch=cnn", "--", "--arch=mlp"], "--seeds=1: give 2 or more"),
        (["--", "--arch=cnn", "--", "--arch=cnn", "--seed=3"], "leave --seed out"),
        (["--folds=1", "--", "--arch=cnn", "--", "--arch=mlp"], "--folds=1: give 2 or more"),
        (
            ["--folds=1438", "--dataset=digits", "--", "--arch=cnn", "--", "--arch=mlp"],
            "1,437 images",
        ),
        (["--folds=3", "--seeds=4", "--", "--arch=cnn", "--", "--arch=mlp"], "a part of its own"),
        (["--folds=-3", "--", "--arch=cnn", "--", "--arch=mlp"], "--folds=-3: give 2 or more"),
        (["--name=", "--", "--arch=cnn", "--", "--arch=mlp"], "give a word that can name a file"),
        (["--", "--arch=cnn", "--", "--ensemble=2"], "--ensemble=2: a candidate is one network"),
        (["--", "--arch=cnn", "--", "--dropout=2"], "--dropout=2"),
        (["--jobs=99999", "--", "--arch=cnn", "--", "--arch=mlp"], "--jobs=99999: give 1 to"),
        (
            ["--data-dir=no/such", "--", "--arch=cnn", "--", "--arch=mlp"],
            "'no/such', which does not",
        ),
        (["--dataset=nmist", "--", "--arch=cnn", "--", "--arch=mlp"], "nmist"),
        (["--", "--dataset=mnist", "--", "--arch=mlp"], "give it before the first --"),
        (["--", "--workdir=x", "--", "--arch=mlp"], "--workdir isn't for one candidate; leave it"),
        (["--", "--dry-run", "--", "--arch=mlp"], "--dry-run isn't for one candidate; leave it"),
        (["--", "--resume", "--", "--arch=mlp"], "--resume isn't for one candidate; leave it"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(tmp_path, argv, words):
    with pytest.raises(DigitsError, match=words):
        choose.main(["--name=x", f"-o={tmp_path}", *argv])
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


@pytest.mark.parametrize("name", ["a/b", "..", "."])
def test_a_name_that_is_no_file(tmp_path, name):
    argv = [f"--name={name}", f"-o={tmp_path}", "--", "--arch=cnn", "--", "--arch=mlp"]
    with pytest.raises(DigitsError, match=f"--name={name}: give a word"):
        choose.main(argv)


@pytest.fixture(autouse=True)
def nothing_large_is_trained(monkeypatch):
    """What should have been refused must not train on MNIST for an hour."""
    before = choose.load_dataset

    def small_only(name, data_dir):
        assert name != "mnist" or data_dir == "no/such", "it was not refused"
        return before(name, data_dir)

    monkeypatch.setattr(choose, "load_dataset", small_only)


def test_a_table_of_another_data_set_is_left_alone(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"dataset": "digits", "candidates": {}}))
    argv = ["--name=x", f"-o={tmp_path}", "--", "--arch=cnn", "--", "--arch=mlp"]
    with pytest.raises(DigitsError, match=r"--dataset=mnist: .*x\.json is of --dataset=digits"):
        choose.main(argv)
    path.write_text("{")
    with pytest.raises(DigitsError, match=r"x\.json: isn't JSON"):
        choose.main(argv)


def test_seeds_of_another_day_are_not_mixed_with_those_of_a_recipe_that_nobody_noted(tmp_path):
    there = {"dataset": "digits", "candidates": {"--arch=mlp": {"0": outcome(980)}}}
    (tmp_path / "x.json").write_text(json.dumps(there))
    with pytest.raises(DigitsError, match="before it was noted what flags stand for"):
        choose.main(
            [
                "--name=x",
                "--dataset=digits",
                f"-o={tmp_path}",
                "--",
                "--arch=mlp",
                "--",
                "--arch=cnn",
            ]
        )
    assert json.loads((tmp_path / "x.json").read_text()) == there


def test_two_at_once_would_lose_each_others_rows(tmp_path):
    with hold_folder(tmp_path), pytest.raises(DigitsError, match="in use by another"):
        choose.main([f"-o={tmp_path}", "--name=x", "--", "--arch=cnn", "--", "--arch=mlp"])


def test_of_several_devices_each_line_names_its_own():
    runs = {"--a": {"0": outcome(980) | {"device": "gpu: X"}}, "--b": {"0": outcome(990)}}
    text = choose.markdown({"processor": "Z80", "command": "c", "candidates": runs})
    assert "| 2.0 s, gpu: X |" in text
    assert "| 2.0 s, Z80 |" in text
    assert text.endswith("a preset may be another by now.\n")
    text = choose.markdown(
        {"processor": "Z80", "command": "c", "candidates": runs, "recipes": {"--a": {}, "--b": {}}}
    )
    assert text.endswith("`c`.\n")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    argv = ["--name=x", f"-o={tmp_path}/file/x", "--", "--arch=cnn", "--", "--arch=mlp"]
    with pytest.raises(DigitsError, match=r"file/x: the folder can't be made"):
        choose.main(argv)


def test_shares_of_cores():
    cores = cpu_count()
    split = shares(cores)
    assert sorted(core for own in split for core in own) == sorted(shares(1)[0])
    for jobs in (0, cores + 1):
        with pytest.raises(DigitsError, match=f"--jobs={jobs}: give 1 to {cores}"):
            shares(jobs)


@pytest.mark.slow  # Two new processes that import JAX.
@pytest.mark.skipif(cpu_count() < 2, reason="two jobs need two cores")
def test_members_trained_at_once_are_an_ensemble(tmp_path):
    """As `train --ensemble` leaves them: the folder, its members, and their mean probability."""
    flags = [*SMALL.split(), "--dataset=digits"]
    train_members(flags, tmp_path / "two", count=2, jobs=2)
    members = [read_run(tmp_path / "two" / f"member-{index}") for index in range(2)]
    together = read_run(tmp_path / "two")
    assert [run.results["seed"] for run in members] == [0, 1]
    assert together.results["members"] == ["member-0", "member-1"]

    def probabilities(logits):
        shares = np.exp(logits.astype(np.float64))
        return shares / shares.sum(-1, keepdims=True)

    mean = np.mean([probabilities(run.logits) for run in members], 0)
    np.testing.assert_allclose(np.exp(together.logits), mean, rtol=1e-4, atol=1e-7)
    # What is there is taken as it is, and another recipe's is refused.
    train_members(flags, tmp_path / "two", count=2, jobs=2)
    with pytest.raises(DigitsError, match="holds a run with"):
        train_members([*flags, "--dropout=0.5"], tmp_path / "two", count=2, jobs=2)


@pytest.mark.skipif(cpu_count() < 2, reason="two jobs need two cores")
def test_a_failed_member_says_where_it_is_told(tmp_path):
    with pytest.raises(DigitsError, match=r"member-0: training ended with status 2 \(see .*\.log"):
        train_members(["--arch=mlp", "--dropout=2"], tmp_path / "x", count=1, jobs=2)
    assert "--dropout=2" in (tmp_path / "x" / "member-0.log").read_text()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx2 fma\n", "Some CPU (AVX2)"),
        ("model name: X\nflags: avx2 avx512f avx512_bf16\n", "X (AVX-512 and bfloat16)"),
        ("model name: X\nflags: avx2 avx512f\n", "X (AVX-512)"),
        ("model name: X\nflags: fpu\n", "X"),
    ],
)
def test_processors_of_one_name_are_told_apart(tmp_path, monkeypatch, text, name):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    processor.processor_lines.cache_clear()
    try:
        assert processor.processor_name() == name
    finally:
        processor.processor_lines.cache_clear()
