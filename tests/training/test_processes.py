"""Processes that train together, each in one of its own, with real signals and time limits."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import environment

from digits_jax import InputError
from digits_jax.training.group import Group
from digits_jax.training.lines import Line
from digits_jax.training.peers import Peer, find_lost, find_stalled
from digits_jax.training.processes import join

WORKER = Path(__file__).resolve().parent.parent / "worker.py"
# All are to be gone in 60 s; the limits here are the default ones but where a test says so.
ENDED_SECONDS = 60
LONG = {"steps": 5000, "step_seconds": 0.02}
QUICK = {"silent_seconds": 5.0}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Team:
    """Workers on this machine, which are ended when the test is."""

    def __init__(self, home):
        self.home, self.processes, self.port = home, [], free_port()

    def start(self, index, count=2, env=None, **told):
        address = {"coordinator": f"127.0.0.1:{self.port}"}
        told = {**address, "num_processes": count, "process_id": index, **told}
        process = subprocess.Popen(
            [sys.executable, WORKER, json.dumps(told)],
            cwd=self.home,
            env={**environment(self.home), "JAX_NUM_CPU_DEVICES": "2", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def start_both(self, **told):
        return self.start(0, **told), self.start(1, **told)

    def end(self):
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def team(home):
    team = Team(home)
    yield team
    team.end()


def wait_for(process, line):
    while not process.stdout.readline().startswith(line):
        assert process.poll() is None


def outcome(process, seconds=ENDED_SECONDS):
    """Its status and its last words; no dump of a C++ stack is among them."""
    out, err = process.communicate(timeout=seconds)
    assert "Check failure stack trace" not in out + err
    assert "Gloo" not in out
    assert "Traceback" not in err, err
    return process.returncode, out, err


def error_of(process, seconds=ENDED_SECONDS):
    """Of a process that ends with one line; JAX may warn of something before it."""
    status, _, err = outcome(process, seconds)
    assert status in (1, 2)
    *_, last = err.splitlines()
    assert err.count("error: ") == 1, err
    assert last.startswith("error: "), err
    return last


# --- a good end --------------------------------------------------------------------------------


def test_two_processes_of_two_devices(team):
    workers = team.start_both(steps=4)
    for index, worker in enumerate(workers):
        status, out, err = outcome(worker)
        assert (status, err) == (0, "")
        # Step n adds n on each of four devices.
        assert out.splitlines() == [
            f"joined {index} of 2",
            *("step 1 4", "step 2 12", "step 3 24", "step 4 40"),
            "done",
        ]


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
def test_an_end_at_different_times_is_no_failure(team, slow):
    limits = {"silent_seconds": 4.0, "beat_seconds": 0.5}
    workers = [team.start(i, limits=limits, late_seconds=9 * (i == slow)) for i in range(2)]
    assert [outcome(worker)[0] for worker in workers] == [0, 0]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_stops_both_at_one_step(team, asked):
    workers = team.start_both(**LONG)
    wait_for(workers[asked], "step 3 ")
    workers[asked].send_signal(signal.SIGTERM)
    said = [outcome(worker) for worker in workers]
    assert [status for status, *_ in said] == [143, 143]
    assert said[0][2] == said[1][2]
    assert said[0][2].startswith("stopped at step ")


@pytest.mark.slow
def test_one_started_late(team):
    first = team.start(0, steps=2)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(8)
    second = team.start(1, steps=2)
    assert [outcome(worker)[0] for worker in (first, second)] == [0, 0]


# --- one fails in training ---------------------------------------------------------------------


@pytest.mark.parametrize("killed", [0, 1])
def test_one_is_killed(team, killed):
    workers = team.start_both(**LONG)
    for worker in workers:
        wait_for(worker, "step 3 ")
    workers[killed].kill()
    began = time.monotonic()
    error = error_of(workers[1 - killed])
    assert time.monotonic() - began < 20
    pid = workers[killed].pid
    assert f"error: process {killed} (" in error
    assert f"process id {pid}) has gone: it was killed or crashed; last seen " in error
    assert error.endswith("; start all again, with --resume")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_one_is_stopped(team, stopped):
    """With the limits that users have."""
    workers = team.start_both(**LONG)
    for worker in workers:
        wait_for(worker, "step 3 ")
    workers[stopped].send_signal(signal.SIGSTOP)
    error = error_of(workers[1 - stopped], 30)
    assert f"error: process {stopped} (" in error
    assert "has been silent for 15 s: it is stopped, or its machine" in error
    # The stopped one, when it is woken, finds the others gone, or what they told it.
    workers[stopped].send_signal(signal.SIGCONT)
    assert error_of(workers[stopped], 30).startswith("error: process ")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 2])
def test_one_of_three_is_stopped(team, stopped):
    workers = [team.start(i, 3, limits=QUICK, **LONG) for i in range(3)]
    for worker in workers:
        wait_for(worker, "step 3 ")
    workers[stopped].send_signal(signal.SIGSTOP)
    for i in {0, 1, 2} - {stopped}:
        assert f"error: process {stopped} (" in error_of(workers[i], 20)


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [0, 1])
def test_one_has_stalled(team, stuck):
    """Its main thread sleeps; its other threads are alive."""
    workers = [
        team.start(
            i, limits={"stall_seconds": 8.0}, **LONG, **({"sleeps_at": 5} if i == stuck else {})
        )
        for i in range(2)
    ]
    for worker in workers:
        error = error_of(worker)
        assert f"error: process {stuck} has stalled: training at step 5" in error
        assert "in worker.py:" in error


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_in_training_ends_both(team, failing):
    workers = [team.start(i, **LONG, **({"fails_at": 3} if i == failing else {})) for i in range(2)]
    assert error_of(workers[failing]) == "error: the disk is full"
    assert error_of(workers[1 - failing]) == f"error: process {failing}: the disk is full"


@pytest.mark.slow
def test_a_bug_keeps_its_traceback_and_ends_both(team):
    workers = [team.start(0, **LONG), team.start(1, crashes_at=3)]
    assert error_of(workers[0]) == "error: process 1: RuntimeError: a bug of two lines"
    _, err = workers[1].communicate(timeout=ENDED_SECONDS)
    assert workers[1].returncode == 1
    assert err.endswith("RuntimeError: a bug\nof two lines\n")


# --- before training ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "second",
    [
        {"seed": 2},
        *(pytest.param(p, marks=pytest.mark.slow) for p in ({}, {"seed": 1, "arch": "mlp"})),
    ],
)
def test_another_configuration(team, second):
    workers = team.start(0, config={"seed": 1}), team.start(1, config=second)
    said = {error_of(worker) for worker in workers}
    name, values = (
        ("arch", ("'mlp'", "None")) if "arch" in second else ("seed", (second.get("seed"), 1))
    )
    assert said == {
        f"error: {name} is {values[0]} in process 1 and {values[1]} in process 0; "
        "start all processes with the same configuration"
    }


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_one_dies_while_jax_joins(team, dying):
    workers = [team.start(i, dies_joining=i == dying) for i in range(2)]
    began = time.monotonic()
    assert f"error: process {dying} (" in error_of(workers[1 - dying])
    assert time.monotonic() - began < 20
    assert workers[dying].wait(1) == -signal.SIGKILL


def test_an_error_before_training_reaches_all(team):
    workers = team.start_both(taken=True)
    assert error_of(workers[0]) == "error: run: is taken; give another --workdir"
    assert error_of(workers[1]) == "error: process 0: run: is taken; give another --workdir"


@pytest.mark.slow
def test_nobody_at_the_coordinator(team):
    """With the limits that users have."""
    worker = team.start(1)
    began = time.monotonic()
    error = error_of(worker, 35)
    assert time.monotonic() - began < 30
    assert f"error: --coordinator=127.0.0.1:{team.port}: process 1 can't join process 0" in error
    assert "nobody answers there: connection refused" in error


@pytest.mark.slow
def test_too_few_come(team):
    workers = [team.start(i, 3, limits={"join_seconds": 4.0}) for i in range(2)]
    for worker in workers:
        assert "2 of --num-processes=3 have come" in (error := error_of(worker, 20))
        assert "missing: 2; start them all within 4 s" in error


@pytest.mark.slow
def test_too_few_come_in_the_time_that_users_have(team):
    began = time.monotonic()
    assert "1 of --num-processes=2 have come" in error_of(team.start(0), 35)
    assert time.monotonic() - began < 30


def test_another_count(team):
    workers = team.start(0, 2), team.start(1, 3)
    for worker in workers:
        assert "was started with --num-processes=3 and process 0 with 2" in error_of(worker)


def test_two_of_the_same_number(team):
    workers = team.start(0, 3), team.start(1, 3), team.start(1, 3)
    for worker in workers:
        assert "--process-id=1 was given to two processes" in error_of(worker)


@pytest.mark.slow
def test_two_of_number_zero(team):
    """The second finds the port taken; the first goes on waiting for the other process."""
    first = team.start(0, steps=1)
    wait_until_listening(team.port)
    assert "or another process 0, has it" in error_of(team.start(0))
    assert outcome(team.start(1, steps=1))[0] == 0
    assert outcome(first)[0] == 0


def wait_until_listening(port):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody listens")


@pytest.mark.slow
def test_a_busy_port(team):
    with socket.create_server(("127.0.0.1", team.port)):
        error = error_of(team.start(0), 30)
        assert f"process 0 can't listen on port {team.port} (address already in use)" in error
        error = error_of(team.start(1, limits={"join_seconds": 2.0}), 30)
        assert "process 1 can't join process 0" in error


@pytest.mark.slow
def test_another_program_answers(team):
    with socket.create_server(("127.0.0.1", team.port)) as listener:
        worker = team.start(1, limits={"join_seconds": 3.0})
        listener.settimeout(0.1)
        while worker.poll() is None:
            try:
                connected = listener.accept()[0]
            except TimeoutError:
                continue
            with connected:
                connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connected.settimeout(1)
                with contextlib.suppress(OSError):
                    while connected.recv(1000):
                        pass
    assert "what answers there is another program" in error_of(worker, 30)


@pytest.mark.slow
def test_strangers_at_the_door_do_no_harm(team):
    first = team.start(0, steps=1)
    wait_until_listening(team.port)
    callers = [socket.create_connection(("127.0.0.1", team.port)) for _ in range(4)]
    for caller, said in zip(
        callers, (b"", b"GET / HTTP/1.1\r\n", b"[1]\n", b'{"id": 1}\n'), strict=True
    ):
        caller.sendall(said)
    second = team.start(1, steps=1)
    assert [outcome(worker)[0] for worker in (first, second)] == [0, 0]
    for caller in callers:
        caller.close()


# --- where the cluster says it -----------------------------------------------------------------


def slurm(index, port, count=2):
    """What srun sets; JAX's port is the job's number modulo 4096, after 61440."""
    return {
        "SLURM_JOB_ID": str(port - 61440),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


NOTHING = {"coordinator": None, "num_processes": None, "process_id": None}


def high_port():
    for port in range(61440 + os.getpid() % 4000, 65536):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no free port")


def test_slurm_starts_two_tasks(team):
    port = high_port()
    workers = [team.start(i, env=slurm(i, port), steps=2, **NOTHING) for i in range(2)]
    for index, worker in enumerate(workers):
        status, out, _ = outcome(worker)
        assert status == 0
        assert out.startswith(f"joined {index} of 2\n")
        assert "step 2 12" in out


def test_slurm_starts_one_task(team):
    status, out, _ = outcome(team.start(0, env=slurm(0, high_port(), 1), steps=2, **NOTHING))
    assert status == 0
    assert out.startswith("joined 0 of 1\nstep 1 2\n")


# --- in this process ---------------------------------------------------------------------------


def test_one_process_pays_nothing(monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    with join() as group:
        group.note("training", 1)
        group.agree({"seed": 1})
        group.barrier("here")
        assert group.gather("all", (1, 2)) == [[1, 2]]
        assert group.first_says("name", "run") == "run"
    with pytest.raises(ZeroDivisionError), join(num_processes=1):
        _ = 1 / 0


def test_groups_speak_in_json():
    """Two groups in one process, over a pair of sockets."""
    ends = socket.socketpair(socket.AF_INET6) if sys.platform == "win32" else tcp_pair()
    groups = [Group(i, 2, {1 - i: Line(end)}, {1 - i: "here"}) for i, end in enumerate(ends)]
    import threading

    said = [None, None]

    def speak(i):
        said[i] = groups[i].gather("numbers", {"a": (1, i)})
        groups[i].finish()
        groups[i].close()

    threads = [threading.Thread(target=speak, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert said == [[{"a": [1, 0]}, {"a": [1, 1]}]] * 2


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.create_connection(listener.getsockname()), listener.accept()[0]


def test_a_line_that_is_not_ours():
    here, there = tcp_pair()
    line = Line(here)
    there.sendall(b'{"a": 1}\n{"b"')
    assert line.receive() == [{"a": 1}]
    there.sendall(b": 2}\nno json\n")
    with pytest.raises(ValueError, match="Expecting value"):
        line.receive()
    there.close()
    with pytest.raises(EOFError):
        line.receive()
    assert line.send(x=1) in (True, False)
    line.close()
    assert not line.send(x=1)
    line.close()


def seen(step, since, *, waits=False):
    return Peer(None, "here", 100.0, doing="training", step=step, since=since, waits=waits)


@pytest.mark.parametrize(
    ("peers", "blamed"),
    [
        ({0: seen(7, 90.0, waits=True), 1: seen(7, 90.0)}, 1),
        ({0: seen(8, 90.0, waits=True), 1: seen(7, 90.0, waits=True)}, 1),
        ({0: seen(7, 90.0), 1: seen(7, 99.0)}, 0),
        ({0: seen(7, 90.0, waits=True), 1: seen(7, 99.0)}, None),
        ({0: seen(7, 98.0), 1: seen(7, 97.0)}, None),
        ({0: seen(7, 99.0), 1: Peer(None, "here", 0.0)}, None),
    ],
)
def test_who_has_stalled(peers, blamed):
    found = find_stalled(peers, 100.0, 5.0)
    assert found is None if blamed is None else found.startswith(f"process {blamed} has stalled")


def test_who_is_lost():
    assert find_lost({1: seen(1, 90.0)}, 101.0, 5.0) is None
    assert "silent for 6 s" in find_lost({1: seen(1, 90.0)}, 106.0, 5.0)
    assert "has gone" in find_lost({1: Peer(None, "here", 100.0, gone=True)}, 100.0, 5.0)


def test_joining_after_jax_was_joined(monkeypatch):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    with pytest.raises(InputError, match="JAX can't join twice"), join("127.0.0.1:1", 2, 1):
        pass
