"""Training from a configuration: what it leaves, how it stops, and that it goes on exactly."""

import dataclasses
import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest
import scipy.special

from digits_jax import (
    Dataset,
    DigitsError,
    Split,
    TrainConfig,
    TrainStream,
    fit,
    load_dataset,
    load_trained,
)
from digits_jax.runs.checkpoint import list_steps
from digits_jax.runs.folder import read_json, read_metrics, read_run, write_json
from digits_jax.training import compiling, loop, scoring
from digits_jax.training import plan as plan_module
from digits_jax.training.interrupts import Interrupted
from digits_jax.training.loop import default_name
from digits_jax.training.plan import prepare
from digits_jax.training.record import summarize

# 120 images in batches of 16: 7.5 steps in an epoch.
SMALL = TrainConfig(
    arch="mlp",
    preset="quick",
    epochs=2.0,
    batch_size=16,
    hidden_sizes=(12,),
    batch_norm=True,
    dropout=0.25,
    ema_decay=0.9,
    augment="shift",
    devices="1",
)
SMALL_CNN = dataclasses.replace(
    SMALL, arch="cnn", hidden_sizes=None, channels=(4,), dense_size=8, devices="2"
)


@pytest.fixture(autouse=True)
def python_answers_sigint():
    """A shell starts background jobs, which a CI's may be, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def toy():
    """A few of the embedded digits, under a name of their own."""
    digits = load_dataset("digits")

    def some(split, count):
        return Split(split.images[:count], split.labels[:count])

    return Dataset(
        name="toy",
        version="1",
        source="here",
        sha256="a" * 64,
        class_names=digits.class_names,
        train=some(digits.train, 120),
        validation=some(digits.validation, 40),
        test=some(digits.test, 50),
    )


def train(toy, workdir, config=SMALL, **changes):
    config = dataclasses.replace(config, workdir=str(workdir), **changes)
    return fit(config, dataset=toy, quiet=True)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A run that wasn't disturbed; it is read only."""
    return train(toy, tmp_path_factory.mktemp("runs") / "run", checkpoint_every_steps=2)


def stop_after(monkeypatch, step, number=signal.SIGINT):
    """Sends a signal while the given step is under way."""
    real = TrainStream.batch

    def batch(stream, wanted):
        if wanted == step:
            signal.raise_signal(number)
        return real(stream, wanted)

    monkeypatch.setattr(TrainStream, "batch", batch)


def without_seconds(rows):
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def assert_same_state(found, wanted):
    for part in ("step", "params", "batch_stats", "opt_state", "average"):
        leaves = [jax.tree.leaves(getattr(state, part)) for state in (found, wanted)]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)


# --- what a run leaves ---------------------------------------------------------------------


def test_files(finished):
    names = {path.name for path in finished.workdir.iterdir() if path.name[0] != "."}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    files = {"config.json", "metrics.jsonl", "results.json", "predictions.npz", "checkpoints"}
    files |= {"last_checkpoint.json"}
    assert names - events == files
    steps = sorted(int(p.name) for p in (finished.workdir / "checkpoints").iterdir())
    assert steps == [12, 14, 15]  # every second step and the last, of which three are kept


def test_config_names_versions_device_and_data(finished):
    found = read_json(finished.workdir / "config.json")
    assert found["versions"].keys() >= {"python", "jax", "flax", "optax", "orbax-checkpoint"}
    assert found["versions"]["jax"] == jax.__version__
    assert found["device"]["count"] == 1
    assert found["device"]["kind"].startswith("cpu: ")
    data = {name: found["dataset"][name] for name in ("name", "version", "sha256")}
    assert data == {"name": "toy", "version": "1", "sha256": "a" * 64}
    assert found["config"]["hidden_sizes"] == [12]
    # All that the preset filled in is written down, and what was chosen for this device.
    chosen = {
        name: found["config"].pop(name) for name in ("dtype", "convolution", "steps_per_call")
    }
    assert chosen["dtype"] in ("float32", "bfloat16")
    # An MLP has no convolution to choose.
    assert (chosen["convolution"], chosen["steps_per_call"]) == ("auto", "1")
    resolved = dataclasses.replace(SMALL.resolve("toy"), workdir=str(finished.workdir))
    wanted = json.loads(json.dumps({**resolved.to_dict(), "checkpoint_every_steps": 2}))
    assert found["config"] == {k: v for k, v in wanted.items() if k not in chosen}


def test_results(finished):
    results = finished.results
    assert json.loads((finished.workdir / "results.json").read_text()) == results
    wanted = "arch preset dataset dataset_sha256 seed num_params steps epochs batch_size "
    wanted += "validation_accuracy test_accuracy test_errors test_count test_loss train_seconds "
    wanted += "compile_seconds total_seconds images_per_second params_sha256 device num_devices "
    wanted += "num_cores jax_version"
    assert set(wanted.split()) - set(results) == set()
    expected = {
        "arch": "mlp",
        "dataset": "toy",
        "seed": 0,
        "num_params": 784 * 12 + 2 * 12 + 12 * 10 + 10,
        "steps": 15,
        "epochs": 2.0,
        "batch_size": 16,
        "test_count": 50,
        "validation_count": 40,
        "num_devices": 1,
    }
    assert {name: results[name] for name in expected} == expected
    assert int(finished.state.step) == 15
    assert 0 < results["train_seconds"] < results["total_seconds"]
    speed = 15 * 16 / results["train_seconds"]
    np.testing.assert_allclose(results["images_per_second"], speed)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_predictions_give_the_results(finished, toy, part):
    run, split = read_run(finished.workdir), getattr(toy, part)
    labels, logits = {
        "test": (run.labels, run.logits),
        "validation": (run.validation_labels, run.validation_logits),
    }[part]
    np.testing.assert_array_equal(labels, split.labels)
    assert (labels.dtype, logits.dtype) == (np.int32, np.float32)
    assert logits.shape == (len(split), 10)
    errors = int((logits.argmax(-1) != labels).sum())
    loss = -scipy.special.log_softmax(logits, -1)[np.arange(len(labels)), labels].mean()
    results = finished.results
    assert results[f"{part}_errors"] == errors
    assert results[f"{part}_accuracy"] == (len(split) - errors) / len(split)
    np.testing.assert_allclose(results[f"{part}_loss"], loss, rtol=1e-5)


def test_metrics_by_epoch(finished):
    rows = read_metrics(finished.workdir)
    assert rows == finished.metrics
    assert [row["step"] for row in rows] == [8, 15]  # 7.5 steps: after 8 all were seen
    np.testing.assert_allclose([row["epoch"] for row in rows], [8 * 16 / 120, 2])
    last = finished.results
    assert rows[-1]["validation_accuracy"] == last["validation_accuracy"]
    assert rows[-1]["train_seconds"] == last["train_seconds"]
    # Means over the epoch's own images: an accuracy is a count of them.
    counts = np.array([row["train_accuracy"] for row in rows]) * np.array([8, 7]) * 16
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)


def test_training_is_reproducible_and_the_seed_matters(finished, toy, tmp_path):
    again = train(toy, tmp_path / "again")
    assert again.results["params_sha256"] == finished.results["params_sha256"]
    other = train(toy, tmp_path / "other", seed=1, epochs=0.1)
    assert other.results["steps"] == 1
    assert [row["step"] for row in other.metrics] == [1]
    assert other.results["params_sha256"] != finished.results["params_sha256"]


def test_a_workdir_of_its_own(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(SMALL, epochs=0.1)
    assert fit(config, dataset=toy, quiet=True).workdir.as_posix() == "runs/mlp-toy-quick-seed0"
    name = default_name(TrainConfig(arch="cnn", dataset="emnist/letters", seed=3))
    assert name == "cnn-emnist-letters-standard-seed3"


def test_a_plan_in_words(toy, tmp_path):
    text = summarize(prepare(dataclasses.replace(SMALL, workdir=str(tmp_path / "run")), toy))
    for part in ("120 training, 40 validation, 50 test", "9,562 parameters", "15 steps of 16"):
        assert part in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("devices", "size"),
    [("1", 50), ("4", 52), ("8", 56)],  # the 50 test images, and what fills the devices
)
def test_evaluation_batches_fit_data_and_devices(toy, devices, size):
    assert prepare(dataclasses.replace(SMALL, devices=devices), toy).eval_batch_size == size


# --- resuming ------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [5, 8, 11])
def test_an_interrupted_run_goes_on_exactly(finished, toy, tmp_path, monkeypatch, stop):
    """In the middle of the first epoch, at its end, and in the second."""
    workdir = tmp_path / "a run"
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted) as caught:
            train(toy, workdir)
    assert caught.value.signal_number == signal.SIGINT
    assert f"stopped at step {stop} of 15, saved" in str(caught.value)
    assert f"--resume --workdir='{workdir}'" in str(caught.value)
    assert not (workdir / "results.json").exists()
    resumed = train(toy, workdir, resume=True)
    assert_same_state(resumed.state, finished.state)
    assert without_seconds(resumed.metrics) == without_seconds(finished.metrics)
    results = [
        {k: v for k, v in run.results.items() if "second" not in k} for run in (resumed, finished)
    ]
    assert results[0] == results[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_crash_goes_back_to_the_checkpoint(toy, tmp_path, monkeypatch):
    """A CNN on two devices; what was logged after the checkpoint is done again."""
    straight = train(toy, tmp_path / "straight", SMALL_CNN)
    real, workdir = TrainStream.batch, tmp_path / "run"

    def crash(stream, step):
        if step == 12:
            raise MemoryError("as good as any")
        return real(stream, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStream, "batch", crash)
        with pytest.raises(MemoryError):
            train(toy, workdir, SMALL_CNN, checkpoint_every_steps=7)
    assert [row["step"] for row in read_metrics(workdir)] == [8]
    assert list_steps(workdir / "checkpoints") == [7]
    resumed = train(toy, workdir, SMALL_CNN, resume=True)
    assert_same_state(resumed.state, straight.state)
    assert without_seconds(resumed.metrics) == without_seconds(straight.metrics)


def test_long_epochs_are_saved_in_between(finished, toy, tmp_path, monkeypatch):
    """By the clock, wherever the steps' results are at hand."""
    saved, real = [], loop.save_checkpoint

    def save(path, step, *rest):
        saved.append(step)
        real(path, step, *rest)

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(compiling, "MAX_STEPS_AHEAD", 3)
    monkeypatch.setattr(loop, "save_checkpoint", save)
    result = train(toy, tmp_path / "run")
    assert saved == [3, 6, 8, 11, 14, 15]
    assert_same_state(result.state, finished.state)


def test_resuming_without_a_checkpoint_starts_at_0(finished, toy, tmp_path, capsys):
    write_json(tmp_path / "config.json", read_json(finished.workdir / "config.json"))
    config = dataclasses.replace(SMALL, workdir=str(tmp_path), resume=True)
    result = fit(config, dataset=toy)
    assert f"{tmp_path}: no checkpoint yet: starting at step 0 of 15" in capsys.readouterr().out
    assert_same_state(result.state, finished.state)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, r"--seed=1: the run in .* has seed=0"),
        ({"batch_size": 8}, r"--batch-size=8"),
        ({"hidden_sizes": (13,)}, r"--hidden-sizes=\(13,\): .* has hidden-sizes=\(12,\)"),
        ({"arch": "cnn", "hidden_sizes": None}, r"--arch=cnn"),
        ({"learning_rate": 0.1}, r"--learning-rate=0.1"),
    ],
)
def test_another_run_is_refused(finished, toy, changes, said):
    with pytest.raises(DigitsError, match=said):
        train(toy, finished.workdir, resume=True, **changes)


def test_other_data_is_refused(finished, toy):
    changed = dataclasses.replace(toy, sha256="b" * 64)
    with pytest.raises(DigitsError, match=r"another version of 'toy' .*aaaaaaaaaaaa.*bbbbbbbbbbbb"):
        train(changed, finished.workdir, resume=True)
    renamed = dataclasses.replace(toy, name="other")
    with pytest.raises(DigitsError, match=r"--dataset=other: the run in .* has dataset=toy"):
        train(renamed, finished.workdir, resume=True)


def test_a_second_run_is_refused(finished, toy):
    before = (finished.workdir / "results.json").read_bytes()
    with pytest.raises(DigitsError, match=r"already holds a run"):
        train(toy, finished.workdir)
    assert (finished.workdir / "results.json").read_bytes() == before


def test_resuming_nothing(toy, tmp_path):
    with pytest.raises(DigitsError, match="holds no run"):
        train(toy, tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(finished, toy, tmp_path):
    write_json(tmp_path / "config.json", read_json(finished.workdir / "config.json"))
    (tmp_path / "checkpoints" / "3" / "state").mkdir(parents=True)
    with pytest.raises(DigitsError, match=r"no checkpoint .* \(step 3: has no SHA256SUMS"):
        train(toy, tmp_path, resume=True)


def test_trained_networks_are_loaded(finished, toy, monkeypatch):
    monkeypatch.setattr(plan_module, "load_dataset", lambda name, data_dir, input: toy)
    plan, state = load_trained(finished.workdir, devices="1")
    assert_same_state(state, finished.state)
    assert plan.config.hidden_sizes == (12,)


def test_an_untrained_network_is_not(finished, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "load_dataset", lambda name, data_dir, input: toy)
    write_json(tmp_path / "config.json", read_json(finished.workdir / "config.json"))
    with pytest.raises(DigitsError, match=r"has no checkpoint yet; train it with .*--resume"):
        load_trained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# --- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batch_size": 15, "devices": "2"},
            "--batch-size=15: 2 devices don't divide it; give 14 or 16",
        ),
        ({"devices": "9"}, "--devices=9: JAX has 8"),
        ({"platform": "abacus"}, "--platform=abacus: allowed are"),
        ({"optimizer": "rmsprop"}, "--optimizer=rmsprop: allowed are"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "use 'adamw'"),
        ({"schedule": "linear"}, "--schedule=linear: allowed are"),
        ({"augment": "flip"}, "--augment=flip: allowed are"),
        ({"batch_size": 0}, "--batch-size=0"),
        ({"batch_size": 128}, "--batch-size=128: toy has 120 training images"),
        ({"dry_run": True}, "dry_run is a word for the command line"),
        ({"eval_only": True}, "eval_only is a word for the command line"),
    ],
)
def test_bad_plans_write_nothing(toy, tmp_path, changes, said):
    with pytest.raises(DigitsError, match=re.escape(said)):
        train(toy, tmp_path / "run", **changes)
    assert list(tmp_path.iterdir()) == []


def test_diverged_training_says_so(toy, tmp_path):
    bad = {"learning_rate": 1e30, "schedule": "constant", "optimizer": "sgd", "batch_norm": False}
    bad["max_skipped_steps"] = 5
    said = r"NaN or infinity in .* 5 steps in a row, up to step \d .*--learning-rate under 1e\+30"
    with pytest.raises(DigitsError, match=said):
        train(toy, tmp_path / "run", **bad)
    assert not (tmp_path / "run" / "results.json").exists()


def poison(monkeypatch, steps):
    """Labels that are no class, in the batches of the given steps (from 0)."""
    real = TrainStream.batch

    def batch(stream, step):
        made = real(stream, step)
        return {**made, "label": made["label"] + 10} if step in steps else made

    monkeypatch.setattr(TrainStream, "batch", batch)


def test_bad_batches_are_skipped_and_counted(toy, tmp_path, monkeypatch):
    poison(monkeypatch, {2, 3, 4, 9})
    result = train(toy, tmp_path / "run", max_skipped_steps=4)
    assert [row["skipped_steps"] for row in result.metrics] == [3, 1]
    assert int(result.state.step) == 15
    # Means over the steps that counted: 5 and 6 of them.
    counts = np.array([row["train_accuracy"] for row in result.metrics]) * np.array([5, 6]) * 16
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)


def test_too_many_bad_batches_stop_the_run(toy, tmp_path, monkeypatch):
    """It says which step and images, keeps its checkpoint, and counts on over a resumption."""
    workdir, flags = tmp_path / "run", {"max_skipped_steps": 4, "checkpoint_every_steps": 3}
    poison(monkeypatch, {4, 5, 6, 7})
    with monkeypatch.context() as patch:
        stop_after(patch, 6)  # two of them have been skipped by then
        with pytest.raises(Interrupted):
            train(toy, workdir, **flags)
    with pytest.raises(DigitsError, match=r"4 steps in a row, up to step 8 \(seed 0, epoch 0\.93"):
        train(toy, workdir, resume=True, **flags)
    assert list_steps(workdir / "checkpoints") == [3, 6]
    found = read_json(workdir / "skipped.json")
    stream = TrainStream(toy.train.images, toy.train.labels, seed=0, batch_size=16)
    assert found["indices"] == stream.indices(7).tolist()
    assert (found["step"], found["seed"], found["skipped_in_a_row"]) == (8, 0, 4)
    np.testing.assert_allclose(found["epoch"], 7 * 16 / 120)


def test_an_epoch_of_nothing_but_bad_batches(toy, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(8)))
    result = train(toy, tmp_path / "run")
    first = result.metrics[0]
    assert (first["skipped_steps"], first["train_loss"], first["train_accuracy"]) == (8, 0.0, 0.0)


def test_a_stop_while_an_epoch_is_scored(finished, toy, tmp_path, monkeypatch):
    """The epoch is scored again, once, when the run goes on; also where that is killed."""
    real, workdir, scored = scoring.eval_batches, tmp_path / "run", []

    def batches(images, labels, size, share):
        scored.append(len(labels))
        if len(scored) == 1:
            signal.raise_signal(signal.SIGTERM)
        if len(scored) == 3:
            raise MemoryError("as good as any")
        return real(images, labels, size, share)

    monkeypatch.setattr(scoring, "eval_batches", batches)
    with pytest.raises(Interrupted, match="at step 8 of 15, saved"):
        train(toy, workdir)
    assert read_metrics(workdir) == []
    with pytest.raises(MemoryError):  # after the first epoch's line was written
        train(toy, workdir, resume=True)
    assert [row["step"] for row in read_metrics(workdir)] == [8]
    resumed = train(toy, workdir, resume=True)
    assert_same_state(resumed.state, finished.state)
    assert without_seconds(resumed.metrics) == without_seconds(finished.metrics)


def test_a_stop_while_it_compiles(finished, toy, tmp_path, monkeypatch):
    real, workdir = loop.start, tmp_path / "run"

    def start(*args, **options):  # while the step is compiled in another thread
        signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "start", start)
        with pytest.raises(Interrupted, match=r"stopped at step 0; go on with\n .*--resume"):
            train(toy, workdir)
    assert_same_state(train(toy, workdir, resume=True).state, finished.state)


# --- checkpoints that are damaged ------------------------------------------------------------


def test_a_damaged_checkpoint_is_passed_over(finished, toy, tmp_path, capsys):
    """The one before is taken, with a warning; training goes on from there to the same end."""
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    (workdir / "checkpoints" / "15" / "SHA256SUMS").unlink()
    (workdir / "checkpoints" / "99").mkdir()
    resumed = train(toy, workdir, resume=True)
    err = capsys.readouterr().err
    for step in (99, 15):
        assert f"checkpoints/{step}: has no SHA256SUMS: the save wasn't finished" in err
    assert err.count("going back to step 14") == 2
    assert_same_state(resumed.state, finished.state)
    assert without_seconds(resumed.metrics) == without_seconds(finished.metrics)
    names = {path.name[:10] for path in (workdir / "checkpoints").iterdir()}
    assert names == {"12", "14", "15", "damaged-15", "damaged-99"}


def test_checkpoints_that_were_removed(finished, toy, tmp_path):
    """A run that was saved is never begun afresh by itself, finished or not."""
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    (workdir / "results.json").unlink()
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(DigitsError, match="holds no checkpoint, but step 15 was saved there"):
        train(toy, workdir, resume=True)


def test_a_checkpoint_that_was_removed(finished, toy, tmp_path, capsys):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "15")
    resumed = train(toy, workdir, resume=True)
    assert "checkpoints/15: was saved and is gone; going back to step 14" in capsys.readouterr().err
    assert_same_state(resumed.state, finished.state)
    assert without_seconds(resumed.metrics) == without_seconds(finished.metrics)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_damaged_metrics_are_told(finished, toy, tmp_path, capsys, damage):
    """And every line that is whole stays."""
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    path = workdir / "metrics.jsonl"
    first, last = path.read_text().splitlines(keepends=True)
    path.write_text(
        {"cut": first + last[:-30], "garbage": f"x{first[9:]}{last}", "gone": ""}[damage]
    )
    train(toy, workdir, resume=True)
    count, step = {"cut": (1, 15), "garbage": (1, 8), "gone": (2, 8)}[damage]
    said = f"metrics.jsonl: {count} of the epochs up to step 15 are missing or damaged (first: "
    assert f"{said}step {step}); the others are kept" in capsys.readouterr().err
    kept = {"cut": finished.metrics[:1], "garbage": finished.metrics[1:], "gone": []}[damage]
    assert read_metrics(workdir) == kept


# --- topology ----------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_saved_on_4_devices_resumed_on_others(toy, tmp_path, monkeypatch, devices):
    """The same data in the same order, and the same parameters to rounding."""
    # Without near-ties of ReLU and max-pool, which rounding would flip: no hidden layer.
    config = dataclasses.replace(SMALL, hidden_sizes=(), batch_norm=False, devices="4")
    straight = train(toy, tmp_path / "straight", config)
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            train(toy, workdir, config)
    resumed = train(toy, workdir, config, resume=True, devices=str(devices))
    assert resumed.results["num_devices"] == devices
    for part in ("params", "average", "opt_state"):
        leaves = [jax.tree.leaves(getattr(run.state, part)) for run in (resumed, straight)]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    wanted = [row["train_accuracy"] for row in straight.metrics]
    assert [row["train_accuracy"] for row in resumed.metrics] == wanted
