"""The study of critical factors: its networks, its lanes, its arithmetic, and going on."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from digits_jax import CNN, MLP
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from experiments.critical_factors import __main__ as program
from experiments.critical_factors import factors, figures, ranking, report, results, study
from experiments.critical_factors.networks import VariantCNN, VariantMLP, average_pool, drop
from experiments.critical_factors.recipe import Recipe, baseline
from experiments.critical_factors.results import FactorRow
from experiments.critical_factors.training import (
    Lane,
    Prepared,
    compile_for,
    count_correct,
    draw_images,
    noisy_labels,
    train,
)

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = Recipe("mlp", hidden_sizes=(8,), batch_size=64, epochs=0.2, learning_rate=0.01)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


# --- networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("convolution", ["lax", "matmul"])
def test_the_cnn_is_the_librarys(norm, convolution):
    sizes = {"channels": (4, 8), "dense_size": 16, "convs_per_block": 2}
    ours = CNN(**sizes, batch_norm=norm == "batch", convolution=convolution)
    variant = VariantCNN(**sizes, normalization=norm, convolution=convolution)
    _check_same(ours, variant)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_mlp_is_the_librarys(norm):
    sizes = {"hidden_sizes": (16, 8)}
    _check_same(MLP(**sizes, batch_norm=norm == "batch"), VariantMLP(**sizes, normalization=norm))


def _check_same(ours, variant):
    x = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1))
    variables = ours.init(jax.random.key(1), x)
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes == jax.tree.map(jnp.shape, variant.init(jax.random.key(1), x))
    np.testing.assert_allclose(
        variant.apply(variables, x), ours.apply(variables, x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("change", [{"kernel": 5}, {"pooling": "average"}, {"pooling": "stride"}])
def test_variants_of_the_cnn_keep_its_dense_layer(change):
    module = VariantCNN(channels=(4, 4), dense_size=8, **change)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert variables["params"]["dense"]["kernel"].shape == (3 * 3 * 4, 8)


def test_average_pooling_by_numpy():
    x = np.random.default_rng(0).random((2, 5, 4, 3), np.float32)
    expected = np.stack(
        [[x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for j in (0, 1)] for i in (0, 1)]
    ).transpose(2, 0, 1, 3)
    np.testing.assert_allclose(average_pool(jnp.array(x)), expected, rtol=1e-6)


def test_dropout_keeps_the_mean():
    found = np.asarray(drop(jax.random.key(0), jnp.ones(100_000), jnp.float32(0.25)))
    assert set(np.unique(found).round(5)) == {0.0, np.float32(4 / 3).round(5)}
    assert abs(found.mean() - 1) < 4 * np.sqrt(1 / 3 / 100_000)  # four standard errors


# --- data and lanes ------------------------------------------------------------------------


def test_labels_are_wrong_as_often_as_asked():
    labels = np.arange(1000, dtype=np.int32) % 10
    few, more = (noisy_labels(labels, share, 3, 10) for share in (0.1, 0.4))
    assert (few != labels).sum() == 100
    assert (more != labels).sum() == 400
    assert ((more != labels) >= (few != labels)).all()
    assert more.min() >= 0
    assert more.max() <= 9
    assert (labels == np.arange(1000) % 10).all()


def test_fewer_images_are_part_of_more():
    few, more = (draw_images(Recipe("mlp", train_images=n), 0, 500) for n in (50, 100))
    assert set(few) < set(more)
    assert len(draw_images(Recipe("mlp"), 0, 500)) == 500


def test_lanes_are_the_trainings_one_by_one(digits):
    """Side by side or alone, the same; and what is a number needs no other compiled step."""
    recipes = [TINY, TINY.changed(learning_rate=0.1, preprocessing="binarising", label_noise=0.4)]
    lanes = [Lane(recipe, seed) for seed, recipe in enumerate(recipes)]
    prepared = Prepared(digits)
    compiled = compile_for(TINY, 3, 10)
    labels = np.asarray(digits.validation.labels)
    shown = [prepared.images("validation", lane.recipe.preprocessing) for lane in lanes]
    states, numbers = train(compiled, lanes, prepared)
    together = count_correct(compiled, states, numbers, shown, labels)
    for place, lane in enumerate(lanes):
        state, own = train(compiled, [lane], prepared)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(states.params), strict=True):
            np.testing.assert_allclose(a[0], b[place], rtol=1e-4, atol=1e-5)
        alone = count_correct(compiled, state, own, shown[place : place + 1], labels)
        assert abs(alone[0] - together[place]) <= 1
    assert compiled.step._cache_size() == 2  # of one lane, and of two


# --- factors -------------------------------------------------------------------------------


def test_every_factor_has_its_baseline_and_names_of_its_own():
    baselines = {arch: baseline(arch, "mnist") for arch in ("mlp", "cnn")}
    made = factors.make_factors(baselines, 55_000)
    jobs = factors.make_jobs(made, baselines, 3)
    keys = [(job.arch, job.factor, job.level, job.seed) for job in jobs]
    assert len(set(keys)) == len(keys)
    for factor in made:
        for arch in baselines:
            own = {
                j.level for j in jobs if (j.arch, j.factor, j.is_baseline) == (arch, factor.name, 1)
            }
            assert len(own) == (1 if factor.levels[arch] else 0), factor.name
    sizes = [level.value for level in made[-2].levels["cnn"]]
    assert sizes == [100, 300, 1000, 3000, 10_000, 30_000, 55_000]
    quick = factors.make_factors(baselines, 55_000, quick=True)
    counts = [len(levels) for f in quick for levels in f.levels.values()]
    assert set(counts) == {0, 2}


def test_an_unknown_factor_is_named():
    made = factors.make_factors({"mlp": baseline("mlp", "mnist")}, 100)
    with pytest.raises(DigitsError, match="no luck; give depth, width"):
        factors.choose_factors(made, ["depth", "luck"])


# --- intervals and ranking -----------------------------------------------------------------


def test_the_interval_is_scipys():
    values = [0.3, -0.2, 0.7, 0.1]
    mean, low, high = ranking.mean_interval(values)
    expected = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    np.testing.assert_allclose([mean, low, high], [np.mean(values), *expected], rtol=1e-9)


def test_seeds_that_agree_are_no_certainty():
    _, low, high = ranking.mean_interval([1.0, 1.0, 1.0], least_deviation=0.5)
    half = scipy.stats.t.ppf(0.975, 2) * 0.5 / np.sqrt(3)
    np.testing.assert_allclose([low, high], [1 - half, 1 + half], rtol=1e-9)


def row(factor, level, seed, correct, base=0, arch="mlp"):
    return FactorRow(arch, factor, level, seed, base, "00000000", correct, 1000, 5, 1.0)


def test_effects_are_paired_by_seed_and_ranked():
    rows = [row("a", "0", seed, 900 + 10 * seed, 1) for seed in range(3)]
    rows += [row("a", "1", seed, 880 + 10 * seed + seed) for seed in range(3)]
    rows += [row("b", "x", seed, 900 + 10 * seed, 1) for seed in range(3)]
    rows += [row("b", "y", seed, 700 + 10 * seed) for seed in range(3)]
    rows += [row("c", "x", seed, 900, 1) for seed in range(3)]
    rows += [row("c", "y", seed, 900 + (40, -40, 3)[seed]) for seed in range(3)]
    made = [
        factors.Factor(n, n.upper(), n, "kinds", {"mlp": tuple(map(factors.Level, levels))})
        for n, levels in (("a", "01"), ("b", "xy"), ("c", "xy"))
    ]
    ranked = ranking.rank(made, rows)
    assert [each.factor.name for each in ranked] == ["b", "a", "c"]
    effect = ranked[1].largest["mlp"]
    changes = [-2.0, -1.9, -1.8]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(changes), scipy.stats.sem(changes))
    np.testing.assert_allclose([effect.mean, effect.low, effect.high], [-1.9, *expected], rtol=1e-6)
    assert "the MLP loses 20.00 points with y" in ranking.sentence(ranked[0])
    assert "no level differs surely" in ranking.sentence(ranked[2])
    assert ranked[2].size == 0


@pytest.mark.parametrize("seeds", [1, 2])  # of one there are no intervals
def test_one_architecture_alone_is_drawn_and_told(tmp_path, digits, seeds):
    """Factors that it hasn't are left out."""
    baselines = {"mlp": TINY.changed(hidden_sizes=(8, 8))}
    made = factors.make_factors(baselines, 1257, quick=True)
    jobs = factors.make_jobs(made, baselines, seeds)
    rows = [row(j.factor, j.level, j.seed, 900 + j.seed, int(j.is_baseline)) for j in jobs]
    ranked = ranking.rank(made, rows)
    assert "filters" not in {each.factor.name for each in ranked}
    names = figures.draw_all(made, rows, ranked, [], digits.test.images, tmp_path)
    assert names == ["factors.png", "ranking.png", "optimizer.png"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    facts = {
        "command": "c",
        "dataset": "d",
        "train": 9,
        "validation": 9,
        "test": 9,
        "seeds": "2 seeds",
    }
    text = report.markdown({**facts, "where": "w"}, baselines, made, rows, ranked, [], names)
    assert "### Dropout" in text
    assert "### Pooling" not in text
    assert "-0.00" not in text


# --- the table, and going on ---------------------------------------------------------------


def test_a_line_cut_short_is_dropped(tmp_path):
    path = tmp_path / "factors.csv"
    results.append_rows(path, [row("a", "0", 0, 900)])
    results.append_rows(path, [row("a", "1,5", 1, 901)])
    whole = path.read_bytes()
    path.write_bytes(whole + b"mlp,a,2,")
    found = results.read_rows(path, FactorRow)
    assert [r.level for r in found] == ["0", "1,5"]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "HEAD\nmlp,a,0,x,1,0,9,10,5,1.0\n", "HEAD\nmlp\n"])
def test_a_table_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "factors.csv"
    results.append_rows(path, [row("a", "0", 0, 900)])
    path.write_text(text.replace("HEAD", path.read_text().splitlines()[0]))
    with pytest.raises(DigitsError, match="--output"):
        results.read_rows(path, FactorRow)


def test_other_settings_are_refused(tmp_path):
    with results.hold_output(tmp_path, {"dataset": "mnist"}):
        pass
    with (
        pytest.raises(DigitsError, match="dataset mnist, and this one has digits"),
        results.hold_output(tmp_path, {"dataset": "digits"}),
    ):
        pass


class Bar:
    """As much of a tqdm bar as is needed."""

    n = 0

    def reset(self, total):
        self.n = 0

    def update(self, n):
        self.n += n

    def set_postfix_str(self, text):
        pass

    def refresh(self):
        pass


def test_it_does_what_is_missing_and_no_more(tmp_path, digits, monkeypatch):
    baselines = {"mlp": TINY}
    made = factors.make_factors(baselines, len(digits.train), quick=True)
    chosen = factors.choose_factors(made, ["label_smoothing", "label_noise"])
    jobs = factors.make_jobs(chosen, baselines, 2)
    trained = []

    def fake_train(self, group, jobs_of):
        trained.extend((lane.recipe.digest(), lane.seed) for lane in group)
        facts = row("", "", 0, 0)
        return [study._row(job, 7, facts) for jobs in jobs_of for job in jobs]

    monkeypatch.setattr(study, "_train_rows", fake_train)
    path = tmp_path / "factors.csv"
    own = SimpleNamespace(lanes=lambda recipe: 2, between=lambda: None)
    study.run_factors(own, jobs, path, Bar())
    # Both factors' baselines are one training.
    assert len(results.read_rows(path, FactorRow)) == len(jobs) == 8
    assert len(trained) == len(set(trained)) == 6
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])
    trained.clear()
    bar = Bar()
    study.run_factors(own, jobs, path, bar)
    assert len(results.read_rows(path, FactorRow)) == 8
    assert len(trained) <= 1
    assert bar.n == 8
    trained.clear()
    study.run_factors(own, jobs, path, Bar())
    assert trained == []
    same = next(job for job in jobs if job.is_baseline)
    facts = (same.arch, same.factor, same.level, same.seed)
    changed = factors.Job(*facts, TINY.changed(epochs=9.0), True)
    with pytest.raises(DigitsError, match="another recipe"):
        study.run_factors(own, [changed], path, Bar())


def test_the_machines_that_trained_are_noted_and_no_other(tmp_path):
    settings = {"dataset": "digits", "sha256": "0", "quick": True}

    def visit(machine, *, adds):
        with results.hold_output(tmp_path, settings), results.noting_machine(tmp_path, machine):
            if adds:
                with open(tmp_path / results.FACTORS, "a") as file:
                    file.write("a row\n")
        return results.machines_of(tmp_path)

    assert visit("Z80", adds=False) == []
    assert visit("6502", adds=True) == ["6502"]
    assert visit("6502", adds=True) == ["6502"]
    assert visit("68000", adds=False) == ["6502"]
    assert visit("68000", adds=True) == ["6502", "68000"]
    assert json.loads((tmp_path / "settings.json").read_text()) == {
        **settings,
        "machines": ["6502", "68000"],
    }


# --- the program ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--archs=rnn"], "--archs=rnn: give mlp, cnn"),
        (["--seeds=0"], "--seeds=0: give 1 to 1000"),
        (["--lanes=many"], "--lanes=many: give auto, or"),
        (["--speed=1"], "unknown flag --speed"),
        (["--output=pyproject.toml"], "is a file; give a folder"),
    ],
)
def test_bad_input_is_one_line(flags, words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(DigitsError, match=words) as caught:
        program.main(flags)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # two processes that compile and train
def test_the_program_runs_resumes_and_reports(tmp_path):
    command = [sys.executable, "-m", "experiments.critical_factors", "--quick", "--seeds=2"]
    command += ["--factors=label_noise,pooling,optimizer", f"--output={tmp_path / 'out'}"]
    first = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    table = (tmp_path / "out" / "factors.csv").read_bytes()
    with open(tmp_path / "out" / "robustness.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2 * 2 * (1 + 15 * 5 + 1 + 8)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"factors.png", "ranking.png", "optimizer.png", "robustness.png", "corruptions.png"}
    assert pictures | {"report.md", "settings.json"} <= names
    report = (tmp_path / "out" / "report.md").read_text()
    assert "- Wrong training labels: " in report
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "factors.csv").read_bytes() == table
    less = [*command[:4], "--seeds=1", "--no-robustness", "--factors=pooling", command[-1]]
    subprocess.run(less, cwd=REPOSITORY, capture_output=True, timeout=600, check=True)
    said = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert said[3:] == report.splitlines()[3:]  # of all that is there; the command is another
    bad = subprocess.run(
        [*command[:-2], "--factors=luck", command[-1]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: --factors=luck: no luck; give depth")
    assert len(bad.stderr.splitlines()) == 1
