"""A trained run."""

import pytest

from digits_jax import RunOptions, TrainConfig, fit


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a CNN that was trained on the embedded digits; it is only read."""
    config = TrainConfig(
        dataset="digits", preset="quick", epochs=3.0, channels=(8, 16), dense_size=32
    )
    workdir = tmp_path_factory.mktemp("runs") / "digits-cnn"
    return fit(config, RunOptions(devices=1, workdir=workdir), quiet=True).workdir
