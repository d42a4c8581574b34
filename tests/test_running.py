"""Studies train each run once, whatever is chosen by itself."""

import pytest

from digits_jax.errors import DigitsError
from experiments.running import train_once

FLAGS = ("--arch=mlp", "--dataset=digits", "--preset=quick", "--epochs=0.2", "--hidden-sizes=8")


def test_a_run_is_trained_once_and_no_other_is_taken_for_it(tmp_path, capfd):
    workdir = tmp_path / "run"
    first = train_once(FLAGS, workdir)
    assert first["process_seconds"] > 0
    assert train_once(FLAGS, workdir) == first
    assert capfd.readouterr().out.count("test accuracy") == 1
    with pytest.raises(DigitsError, match=r"holds a run with hidden_sizes=\(8,\), not \(9,\)"):
        train_once((*FLAGS[:-1], "--hidden-sizes=9"), workdir)
