"""Training never hangs: thousands of steps on several devices of a CPU, to the end.

Where collectives are dispatched without waiting, JAX's CPU devices wait for each other for ever,
within 600 steps; see `digits_jax.training.loop.MAX_STEPS_AHEAD`.
"""

import json
import subprocess
import sys

import pytest

STEPS, BATCH = 5000, 32
# A guard against hanging, not a timing: it takes some 30 s where each device has a core.
LIMIT_SECONDS = 400


@pytest.mark.slow  # two minutes on 2 cores
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(
    "network",
    [("mlp", "--hidden-sizes=16,16"), ("cnn", "--channels=4,8", "--dense-size=16")],
    ids=lambda network: network[0],
)
def test_5000_steps_end(network, devices, tmp_path):
    arch, *sizes = network
    epochs = STEPS * BATCH / 1257  # the embedded digits have 1,257 to train on
    command = [sys.executable, "-m", "digits_jax.train", f"--arch={arch}", *sizes]
    command += ["--dataset=digits", "--preset=quick", f"--batch-size={BATCH}"]
    command += [f"--epochs={epochs}", f"--devices={devices}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["num_devices"] == devices
    assert results["steps"] >= STEPS
    assert results["test_accuracy"] > 0.9
