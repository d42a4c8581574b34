"""Training from files is training from memory, wherever it is stopped."""

import dataclasses
import signal

import jax
import numpy as np
import pytest
from prepared_sets import png, write_prepared

from digits_jax import DigitsError, TrainConfig, fit, load_dataset, load_trained, resume
from digits_jax.data.pipeline import PrefetchedStream
from digits_jax.training.interrupts import Interrupted

# 138 images in batches of 16: 8.6 steps in an epoch.
SMALL = TrainConfig(
    arch="mlp", dataset="tfds/own", preset="quick", epochs=2.0, batch_size=16, hidden_sizes=(12,)
)
SMALL = dataclasses.replace(SMALL, dropout=0.25, augment="shift", ema_decay=0.9, devices="1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    write_prepared(path)
    return path


def train(root, workdir, **changes):
    config = dataclasses.replace(SMALL, data_dir=str(root), workdir=str(workdir), **changes)
    return fit(config, quiet=True)


def weights(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.average))]


def assert_same(a, b):
    for one, other in zip(weights(a.state), weights(b.state), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = [[{**row, "train_seconds": 0} for row in run.metrics] for run in (a, b)]
    assert rows[0] == rows[1]


def test_the_same_to_the_last_bit(root, tmp_path):
    memory, stream = (train(root, tmp_path / way, input=way) for way in ("memory", "stream"))
    assert_same(memory, stream)
    plan, state = load_trained(tmp_path / "stream", devices="1")
    assert plan.dataset.name == "tfds/own:1.0.0"  # a run names its version
    assert not hasattr(plan.dataset.train, "images")
    for one, other in zip(weights(state), weights(stream.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("then", ["memory", "stream"])
def test_stopped_in_an_epoch_it_goes_on_exactly(root, tmp_path, monkeypatch, then):
    straight, real = train(root, tmp_path / "straight"), PrefetchedStream.batch

    def batch(stream, step):
        if step == 11:
            signal.raise_signal(signal.SIGTERM)
        return real(stream, step)

    with monkeypatch.context() as patch:
        patch.setattr(PrefetchedStream, "batch", batch)
        with pytest.raises(Interrupted, match="at step 11 of 18, saved"):
            train(root, tmp_path / "run", input="stream")
    assert_same(resume(tmp_path / "run", quiet=True, devices="1", input=then), straight)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"batch_size": 8}])
def test_another_order_is_refused(root, tmp_path, changes):
    train(root, tmp_path / "run", input="stream", epochs=0.1)
    with pytest.raises(DigitsError, match=f"--{next(iter(changes)).replace('_', '-')}="):
        train(root, tmp_path / "run", input="stream", epochs=0.1, resume=True, **changes)


def test_other_images_are_refused(root, tmp_path):
    """Of the same name, version and sizes, in other files."""
    train(root, tmp_path / "run", input="stream", epochs=0.1)
    write_prepared(tmp_path / "other", encode=_dark)
    with pytest.raises(DigitsError, match=r"was trained on another version of 'tfds/own:1.0.0'"):
        resume(tmp_path / "run", quiet=True, data_dir=str(tmp_path / "other"))


def _dark(image):
    return png(image // 2)


def test_the_embedded_digits_are_not_streamed(tmp_path):
    with pytest.raises(DigitsError, match="input=memory, or another dataset"):
        load_dataset("digits", input="stream")
    with pytest.raises(DigitsError, match="input=disk: must be one of memory, stream"):
        fit(TrainConfig(dataset="digits", input="disk", workdir=str(tmp_path / "run")))
    assert list(tmp_path.iterdir()) == []
