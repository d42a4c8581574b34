"""Training from files is training from memory, wherever it is stopped."""

import jax
import numpy as np
import pytest
from interrupting import interrupted_at
from prepared_sets import png, write_prepared

from digits_jax import ConfigError, DigitsError, RunOptions, TrainConfig, fit, load_trained, resume

# 138 images in batches of 16: 8.6 steps in an epoch.
SMALL = {"arch": "mlp", "dataset": "tfds/own", "preset": "quick", "epochs": 2.0, "batch_size": 16}
SMALL |= {"hidden_sizes": (12,), "dropout": 0.25, "augment": "shift", "ema_decay": 0.9}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    write_prepared(path)
    return path


def train(root, workdir, *, input="stream", callbacks=(), **changes):
    options = RunOptions(workdir=workdir, data_dir=root, devices=1, input=input)
    return fit(TrainConfig(**SMALL | changes), options, quiet=True, callbacks=callbacks)


@pytest.fixture(scope="module")
def streamed(root, tmp_path_factory):
    return train(root, tmp_path_factory.mktemp("streamed") / "run")


def weights(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.average))]


def assert_same(one, other):
    for a, b in zip(weights(one.state), weights(other.state), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = [[{**row, "train_seconds": 0} for row in run.metrics] for run in (one, other)]
    assert rows[0] == rows[1]


def test_the_same_to_the_last_bit(root, streamed, tmp_path):
    assert_same(train(root, tmp_path / "memory", input="memory"), streamed)
    setup, state = load_trained(streamed.workdir, devices=1)
    assert setup.dataset.name == "tfds/own:1.0.0"  # a run names its version
    assert not hasattr(setup.dataset.train, "images")
    for one, other in zip(weights(state), weights(streamed.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("then", ["stream", pytest.param("memory", marks=pytest.mark.slow)])
def test_stopped_in_an_epoch_it_goes_on_exactly(root, streamed, tmp_path, then):
    with interrupted_at(11, match="at step 11 of 18, saved"):
        train(root, tmp_path / "run")
    assert_same(resume(tmp_path / "run", quiet=True, devices=1, input=then), streamed)


def test_other_images_are_refused(streamed, tmp_path):
    """Of the same name, version and sizes, in other files."""
    write_prepared(tmp_path, encode=lambda image: png(image // 2))
    with pytest.raises(ConfigError, match=r"trained on another version of 'tfds/own:1\.0\.0'"):
        resume(streamed.workdir, quiet=True, data_dir=tmp_path)


def test_the_embedded_digits_are_not_streamed(tmp_path):
    with pytest.raises(DigitsError, match="input=memory"):
        fit(TrainConfig(dataset="digits"), RunOptions(workdir=tmp_path / "run", input="stream"))
    assert list(tmp_path.iterdir()) == []
