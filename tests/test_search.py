"""The hyperparameter search: what is sampled, who goes on, what is kept, and what is refused."""

import json
import re
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import assert_one_error_line, start

from digits_jax.config_checks import check
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import InputError
from digits_jax.train import parse_config
from digits_jax.training.interrupts import Interrupted, StopRequest
from experiments.search import __main__ as program
from experiments.search import picture, records, report, space
from experiments.search.halving import (
    DIVERGED,
    TRAINED,
    Job,
    expected_seconds,
    finishing_seconds,
    ladder,
    next_job,
    ranked,
)
from experiments.search.loop import Search, run_search
from experiments.search.trial import train_trial, without_test

SEARCH = Search("mlp", "digits", seed=3, epochs=9.0, rungs=3)
FACTS = {
    "command": "python -m experiments.search",
    "machine": {"device": "cpu", "processor": "Z80", "cores": 1},
    "versions": {"python": "3"},
}
SEEDS = st.integers(0, 2**31 - 1)
# Bounds as the page states them, over all optimizers.
BOUNDS = {
    "learning_rate": (1e-4, 0.5),
    "weight_decay": (1e-6, 1.0),
    "label_smoothing": (0.0, 0.2),
    "dropout": (0.0, 0.5),
}
CHOICES = {
    "optimizer": {"adamw", "sgd", "lion"},
    "batch_size": {64, 128, 256, 512},
    "schedule": {"one_cycle", "cosine", "constant"},
    "augment": {"none", "shift", "affine", "elastic"},
    "ema_decay": {0.0, 0.9, 0.99},
    "batch_norm": {True, False},
}
OF_OPTIMIZER = {  # learning rate, weight decay
    "adamw": ((1e-3, 5e-2), (1e-3, 0.3)),
    "sgd": ((1e-2, 0.5), (1e-6, 1e-3)),
    "lion": ((1e-4, 5e-3), (1e-2, 1.0)),
}


def row(trial, rung=0, correct=90, *, loss=0.5, seconds=1.0, status=TRAINED, elapsed=1.0):
    """A row as it would be written; all of its time is training."""
    numbers = {"correct": correct, "count": 100, "loss": loss}
    if status != TRAINED:
        numbers = dict.fromkeys(numbers)
    return {
        "trial": trial,
        "rung": rung,
        "epochs": 3.0**rung,
        "status": status,
        **numbers,
        "seconds": seconds,
        "train_seconds": seconds,
        "elapsed_seconds": elapsed,
        "note": "",
        "values": space.sample("mlp", "digits", 3, trial),
    }


class Clock:
    """A clock that only trials move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def fake_trainer(clock, seconds_per_epoch=1.0, fixed=0.0, diverge=(), stop_after=None):
    """Accuracy is a trial's place among 100 by its learning rate; nothing is trained."""
    seen = []

    def train(config):
        if stop_after is not None and len(seen) == stop_after:
            raise Interrupted("stopped", signal.SIGINT)
        seen.append(config)
        training = seconds_per_epoch * config.epochs
        clock.now += fixed + training
        if len(seen) - 1 in diverge:
            lost = {"correct": None, "count": None, "loss": None, "note": "no finite numbers"}
            return {"status": DIVERGED, **lost, "train_seconds": training}
        correct = int(config.learning_rate * 1e6) % 100
        found = {"correct": correct, "count": 100, "loss": 0.1, "note": ""}
        return {"status": TRAINED, **found, "train_seconds": training}

    train.seen = seen
    return train


def search(tmp_path, budget, rows=(), **how):
    clock = Clock()
    train = fake_trainer(clock, **how)
    found = run_search(SEARCH, list(rows), tmp_path, budget=budget, train=train, clock=clock)
    return found, train.seen


# --- what is sampled -----------------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(["mlp", "cnn"]), SEEDS, st.integers(1, 10_000))
def test_a_sample_is_the_same_again_and_within_bounds(arch, seed, number):
    values = space.sample(arch, "mnist", seed, number)
    assert values == space.sample(arch, "mnist", seed, number)
    assert set(values) == set(space.searched_fields(arch))
    for name, (low, high) in BOUNDS.items():
        assert low <= values[name] <= high
    for name, allowed in CHOICES.items():
        assert values[name] in allowed
    for name, (low, high) in zip(
        ("learning_rate", "weight_decay"), OF_OPTIMIZER[values["optimizer"]], strict=True
    ):
        assert low <= values[name] <= high
    if arch == "mlp":
        assert 1 <= len(values["hidden_sizes"]) <= 3
        assert set(values["hidden_sizes"]) <= {128, 256, 512, 1024}
    else:
        assert len(values["channels"]) in (2, 3)
        assert values["convs_per_block"] in (1, 2)
        assert values["dense_size"] in (0, 64, 128, 256)


def test_samples_spread_over_the_space():
    """Of 3,000 numbers a third has each optimizer, and half of AdamW's rates lie below the middle
    of their logarithms (4 standard deviations: 0.034 and 0.063)."""
    values = [space.sample("mlp", "mnist", 1, number) for number in range(1, 3001)]
    shares = [np.mean([v["optimizer"] == name for v in values]) for name in CHOICES["optimizer"]]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.035)
    rates = [v["learning_rate"] for v in values if v["optimizer"] == "adamw"]
    assert abs(np.mean(np.array(rates) < np.sqrt(1e-3 * 5e-2)) - 0.5) < 0.065
    depths = [len(v["hidden_sizes"]) for v in values]
    np.testing.assert_allclose(np.bincount(depths, minlength=4)[1:] / 3000, 1 / 3, atol=0.035)


def test_other_seeds_and_numbers_are_other_samples():
    found = [space.sample("cnn", "mnist", seed, n) for seed in range(5) for n in range(1, 20)]
    assert len({json.dumps(values) for values in found}) == len(found)


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_the_first_trial_is_the_presets_recipe(arch):
    recipe = parse_config([f"--arch={arch}", "--preset=standard"]).resolve("mnist")
    values = space.sample(arch, "mnist", 5, 0)
    assert values == {name: getattr(recipe, name) for name in values}


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["mlp", "cnn"]), SEEDS, st.integers(0, 10_000), st.integers(0, 2))
def test_the_winning_command_is_what_was_trained(arch, seed, number, rung):
    tried = Search(arch, "digits", seed, 60.0, 3)
    config = tried.config(number, rung)
    check(config)
    # As the line is read from a file, where a tuple is a list.
    read = {"epochs": config.epochs, "values": space.sample(arch, "digits", seed, number)}
    command = report.winning_command(tried, json.loads(json.dumps(read)))
    words = command.split()
    assert words[:3] == ["python", "-m", "digits_jax.train"]
    assert parse_config(words[3:]) == config


# --- who goes on ---------------------------------------------------------------------------


def test_ties_go_to_the_smaller_loss_and_then_to_the_earlier_trial():
    rows = [row(0, correct=95, loss=0.3), row(1, correct=95, loss=0.2), row(2, correct=97)]
    rows += [row(3, correct=95, loss=0.2), row(4, status=DIVERGED)]
    assert [r["trial"] for r in ranked(rows)] == [2, 1, 3, 0]


def test_the_best_third_goes_on_and_a_third_of_those():
    """Nine trials; 3, 7 and 1 are the best, in this order; on the next rung 7 is."""
    accuracies = {0: 50, 1: 80, 2: 60, 3: 99, 4: 10, 5: 20, 6: 70, 7: 90, 8: 30}
    rows = [row(trial, correct=c, seconds=1.0) for trial, c in accuracies.items()]
    # Nine seconds for three more, nine for one of them: a tenth trial doesn't fit these 18.5.
    found = [next_job(rows, rungs=3, budget=27.5, used=9.0)]
    for rung, trial, correct, used in ((1, 3, 91, 12.0), (1, 7, 96, 15.0), (1, 1, 85, 18.0)):
        rows.append(row(trial, rung, correct, seconds=3.0))
        found.append(next_job(rows, rungs=3, budget=27.5, used=used))
    assert found == [Job(3, 1), Job(7, 1), Job(1, 1), Job(7, 2)]
    rows.append(row(7, 2, correct=97, seconds=9.0))
    assert next_job(rows, rungs=3, budget=27.5, used=27.0) is None
    # Trial 3 had more right for fewer epochs: those are others' numbers.
    assert [r["trial"] for r in ladder(rows)] == [7, 3, 1, 6, 2, 0, 8, 5, 4]
    assert report.winner(rows)["trial"] == 7


def test_a_diverged_trial_never_goes_on():
    rows = [row(0, status=DIVERGED), row(1, correct=10), row(2, status=DIVERGED)]
    assert next_job(rows, rungs=2, budget=6.5, used=3.0) == Job(1, 1)
    lost = [row(trial, status=DIVERGED) for trial in range(3)]
    # Nobody can go on: what is left is for others.
    assert next_job(lost, rungs=2, budget=6.5, used=3.0) == Job(3, 0)


def test_a_budget_too_small_for_the_rungs_above_is_for_random_search():
    rows = [row(0, seconds=4.0), row(1, seconds=4.0)]
    assert next_job(rows, rungs=3, budget=15.0, used=8.0) == Job(2, 0)
    assert next_job(rows, rungs=3, budget=11.0, used=8.0) is None


def test_the_highest_rung_comes_before_more_of_the_lower_ones():
    """Twelve trials: the fourth best may go to rung 1, the best of rung 1 to rung 2."""
    rows = [row(n, correct=50 + n) for n in range(12)]
    rows += [row(n, 1, correct=70 + n, seconds=3.0) for n in (11, 10, 9)]
    # Three seconds, and then nine; no thirteenth trial, as 1 + 3 + 9 don't fit either.
    assert next_job(rows, rungs=3, budget=100.0, used=87.5) == Job(8, 1)
    assert next_job(rows, rungs=3, budget=100.0, used=88.5) == Job(11, 2)
    assert next_job(rows, rungs=3, budget=100.0, used=95.5) == Job(8, 1)


def test_a_slow_trial_that_does_not_fit_lets_the_next_one_go_on():
    rows = [row(0, correct=99, seconds=10.0), *(row(n, correct=50 + n) for n in range(1, 6))]
    # Trial 0 would take 30 seconds, trial 5 three.
    assert next_job(rows, rungs=2, budget=25.0, used=15.0) == Job(5, 1)


def test_the_first_trial_comes_whatever_it_costs_and_a_lost_one_comes_again():
    assert next_job([], rungs=3, budget=0.1, used=3.0) == Job(0, 0)
    assert next_job([row(0), row(2)], rungs=3, budget=30.0, used=3.0) == Job(1, 0)


def test_what_a_rung_costs():
    rows = [row(0, seconds=5.0), row(1, seconds=7.0), row(0, 1, seconds=8.0)]
    rows = [{**r, "train_seconds": r["seconds"] - 2.0} for r in rows]
    # 6 and 8 were measured; above, three times the 6 that were training, and the 2 that weren't.
    assert expected_seconds(rows, 3) == [6.0, 8.0, 20.0]
    # 12 trials let 4 go on, of which 1 has, and 1 of those: 3 * 8 + 20.
    assert finishing_seconds([12, 1, 0], [6.0, 8.0, 20.0]) == 44.0


# --- the budget ----------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1.0, 8.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("fixed", [0.0, 2.0])
def test_the_budget_is_used_and_kept(tmp_path, budget, fixed):
    rows, _ = search(tmp_path, budget, fixed=fixed)
    used = sum(r["seconds"] for r in rows)
    assert rows[-1]["elapsed_seconds"] == pytest.approx(used)
    # Every trial takes as long: nothing is begun that doesn't fit but the very first.
    assert used <= budget or len(rows) == 1
    # What is left wouldn't take the dearest job there is.
    assert budget - used < 2 * (fixed + SEARCH.epochs)
    counts = [sum(r["rung"] == k for r in rows) for k in range(3)]
    if budget >= 100:
        assert counts[0] >= 3 * counts[1] >= 9 * counts[2] > 0
        # Each rung costs about the same.
        assert max(counts[k] * 3**k for k in range(3)) <= 2 * min(
            counts[k] * 3**k for k in range(3)
        )


def test_nothing_is_trained_twice_and_the_values_belong_to_the_numbers(tmp_path):
    rows, seen = search(tmp_path, 200.0)
    jobs = [(r["trial"], r["rung"]) for r in rows]
    assert len(set(jobs)) == len(jobs)
    for r, config in zip(rows, seen, strict=True):
        assert r["values"] == space.sample("mlp", "digits", 3, r["trial"])
        assert config.epochs == r["epochs"] == [1.0, 3.0, 9.0][r["rung"]]
        assert (config.seed, config.arch, config.dataset) == (3, "mlp", "digits")


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    at_once, path = tmp_path / "at once", tmp_path / "in parts"
    at_once.mkdir()
    path.mkdir()
    whole, _ = search(at_once, 100.0)
    for _ in range(3):  # three calls are stopped while they train their fifth
        with pytest.raises(Interrupted):
            search(path, 100.0, records.read_rows(path), stop_after=4)
    assert len(records.read_rows(path)) == 12
    parts, seen = search(path, 100.0, records.read_rows(path))
    assert len(seen) == len(whole) - 12
    plain = json.loads(json.dumps(whole))
    assert json.loads(json.dumps(parts)) == plain == records.read_rows(path)


def test_a_larger_budget_goes_on_and_a_used_one_trains_nothing(tmp_path):
    rows, _ = search(tmp_path, 50.0)
    assert search(tmp_path, 50.0, rows)[1] == []
    assert search(tmp_path, 1.0, rows)[1] == []
    more, seen = search(tmp_path, 150.0, rows)
    assert more[: len(rows)] == rows
    assert len(seen) == len(more) - len(rows) > 0
    assert len(records.read_rows(tmp_path)) == len(more)


def test_a_diverged_trial_is_a_row_and_the_search_goes_on(tmp_path):
    rows, _ = search(tmp_path, 40.0, diverge={0, 4})
    assert [n for n, r in enumerate(rows) if r["status"] == DIVERGED] == [0, 4]
    again = records.read_rows(tmp_path)
    assert [r["status"] for r in again] == [r["status"] for r in rows]
    assert report.winner(again)["status"] == TRAINED


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
    with pytest.raises(InputError, match="50,000,000 bytes"):
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
        pytest.raises(InputError, match=re.escape(words)),
        records.hold(tmp_path / "it", {**SETTINGS, **change}, {}),
    ):
        pass


def test_a_folder_with_trials_of_nobody_is_refused(tmp_path):
    records.append_row(tmp_path, row(0))
    with pytest.raises(InputError, match=r"no search\.json"), records.hold(tmp_path, SETTINGS, {}):
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
