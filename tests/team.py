"""Workers that train together, each in a process of its own."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from programs import environment

WORKER = Path(__file__).resolve().parent / "worker.py"
# All are to be gone in 60 s; the limits are the default ones but where a test says so.
ENDED_SECONDS = 60
LONG = {"steps": 5000, "step_seconds": 0.02}


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


@pytest.fixture
def team(home):
    team = Team(home)
    yield team
    team.end()
