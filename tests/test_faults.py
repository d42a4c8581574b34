"""What goes wrong around a program: signals, disks, files that were changed, readers that leave."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from programs import TIMEOUT_SECONDS, TINY, call, start

from digits_jax import DigitsError, TrainConfig, fit, resume
from digits_jax import checkpoints as checkpoints_program
from digits_jax import evaluate as evaluate_program
from digits_jax import train as train_program
from digits_jax.runs.checkpoint import find_damage, list_steps


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, to be damaged."""
    return shutil.copytree(trained[0], tmp_path / "run")


def edit_config(run, **values):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_trained(run, **values):
    config = json.loads((run / "config.json").read_text())["config"]
    edit_config(run, config={**config, **values})


def in_place_of(path):
    """A folder where a file was."""
    path.unlink()
    path.mkdir()


def put_a_file(path):
    shutil.rmtree(path)
    path.touch()


# --- a finished run that somebody has changed ------------------------------------------------

MENDED = {
    "metrics cut": lambda run: os.truncate(run / "metrics.jsonl", 50),
    "metrics gone": lambda run: (run / "metrics.jsonl").unlink(),
    "metrics are a number": lambda run: (run / "metrics.jsonl").write_text("5\n"),
    "metrics are no text": lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\x00\xfe"),
    "results cut": lambda run: os.truncate(run / "results.json", 50),
    "results are a list": lambda run: (run / "results.json").write_text("[]"),
    "predictions cut": lambda run: os.truncate(run / "predictions.npz", 50),
}


@pytest.mark.parametrize("damage", MENDED)
def test_a_resumed_run_is_mended(run, trained, here, damage):
    MENDED[damage](run)
    status, out, err = here(train_program, "--resume", f"--workdir={run}", "--devices=1")
    assert status == 0
    wanted = f"warning: {run / 'metrics.jsonl'}: " if damage.startswith("metrics") else ""
    assert err.startswith(wanted)
    assert err.count("\n") == bool(wanted)
    assert f"{run}: already finished at step 30 of 30" in out
    found, wanted = (json.loads((path / "results.json").read_text()) for path in (run, trained[0]))
    for name in ("params_sha256", "test_errors", "steps"):
        assert found[name] == wanted[name]
    # Scored by code that was compiled without optimisations, as all in this process is.
    assert found["test_loss"] == pytest.approx(wanted["test_loss"], rel=1e-6)


def test_a_finished_run_keeps_its_times(run, here):
    before = json.loads((run / "results.json").read_text())
    (run / "predictions.npz").unlink()
    assert here(train_program, "--resume", f"--workdir={run}", "--devices=1")[0] == 0
    assert (run / "predictions.npz").is_file()
    after = json.loads((run / "results.json").read_text())
    for split in ("validation_loss", "test_loss"):  # by code that was compiled otherwise
        assert after.pop(split) == pytest.approx(before.pop(split), rel=1e-6)
    assert after == before


REFUSED = {
    "metrics are a folder": (lambda run: in_place_of(run / "metrics.jsonl"), "Is a directory"),
    "no data set": (lambda run: edit_config(run, dataset=None), "another version of 'digits'"),
    "a list": (lambda run: (run / "config.json").write_text("[]"), "is it a run's config.json?"),
    "a number": (lambda run: edit_trained(run, dataset=5), "field 'dataset' is 5; give a str"),
    "other epochs": (lambda run: edit_trained(run, epochs=1.0), "was changed by hand"),
    "sums": (
        lambda run: (run / "checkpoints/30/SHA256SUMS").write_text(""),
        "no checkpoint can be restored (step 30: 30/state/_CHECKPOINT_METADATA: doesn't match",
    ),
    "checkpoints": (lambda run: put_a_file(run / "checkpoints"), "is not a folder"),
    "another seed": (lambda run: edit_trained(run, seed=5), "says seed=5, but the checkpoint"),
    "another size": (
        lambda run: edit_trained(run, hidden_sizes=[17]),
        "says hidden_sizes=[17], but the checkpoint of step 30 was made with [16]",
    ),
    "another rate": (lambda run: edit_trained(run, learning_rate=0.5), "says learning_rate=0.5"),
    "predictions": (lambda run: in_place_of(run / "predictions.npz"), "Is a directory"),
    "curves": (lambda run: in_place_of(run / "curves.png"), "Is a directory"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_cannot_be_mended_is_one_line(run, here, damage):
    act, said = REFUSED[damage]
    act(run)
    status, _, err = here(train_program, "--resume", f"--workdir={run}", "--devices=1")
    assert status in (1, 2)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_results_of_another_kind(run, here):
    (run / "results.json").write_text("[]")
    status, _, err = here(evaluate_program, run, "--devices=1")
    assert status == 2
    assert "params_sha256 differs" in err


def test_scoring_asks_nothing_of_the_batch_size(run, here):
    status, out, _ = here(evaluate_program, run, "--devices=3")
    assert status == 0
    assert "digits test accuracy" in out


def test_scores_that_are_no_numbers(run, here, monkeypatch):
    """A parameter that became NaN is told, and isn't written as JSON that none can read."""
    import jax.numpy as jnp

    from digits_jax.training import steps

    monkeypatch.setattr(steps, "cross_entropy", lambda logits, labels: labels * jnp.nan)
    status, out, err = here(evaluate_program, run, "--json", "--devices=1")
    assert (status, out) == (2, "")
    assert "the network's loss is nan" in err


# --- signals -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("said", ["data ", "epoch 1/"], ids=["compiling", "training"])
def test_signals_end_a_program(home, said, number):
    argv = [*TINY, "--epochs=500", f"--workdir=killed-{said[:4].strip()}-{number}"]
    with start(home, "train", *argv) as process:
        try:
            while not process.stdout.readline().startswith(said):
                assert process.poll() is None
            process.send_signal(number)
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert err == "stopped\n" or err.startswith("stopped at step ")


def test_a_signal_while_python_imports(home):
    """Python's own KeyboardInterrupt would be an ImportError in NumPy, or be swallowed."""
    script = "import sys; from digits_jax.cli import run_program; from digits_jax import train\n"
    script += "def main(argv):\n    print('here', flush=True)\n    return train.main(argv)\n"
    script += "sys.exit(run_program(main))"
    for _ in range(3):
        with start(home, None, *TINY, "--epochs=500", "--dry-run", script=script) as process:
            try:
                assert process.stdout.readline() == "here\n"
                process.send_signal(signal.SIGINT)  # within the import of jax, a second long
                _, err = process.communicate(timeout=TIMEOUT_SECONDS)
            finally:
                process.kill()
        assert (process.returncode, err) == (130, "stopped\n")


def test_a_second_signal_does_not_wait(home):
    argv = [*TINY, "--epochs=500", "--checkpoint-every-steps=1", "--workdir=twice"]
    with start(home, "train", *argv) as process:
        try:
            while not process.stdout.readline().startswith("epoch 1/"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    # The two may arrive as one.
    assert process.returncode == 130
    assert "--resume --workdir=twice" in err
    assert "Traceback" not in err
    status, out, _ = call(home, "train", "--resume", "--dry-run", "--workdir=twice")
    assert status == 0
    assert "it would go on at step" in out


def test_a_reader_that_leaves_stops_a_training(home):
    """As ``| head -3`` does; what was trained until then is saved."""
    argv = [*TINY, "--epochs=500", "--workdir=unread"]
    with start(home, "train", *argv) as process:
        try:
            while not process.stdout.readline().startswith("epoch 1/"):
                assert process.poll() is None
            process.stdout.close()
            assert process.wait(TIMEOUT_SECONDS) == 141
        finally:
            process.kill()
        err = process.stderr.read()
    assert err.startswith("stopped at step ")
    assert "saved; go on with" in err


def test_streams_that_are_closed_or_ascii(home):
    """A service has no standard error; an old locale has no umlauts."""
    done = start(home, "train", *TINY, "--workdir=über", env={"PYTHONIOENCODING": "ascii"})
    out, err = done.communicate(timeout=TIMEOUT_SECONDS)
    assert (done.returncode, err) == (0, "")
    assert r"\xfcber" in out
    done = start(home, "train", *TINY, "--workdir=closed", closed_stderr=True)
    out, _ = done.communicate(timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0
    assert "digits test accuracy" in out


# --- the disk ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("size", ["8k", "400k"])  # in the first epoch's files, in a checkpoint
def test_a_disk_that_fills_up(home, tmp_path, size):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", small]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting isn't allowed here")
    try:
        argv = [*TINY, "--hidden-sizes=200", f"--workdir={small / 'run'}"]
        status, _, err = call(home, "train", *argv)
        assert status in (1, 2)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        subprocess.run(["mount", "-o", "remount,size=40m", small], check=True)
        status, out, err = call(home, "train", "--resume", f"--workdir={small / 'run'}")
        assert (status, err) == (0, "")
        assert "digits test accuracy" in out
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_turns_read_only(home, tmp_path):
    """As Linux makes one that has errors: one line, and what was saved is whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting isn't allowed here")
    argv = [*TINY, "--epochs=6", "--checkpoint-every-steps=2", f"--workdir={disk / 'run'}"]
    try:
        with start(home, "train", *argv) as process:
            try:
                while not process.stdout.readline().startswith("epoch 1/"):
                    assert process.poll() is None
                # Refused while a file is open for writing, as the lock is until what is left is
                # to draw the curves: 500 epochs of this took 18 minutes, for nothing.
                remount = ["mount", "-o", "remount,ro", disk]
                while subprocess.run(remount, capture_output=True, check=False).returncode:
                    assert process.poll() is None
                _, err = process.communicate(timeout=TIMEOUT_SECONDS)
            finally:
                process.kill()
        assert process.returncode in (1, 2)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        steps = list_steps(disk / "run" / "checkpoints")
        assert steps
        for step in steps:
            assert find_damage(disk / "run" / "checkpoints", step) is None
        status, _, err = call(home, "train", "--resume", f"--workdir={disk / 'run'}")
        assert status == 2
        assert "can't be written (Read-only file system)" in err
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        dry = call(home, "train", "--resume", "--dry-run", f"--workdir={disk / 'run'}")
        assert f"it would go on at step {steps[-1]} of" in dry[1]
    finally:
        subprocess.run(["umount", disk], check=True)


# --- clocks, folders that move, two at once ---------------------------------------------------


def test_a_clock_that_was_set_back(run, trained, home, tmp_path):
    """Steps are told apart by their numbers, not by when they were saved."""
    workdir = tmp_path / "moved" / "über den Berg"  # and the folder has been moved
    workdir.parent.mkdir()
    shutil.move(run, workdir)
    (workdir / "results.json").unlink()
    for path in workdir.rglob("*"):
        os.utime(path, (4e9, 4e9))  # written in 2096
    script = "import sys, time; real = time.time; time.time = lambda: real() - 1e8\n"
    script += "from digits_jax.cli import run_program; from digits_jax import train\n"
    script += "sys.exit(run_program(train.main))"
    with start(home, None, "--resume", f"--workdir={workdir}", script=script) as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, "")
    assert "already finished at step 30 of 30" in out
    found, wanted = (json.loads((p / "results.json").read_text()) for p in (workdir, trained[0]))
    assert found["params_sha256"] == wanted["params_sha256"]


def test_two_at_once(home):
    """The second is refused, and the first doesn't notice."""
    argv = [*TINY, "--epochs=500", "--workdir=both"]
    with start(home, "train", *argv) as process:
        try:
            while not process.stdout.readline().startswith("epoch 1/"):
                assert process.poll() is None
            for flags in (argv, ["--resume", "--workdir=both"]):
                status, _, err = call(home, "train", *flags)
                assert status == 2
                assert "in use by another process" in err
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 143
    assert ", saved; go on with" in err


# --- the list of checkpoints -------------------------------------------------------------------


def test_checkpoints_are_listed(run, here):
    status, out, err = here(checkpoints_program, run)
    assert (status, err) == (0, "")
    line, last = out.splitlines()
    assert re.fullmatch(r"step +30 +\d\.\d{3} MB  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  good", line)
    assert last == "the run is finished, at step 30"
    (run / "results.json").unlink()
    assert here(checkpoints_program, run)[1].endswith("\ntraining resumes at step 30\n")


def test_damaged_checkpoints_are_listed(run, here):
    newer = shutil.copytree(run / "checkpoints" / "30", run / "checkpoints" / "40")
    (newer / "state" / "_METADATA").write_text("{}")
    (run / "checkpoints" / "damaged-50").mkdir()
    (run / "checkpoints" / "50").symlink_to("nowhere")
    status, out, err = here(checkpoints_program, run)
    assert status == 1
    assert "doesn't match SHA256SUMS" in out.splitlines()[1]
    assert "has no SHA256SUMS" in out.splitlines()[2]
    assert out.splitlines()[3] == "the run is finished, at step 30"
    assert err == f"set aside: {run / 'checkpoints' / 'damaged-50'}\n"
    status, out, _ = here(checkpoints_program, run, "--json")
    rows = json.loads(out)["checkpoints"]
    good = [(row["step"], row["damage"] is None) for row in rows]
    assert good == [(30, True), (40, False), (50, False)]
    assert rows[0]["bytes"] == sum(
        path.stat().st_size for path in (run / "checkpoints/30").rglob("*") if path.is_file()
    )


def test_a_checkpoint_of_another_run_is_told(run, here):
    edit_trained(run, epochs=2.0)
    status, out, _ = here(checkpoints_program, run)
    assert status == 1
    assert out.endswith("is of another run (epochs=1.5)\n")


def test_no_checkpoint_that_is_whole(run, here):
    (run / "checkpoints" / "30" / "SHA256SUMS").unlink()
    status, out, err = here(checkpoints_program, run)
    assert (status, out.count("\n")) == (1, 1)
    assert "can be restored; put back a copy of one" in err
    shutil.rmtree(run / "checkpoints")
    status, out, err = here(checkpoints_program, run)
    assert (status, out, err) == (0, f"{run / 'checkpoints'}: no checkpoint yet\n", "")
    status, _, err = here(checkpoints_program, run / "other")
    assert (status, err) == (
        2,
        f"error: {run / 'other'}: no such folder; give the folder of a run\n",
    )


def test_a_prediction_with_a_damaged_newer_checkpoint(run, here):
    """What was scored is another step's: refused, and the damage is named."""
    from digits_jax.deploy.network import load_network

    newest = run / "checkpoints" / "30"
    shutil.copytree(newest, run / "checkpoints" / "20")
    (newest / "SHA256SUMS").unlink()
    assert here(evaluate_program, run, "--devices=1")[0] == 2
    with pytest.raises(DigitsError, match="no checkpoint can be restored"):
        load_network(run)


# --- the library's doors ---------------------------------------------------------------------


def test_other_types_that_mean_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrainConfig(devices=2, workdir=tmp_path / "run", channels=[8, 16], data_dir="~/data")
    assert config.devices == "2"
    assert config.workdir == str(tmp_path / "run")
    assert config.channels == (8, 16)
    assert config.data_dir == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": "64"}, "field 'batch_size' is '64'; give an int"),
        ({"hidden_sizes": 8}, "field 'hidden_sizes' is 8; give a tuple of int"),
        ({"epochs": None, "seed": 1.5}, "field 'seed' is 1.5; give an int"),
        ({"devices": 2.0}, "field 'devices' is 2.0; give a str"),
        ({"workdir": 3}, "field 'workdir' is 3; give a str"),
        ({"devices": "²"}, "--devices=²: give a number, or auto"),
    ],
)
def test_types_that_mean_nothing(values, said):
    with pytest.raises(DigitsError, match=said):
        TrainConfig(**values).resolve("digits")


def test_other_things_than_a_configuration():
    for config in (None, {"arch": "cnn"}):
        with pytest.raises(DigitsError, match="give a TrainConfig"):
            fit(config)
    with pytest.raises(DigitsError, match=r"the data set is a tuple; give a digits_jax\.Dataset"):
        fit(TrainConfig(), dataset=(1, 2))


def test_resume_as_a_function(run):
    before = json.loads((run / "results.json").read_text())
    assert resume(run, quiet=True).results["params_sha256"] == before["params_sha256"]
    with pytest.raises(DigitsError, match="no such folder"):
        resume(run / "other")
