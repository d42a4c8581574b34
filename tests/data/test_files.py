"""Folders that are made aside."""

import signal

import pytest

from digits_jax.data import files


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_scratch_folder(tmp_path, number):
    """Also where the handler that was there before never returns."""
    seen = []
    before = signal.signal(number, lambda *_: seen.append(list(tmp_path.iterdir())))
    try:
        with files.scratch_folder(tmp_path) as folder:
            assert folder.is_dir()
            signal.raise_signal(number)
            assert seen == [[]]
    finally:
        signal.signal(number, before)
