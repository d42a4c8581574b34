"""The launcher and `training.distributed`: processes end together, and none is left over."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from programs import assert_refused, children, environment, start, wait_for

from digits_jax import launch as launch_program

WORKER = Path(__file__).resolve().parent / "worker.py"
SCRIPT = """
import sys
from digits_jax.cli import leave, run_program
from digits_jax.launch import launch
count, seconds, *command = sys.argv[1:]
leave(run_program(lambda argv: launch(command, int(count), stopped_seconds=float(seconds))))
"""
SLEEPER = ("-c", "import time; print('here', flush=True); time.sleep(3600)")
SECONDS = 90  # in which all end, whatever happens to one

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")


@pytest.fixture
def started(home):
    """Starts a launcher of a Python command in some processes."""
    launchers = []

    def launch(*command, stopped_seconds=1):
        argv = (2, stopped_seconds, sys.executable, *command)
        launchers.append(start(home, None, *argv, script=SCRIPT))
        return launchers[-1]

    yield launch
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()


def has_ended(pid, seconds=0):
    """Whether a process has ended, or ends within some seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def outcome(launcher, pids=()):
    """Its status, output and errors, when it and all that it started have ended."""
    out, err = launcher.communicate(timeout=SECONDS)
    assert all(map(has_ended, pids))
    return launcher.returncode, out, err


def who(index, pids):
    return f"launch: process {index} (process id {pids[index]})"


def test_two_processes_to_the_end(started):
    status, out, err = outcome(started(WORKER, "--steps=2"))
    assert (status, err) == (0, "")
    for index in range(2):
        mine = [line for line in out.splitlines() if line.startswith(f"[{index}] ")]
        # The first says where all write; step n adds n on each of four devices.
        assert mine == [
            f"[{index}] {line}"
            for line in (
                f"joined {index} of 2 run-0",
                f"prepared {index}",
                *("step 1 4", "step 2 12", "done"),
            )
        ]


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_is_killed(started, killed):
    launcher = started(WORKER)
    wait_for(launcher, "[0] step 3 ", "[1] step 3 ")
    pids = children(launcher)
    os.kill(pids[killed], signal.SIGKILL)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + signal.SIGKILL
    assert f"{who(killed, pids)} was ended by SIGKILL; ending the others\n" in err
    last = "was ended by SIGKILL; all have ended; restart with --resume --workdir=..."
    assert err.splitlines()[-1] == f"{who(killed, pids)} {last}"


def test_one_is_stopped(started):
    launcher = started(*SLEEPER)
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    os.kill(pids[1], signal.SIGSTOP)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + signal.SIGSTOP
    assert err.splitlines()[-1].startswith(f"{who(1, pids)} is stopped, for 1 s; all have ended")


@pytest.mark.slow
def test_jax_notices_one_that_is_stopped(started):
    """Without the launcher's help, as on several machines."""
    launcher = started(WORKER, "--heartbeat-seconds=5", stopped_seconds=3600)
    wait_for(launcher, "[0] step 3 ", "[1] step 3 ")
    pids = children(launcher)
    os.kill(pids[1], signal.SIGSTOP)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + signal.SIGABRT
    assert err.splitlines()[-1].startswith(f"{who(0, pids)} was ended by SIGABRT")


@pytest.mark.slow
def test_a_port_in_use(home):
    """JAX 0.10 often crashes there, after a line of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        flags = [f"--coordinator=127.0.0.1:{port}", "--num-processes=2", "--process-id=0"]
        command = [sys.executable, WORKER, *flags]
        done = subprocess.run(
            command, env=environment(home), capture_output=True, text=True, timeout=SECONDS
        )
    assert done.returncode
    assert port in done.stderr


@pytest.mark.slow
def test_one_that_continues_after_a_stop(started):
    launcher = started("-c", "import time; print('here', flush=True); time.sleep(3)")
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    os.kill(pids[0], signal.SIGSTOP)
    os.kill(pids[0], signal.SIGCONT)
    assert outcome(launcher, pids) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "status", "first", "said"),
    [
        (["--only=1", "--fails-at=3"], 1, 1, "RuntimeError: a bug"),
        (["--only=1", "--stalls-at=3", "--stall-seconds=8"], 1, 1, "worker.py"),
        (["--only=0", "--prepare-fails=true"], 2, None, "process 0: data_dir=x: no such"),
        (["--only=1", "--seed=1"], 2, None, "seed=1 in process 1 and 0 in process 0"),
        (["--only=1", "--devices=1"], 2, None, r"devices=\[2, 1\]: must be as many"),
        (["--only=1", "--late=true", "--initialization-seconds=5"], 134, None, "waiting for"),
    ],
    ids=["a bug", "no progress", "data", "another configuration", "devices", "too late"],
)
def test_one_that_cannot_go_on_ends_all(started, flags, status, first, said):
    launcher = started(WORKER, *flags)
    found, _, err = outcome(launcher)
    assert found == status
    assert re.search(said, err)
    last = err.splitlines()[-1]
    assert re.match(rf"launch: process {'[01]' if first is None else first} \(", last), err


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_signal_is_passed_on_once(started, number):
    launcher = started(WORKER)
    wait_for(launcher, "[0] step 3 ", "[1] step 3 ")
    pids = children(launcher)
    launcher.send_signal(number)
    status, _, err = outcome(launcher, pids)
    assert status == 128 + number
    stops = re.findall(r"\[(.)\] stopped at step (\d+)\n", err)
    assert sorted(index for index, _ in stops) == ["0", "1"]
    assert len({step for _, step in stops}) == 1
    assert err.count("\n") == 2


@pytest.mark.slow
def test_a_second_signal_waits_for_nothing(started):
    ignoring = f"import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]\n{SLEEPER[1]}"
    launcher = started("-c", ignoring)
    wait_for(launcher, "[0] here", "[1] here")
    pids = children(launcher)
    launcher.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(1)
    launcher.send_signal(signal.SIGINT)
    assert outcome(launcher, pids)[0] == 128 + signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["its reader leaves", "it is killed"])
def test_processes_end_with_the_launcher(started, killed):
    """At the next line that they print."""
    launcher = started(WORKER)
    wait_for(launcher, "[0] step 3 ", "[1] step 3 ")
    pids = children(launcher)
    if killed:
        launcher.kill()
    else:
        launcher.stdout.close()
    assert launcher.wait(SECONDS) != 0
    assert all(has_ended(pid, SECONDS) for pid in pids)


# --- its command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "num-processes is missing"),
        (("--num-processes=2",), "give them after --"),
        (("--num-processes=65", "--"), "at most 64"),
        (("--num-processes=2", "--devices-per-process=0", "--"), "--devices-per-process=0: must"),
        (("--num-processes=2", "--", "--num_processes=1"), "--num_processes=1: launch gives it"),
        (("--num-processes=2", "--", "--sedd=3"), "did you mean --seed?"),
    ],
)
def test_flags_that_cannot_be_used(here, monkeypatch, argv, message):
    monkeypatch.setattr(launch_program, "launch", lambda *_: pytest.fail("it was started"))
    assert_refused(here(launch_program, *argv), message)


def test_what_it_starts(monkeypatch):
    calls = []
    monkeypatch.setattr(launch_program, "launch", lambda *call: calls.append(call) or 0)
    argv = ["--num-processes=2", "--devices-per-process=3", "--", "--arch=cnn", "--seed=1"]
    assert launch_program.main(argv) == 0
    assert calls == [([*launch_program.TRAIN, "--arch=cnn", "--seed=1"], 2, 3)]
