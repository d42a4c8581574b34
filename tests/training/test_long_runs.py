"""Training never hangs: thousands of steps on several devices of a CPU, to the end.

Where collectives are dispatched without waiting, JAX's CPU devices wait for each other for ever,
within 600 steps; see `digits_jax.training.loop.MAX_STEPS_AHEAD`.
"""

import pytest
from programs import call

from digits_jax.runs.folder import read_results

STEPS, BATCH = 1000, 32


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(
    "network",
    [("mlp", "--hidden-sizes=16,16"), ("cnn", "--channels=4,8", "--dense-size=16")],
    ids=lambda network: network[0],
)
def test_1000_steps_end(network, devices, tmp_path):
    arch, *sizes = network
    epochs = STEPS * BATCH / 1257  # the embedded digits have 1,257 to train on
    flags = [f"--arch={arch}", *sizes, "--dataset=digits", "--preset=quick", "--workdir=run"]
    flags += [f"--batch-size={BATCH}", f"--epochs={epochs}", f"--devices={devices}"]
    status, _, err = call(tmp_path, "train", *flags)  # which ends what takes too long
    assert status == 0, err
    results = read_results(tmp_path / "run")
    assert results["num_devices"] == devices
    assert results["steps"] >= STEPS
    assert results["test_accuracy"] > 0.9
