"""One training in two processes: the same model as in one, and none waits for one that is gone."""

import json
import os
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import TIMEOUT_SECONDS, call, start
from team import free_port

from digits_jax.runs.checkpoint import list_steps, read_weights

# 50 steps of 64 images; with nothing whose near-ties rounding would flip.
# In float32: a last bit that two sums differ in is rounded to a whole one of bfloat16 now and then.
FIFTY = ("--arch=mlp", "--dataset=digits", "--epochs=2.54", "--hidden-sizes=16", "--augment=shift")
FIFTY = (*FIFTY, "--batch-size=64", "--dropout=0.2", "--ema-decay=0.9", "--optimizer=sgd")
FIFTY = (*FIFTY, "--dtype=float32")
LONG = (*FIFTY, "--epochs=20", "--checkpoint-every-steps=10")
ENDED_SECONDS = 60


def result(workdir):
    values = json.loads((workdir / "results.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return values, [{k: v for k, v in row.items() if k != "train_seconds"} for row in rows]


def launch(home, *argv):
    flags = ["--num-processes=2", "--devices-per-process=2", "--"]
    return start(home, "launch", *flags, *argv)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.stderr.read())


def children(process):
    """The process ids of what it has started, by their number among the processes."""
    found = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        index = [a.partition("=")[2] for a in argv if a.startswith("--process-id=")]
        if parent == process.pid and index:
            found[int(index[0])] = pid
    return found


def gone(pids):
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.fixture(scope="module")
def two_by_two(home):
    with launch(home, *LONG, "--workdir=two-by-two") as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, ""), err
    return home / "two-by-two", out


@pytest.mark.slow
def test_what_is_printed(two_by_two):
    _, out = two_by_two
    lines = out.splitlines()
    assert all(line.startswith("[0] ") for line in lines)  # one process speaks for all
    assert sum("validation accuracy" in line for line in lines) == 20
    assert "devices  4 x cpu" in out
    assert "Gloo" not in out


@pytest.mark.slow
def test_two_processes_of_two_devices_are_one_of_four(home):
    with launch(home, *FIFTY, "--workdir=fifty-2x2") as process:
        assert process.wait(TIMEOUT_SECONDS) == 0, process.stderr.read()
    status, _, err = call(home, "train", *FIFTY, "--devices=4", "--workdir=fifty-1x4")
    assert (status, err) == (0, "")
    (two, one) = (result(home / name) for name in ("fifty-2x2", "fifty-1x4"))
    assert two[0]["steps"] == one[0]["steps"] == 50
    assert two[0]["num_devices"] == one[0]["num_devices"] == 4
    weights = [read_weights(home / n / "checkpoints")[1] for n in ("fifty-2x2", "fifty-1x4")]
    for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(two[1], one[1], strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-3)
    with np.load(home / "fifty-2x2" / "predictions.npz") as file:
        assert file["logits"].shape == (360, 10)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_one_is_lost_and_all_are_started_again(home, two_by_two, number, index):
    """Whichever: all end, the launcher says who it was, and the run comes to the same end."""
    name = f"lost-{number}-{index}"
    with launch(home, *LONG, f"--workdir={name}") as process:
        try:
            wait_for(process, "epoch 5/20")
            pids = children(process)
            os.kill(pids[index], number)
            _, err = process.communicate(timeout=ENDED_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    how = "was ended by SIGKILL" if number == signal.SIGKILL else "is stopped"
    assert f"launch: process {index} (process id {pids[index]}) {how}" in err
    assert "start again with --resume" in err
    assert gone(pids.values())
    assert list_steps(home / name / "checkpoints")
    with launch(home, "--resume", f"--workdir={name}") as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"going on at step \d+ of 393", out)
    ours, theirs = result(home / name), result(two_by_two[0])
    assert ours[0]["params_sha256"] == theirs[0]["params_sha256"]
    assert ours[1] == theirs[1]


@pytest.mark.slow
def test_a_signal_saves_in_both_at_one_step(home, two_by_two):
    """And what two processes of two devices saved, one of another number goes on with."""
    with launch(home, *LONG, "--workdir=asked") as process:
        try:
            wait_for(process, "epoch 5/20")
            os.kill(children(process)[1], signal.SIGTERM)  # one of them alone is asked
            _, err = process.communicate(timeout=ENDED_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 143, err
    step = int(re.search(r"\[0\] stopped at step (\d+) of 393, saved; go on with", err)[1])
    assert list_steps(home / "asked" / "checkpoints")[-1] == step
    flags = ["--resume", "--workdir=asked", "--devices=8"]
    status, out, err = call(home, "train", *flags)
    assert (status, err) == (0, "")
    assert f"going on at step {step} of 393" in out
    ours, theirs = result(home / "asked"), result(two_by_two[0])
    assert ours[0]["num_devices"] == 8
    assert abs(ours[0]["test_accuracy"] - theirs[0]["test_accuracy"]) < 0.02


def start_two(home, first, second):
    address = [f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=2", "--devices=1"]
    return [
        start(home, "train", *flags, *address, f"--process-id={index}")
        for index, flags in enumerate((first, second))
    ]


def endings(processes, seconds=ENDED_SECONDS):
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(process.returncode, err) for process, (_, err) in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_another_configuration(home):
    flags = [*FIFTY, "--workdir=other"]
    both = endings(start_two(home, flags, [*flags, "--seed=1"]))
    for status, err in both:
        assert status == 2
        assert err.startswith("error: ")
        assert "seed is 1 in process 1 and 0 in process 0" in err
        assert err.count("\n") == 1
    assert not (home / "other" / "config.json").exists()


@pytest.mark.slow
def test_a_folder_that_is_taken(home, two_by_two):
    flags = [*FIFTY, f"--workdir={two_by_two[0].name}"]
    (status, err), (status_1, err_1) = endings(start_two(home, flags, flags))
    assert (status, status_1) == (2, 2)
    assert "already holds a run" in err
    assert "already holds a run" in err_1
    assert err_1.startswith("error: process 0: ")


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(home):
    flags = [*FIFTY, "--batch-size=63"]
    for status, err in endings(start_two(home, flags, flags)):
        assert status == 2
        assert "63" in err
        assert err.count("\n") == 1


def test_flags_that_do_not_fit(home):
    for flags, said in (
        (["--num-processes=2"], "--coordinator and --process-id are missing"),
        (["--coordinator=nowhere", "--num-processes=2", "--process-id=0"], "give HOST:PORT"),
        (["--coordinator=a:1", "--num-processes=2", "--process-id=2"], "have the numbers 0 to 1"),
    ):
        status, _, err = call(home, "train", *FIFTY, *flags)
        assert status == 2
        assert said in err
        assert err.count("\n") == 1
