"""A training that is ended again and again, while it saves, has the same result."""

import os
import random
import signal

import pytest
from programs import TIMEOUT_SECONDS, call, start, without_seconds

from digits_jax.runs.checkpoint import find_damage, list_steps
from digits_jax.runs.folder import read_metrics, read_results

pytestmark = pytest.mark.slow
# 24 epochs of 19.6 steps, saved at every third: most of the time it is saving.
LONG = ("--arch=mlp", "--dataset=digits", "--preset=quick", "--epochs=24", "--hidden-sizes=16")
LONG = (*LONG, "--batch-size=64", "--dropout=0.2", "--augment=affine", "--ema-decay=0.99")
STEPS = 472


def result(workdir):
    values = read_results(workdir)
    return values["params_sha256"], values["test_loss"], without_seconds(read_metrics(workdir))


@pytest.fixture(scope="module")
def undisturbed(home):
    status, _, err = call(home, "train", *LONG, "--workdir=undisturbed")
    assert (status, err) == (0, "")
    return result(home / "undisturbed")


def end(home, name, number, changes):
    """Starts or resumes a run, and sends a signal at some change in the folder of its checkpoints.

    Returns:
      The exit status and what is on the standard error.
    """
    checkpoints = home / name / "checkpoints"
    begun = checkpoints.exists()
    flags = ["--resume"] if begun else [*LONG, "--checkpoint-every-steps=3"]
    process = start(home, "train", *flags, f"--workdir={name}")
    try:
        if begun:  # what was left is cleared up when it has said where it resumes
            at = f"resuming at step {newest(checkpoints)} of {STEPS}"
            assert any(at in line for line in process.stdout)
        before = None
        while changes and process.poll() is None:
            now = sorted(os.listdir(checkpoints)) if checkpoints.exists() else []
            changes -= now != before
            before = now
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, err
    finally:
        process.kill()
        process.communicate()


def newest(checkpoints):
    """The newest step; all that are there are intact, whenever one looks."""
    steps = list_steps(checkpoints)
    assert [find_damage(checkpoints, step) for step in steps] == [None] * len(steps)
    return steps[-1]


def test_killed_again_and_again(home, undisturbed):
    """8 times, while it saves and while it removes: nothing that was saved is lost."""
    rng, name, saving, last = random.Random(1), "killed – ünïcode", 0, 0
    for _ in range(8):
        status, err = end(home, name, signal.SIGKILL, rng.randint(5, 15))
        assert (status, err) == (-signal.SIGKILL, "")
        now = newest(home / name / "checkpoints")
        assert now >= last
        last = now
        saving += any((home / name / "checkpoints").glob(".*.incomplete"))
    assert saving
    status, _, err = call(home, "train", "--resume", f"--workdir={name}")
    assert (status, err) == (0, "")
    assert result(home / name) == undisturbed
    assert not any((home / name / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_asked_to_stop_again_and_again(home, undisturbed, number):
    """3 times, while it saves: each time it saves, says how to resume, and resumes exactly."""
    rng, name = random.Random(number), f"stopped-{number}"
    for _ in range(3):
        status, err = end(home, name, number, rng.randint(5, 15))
        assert status == 128 + number
        step = newest(home / name / "checkpoints")
        assert f"stopped at step {step} of {STEPS}, saved" in err
        assert f"--resume --workdir={name}" in err
    status, _, err = call(home, "train", "--resume", f"--workdir={name}")
    assert (status, err) == (0, "")
    assert result(home / name) == undisturbed
