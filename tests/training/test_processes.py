"""Processes that train together, each in one of its own, with real signals and time limits."""

import signal
import subprocess
import time

import pytest
from team import ENDED_SECONDS, LONG, error_of, outcome, wait_for

QUICK = {"silent_seconds": 5.0}


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
