"""One training in two processes: the same model as in one, and a relaunch after one is lost."""

import os
import re
import signal

import jax
import numpy as np
import pytest
from programs import TIMEOUT_SECONDS, call, children, start, wait_for, without_seconds

from digits_jax import MLP
from digits_jax.models.build import abstract_variables
from digits_jax.runs.checkpoint import list_steps, read_weights
from digits_jax.runs.folder import read_metrics, read_results

pytestmark = pytest.mark.slow
# 50 steps of 64 images; with nothing whose near-ties rounding would flip.
# In float32: bfloat16 makes a difference in the last bit of a sum larger now and then.
FIFTY = ("--arch=mlp", "--dataset=digits", "--epochs=2.54", "--hidden-sizes=16", "--augment=shift")
FIFTY = (*FIFTY, "--batch-size=64", "--dropout=0.2", "--ema-decay=0.9", "--optimizer=sgd")
FIFTY = (*FIFTY, "--dtype=float32")
LONG = (*FIFTY, "--epochs=8", "--checkpoint-every-steps=20")
ENDED_SECONDS = 90


def result(workdir):
    return read_results(workdir), without_seconds(read_metrics(workdir))


def launch(home, *argv):
    flags = ["--num-processes=2", "--devices-per-process=2", "--"]
    return start(home, "launch", *flags, *argv)


@pytest.fixture(scope="module")
def two_by_two(home):
    with launch(home, *LONG, "--workdir=two-by-two") as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, ""), err
    lines = out.splitlines()
    assert all(line.startswith("[0] ") for line in lines)  # one process speaks for all
    assert sum("validation accuracy" in line for line in lines) == 8
    return home / "two-by-two"


def test_two_processes_of_two_devices_are_one_of_four(home):
    with launch(home, *FIFTY, "--workdir=fifty-2x2") as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, ""), err
    assert "devices  4 x cpu" in out
    status, _, err = call(home, "train", *FIFTY, "--devices=4", "--workdir=fifty-1x4")
    assert (status, err) == (0, "")
    (two, one) = (result(home / name) for name in ("fifty-2x2", "fifty-1x4"))
    assert two[0]["steps"] == one[0]["steps"] == 50
    assert two[0]["num_devices"] == one[0]["num_devices"] == 4
    wanted = abstract_variables(MLP(hidden_sizes=(16,), batch_norm=True))
    runs = [home / name / "checkpoints" for name in ("fifty-2x2", "fifty-1x4")]
    weights = [read_weights(path, wanted)[1] for path in runs]
    for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(two[1], one[1], strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-3)
    with np.load(home / "fifty-2x2" / "predictions.npz") as file:
        assert file["logits"].shape == (360, 10)


@pytest.mark.parametrize(
    ("number", "index"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1)],
    ids=["the first is killed", "the second is killed", "the second is stopped"],
)
def test_one_is_lost_and_all_are_started_again(home, two_by_two, number, index):
    """All end, the launcher names the lost process, and the run comes to the same end."""
    name = f"lost-{number}-{index}"
    with launch(home, *LONG, f"--workdir={name}") as process:
        try:
            wait_for(process, "[0] epoch 3/8")
            pids = children(process)
            os.kill(pids[index], number)
            _, err = process.communicate(timeout=ENDED_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    what = "was ended by SIGKILL" if number == signal.SIGKILL else "is stopped"
    last = err.splitlines()[-1]
    assert last.startswith(f"launch: process {index} (process id {pids[index]}) {what}")
    assert "restart with --resume" in last
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert list_steps(home / name / "checkpoints")
    with launch(home, "--resume", f"--workdir={name}") as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"at step \d+ of 158", out)
    ours, theirs = result(home / name), result(two_by_two)
    assert ours[0]["params_sha256"] == theirs[0]["params_sha256"]
    assert ours[1] == theirs[1]


def test_a_signal_saves_in_both_at_one_step(home, two_by_two):
    """One process resumes what two processes of two devices saved."""
    with launch(home, *LONG, "--workdir=asked") as process:
        try:
            wait_for(process, "[0] epoch 3/8")
            os.kill(children(process)[1], signal.SIGTERM)  # one of them alone is asked
            _, err = process.communicate(timeout=ENDED_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 143, err
    step = int(re.search(r"\[0\] stopped at step (\d+) of 158, saved; resume with", err)[1])
    assert list_steps(home / "asked" / "checkpoints")[-1] == step
    status, out, err = call(home, "train", "--resume", "--workdir=asked", "--devices=8")
    assert (status, err) == (0, "")
    assert f"at step {step} of 158" in out
    ours, theirs = result(home / "asked"), result(two_by_two)
    assert ours[0]["num_devices"] == 8
    assert abs(ours[0]["test_accuracy"] - theirs[0]["test_accuracy"]) < 0.02


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--workdir=two-by-two"], "already holds a run"), (["--batch-size=63"], "--batch-size=63")],
    ids=["a folder that is taken", "a batch that can't be shared"],
)
def test_what_cannot_be_trained_ends_all(home, two_by_two, flags, message):
    with launch(home, *FIFTY, *flags) as process:
        _, err = process.communicate(timeout=ENDED_SECONDS)
    assert process.returncode == 2
    assert re.search(rf"\[[01]\] error: .*{message}", err)
    assert "--resume" not in err.splitlines()[-1]
