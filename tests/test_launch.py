"""The launcher: its processes end together, and none is left over."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import assert_one_error_line, environment

from digits_jax import launch as launch_program

WORKER = Path(__file__).resolve().parent / "worker.py"
SCRIPT = """
import sys
from digits_jax.cli import run_program
from digits_jax.launch import launch
options = dict(stopped_seconds=2.0)
sys.exit(run_program(lambda argv: launch(argv, {count}, **options)))
"""
SLEEPER = "import time; print('here', flush=True); time.sleep(3600)"
LONG = ("--steps=5000", "--step_seconds=0.02")
SECONDS = 60


@pytest.fixture
def started(home):
    """Starts a launcher of a command in some processes."""
    launchers = []

    def start(*command, count=2):
        launcher = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(count=count), sys.executable, *map(str, command)],
            cwd=home,
            env={**environment(home), "JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        launchers.append(launcher)
        return launcher

    yield start
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()


def children(launcher):
    """Process ids, in the order of their start."""
    path = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return sorted(int(pid) for pid in path.read_text().split())


def wait_for(launcher, *wanted):
    wanted = set(wanted)
    while wanted:
        line = launcher.stdout.readline()
        assert line, launcher.communicate()
        wanted = {start for start in wanted if not line.startswith(start)}


def outcome(launcher, pids):
    """Its status and errors, when it and all that it started have ended."""
    out, err = launcher.communicate(timeout=SECONDS)
    assert not [pid for pid in pids if is_alive(pid)]
    assert "Traceback" not in out + err
    return launcher.returncode, out, err


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
pytestmark = needs_proc


def test_two_processes_to_the_end(started):
    status, out, err = outcome(started(WORKER, "--steps=2"), [])
    assert (status, err) == (0, "")
    for index in range(2):
        mine = [line for line in out.splitlines() if line.startswith(f"[{index}] ")]
        assert mine == [
            f"[{index}] {line}"
            for line in (f"joined {index} of 2", "step 1 4", "step 2 12", "done")
        ]


@pytest.mark.slow
def test_one_process_has_no_prefix(started):
    status, out, err = outcome(started(WORKER, "--steps=1", count=1), [])
    assert (status, out, err) == (0, "joined 0 of 1\nstep 1 2\ndone\n", "")


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_is_killed(started, killed):
    launcher = started(WORKER, *LONG)
    wait_for(launcher, "[0] step 3 ", "[1] step 3 ")
    pids = children(launcher)
    os.kill(pids[killed], signal.SIGKILL)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + signal.SIGKILL
    who = f"process {killed} (process id {pids[killed]})"
    assert f"launch: {who} was ended by SIGKILL; ending the others\n" in err
    assert err.endswith(
        "launch: all have ended; start again with --resume --workdir=... to go on\n"
    )


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_is_stopped(started, stopped):
    launcher = started("-c", SLEEPER)
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    os.kill(pids[stopped], signal.SIGSTOP)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + signal.SIGSTOP
    who = rf"process {stopped} \(process id {pids[stopped]}\)"
    assert re.match(rf"launch: {who} is stopped, for 2 s; ending the others\n", err)


@pytest.mark.slow
def test_one_that_goes_on_after_a_stop(started):
    launcher = started("-c", "import time; print('here', flush=True); time.sleep(3)")
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    os.kill(pids[0], signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(pids[0], signal.SIGCONT)
    assert outcome(launcher, pids) == (0, "", "")


@pytest.mark.slow
def test_one_fails_with_a_status(started):
    script = "import sys, time; i = sys.argv[-1][-1]; i == '1' and sys.exit(7); time.sleep(3600)"
    launcher = started("-c", script)
    status, _, err = outcome(launcher, [])
    assert status == 7
    assert "ended with status 7; ending the others\n" in err


def test_an_error_of_the_trained_is_its_own(started):
    launcher = started(WORKER, "--taken=true")
    status, _, err = outcome(launcher, [])
    assert status == 2
    assert "[0] error: run: is taken; give another --workdir\n" in err
    assert "[1] error: process 0: run: is taken; give another --workdir\n" in err
    assert "--resume" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_is_passed_on_once(started, number):
    launcher = started(WORKER, *LONG)
    wait_for(launcher, "[0] step 3 ", "[1] step 3 ")
    pids = children(launcher)
    launcher.send_signal(number)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + number
    assert sorted(re.findall(r"\[(.)\] stopped at step \d+\n", err)) == ["0", "1"]
    assert err.count("\n") == 2


@pytest.mark.slow
def test_a_second_signal_waits_for_nothing(started):
    stubborn = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]\n" + SLEEPER
    launcher = started("-c", stubborn)
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    launcher.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(1)
    launcher.send_signal(signal.SIGINT)
    status, _, _ = outcome(launcher, pids)
    assert status == 128 + signal.SIGKILL


def test_a_launcher_that_is_killed_leaves_none(started):
    launcher = started("-c", SLEEPER)
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    os.kill(pids[1], signal.SIGSTOP)  # a stopped one as well
    launcher.kill()
    until = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_reader_that_leaves_ends_all(started):
    script = "import itertools\nfor i in itertools.count(): print(i, flush=True)"
    launcher = started("-c", script)
    wait_for(launcher, "[0] 3", "[1] 3")
    pids = children(launcher)
    launcher.stdout.close()
    with contextlib.suppress(ValueError):
        assert launcher.wait(SECONDS) != 0
    assert not [pid for pid in pids if is_alive(pid)]


# --- its command line ----------------------------------------------------------------------------

WRONG = {
    (): "give it after --, as to digits_jax.train",
    ("--",): "the following arguments are required: --num-processes",
    ("--num-processes=2",): "give it after --, as to digits_jax.train",
    ("--num-processes=x", "--"): "invalid int value: 'x'",
    ("--num-processes=0", "--"): "--num-processes=0: give 1 to 64",
    ("--num-processes=65", "--"): "--num-processes=65: give 1 to 64",
    ("--num-processes=2", "--devices-per-process=0", "--"): "--devices-per-process=0: give 1",
    ("--num-processes=2", "--arch=cnn", "--"): "unrecognized arguments: --arch=cnn",
    ("--num-processes=2", "--", "--process-id=1"): "--process-id=1: launch gives it",
    ("--num-processes=2", "--", "--num_processes=1"): "--num_processes=1: launch gives it",
}


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_flags_that_cannot_be(here, argv):
    status, out, err = here(launch_program, *argv)
    assert_one_error_line(status, out, err)
    assert WRONG[argv] in err


def test_what_it_starts(monkeypatch):
    calls = []
    monkeypatch.setattr(launch_program, "launch", lambda *call: calls.append(call) or 0)
    argv = ["--num-processes=2", "--devices-per-process=3", "--", "--arch=cnn", "--seed=1"]
    assert launch_program.main(argv) == 0
    assert calls == [([*launch_program.TRAIN, "--arch=cnn", "--seed=1"], 2, 3)]


def test_a_wrong_flag_is_said_once(here, monkeypatch):
    monkeypatch.setattr(launch_program, "launch", lambda *_: pytest.fail("it was started"))
    status, out, err = here(launch_program, "--num-processes=2", "--", "--sedd=3")
    assert_one_error_line(status, out, err)
    assert "did you mean --seed?" in err


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores can't be told apart here")
@pytest.mark.parametrize("count", [2, 3, 64])
def test_each_gets_its_share_of_the_cores(count):
    here = os.sched_getaffinity(0)
    shares = [launch_program._share_of_cores(index, count) for index in range(count)]
    assert all(share and share <= here for share in shares)
    assert set().union(*shares) == here or count < len(here)
    if count <= len(here):
        assert sum(map(len, shares)) == len(here)  # none twice
    assert launch_program._share_of_cores(0, 1) is None


def test_help_imports_no_jax():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "digits_jax.launch", "--help"],
        cwd=WORKER.parent.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0
    assert "--num-processes" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "optax", "numpy"}
