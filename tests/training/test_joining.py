"""Processes that come together, or don't: each in one of its own, with time limits."""

import contextlib
import os
import signal
import socket
import time

import pytest
from team import error_of, outcome

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
        assert "missing: 2; " in error
        assert "be started within 4 s" in error


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
