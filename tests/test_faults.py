"""What goes wrong around a program: signals, disks, damaged files, readers that leave."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from programs import TIMEOUT_SECONDS, TINY, assert_refused, call, stop, training

from digits_jax import checkpoints as checkpoints_program
from digits_jax import evaluate as evaluate_program
from digits_jax import hardware
from digits_jax import train as train_program
from digits_jax.runs.checkpoint import find_damage
from digits_jax.runs.folder import read_results

ENDLESS = (*TINY, "--epochs=500")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, to be damaged."""
    return shutil.copytree(trained[0], tmp_path / "run")


@pytest.fixture
def resumed(here, run):
    """Resumes the copy."""
    return lambda: here(train_program, "--resume", f"--workdir={run}", "--devices=1")


def edit(run, part, **values):
    """Changes fields of a part of config.json."""
    path = run / "config.json"
    found = json.loads(path.read_text())
    found[part] = {**found[part], **values}
    path.write_text(json.dumps(found))


def in_place_of(path, make):
    """Makes a folder or a pipe where a file was."""
    path.unlink()
    make(path)


def put_a_file(path):
    shutil.rmtree(path)
    path.touch()


# --- a finished run whose files are damaged ----------------------------------------------------

REPAIRED = {
    "metrics are no text": lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\x00\xfe"),
    "results are a list": lambda run: (run / "results.json").write_text("[]"),
    "results gone": lambda run: (run / "results.json").unlink(),
    "predictions cut": lambda run: os.truncate(run / "predictions.npz", 50),
}


@pytest.mark.parametrize("damage", REPAIRED)
def test_a_resumed_run_is_repaired(run, trained, resumed, damage):
    REPAIRED[damage](run)
    status, out, err = resumed()
    assert status == 0
    assert bool(err) == damage.startswith("metrics")
    assert all(line.startswith(f"warning: {run}/metrics.jsonl: ") for line in err.splitlines())
    assert f"{run}: already finished at step 30 of 30" in out
    found, wanted = read_results(run), read_results(trained[0])
    names = ["params_sha256", "test_errors", "steps"]
    names += [] if damage.startswith("results") else ["train_seconds", "images_per_second"]
    assert {name: found[name] for name in names} == {name: wanted[name] for name in names}
    # Scored by code that was compiled without optimizations, as all in this process is.
    assert found["test_loss"] == pytest.approx(wanted["test_loss"], rel=1e-6)
    assert (run / "predictions.npz").stat().st_size > 50


REFUSED = {
    "metrics are a pipe": (
        lambda run: in_place_of(run / "metrics.jsonl", os.mkfifo),
        "not a regular file",
    ),
    "predictions are a folder": (
        lambda run: in_place_of(run / "predictions.npz", os.mkdir),
        "Is a directory",
    ),
    "config is a list": (lambda run: (run / "config.json").write_text("[]"), "config.json"),
    "config is a pipe": (lambda run: in_place_of(run / "config.json", os.mkfifo), "holds no run"),
    "other data": (lambda run: edit(run, "dataset", sha256="0"), "another version of 'digits'"),
    "another seed": (lambda run: edit(run, "config", seed=5), "seed=0, and the run has 5"),
    "another size": (
        lambda run: edit(run, "config", hidden_sizes=[17]),
        "it has hidden_sizes=[16], and the run has [17]",
    ),
    "empty sums": (
        lambda run: (run / "checkpoints/30/SHA256SUMS").write_text(""),
        "no checkpoint can be restored",
    ),
    "a file as checkpoints": (lambda run: put_a_file(run / "checkpoints"), "is not a folder"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_cannot_be_repaired_is_one_line(run, resumed, damage):
    act, said = REFUSED[damage]
    act(run)
    status, _, err = resumed()
    assert status in (1, 2)
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert said in err


def test_results_of_other_parameters_are_not_reported(run, here):
    """A step that was put back is not what results.json tells of, and the damage is named."""
    (run / "results.json").write_text("[]")
    assert_refused(here(evaluate_program, run, "--devices=1"), "params_sha256 differs")
    newest = run / "checkpoints" / "30"
    shutil.copytree(newest, run / "checkpoints" / "20")
    (newest / "SHA256SUMS").unlink()
    status, _, err = here(evaluate_program, run, "--devices=1")
    assert status == 2
    assert "SHA256SUMS" in err


@pytest.mark.slow
def test_the_environment_does_not_change_the_model(trained, home):
    """JAX takes these from the environment, as a notebook or another framework may set them."""
    env = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "none", "JAX_RANDOM_SEED_OFFSET": "3"}
    env["JAX_THREEFRY_PARTITIONABLE"] = "0"
    status, _, err = call(home, "train", *TINY, "--workdir=pinned", env=env)
    assert (status, err) == (0, "")
    found = read_results(home / "pinned")["params_sha256"]
    assert found == read_results(trained[0])["params_sha256"]


# --- signals -----------------------------------------------------------------------------------


def test_signals_end_a_program(home):
    """While it compiles; test_ctrl_c_and_resume and test_two_at_once end it while it trains."""
    with training(home, *ENDLESS, "--workdir=compiling", until="data ") as process:
        status, err = stop(process, signal.SIGTERM)
    assert status == 143
    assert err == "stopped\n" or err.startswith("stopped at step ")


def test_a_signal_while_python_imports(home):
    """Python's own KeyboardInterrupt would be an ImportError in NumPy, or be swallowed."""
    script = "import sys; from digits_jax.cli import run_program; from digits_jax import train\n"
    script += "def main(argv):\n    print('here', flush=True)\n    return train.main(argv)\n"
    script += "sys.exit(run_program(main))"
    with training(home, *ENDLESS, "--dry-run", script=script, until="here") as process:
        # Within the import of JAX, which takes a second.
        assert stop(process, signal.SIGINT) == (130, "stopped\n")


def test_a_second_signal_does_not_wait(home, here):
    argv = [*ENDLESS, "--checkpoint-every-steps=1", "--workdir=twice"]
    with training(home, *argv, until="epoch 1/") as process:
        status, err = stop(process, signal.SIGINT, signal.SIGINT)
    assert status == 130  # the two may arrive as one
    assert "--resume --workdir=twice" in err
    assert "Traceback" not in err
    flags = ["--resume", "--dry-run", f"--workdir={home / 'twice'}", "--devices=1"]
    status, out, _ = here(train_program, *flags)
    assert status == 0
    assert "it would resume at step" in out


def test_a_reader_that_leaves_stops_a_training(home):
    """As ``| head -3`` does; what was trained until then is saved."""
    with training(home, *ENDLESS, "--workdir=unread", until="epoch 1/") as process:
        process.stdout.close()
        assert process.wait(TIMEOUT_SECONDS) == 141
        err = process.stderr.read()
    assert re.match(r"stopped at step \d+ of \d+, saved; resume with", err)


def test_streams_that_are_closed_or_ascii(trained, home):
    """A service has no standard error; an old locale has no umlauts."""
    shutil.copytree(trained[0], home / "über")
    env = {"PYTHONIOENCODING": "ascii"}
    flags = ["--resume", "--workdir=über"]
    status, out, _ = call(home, "train", *flags, env=env, closed_stderr=True)
    assert status == 0
    assert r"; \xfcber" in out


# --- disks -------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, in memory, and a function that mounts it again with other options."""
    path = tmp_path / "disk"
    path.mkdir()

    def remount(options):
        command = ["mount", "-o", f"remount,{options}", path]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    mount = ["mount", "-t", "tmpfs", "tmpfs", path]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount, and not everywhere")
    yield path, remount
    subprocess.run(["umount", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8k", "400k"])  # in the first epoch's files, in a checkpoint
def test_a_disk_that_fills_up(home, disk, size):
    path, remount = disk
    assert remount(f"size={size}")
    status, _, err = call(home, "train", *TINY, "--hidden-sizes=200", f"--workdir={path / 'run'}")
    assert status in (1, 2)
    assert re.fullmatch(r"error: [^\n]+\n", err)
    assert remount("size=40m")
    status, out, err = call(home, "train", "--resume", f"--workdir={path / 'run'}")
    assert (status, err) == (0, "")
    assert "digits test accuracy" in out


@pytest.mark.slow
def test_a_disk_that_turns_read_only(home, disk):
    """As Linux makes one that has errors: one line, and what was saved is intact.

    Linux doesn't while a file is open for writing, as the lock is in training: see
    test_a_disk_that_fails for the saves.
    """
    path, remount = disk
    argv = [*TINY, "--checkpoint-every-steps=9", f"--workdir={path / 'run'}"]
    status, _, err = call(home, "train", *argv)
    assert (status, err) == (0, "")
    assert remount("ro")
    for step in (18, 27, 30):
        assert find_damage(path / "run" / "checkpoints", step) is None
    status, _, err = call(home, "train", "--resume", f"--workdir={path / 'run'}")
    assert status == 2
    assert "can't be written (Read-only file system)" in err
    status, _, err = call(home, "evaluate", path / "run")
    assert (status, err) == (0, "")


# --- clocks, folders that move, two at once ------------------------------------------------------


def test_a_clock_that_was_set_back(run, trained, here, tmp_path, monkeypatch):
    """Steps are ordered by their numbers, not by when they were saved."""
    workdir = tmp_path / "moved" / "über den Berg"  # and the folder has been moved
    workdir.parent.mkdir()
    shutil.move(run, workdir)
    (workdir / "results.json").unlink()
    for path in workdir.rglob("*"):
        os.utime(path, (4e9, 4e9))  # written in 2096
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e8)
    status, out, err = here(train_program, "--resume", f"--workdir={workdir}", "--devices=1")
    assert (status, err) == (0, "")
    assert "already finished at step 30 of 30" in out
    assert read_results(workdir)["params_sha256"] == read_results(trained[0])["params_sha256"]


def test_two_at_once(home, here):
    """The second is refused, and the first goes on."""
    workdir = f"--workdir={home / 'both'}"
    with training(home, *ENDLESS, workdir, until="epoch 1/") as process:
        for flags in (ENDLESS, ["--resume"]):
            assert_refused(
                here(train_program, *flags, workdir, "--devices=1"), "in use by another process"
            )
        assert process.poll() is None
        status, err = stop(process, signal.SIGHUP)
    assert status == 129
    assert ", saved; resume with" in err


# --- the list of checkpoints ---------------------------------------------------------------------


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
    files = [path for path in (run / "checkpoints/30").rglob("*") if path.is_file()]
    assert rows[0]["bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 2.0, r"it has epochs=1\.5, and the run has 2\.0\n$"),
        ("hidden_sizes", [17], r"is float32\[(10, )?16\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_listed_as_damaged(run, here, field, value, said):
    edit(run, "config", **{field: value})
    status, out, _ = here(checkpoints_program, run)
    assert status == 1
    assert re.search(said, out)


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"count": "text"},
        {"loss": None},
        {"run": "text"},
        {"train_seconds": [1]},
        {"skipped": True},
        {"correct": 10**400},
    ],
)
def test_values_of_other_types_are_one_line(run, here, resumed, values):
    """An untrusted checkpoint, whose sums are right."""
    step = run / "checkpoints" / "30"
    saved = json.loads((step / "values.json").read_text())
    changed = json.dumps({**saved, **values} if values else values).encode()
    sums = (step / "SHA256SUMS").read_text()
    old = hashlib.sha256((step / "values.json").read_bytes()).hexdigest()
    (step / "values.json").write_bytes(changed)
    (step / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(changed).hexdigest()))
    status, out, _ = here(checkpoints_program, run)
    assert status == 1
    assert "values.json" in out
    assert_refused(resumed(), "values.json")


def test_no_intact_checkpoint(run, here):
    (run / "checkpoints" / "30" / "SHA256SUMS").unlink()
    status, out, err = here(checkpoints_program, run)
    assert (status, out.count("\n")) == (1, 1)
    assert "put back a copy of one" in err
    shutil.rmtree(run / "checkpoints")
    status, out, err = here(checkpoints_program, run)
    assert (status, out, err) == (0, f"{run / 'checkpoints'}: no checkpoint yet\n", "")
    assert_refused(here(checkpoints_program, run / "other"), "no such folder")


# --- the compilation cache -----------------------------------------------------------------------


def test_damaged_entries_of_the_compilation_cache_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_caches", [tmp_path])
    for name in ("good", "flipped", "cut", "link"):
        (tmp_path / f"{name}-cache").write_bytes(name.encode() * 9)
    hardware.record_compilation_cache()
    (tmp_path / "flipped-cache").write_bytes(b"flipqed" * 9)
    os.truncate(tmp_path / "cut-cache", 5)
    (tmp_path / "link-cache").rename(tmp_path / "elsewhere")
    (tmp_path / "link-cache").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe-cache")
    (tmp_path / "unknown-cache").touch()  # of a process that was killed
    hardware.drop_damaged_entries(tmp_path)
    assert [entry.name for entry in tmp_path.glob("*-cache")] == ["good-cache"]


@pytest.mark.slow
def test_a_damaged_compilation_cache_costs_no_more_than_compiling(trained, tmp_path):
    caches = []
    for workdir in ("first", "second"):
        env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        status, _, err = call(tmp_path, "train", *TINY, f"--workdir={workdir}", env=env)
        assert (status, err) == (0, "")
        found = read_results(tmp_path / workdir)["params_sha256"]
        assert found == read_results(trained[0])["params_sha256"]
        caches.append(sorted(tmp_path.glob("cache/digits_jax/xla-*/*-cache")))
        for entry in caches[-1]:
            content = bytearray(entry.read_bytes())
            content[len(content) // 2] ^= 1
            entry.write_bytes(content)
    assert caches[0] == caches[1] != []
