"""Short trainings give the stored parameters and predictions."""

import json
import signal

import numpy as np
import pytest
from programs import call, stop, training

COMMON = "--dataset=digits --preset=quick --platform=cpu --seed=3 --dtype=float32"
MLP = "--arch=mlp --hidden-sizes=32,16"
CNN = "--arch=cnn --channels=6,10 --dense-size=24"
FULL = "--epochs=4 --augment=affine --dropout=0.2 --ema-decay=0.95"
TRAININGS = {
    "mlp": f"{MLP} --epochs=3",
    "cnn": f"{CNN} --epochs=2",
    "mlp-full": f"{MLP} {FULL}",
    "cnn-full": f"{CNN} {FULL}",
    "cnn-two-devices": f"{CNN} {FULL} --devices=2",
    "mlp-ensemble-together": f"{MLP} --epochs=1 --ensemble=2 --together",
    "mlp-distilled": f"{MLP} --epochs=1 --teacher=cnn-full",
    "mlp-adversarial": f"{MLP} --epochs=1 --adversarial=0.1",
    "mlp-elastic": f"{MLP} --epochs=1 --augment=elastic",
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(TRAININGS)[1:]]
NUMBERS = ("num_params", "steps", "batch_size", "test_count", "validation_count")
NUMBERS += ("validation_accuracy", "test_accuracy", "validation_loss", "test_loss")
ROWS = 20  # of the test set's logits that are stored
# Elsewhere, float32 sums are rounded in another order. With XLA held to SSE4.2 on the recording
# machine, AVX-512 otherwise, logits differed by up to 0.0003, and accuracies were equal.
LOGITS, OTHERS = 0.01, 0.002


def arguments(name, workdir):
    devices = () if "--devices" in TRAININGS[name] else ("--devices=1",)
    return [*COMMON.split(), *devices, *TRAININGS[name].split(), f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def train(home):
    """Trains as users do, in a process of its own, each once; returns the run's folder."""

    def run(name):
        if not (home / name).exists():
            if "--teacher=cnn-full" in TRAININGS[name]:
                run("cnn-full")
            status, _, err = call(home, "train", *arguments(name, name))
            assert status == 0, err
        return home / name

    return run


def results(run):
    """The numbers, the digests of the parameters, of an ensemble its members', and logits."""
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))
    numbers = {name: found[name] for name in NUMBERS if name in found}
    members = sorted(run.glob("member-*")) or [run]
    digests = [json.loads((each / "results.json").read_text()) for each in members]
    with np.load(run / "predictions.npz") as file:
        logits = file["logits"][:ROWS].astype(np.float32)
    return numbers, [each["params_sha256"] for each in digests], logits


@pytest.mark.parametrize("name", ["mlp", *SLOW])
def test_training(train, golden, same_machine, name):
    numbers, digests, logits = results(train(name))
    stored = dict(golden(name, {**numbers, "params_sha256": digests}))
    stored_digests = stored.pop("params_sha256")
    assert numbers == pytest.approx(stored, abs=OTHERS)
    np.testing.assert_allclose(
        logits, golden(f"{name}-logits", logits), rtol=0, atol=1e-5 if same_machine else LOGITS
    )
    if same_machine:
        assert digests == stored_digests


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp-full", "cnn-full"])
def test_resumed_training(train, home, name):
    """Equal on every machine to the training that wasn't stopped."""
    argv = [*arguments(name, f"{name}-resumed"), "--checkpoint-every-steps=1"]
    with training(home, *argv, until="epoch") as process:
        assert stop(process, signal.SIGTERM)[0] == 128 + signal.SIGTERM
    status, out, err = call(home, "train", *argv, "--resume")
    assert status == 0, err
    assert "resuming at step" in out
    found, expected = results(home / f"{name}-resumed"), results(train(name))
    assert found[:2] == expected[:2]
    np.testing.assert_array_equal(found[2], expected[2])
