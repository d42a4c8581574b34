"""The search's folder, its page and picture, real trials, and the program."""

import dataclasses
import json
import re
import signal

import numpy as np
import pytest
from programs import assert_one_error_line, start
from searches import SEARCH, row

from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from digits_jax.train import parse_config
from digits_jax.training.interrupts import Interrupted, StopRequest
from experiments.search import __main__ as program
from experiments.search import picture, records, report, space
from experiments.search.halving import DIVERGED, TRAINED
from experiments.search.loop import Search
from experiments.search.trial import hold_out, train_seeds, train_trial, without_test

FACTS = {
    "command": "python -m experiments.search",
    "machine": {"device": "cpu", "processor": "Z80", "cores": 1},
    "versions": {"python": "3"},
}


# --- the folder ----------------------------------------------------------------------------


def test_lines_that_are_none_are_left_out_and_the_next_one_is_whole(tmp_path):
    for number in range(3):
        records.append_row(tmp_path, row(number))
    path = tmp_path / records.TRIALS
    with open(path, "ab") as file:
        file.write(b'{"trial": 3, "ru')  # a crash
    records.append_row(tmp_path, row(4))
    bad = [{"trial": 5}, {**row(6), "correct": None}, {**row(7), "seconds": float("nan")}]
    bad += [{**row(8), "status": "?"}, [1], {**row(0), "correct": 1}, {**row(9), "rung": -1}]
    with open(path, "ab") as file:
        file.write("".join(json.dumps(line) + "\n" for line in bad).encode() + b"\xff\xfe\n")
    found = records.read_rows(tmp_path)
    assert [r["trial"] for r in found] == [0, 1, 2, 4]
    assert found[0]["correct"] == 90


def test_gigabytes_of_zeros_are_not_read(tmp_path):
    with open(tmp_path / records.TRIALS, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(DigitsError, match="50,000,000 bytes"):
        records.read_rows(tmp_path)


SETTINGS = {"arch": "mlp", "seed": 0, "epochs": 9.0, "space": {"dropout": ["Uniform", [0, 1]]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "holds a search with seed=0, not 1"),
        ({"arch": "cnn"}, "holds a search with arch=mlp, not cnn"),
        ({"space": {}}, "holds a search in another space"),
        ({"rungs": 2}, "has no 'rungs'"),
    ],
)
def test_a_search_of_other_settings_is_refused(tmp_path, change, words):
    with records.hold(tmp_path / "it", SETTINGS, {}) as rows:
        assert rows == []
        records.append_row(tmp_path / "it", row(0))
    with records.hold(tmp_path / "it", SETTINGS, {}) as rows:
        assert len(rows) == 1
    with (
        pytest.raises(DigitsError, match=re.escape(words)),
        records.hold(tmp_path / "it", {**SETTINGS, **change}, {}),
    ):
        pass


def test_a_folder_with_trials_of_nobody_is_refused(tmp_path):
    records.append_row(tmp_path, row(0))
    with pytest.raises(DigitsError, match=r"no search\.json"), records.hold(tmp_path, SETTINGS, {}):
        pass


# --- the report ----------------------------------------------------------------------------


def some_rows():
    rows = [row(n, correct=60 + 4 * n, loss=1.0, elapsed=n + 1.0) for n in range(9)]
    rows[4] = row(4, status=DIVERGED, elapsed=5.0)
    return [*rows, row(8, 1, 95, elapsed=12.0), row(7, 1, 94, elapsed=15.0)]


def test_the_page_ranks_and_warns():
    text = report.markdown(SEARCH, some_rows(), FACTS)
    lines = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d", line)]
    assert [line[1] for line in lines] == ["8", "7", "6", "5", "3", "2", "1", "0", "4"]
    # By hand: Wilson's interval of 95 of 100 is 88.8% to 97.8%.
    assert lines[0][3:5] == ["95.00%", "88.82% to 97.85%"]
    assert lines[-1][3] == "diverged"
    # The other one's interval, 87.5% to 97.2%, holds 95%.
    assert "best of 9 trials on the same 100 validation images" in text
    assert "Of 1 other trained for as many epochs, 1 can't be told from it" in text
    command = next(line for line in text.splitlines() if line.startswith("python -m digits_jax"))
    assert parse_config(command.split()[3:]) == SEARCH.config(8, 1)
    assert "for seed in 0 1 2 4 5; do python -m digits_jax.train" in text
    assert "test accuracy" not in text


def test_a_preset_that_wins_is_named():
    rows = [row(0, correct=95), row(1, correct=90)]
    assert "It is trial 0, the preset 'standard'" in report.caution(SEARCH, rows)
    rows = [row(0, correct=90), row(1, correct=95)]
    assert "trial 0" not in report.caution(SEARCH, rows)


def test_a_search_without_a_winner_says_so():
    rows = [{**row(0, status=DIVERGED), "note": "no finite numbers from step 3 on"}]
    assert report.winner(rows) is None
    assert "No trial was trained to the end (no finite numbers" in report.markdown(
        SEARCH, rows, FACTS
    )


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_the_picture_has_a_panel_for_each_value(tmp_path, arch):
    tried = Search(arch, "digits", 3, 9.0, 3)
    rows = [{**r, "values": space.sample(arch, "digits", 3, r["trial"])} for r in some_rows()]
    figure = picture._figure(tried, rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:-1] == [name.replace("_", " ") for name in space.SPACES[arch]]
    trained, second = (figure.axes[0].collections[k].get_offsets() for k in (0, 1))
    # 60, 64, 68, 72, -, 80, 84, 88 and 92 of 100, as error rates; then 95 and 94.
    wanted = [0.4, 0.36, 0.32, 0.28, 0.2, 0.16, 0.12, 0.08]
    np.testing.assert_allclose(trained[:, 1], wanted)
    np.testing.assert_allclose(second[:, 1], [0.05, 0.06])
    with open(tmp_path / "it.png", "wb") as file:
        picture.draw(tried, rows[4:5], file)  # nothing but a diverged trial
    assert (tmp_path / "it.png").stat().st_size > 10_000


# --- real trials ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def tiny(**values):
    found = Search("mlp", "digits", 0, 1.0, 1).config(0, 0)
    kept = {"hidden_sizes": (16,), "augment": "none", "devices": "1", **values}
    return type(found)(**{**found.to_dict(), **kept})


def test_a_trial_has_the_validation_accuracy_that_training_has(tmp_path, digits):
    from digits_jax import fit

    config = tiny()
    found = train_trial(config, without_test(digits), StopRequest(), lambda: None)
    trained = fit(type(config)(**{**config.to_dict(), "workdir": str(tmp_path)}), quiet=True)
    assert found["status"] == TRAINED
    assert found["count"] == 180
    assert found["correct"] == round(180 * trained.results["validation_accuracy"])
    assert found["loss"] == pytest.approx(trained.results["validation_loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("epochs", "note"),
    # Two steps are too few to give up after ten; of many the first is taken with finite numbers.
    [(3.0, "no finite numbers from step 2 on"), (0.1, "the validation loss isn't finite")],
)
def test_a_trial_that_diverges_is_a_result(digits, epochs, note):
    too_fast = {"optimizer": "sgd", "learning_rate": 1e30, "batch_norm": False, "epochs": epochs}
    found = train_trial(tiny(**too_fast), without_test(digits), StopRequest(), lambda: None)
    assert (found["status"], found["correct"], found["note"]) == (DIVERGED, None, note)


def test_a_trial_that_cannot_be_is_a_result(digits):
    found = train_trial(tiny(batch_size=2000), without_test(digits), StopRequest(), lambda: None)
    assert found["status"] == "failed"
    assert "1,257 training images" in found["note"]


def test_seeds_side_by_side_are_trials_of_their_own(digits):
    """But for the rounding of products of several networks."""
    config, seeds = tiny(), (5, 2)
    alone = [
        train_trial(
            dataclasses.replace(config, seed=seed),
            without_test(digits),
            StopRequest(),
            lambda: None,
        )
        for seed in seeds
    ]
    together = train_seeds(config, [without_test(digits)] * len(seeds), seeds)
    assert [each["status"] for each in together] == [TRAINED, TRAINED]
    for one, other in zip(alone, together, strict=True):
        assert abs(one["correct"] - other["correct"]) <= 1
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert alone[0]["loss"] != pytest.approx(alone[1]["loss"], rel=1e-3)


@pytest.mark.parametrize("count", [2, 5, 12, 1437])
def test_each_image_is_held_out_once(digits, count):
    """Whatever the parts: an image of one isn't trained on, and the rest is."""
    size = 1437 // count
    held = []
    for index in (0, 1, count - 1):
        found = hold_out(digits, index, count)
        assert (len(found.validation), len(found.train)) == (size, 1437 - size)
        together = np.concatenate([found.validation.images, found.train.images])
        assert sorted(map(bytes, together)) == sorted(
            map(bytes, np.concatenate([digits.validation.images, digits.train.images]))
        )
        assert found.test is digits.test
        held.append({bytes(image) for image in found.validation.images})
    seen = {bytes(image) for image in digits.validation.images}
    assert (held[0] <= seen) == (size <= 180)  # the validation split comes first
    if count > 2:
        assert not held[0] & held[1]
        assert not held[1] & held[2]
    again = hold_out(digits, count, count)
    assert (again.validation.images == hold_out(digits, 0, count).validation.images).all()


def test_side_by_side_each_seed_has_its_own_part(digits):
    config, seeds = tiny(epochs=4.0), (0, 1, 2)
    parts = [hold_out(without_test(digits), seed, 3) for seed in seeds]
    together = train_seeds(config, parts, seeds)
    for seed, one in zip(seeds, together, strict=True):
        own = dataclasses.replace(config, seed=seed)
        alone = train_trial(own, parts[seed], StopRequest(), lambda: None)
        assert abs(one["correct"] - alone["correct"]) <= 1
        assert alone["count"] == 479
        assert one["loss"] == pytest.approx(alone["loss"], rel=1e-3)


def test_of_seeds_side_by_side_each_may_diverge(digits):
    too_fast = {"optimizer": "sgd", "learning_rate": 1e30, "batch_norm": False, "epochs": 3.0}
    found = train_seeds(tiny(**too_fast), [without_test(digits)] * 2, (0, 1))
    assert [each["status"] for each in found] == [DIVERGED, DIVERGED]
    assert found[0]["note"].startswith("no finite numbers from step ")
    failed = train_seeds(tiny(batch_size=2000), [without_test(digits)] * 2, (0, 1))
    assert ["1,257 training images" in each["note"] for each in failed] == [True, True]


def test_a_signal_ends_a_trial(digits):
    stop = StopRequest()

    def later():
        stop.signal_number = signal.SIGINT

    with pytest.raises(Interrupted):
        train_trial(tiny(epochs=5.0), without_test(digits), stop, later)


# --- the program ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget-seconds=0"], "--budget-seconds=0: give a number that is more than 0"),
        (["--budget-seconds=-5"], "--budget-seconds=-5: give"),
        (["--budget-seconds=nan"], "--budget-seconds=nan: give"),
        (["--budget-seconds=inf"], "--budget-seconds=inf: give"),
        (["--budget-seconds=long"], "--budget-seconds=long: give a number"),
        (["--arch=rnn"], "--arch=rnn: allowed are cnn, mlp, ann"),
        (["--dataset=digit"], "did you mean digits"),
        (["--dataset=digits", "--data-dir=nowhere"], "nowhere"),
        (["--seed=-1"], "--seed=-1: give a number that is at least 0"),
        (["--epochs=0"], "--epochs=0.0: give a number that is more than 0"),
        (["--rungs=0"], "--rungs=0: give a number from 1 to 5"),
        (["--rungs=9"], "--rungs=9: give a number from 1 to 5"),
        (["--workdir="], "--workdir is empty; give a folder"),
        (["--budget=5"], "did you mean --budget-seconds"),
    ],
)
def test_bad_input_is_one_line(here, flags, words):
    status, out, err = here(program, "--dataset=digits", "--arch=mlp", *flags)
    assert_one_error_line(status, out, err)
    assert words in err


def test_a_folder_that_holds_something_else_is_refused(here, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    said = here(program, "--arch=mlp", "--dataset=digits", "--workdir=run")
    assert_one_error_line(*said)
    assert "already holds a run" in said[2]
    (tmp_path / "file").write_text("")
    said = here(program, "--arch=mlp", "--dataset=digits", "--workdir=file")
    assert_one_error_line(*said)


@pytest.mark.slow  # compiles several networks and trains for a few seconds: half a minute in all
def test_a_real_search(tmp_path):
    flags = ["--arch=mlp", "--dataset=digits", "--epochs=3", "--rungs=2", "--workdir=it"]
    script = (
        "import sys; from digits_jax.cli import run_program; "
        "from experiments.search.__main__ import main; sys.exit(run_program(main))"
    )

    def call(*more):
        with start(tmp_path, None, *flags, *more, script=script) as process:
            out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    status, out, err = call("--budget-seconds=12")
    assert status == 0, err
    path = tmp_path / "it"
    rows = records.read_rows(path)
    assert [r["trial"] for r in rows if r["rung"] == 0] == list(
        range(sum(r["rung"] == 0 for r in rows))
    )
    assert "test accuracy" not in out + (path / "search.md").read_text()
    assert (path / "search.png").read_bytes().startswith(b"\x89PNG")
    status, out, err = call("--budget-seconds=1")  # the table anew
    assert status == 0, err
    assert records.read_rows(path) == rows
    status, out, err = call("--budget-seconds=12", "--seed=1")
    assert_one_error_line(status, out, err)
    assert "holds a search with seed=0, not 1" in err
    with start(tmp_path, None, *flags, "--budget-seconds=900", script=script) as process:
        while "trial " not in (line := process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = records.read_rows(path)
    assert f"stopped; {len(kept)} trainings are kept in it; go on with" in err
    assert kept[: len(rows)] == rows
    assert len(kept) > len(rows)
