"""Measuring in processes of their own.

The program itself never starts JAX: a CPU is split into devices once in a process, a GPU's memory
belongs to the first process that asks, and a TPU to one alone.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tqdm import tqdm

from digits_jax.benchmarks.options import Options
from digits_jax.errors import ConfigError, DigitsError
from digits_jax.hardware import keep_freed_memory


def measure_networks(
    measure: Callable[[Options, str], dict[str, Any]], options: Options
) -> dict[str, Any]:
    """Calls ``measure(options, arch)`` in a process for each network; joins the tables."""
    networks = tqdm(options.arch, "networks", unit="network", leave=False, disable=None)
    first, *others = [in_child(measure, options, arch) for arch in networks]
    for answer in others:
        for name, rows in answer.items():
            if isinstance(rows, list):
                first[name] += rows
    return first


def in_child(measure: Callable[..., Any], *args: Any) -> Any:
    """Calls a function of a module in a new process.

    Raises:
      DigitsError: the one that was raised there.
      RuntimeError: the process ended without an answer.
    """
    work = pickle.dumps((measure, args))
    command = [sys.executable, "-m", "digits_jax.benchmarks.processes"]
    done = subprocess.run(command, input=work, stdout=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"{measure.__module__} ended with {done.returncode}")
    answer = pickle.loads(done.stdout)
    if isinstance(answer, DigitsError):
        raise answer
    return answer


class Finished(NamedTuple):
    """A process that has come to its end; the memory is None where the system doesn't say."""

    seconds: float
    output: str
    peak_memory_bytes: int | None


def timed_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
    """Runs a program to its end.

    Args:
      command: the program and its arguments.
      environment: variables beside those of this process.

    Raises:
      ConfigError: it failed; the message is the last line of its errors.

    Examples:
      >>> timed_process([sys.executable, "-c", "print(7)"]).output.strip()
      '7'
    """
    env = {**os.environ, **(environment or {})}
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            with _memory_marks(process.pid) as marks:
                output, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
    seconds = time.perf_counter() - started
    if process.returncode:
        last = (errors.strip().splitlines() or ["no error message"])[-1]
        raise ConfigError(last.removeprefix("error: "))
    return Finished(seconds, output, max(marks, default=None))


@contextlib.contextmanager
def _memory_marks(process: int) -> Iterator[list[int]]:
    """Yields a list that grows by the largest resident set of a process so far, in bytes."""
    # `getrusage` counts the parent's memory at the fork. Linux's mark begins with the program, but
    # is gone when it ends, so it is read all the while.
    ended, marks = threading.Event(), []

    def watch() -> None:
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
    """Makes signals exceptions, so that processes are ended and folders removed."""
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


def _stop(number: int, _frame: FrameType | None) -> None:
    print("stopped", file=sys.stderr)
    raise SystemExit(128 + number)


def _answer() -> None:
    """Does in the new process what `in_child` asks for."""
    keep_freed_memory()  # as the programs do; before there are other threads
    answers, sys.stdout = sys.stdout, sys.stderr
    measure, args = pickle.load(sys.stdin.buffer)
    try:
        answer = measure(*args)
    except DigitsError as error:
        answer = error
    answers.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    _answer()
