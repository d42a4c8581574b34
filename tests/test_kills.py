"""A training that is ended again and again, at random moments, comes to the same end."""

import json
import random
import re
import signal
import subprocess
import time

import pytest
from faults_log import log_faults
from programs import TIMEOUT_SECONDS, call, start

from digits_jax.runs.checkpoint import find_damage, list_steps

# 60 epochs of 19.6 steps, a save at every third: most of the time it is saving.
LONG = ("--arch=mlp", "--dataset=digits", "--preset=quick", "--epochs=60", "--hidden-sizes=16")
LONG = (*LONG, "--batch-size=64", "--dropout=0.2", "--augment=affine", "--ema-decay=0.99")
STEPS = 1179


def result(workdir):
    values = json.loads((workdir / "results.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["train_seconds"]
    return values["params_sha256"], values["test_loss"], rows


@pytest.fixture(scope="module")
def undisturbed(home):
    status, _, err = call(home, "train", *LONG, "--workdir=undisturbed")
    assert (status, err) == (0, "")
    return result(home / "undisturbed")


def live_and_end(home, name, number, seconds):
    """Starts or resumes, and sends a signal some time after training began.

    Returns:
      Where it said that it goes on, its status and what it said at the end; None where it was
      done before the signal came.
    """
    workdir = home / name
    begun = (workdir / "config.json").exists()
    flags = ["--resume"] if begun else [*LONG, "--checkpoint-every-steps=3"]
    process = start(home, "train", *flags, f"--workdir={name}")
    try:
        at = 0
        for line in process.stdout:
            found = re.search(r"(?:starting|going on|finished) at step (\d+) of", line)
            at = int(found[1]) if found else at
            if found or (not begun and line.startswith("devices")):
                break
        try:
            process.wait(timeout=seconds)  # a moment as good as any: there is no event
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        sent = time.monotonic()
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return at, process.returncode, err, time.monotonic() - sent
    finally:
        process.kill()
        process.communicate()


def newest(workdir):
    """The newest step; all that are there are intact, whenever one looks."""
    steps = list_steps(workdir / "checkpoints")
    for step in steps:
        assert find_damage(workdir / "checkpoints", step) is None
    return steps[-1] if steps else 0


@pytest.mark.slow
@pytest.mark.parametrize("chain", [1, 2])
def test_killed_again_and_again(home, undisturbed, chain):
    """15 times each, while saving among them: what was committed is never lost."""
    rng, name = random.Random(chain), f"killed {chain} – ünïcode"
    workdir, saving, before, killed = home / name, 0, 0, 0
    while killed < 15:
        at, status, err, _ = live_and_end(home, name, signal.SIGKILL, rng.uniform(0, 2.0))
        assert at == before
        assert err == ""
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
        before = newest(workdir)
        saving += any((workdir / "checkpoints").glob(".*.incomplete"))
    log_faults("SIGKILL in training and saving", killed, killed)
    assert killed >= 10
    assert saving
    status, _, err = call(home, "train", "--resume", f"--workdir={name}")
    assert (status, err) == (0, "")
    assert result(workdir) == undisturbed
    assert not any((workdir / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_asked_to_stop_again_and_again(home, undisturbed, number):
    """8 times, at random moments: each time it saves, says how to go on, and goes on exactly."""
    rng, name, before, stopped = random.Random(number), f"stopped-{number}", 0, 0
    for _ in range(8):
        at, status, err, seconds = live_and_end(home, name, number, rng.uniform(0, 3.0))
        assert at == before
        if status == 0:
            break
        assert status == 128 + number
        assert seconds < 10  # the limit, not a speed: saving and leaving takes one or two
        before = newest(home / name)
        if err != "stopped\n":  # before or after training there is nothing to save
            said = f"at step {before} of {STEPS}, saved" if before else "at step 0"
            assert f"stopped {said}; go on with\n" in err
            assert f"--resume --workdir={name}" in err
        stopped += 1
    log_faults(f"{signal.Signals(number).name} in training and saving", stopped, stopped)
    assert before > 0
    status, _, err = call(home, "train", "--resume", f"--workdir={name}")
    assert (status, err) == (0, "")
    assert result(home / name) == undisturbed
