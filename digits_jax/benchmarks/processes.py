"""Measuring in processes of their own.

The program itself never starts JAX: a CPU is split into devices once in a process, a GPU's memory
belongs to the first process that asks, and a TPU to one alone.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from digits_jax.errors import ConfigError, DigitsError

_CHILD = "from digits_jax.benchmarks.processes import child; child()"
# For those that measure compilation: nothing that was compiled before is reused.
COLD = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
_ANSWER = "digits_jax.benchmarks: "


def in_child(
    room: str, settings: dict[str, Any], environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Calls ``measure(settings)`` of one of this package's modules, in a new process.

    Progress goes to this process's stderr.

    Args:
      room: the module's name, like "step".
      settings: plain JSON.
      environment: variables beside those of this process.

    Returns:
      What it returns: plain JSON.

    Raises:
      ConfigError: the one that was raised there.
    """
    task = json.dumps({"room": room, "settings": settings}) + "\n"
    command = [sys.executable, "-c", _CHILD]
    with (
        stopping_children(),
        subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            process.stdin.write(task)
            process.stdin.flush()
            # Its stdin stays open: where it ends, the process knows that this one has gone.
            lines = [line for line in process.stdout if line.startswith(_ANSWER)]
        except BaseException:
            process.kill()
            raise
    if process.returncode or not lines:
        raise RuntimeError(f"the process that measures {room} ended with {process.returncode}")
    answer = json.loads(lines[-1].removeprefix(_ANSWER))
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer["value"]


def child() -> None:
    """What the new process does; see `in_child`."""
    task = json.loads(sys.stdin.readline())
    from digits_jax.training.parallel import keep_freed_memory

    keep_freed_memory()  # as the programs do; before there are other threads
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    measure = importlib.import_module(f"digits_jax.benchmarks.{task['room']}").measure
    try:
        answer = {"value": measure(task["settings"])}
    except DigitsError as error:
        answer = {"error": str(error)}
    print(_ANSWER + json.dumps(answer), flush=True)
    os._exit(0)  # There is nothing to clear up, and a thread that waits for input.


def _leave_with_parent():
    with contextlib.suppress(OSError, ValueError):
        os.read(0, 1)
    os._exit(1)


class Ended(NamedTuple):
    """A process that has come to its end.

    Attributes:
      seconds: from its start to its end.
      said: its output.
      peak_memory_bytes: the most memory (resident set) that it had; None where the system doesn't
        say.
    """

    seconds: float
    said: str
    peak_memory_bytes: int | None


def timed_process(command: Sequence[str], environment: dict[str, str] | None = None) -> Ended:
    """Runs a program to its end.

    Args:
      command: its words.
      environment: variables beside those of this process.

    Raises:
      ConfigError: it failed; the message is the last line that it said.

    Example:
      >>> timed_process([sys.executable, "-c", "print(7)"]).said.strip()
      '7'
    """
    env = {**os.environ, **(environment or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = time.perf_counter()
    with (
        stopping_children(),
        subprocess.Popen(command, env=env, **pipes) as process,
        _memory_marks(process.pid) as marks,
    ):
        try:
            said, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
    seconds = time.perf_counter() - started
    if process.returncode:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(last.removeprefix("error: "))
    return Ended(seconds, said, max(marks, default=None))


@contextlib.contextmanager
def _memory_marks(process: int) -> Iterator[list[int]]:
    """A list that grows by the most memory that a process had so far, in bytes; empty elsewhere.

    ``getrusage`` would tell the largest of all children, and of each what its parent had when it
    was forked. The mark that Linux keeps for a program begins with the program, but is gone when
    it ends, so it is read all the while.
    """
    ended, marks = threading.Event(), []

    def watch():
        while not ended.wait(0.05):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process}/status").read_text().splitlines()
                marks.extend(1024 * int(x.split()[1]) for x in lines if x.startswith("VmHWM:"))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield marks
    finally:
        ended.set()
        watching.join()


@contextlib.contextmanager
def stopping_children() -> Iterator[None]:
    """Signals are exceptions here, so that processes are ended and folders removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, _stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stop(number, _frame):
    print("stopped", file=sys.stderr)
    raise SystemExit(128 + number)
