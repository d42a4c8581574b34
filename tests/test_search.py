"""The hyperparameter search: what is sampled, who goes on, and how the budget is used."""

import json
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import SEARCH, row

from digits_jax.config_checks import check
from digits_jax.train import parse_config
from digits_jax.training.interrupts import Interrupted
from experiments.search import records, report, space
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
