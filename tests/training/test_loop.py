"""Training from a configuration: what it writes, how it stops, and that resuming is exact."""

import dataclasses
import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest
import scipy.special
from interrupting import interrupted_at, on_batch
from programs import without_seconds

from digits_jax import (
    CheckpointError,
    ConfigError,
    Dataset,
    DigitsError,
    RunOptions,
    Split,
    TrainConfig,
    TrainingDivergedError,
    TrainStream,
    fit,
    load_dataset,
    load_trained,
    resume,
)
from digits_jax.files import read_json, write_json
from digits_jax.runs.checkpoint import list_steps
from digits_jax.runs.folder import read_metrics, read_run
from digits_jax.training import loop, scoring
from digits_jax.training.interrupts import Interrupted
from digits_jax.training.multi_step import MultiStep
from digits_jax.training.run_metadata import summarize
from digits_jax.training.setup import choose_devices, prepare

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
    dtype="float32",
)
SMALL_CNN = dataclasses.replace(SMALL, arch="cnn", hidden_sizes=None, channels=(4,), dense_size=8)


@pytest.fixture(scope="session")
def toy():
    """A few of the embedded digits, under another name."""
    digits = load_dataset("digits")

    def first(split, count):
        return Split(split.images[:count], split.labels[:count])

    return Dataset(
        name="toy",
        version="1",
        source="here",
        sha256="a" * 64,
        class_names=digits.class_names,
        train=first(digits.train, 120),
        validation=first(digits.validation, 40),
        test=first(digits.test, 50),
    )


def train(toy, workdir, config=SMALL, *, devices=1, resuming=False, **options):
    if resuming:
        return resume(workdir, dataset=toy, quiet=True, devices=devices, **options)
    options = RunOptions(workdir=str(workdir), devices=devices, **options)
    return fit(config, options, dataset=toy, quiet=True)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """An undisturbed run; it is only read."""
    return train(toy, tmp_path_factory.mktemp("runs") / "run", checkpoint_every_steps=2)


def assert_same_run(found, wanted):
    for part in ("step", "params", "batch_stats", "opt_state", "average"):
        leaves = [jax.tree.leaves(getattr(run.state, part)) for run in (found, wanted)]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)
    assert without_seconds(found.metrics) == without_seconds(wanted.metrics)


# --- what a run writes -----------------------------------------------------------------------


def test_files(finished):
    names = "config.json metrics.jsonl results.json predictions.npz checkpoints"
    found = {path.name for path in finished.workdir.iterdir() if path.name[0] != "."}
    assert found == {"last_checkpoint.json", *names.split()}
    # Every second step and the last, of which three are kept.
    assert list_steps(finished.workdir / "checkpoints") == [12, 14, 15]


def test_config_json_names_versions_device_and_data(finished):
    found = read_json(finished.workdir / "config.json")
    assert found["versions"].keys() >= {"python", "jax", "flax", "optax", "orbax-checkpoint"}
    assert found["device"]["kind"].startswith("cpu: ")
    assert found["dataset"].items() >= {"name": "toy", "sha256": "a" * 64}.items()
    # All that the preset filled in is written.
    assert found["config"] == json.loads(json.dumps(SMALL.resolve("toy").to_dict()))
    assert found["options"]["checkpoint_every_steps"] == 2


def test_results(finished):
    results = finished.results
    assert json.loads((finished.workdir / "results.json").read_text()) == results
    expected = {"arch": "mlp", "dataset": "toy", "steps": 15, "test_count": 50}
    expected |= {"validation_count": 40, "num_params": 784 * 12 + 2 * 12 + 12 * 10 + 10}
    assert results.items() >= expected.items()
    assert 0 < results["train_seconds"] < results["total_seconds"]
    speed = 15 * 16 / results["train_seconds"]
    np.testing.assert_allclose(results["images_per_second"], speed)


@pytest.mark.parametrize(("part", "prefix"), [("test", ""), ("validation", "validation_")])
def test_predictions_give_the_results(finished, toy, part, prefix):
    run, results = read_run(finished.workdir), finished.results
    labels, logits = getattr(run, f"{prefix}labels"), getattr(run, f"{prefix}logits")
    np.testing.assert_array_equal(labels, getattr(toy, part).labels)
    errors = int((logits.argmax(-1) != labels).sum())
    loss = -scipy.special.log_softmax(logits, -1)[np.arange(len(labels)), labels].mean()
    assert results[f"{part}_errors"] == errors
    assert results[f"{part}_accuracy"] == (len(labels) - errors) / len(labels)
    np.testing.assert_allclose(results[f"{part}_loss"], loss, rtol=1e-5)


def test_metrics_have_a_row_per_epoch(finished):
    rows = read_metrics(finished.workdir)
    assert rows == finished.metrics
    assert [row["step"] for row in rows] == [8, 15]  # 7.5 steps: after 8 all were seen
    np.testing.assert_allclose([row["epoch"] for row in rows], [8 * 16 / 120, 2])
    assert rows[-1]["validation_accuracy"] == finished.results["validation_accuracy"]
    # Means over the epoch's own images: an accuracy is a count of them.
    counts = np.array([row["train_accuracy"] for row in rows]) * np.array([8, 7]) * 16
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)


def test_default_workdir(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit(SMALL, dataset=toy, quiet=True).workdir.as_posix() == "runs/mlp-toy-quick-seed0"


def test_summary(toy):
    text = summarize(prepare(SMALL, RunOptions(steps_per_call=7), toy))
    for part in ("120 training, 40 validation", "9,562 parameters", "15 steps of 16", "7 steps in"):
        assert part in text


def test_tensorboard_events(toy, tmp_path):
    pytest.importorskip("tensorboardX")
    train(toy, tmp_path / "run", tensorboard=True)
    assert len(list((tmp_path / "run").glob("events.out.tfevents*"))) == 1


# --- stopping and resuming -------------------------------------------------------------------


@pytest.mark.parametrize("stop", [5, 8, 11])
def test_an_interrupted_run_resumes_exactly(finished, toy, tmp_path, stop):
    """In the middle of the first epoch, at its end, and in the second."""
    workdir = tmp_path / "a run"
    with interrupted_at(stop, signal.SIGINT) as caught:
        train(toy, workdir)
    assert caught.value.signal_number == signal.SIGINT
    assert f"stopped at step {stop} of 15, saved" in str(caught.value)
    assert f"--resume --workdir='{workdir}'" in str(caught.value)
    assert not (workdir / "results.json").exists()
    resumed = train(toy, workdir, resuming=True)
    assert_same_run(resumed, finished)
    results = [
        {k: v for k, v in run.results.items() if "second" not in k} for run in (resumed, finished)
    ]
    assert results[0] == results[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_crash_goes_back_to_the_checkpoint(toy, tmp_path):
    """On two devices; what was logged after the checkpoint is done again."""
    straight = train(toy, tmp_path / "straight", devices=2)
    workdir = tmp_path / "run"

    def crash(step):
        if step == 12:
            raise MemoryError

    with on_batch(crash), pytest.raises(MemoryError):
        train(toy, workdir, devices=2, checkpoint_every_steps=7)
    assert [row["step"] for row in read_metrics(workdir)] == [8]
    assert list_steps(workdir / "checkpoints") == [7]
    assert_same_run(train(toy, workdir, resuming=True, devices=2), straight)


def test_checkpoints_by_the_clock(finished, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_SECONDS", 0.0)
    result = train(toy, tmp_path / "run")
    assert list_steps(tmp_path / "run" / "checkpoints") == [13, 14, 15]
    assert_same_run(result, finished)


def test_other_data_is_refused(finished, toy):
    changed = dataclasses.replace(toy, sha256="b" * 64)
    with pytest.raises(DigitsError, match="another version of 'toy'"):
        train(changed, finished.workdir, resuming=True)
    renamed = dataclasses.replace(toy, name="other")
    with pytest.raises(DigitsError, match=r"dataset=other: the run in .* has dataset=toy"):
        train(renamed, finished.workdir, resuming=True)


def test_a_trained_network_is_loaded(finished, toy, tmp_path):
    _, state = load_trained(finished.workdir, dataset=toy, devices=1)
    for a, b in zip(*map(jax.tree.leaves, (state, finished.state)), strict=True):
        np.testing.assert_array_equal(a, b)
    write_json(tmp_path / "config.json", read_json(finished.workdir / "config.json"))
    with pytest.raises(DigitsError, match=r"has no checkpoint yet; train it with .*--resume"):
        load_trained(tmp_path, dataset=toy)


def test_a_stop_while_an_epoch_is_scored(finished, toy, tmp_path, monkeypatch):
    """The epoch is scored again, once, when the run is resumed; also where that is killed."""
    real, workdir, scored = scoring.eval_batches, tmp_path / "run", []

    def batches(split, size, share):
        scored.append(len(split))
        if len(scored) == 1:
            signal.raise_signal(signal.SIGTERM)
        if len(scored) == 3:
            raise MemoryError
        return real(split, size, share)

    monkeypatch.setattr(scoring, "eval_batches", batches)
    with pytest.raises(Interrupted, match="at step 8 of 15, saved"):
        train(toy, workdir)
    assert read_metrics(workdir) == []
    with pytest.raises(MemoryError):  # after the first epoch's line was written
        train(toy, workdir, resuming=True)
    assert [row["step"] for row in read_metrics(workdir)] == [8]
    assert_same_run(train(toy, workdir, resuming=True), finished)


def test_a_stop_while_it_compiles(finished, toy, tmp_path, monkeypatch, capsys):
    real, workdir = loop.initial_state, tmp_path / "run"

    def initial_state(setups):  # while the step is compiled in another thread
        signal.raise_signal(signal.SIGTERM)
        return real(setups)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "initial_state", initial_state)
        with pytest.raises(Interrupted, match=r"stopped at step 0; resume with\n .*--resume"):
            train(toy, workdir)
    assert_same_run(resume(workdir, dataset=toy, devices=1), finished)
    assert "no checkpoint yet: starting at step 0 of 15" in capsys.readouterr().out


@pytest.mark.parametrize("devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_saved_on_4_devices_resumed_on_others(toy, tmp_path, devices):
    """The same data in the same order, and the same parameters up to rounding."""
    # Without near-ties of ReLU and max-pool, which rounding would flip: no hidden layer.
    config = dataclasses.replace(SMALL, hidden_sizes=(), batch_norm=False)
    straight = train(toy, tmp_path / "straight", config, devices=4)
    workdir = tmp_path / "run"
    with interrupted_at(7):
        train(toy, workdir, config, devices=4)
    resumed = train(toy, workdir, resuming=True, devices=devices)
    assert resumed.results["num_devices"] == devices
    for part in ("params", "average", "opt_state"):
        leaves = [jax.tree.leaves(getattr(run.state, part)) for run in (resumed, straight)]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    wanted = [row["train_accuracy"] for row in straight.metrics]
    assert [row["train_accuracy"] for row in resumed.metrics] == wanted


# --- many steps in a call --------------------------------------------------------------------


def assert_close_run(found, wanted):
    assert int(found.state.step) == int(wanted.state.step)
    for a, b in zip(*(jax.tree.leaves(run.state.params) for run in (found, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for row, other in zip(found.metrics, wanted.metrics, strict=True):
        for name in row.keys() - {"train_seconds"}:
            assert row[name] == pytest.approx(other[name], rel=1e-3), name


@pytest.mark.parametrize(
    ("config", "steps", "devices"),
    [
        pytest.param(SMALL, 7, 1, id="mlp"),
        pytest.param(SMALL_CNN, 100, 2, id="cnn", marks=pytest.mark.slow),
    ],
)
def test_many_steps_in_a_call(toy, tmp_path, config, steps, devices):
    """With calls that aren't full, an epoch's end within, dropout, warps and an average."""
    single = train(toy, tmp_path / "single", config, devices=devices)
    many = train(toy, tmp_path / "many", config, devices=devices, steps_per_call=steps)
    assert_close_run(many, single)


def test_checkpoints_between_calls(finished, toy, tmp_path, monkeypatch):
    taken, real = [], MultiStep.__call__

    def call(self, state, first, count):
        taken.append((first, count))
        if first >= 12:
            raise MemoryError
        return real(self, state, first, count)

    options = {"steps_per_call": 5, "checkpoint_every_steps": 6}
    with monkeypatch.context() as patch:
        patch.setattr(MultiStep, "__call__", call)
        with pytest.raises(MemoryError):
            train(toy, tmp_path / "run", **options)
    assert taken == [(0, 5), (5, 1), (6, 2), (8, 4), (12, 3)]
    resumed = train(toy, tmp_path / "run", resuming=True, steps_per_call=1)
    assert_close_run(resumed, finished)


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"batch_size": 15}, {"devices": 2}, "batch_size=15: must be divisible by the 2 devices"),
        ({}, {"devices": 9}, "devices=9: JAX has 8"),
        ({}, {"platform": "tpu"}, "platform=tpu: JAX finds none here; give platform=cpu"),
        ({}, {"convolution": "lax"}, "convolution=lax: arch=mlp has none"),
        ({"batch_size": 128}, {}, "batch_size=128: toy has 120 training images"),
        ({"ensemble": 2}, {}, "fit trains one network"),
        ({}, {"input": "stream", "steps_per_call": 4}, "steps_per_call=4: input=stream"),
    ],
)
def test_what_cannot_be_trained_writes_nothing(toy, tmp_path, config, options, message):
    config = dataclasses.replace(SMALL, **config)
    with pytest.raises(ConfigError, match=re.escape(message)):
        fit(config, RunOptions(workdir=tmp_path / "run", **options), dataset=toy)
    assert list(tmp_path.iterdir()) == []


def test_other_things_than_a_configuration(toy):
    for config in (None, {"arch": "cnn"}):
        with pytest.raises(ConfigError, match="must be a TrainConfig"):
            fit(config, dataset=toy)
    with pytest.raises(ConfigError, match="options='runs/x': must be RunOptions"):
        fit(SMALL, "runs/x", dataset=toy)
    with pytest.raises(ConfigError, match=r"must be a digits_jax\.Dataset"):
        fit(SMALL, dataset=(1, 2))


def test_diverged_training(toy, tmp_path):
    diverging = {"learning_rate": 1e30, "schedule": "constant", "optimizer": "sgd"}
    config = dataclasses.replace(SMALL, batch_norm=False, **diverging)
    with pytest.raises(TrainingDivergedError, match=r"5 steps in a row, .*a learning_rate under"):
        train(toy, tmp_path / "run", config, max_skipped_steps=5)
    assert not (tmp_path / "run" / "results.json").exists()


def poison(monkeypatch, steps):
    """Labels that are no class, in the batches of the given steps (from 0)."""
    real = TrainStream.batch

    def batch(stream, step):
        made = real(stream, step)
        return {**made, "label": made["label"] + 10} if step in steps else made

    monkeypatch.setattr(TrainStream, "batch", batch)


def test_bad_batches_are_skipped_and_counted(toy, tmp_path, monkeypatch):
    poison(monkeypatch, {*range(8), 9})
    result = train(toy, tmp_path / "run")
    assert [row["skipped_steps"] for row in result.metrics] == [8, 1]
    first, last = result.metrics
    assert (first["train_loss"], first["train_accuracy"]) == (0.0, 0.0)
    # A mean over the 6 steps that counted.
    np.testing.assert_allclose(last["train_accuracy"] * 96 % 1, 0, atol=1e-3)


def test_too_many_bad_batches_stop_the_run(toy, tmp_path, monkeypatch):
    """The error names step and images, the checkpoint stays; the count survives a resumption."""
    workdir, options = tmp_path / "run", {"max_skipped_steps": 4, "checkpoint_every_steps": 3}
    poison(monkeypatch, {4, 5, 6, 7})
    with interrupted_at(6):  # two of them have been skipped by then
        train(toy, workdir, **options)
    with pytest.raises(TrainingDivergedError, match=r"4 steps in a row, up to step 8 \(seed 0"):
        train(toy, workdir, resuming=True, **options)
    assert list_steps(workdir / "checkpoints") == [3, 6]
    found = read_json(workdir / "skipped.json")
    stream = TrainStream(toy.train, seed=0, batch_size=16)
    assert found["indices"] == stream.indices(7).tolist()
    assert (found["step"], found["skipped_in_a_row"]) == (8, 4)


def test_a_damaged_checkpoint_is_passed_over(finished, toy, tmp_path, capsys):
    """The one before is taken, with a warning; training reaches the same end from there."""
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    (workdir / "checkpoints" / "15" / "SHA256SUMS").unlink()
    resumed = train(toy, workdir, resuming=True)
    assert "going back to step 14" in capsys.readouterr().err
    assert_same_run(resumed, finished)


def test_checkpoints_that_were_removed(finished, toy, tmp_path, capsys):
    """A run that was saved never starts again from step 0 by itself."""
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "15")
    assert_same_run(train(toy, workdir, resuming=True), finished)
    assert "was saved and is gone; going back to step 14" in capsys.readouterr().err
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(DigitsError, match="holds no checkpoint, but step 15 was saved there"):
        train(toy, workdir, resuming=True)


@pytest.mark.parametrize(("moment", "again"), [(8, False), (11, True)])
def test_a_folder_that_is_moved_while_it_is_trained(toy, tmp_path, moment, again):
    """At an epoch's end and at a checkpoint; also where another folder takes its name."""
    workdir, moved = tmp_path / "run", tmp_path / "moved"

    def move(step):
        if step == moment - 1 and not moved.exists():
            workdir.rename(moved)
            if again:
                workdir.mkdir()

    refused = pytest.raises(CheckpointError, match="run: was moved or removed while it was trained")
    with on_batch(move), refused:
        train(toy, workdir, checkpoint_every_steps=moment)
    assert not workdir.exists() or not any(workdir.iterdir())
    assert train(toy, moved, resuming=True).results["steps"] == 15


def test_settings_of_jax_are_those_of_the_run(finished, toy, tmp_path):
    """A default generator has no effect; what has one is refused."""
    assert read_json(finished.workdir / "config.json")["jax"] == {
        "jax_enable_x64": False,
        "jax_threefry_partitionable": True,
        "jax_random_seed_offset": 0,
    }
    with jax.default_prng_impl("rbg"):
        assert_same_run(train(toy, tmp_path / "rbg"), finished)
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    with (
        jax.threefry_partitionable(False),
        pytest.raises(ConfigError, match=r"jax_threefry_partitionable=False: .* with True"),
    ):
        train(toy, workdir, resuming=True)


def test_damaged_metrics_are_reported(finished, toy, tmp_path, capsys):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    path = workdir / "metrics.jsonl"
    first, last = path.read_text().splitlines(keepends=True)
    path.write_text(f"x{first[9:]}{last}")
    train(toy, workdir, resuming=True)
    assert "1 of the epochs up to step 15 are missing or damaged" in capsys.readouterr().err
    assert read_metrics(workdir) == finished.metrics[1:]


def test_callbacks_see_each_epoch_and_may_end_the_training(toy, tmp_path):
    seen = []

    def stop_after_first(rows):
        seen.append(rows[0]["step"])
        raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        fit(
            SMALL,
            RunOptions(workdir=tmp_path / "run", devices=1),
            dataset=toy,
            quiet=True,
            callbacks=[stop_after_first],
        )
    assert seen == [8]


@pytest.mark.parametrize(
    ("count", "wanted", "batch_size", "heavy", "processes", "chosen"),
    [
        (8, "auto", 256, True, 1, 8),
        (6, "auto", 256, True, 1, 4),
        (3, "auto", 7, True, 1, 1),
        (8, "auto", 256, False, 1, 1),
        (8, 2, 256, False, 1, 2),
        (8, "auto", 64, True, 16, 4),
    ],
)
def test_choice_of_devices(count, wanted, batch_size, heavy, processes, chosen):
    devices = jax.devices()[:count]
    found = choose_devices(devices, wanted, batch_size, heavy=heavy, processes=processes)
    assert found == devices[:chosen]


def test_a_batch_that_several_processes_cannot_share():
    """The message names the whole batch, as the user gave it."""
    for wanted, message in {
        2: r"batch_size=66: .* the 4 devices \(2 in each of 2 processes\); give 64 or 68",
        "auto": r"batch_size=63: .* the 2 devices \(1 in each of 2 processes\); give 62 or 64",
    }.items():
        batch_size = 66 if wanted == 2 else 63
        with pytest.raises(ConfigError, match=message):
            choose_devices(jax.devices(), wanted, batch_size, heavy=True, processes=2)
