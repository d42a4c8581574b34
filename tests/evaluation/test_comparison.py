"""Which runs may be compared, and what they are called."""

import numpy as np
import pytest

from digits_jax.errors import DataError
from digits_jax.evaluation import Run, compare

LABELS = np.array([0, 1, 2, 0])
RNG = np.random.default_rng(0)


def run(name="run", labels=LABELS, logits=None, **results):
    logits = RNG.normal(size=(len(labels), 3)) if logits is None else logits
    return Run(name, labels, logits, results=results)


def names(a, b, given=(None, None)):
    return compare(a, b, names=given, resamples=100).names


def test_groups_are_named_so_that_they_can_be_told_apart():
    assert names([run("x", arch="mlp")], [run("y", arch="cnn")]) == ("MLP", "CNN")
    assert names([run("x", arch="cnn")], [run("y", arch="cnn")]) == ("x", "y")
    assert names([run("x")], [run("x")]) == ("x A", "x B")
    groups = [[run(n, arch="cnn") for n in "xy"] for _ in "AB"]
    assert names(*groups) == ("CNN A", "CNN B")
    assert names(*groups, given=("old", "new")) == ("old", "new")
    long = names([run("l" * 90 + "1")], [run("l" * 90 + "2")])
    assert long == (f"{'l' * 21}… A", f"{'l' * 21}… B")


def test_runs_that_do_not_belong_together_are_refused():
    twice = run("copy")
    cases = [
        ([run()], [], "at least one of each"),
        ([run()], [run(labels=np.array([0]))], "logits of shapes"),
        ([run()], [run(labels=np.array([0, 2, 1, 0]))], "another order"),
        ([run(dataset_sha256="a")], [run(dataset_sha256="b")], "different data sets"),
        ([run(arch="cnn"), run(arch="mlp")], [run()], "A mixes CNN and MLP"),
        ([run(), twice], [run(), twice], "the same logits"),
    ]
    for a, b, says in cases:
        with pytest.raises(DataError, match=says) as caught:
            compare(a, b)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="two different names"):
        names([run("x")], [run("y")], given=("N", "N"))
    assert compare([twice], [twice], resamples=100).overlap.repair_rate in (0, None)


def test_bad_arrays_are_refused_with_their_source():
    nan = np.full((4, 3), np.nan)
    for arrays, says in (
        ((LABELS, nan), "FILE: logits has NaN"),
        ((LABELS, np.eye(4), LABELS, nan), "FILE: validation_logits"),
    ):
        with pytest.raises(DataError, match=says):
            Run("x", *arrays, source="FILE")


def test_published_label_errors_are_looked_at_on_mnist():
    labels, wrong = np.zeros(10_000, int), np.zeros(10_000, int)
    wrong[[947, 1621, 5]] = 1
    one = run(labels=labels, logits=5 * np.eye(2)[wrong])
    found = compare([one], [one], dataset="mnist", resamples=100)
    assert [image.index for image in found.hardest] == [5, 947, 1621]
    assert [image.known for image in found.hardest] == [False, True, True]
    cleaned = found.to_dict()["without_published_label_errors"]
    assert cleaned["n"] == 9985
    assert cleaned["accuracy_a"] == pytest.approx(1 - 1 / 9985)
    other = compare([one], [one], dataset="fashion_mnist", resamples=100)
    assert other.to_dict()["without_published_label_errors"] is None


@pytest.mark.parametrize(("labels", "says"), [([0, 1], "right"), ([1, 0], "uniform")])
def test_a_temperature_without_a_minimum_is_none_with_a_reason(labels, says):
    data = (np.array(labels), np.array([[5.0, 0.0], [0.0, 5.0]]))
    one = Run("x", *data, *data)
    (scaled,), _ = compare([one], [one], resamples=100).calibration
    assert scaled.temperature.temperature is scaled.after is None
    assert says in scaled.reason == scaled.temperature.reason


def test_scaling_lowers_the_loss_on_the_validation_images():
    labels = RNG.integers(0, 3, 200)
    logits = 4 * (RNG.normal(size=(200, 3)) + np.eye(3)[labels])
    one = Run("x", labels, logits, labels, logits)
    (scaled,), _ = compare([one], [one], resamples=100).calibration
    found = scaled.temperature
    assert found.nll_before == pytest.approx(scaled.before.nll)
    assert found.nll_after == pytest.approx(scaled.after.nll)
    assert found.nll_after < found.nll_before
