"""The study of critical factors: its data, its networks, its statistics, and how it continues."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.stats
from programs import REPOSITORY

from digits_jax import MLP, DigitsError, load_dataset
from experiments.critical_factors import __main__ as program
from experiments.critical_factors import images, report
from experiments.critical_factors.factors import baseline, is_baseline, make_factors
from experiments.critical_factors.training import (
    ChangedInput,
    change_dataset,
    noisy_labels,
    preprocess_dataset,
)

RESULTS = REPOSITORY / "experiments/results/critical_factors"
BASELINES = {arch: baseline(arch, "mnist") for arch in ("mlp", "cnn")}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def some(digits):
    return np.asarray(digits.test.images[:40])


# --- corruptions and preprocessing ---------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in images.CORRUPTIONS if n != "inversion"])
def test_corruptions_grow_and_are_repeatable(name, some):
    found = [images.corrupt(name, some, severity) for severity in range(1, 6)]
    assert {(x.shape, x.dtype) for x in found} == {(some.shape, np.dtype("uint8"))}
    np.testing.assert_array_equal(found[2], images.corrupt(name, some, 3))
    changes = [np.abs(x.astype(int) - some).mean() for x in found]
    assert changes[0] > 0.5
    assert changes == sorted(changes)


def test_corruptions_of_blank_images_and_neighbors(some):
    blank = np.zeros((2, 28, 28, 1), np.uint8)
    for name in ("blur", "motion_blur", "shear", "scale", "rotation", "translation", "canny_edges"):
        assert not images.corrupt(name, blank, 5).any()
    pair = np.concatenate([some[:1], np.full_like(some[:1], 255)])
    for name in ("blur", "scale", "canny_edges"):
        both, alone = (images.corrupt(name, x, 5) for x in (pair, pair[:1]))
        np.testing.assert_array_equal(both[:1], alone)


def test_inversion_and_shift_by_hand():
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 14, 14] = 200
    assert images.corrupt("inversion", image, 1)[0, 14, 14, 0] == 55
    y, x, _ = np.argwhere(images.corrupt("off_centre", image, 3)[0])[0]
    assert max(abs(y - 14), abs(x - 14)) == 3


def test_deskewing_and_centring_by_hand():
    slanted = np.zeros((1, 21, 21, 1), np.uint8)
    for row in range(4, 17):
        slanted[0, row, 10 + (row - 10)] = 255  # 45 degrees, through the center
    found = images.preprocess("deskewing", slanted)[0, :, :, 0]
    assert found[:, 10].astype(int).tolist() == [0] * 4 + [255] * 13 + [0] * 4
    corner = np.zeros((1, 9, 9, 1), np.uint8)
    corner[0, :3, :3] = 100  # its center is (1, 1); the image's is (4, 4)
    found = images.preprocess("centring", corner)[0, :, :, 0]
    assert (found[3:6, 3:6] == 100).all()
    assert found.sum() == 900


def test_standardising_gives_mean_0_and_variance_1(some):
    scale, offset = images.scale_and_offset("standardising", some)
    pixels = some / 255 * scale + offset
    assert abs(pixels.mean()) < 1e-9
    assert abs(pixels.var() - 1) < 1e-9


# --- training ------------------------------------------------------------------------------


def test_labels_are_wrong_as_often_as_asked():
    labels = np.arange(1000, dtype=np.int32) % 10
    few, more = (noisy_labels(labels, share, 3, 10) for share in (0.1, 0.4))
    assert ((few != labels).sum(), (more != labels).sum()) == (100, 400)
    assert ((more != labels) >= (few != labels)).all()
    assert set(more) <= set(range(10))


def test_a_training_sees_fewer_images_and_wrong_labels_but_no_test_split(digits):
    settings = {**BASELINES["mlp"], "train_images": 100, "label_noise": 0.5}
    digits = preprocess_dataset(digits, "binarising")
    changed = change_dataset(digits, settings, seed=0)
    assert len(changed.train) == len(digits.train)
    assert len({image.tobytes() for image in np.asarray(changed.train.images)}) == 100
    assert changed.test is changed.validation
    assert set(np.unique(changed.validation.images)) == {0, 255}
    more = change_dataset(digits, {**settings, "train_images": 200}, seed=0)
    few = {image.tobytes() for image in np.asarray(changed.train.images)}
    assert few < {image.tobytes() for image in np.asarray(more.train.images)}


def test_changed_input_keeps_the_networks_parameters():
    network, x = MLP(hidden_sizes=(4,)), np.ones((2, 28, 28, 1), np.float32)
    changed = ChangedInput(network, 2.0, -1.0, (("shift_pixels", 2.0),))
    variables = network.init(jax.random.key(0), x)
    both = variables, changed.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, *both)
    np.testing.assert_allclose(
        changed.apply(variables, x), network.apply(variables, 2 * x - 1), rtol=1e-6
    )
    rngs = {"dropout": jax.random.key(1)}
    moved = jax.jit(lambda x: changed.apply(variables, x, train=True, rngs=rngs))(x)
    assert np.abs(moved - network.apply(variables, 2 * x - 1)).max() > 0.01


# --- factors and ranking -------------------------------------------------------------------


def test_every_factor_has_one_baseline_level():
    for name, archs in make_factors(BASELINES, 55_000).items():
        for arch, levels in archs.items():
            assert sum(is_baseline(each, BASELINES[arch]) for each in levels.values()) == 1, name


def test_the_interval_is_that_of_scipy():
    values = [0.3, -0.2, 0.7, 0.1]
    expected = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    np.testing.assert_allclose(report.mean_interval(values), [np.mean(values), *expected])
    _, low, _ = report.mean_interval([1.0, 1.0, 1.0], least_deviation=0.5)
    assert low == pytest.approx(1 - scipy.stats.t.ppf(0.975, 2) * 0.5 / np.sqrt(3))


def test_effects_are_paired_by_seed_and_ranked():
    factors = {name: {"mlp": {"0": {}, "1": {"x": 1}}} for name in "abc"}
    changes = {"a": (-20, -19, -18), "b": (-200, -200, -200), "c": (40, -40, 3)}
    measured = [
        report.Row("mlp", name, level, k, 900 + 10 * k + change[k] * int(level), 1000, 1.0, "cpu")
        for name, change in changes.items()
        for level in "01"
        for k in range(3)
    ]
    found = report.find_effects(factors, {"mlp": {"x": 0}}, measured)
    ranked = report.rank(found)
    assert list(ranked) == ["b", "a", "c"]
    effect, _ = ranked["a"]["mlp"]
    points = [-2.0, -1.9, -1.8]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(points), scipy.stats.sem(points))
    np.testing.assert_allclose([effect.mean, effect.low, effect.high], [-1.9, *expected], rtol=1e-6)
    assert not ranked["c"]["mlp"][0].is_significant


def test_of_an_optimizer_the_best_level_counts():
    rates = [("adamw", 0.0), ("sgd", -9.0), ("sgd", -0.5)]
    found = [
        report.Effect("cnn", "optimizer", f"{k}", n, d, d, d) for k, (n, d) in enumerate(rates)
    ]
    largest, best = report.rank(found)["optimizer"]["cnn"]
    assert (largest.mean, best.mean) == (-0.5, 0.0)


def test_the_published_report_is_that_of_its_rows():
    measured = list(report.read_rows(RESULTS / "factors.csv").values())
    factors = make_factors(BASELINES, 55_000)
    found = report.find_effects(factors, BASELINES, measured)
    ranked = report.rank(found)
    text = (RESULTS / "report.md").read_text()
    assert report.ranking_table(ranked) in text
    assert all(report.level_table(name, factors, found, measured) in text for name in ranked)
    robustness = report.read_rows(RESULTS / "robustness.csv").values()
    assert report.robustness_table(robustness) in text


# --- the program ---------------------------------------------------------------------------


def test_a_table_of_something_else_is_refused(tmp_path):
    for text in ("a,b\n1,2\n", "arch,factor,level,seed,correct,count,seconds\nmlp,a\n"):
        (tmp_path / "factors.csv").write_text(text)
        with pytest.raises(DigitsError, match="--output"):
            report.read_rows(tmp_path / "factors.csv")


@pytest.mark.parametrize("flag", ["--seeds=0", "--factors=luck"])
def test_bad_arguments_are_refused(flag, tmp_path):
    with pytest.raises(DigitsError, match=flag):
        program.main([f"--output={tmp_path}", flag])


def test_results_of_other_settings_are_refused(tmp_path):
    program.check_settings(tmp_path, {"dataset": "mnist"}, BASELINES)
    with pytest.raises(DigitsError, match="dataset=mnist, not digits"):
        program.check_settings(tmp_path, {"dataset": "digits"}, BASELINES)


@pytest.mark.slow
def test_it_trains_what_is_missing_only(tmp_path, digits):
    base = {"mlp": {**baseline("mlp", "digits"), "hidden_sizes": (4,), "epochs": 0.2}}
    made = make_factors(base, len(digits.train))
    kept = {"label_smoothing": ("0.1", "0.4"), "label_noise": ("0", "0.4")}
    chosen = {
        name: {"mlp": {label: made[name]["mlp"][label] for label in labels}}
        for name, labels in kept.items()
    }
    path = tmp_path / "factors.csv"
    program.train_factors(chosen, base, [0], digits, path)
    table = path.read_text()
    found = report.read_rows(path)
    assert len(found) == 4
    # The baselines of both factors are the same trainings.
    assert len({row.seconds for row in found.values() if row.level in ("0.1", "0")}) == 1
    path.write_text("\n".join(table.splitlines()[:-1]) + "\n")
    program.train_factors(chosen, base, [0], digits, path)
    assert path.read_text().splitlines()[:-1] == table.splitlines()[:-1]
    assert set(report.read_rows(path)) == set(found)


@pytest.mark.slow
def test_the_program_trains_and_reports(tmp_path):
    command = [sys.executable, "-m", "experiments.critical_factors", "--dataset=digits"]
    command += ["--seeds=1", f"--output={tmp_path}", "--factors=pooling"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    robustness = (tmp_path / "robustness.csv").read_text().splitlines()
    assert len(robustness) == 1 + 2 * len(images.all_corruptions())
    assert {"ranking.png", "robustness.png"} <= {path.name for path in tmp_path.iterdir()}
    assert "### Pooling" in (tmp_path / "report.md").read_text()
    assert {row.device[:5] for row in report.read_rows(tmp_path / "factors.csv").values()} == {
        "cpu: "
    }
