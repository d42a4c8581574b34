"""A trained network to take out of here, and the fixtures of the page's tests."""

import pytest
from paged import browser, cnn, open_page  # noqa: F401 - fixtures

from digits_jax import TrainConfig, fit


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a CNN that reads the embedded digits; it is read only."""
    config = TrainConfig(
        dataset="digits",
        preset="quick",
        epochs=8.0,
        channels=(8, 16),
        dense_size=32,
        devices=1,
        workdir=tmp_path_factory.mktemp("runs") / "digits-cnn",
    )
    return fit(config, quiet=True).workdir
