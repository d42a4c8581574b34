"""Contenders measured in turn, and the ratios of what they took."""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from digits_jax.errors import ConfigError, DigitsError


class Worker:
    """A process that runs train steps when it is asked to; see `experiments.peers.server`.

    Args:
      command: of the process.
      env: its environment.

    Raises:
      ConfigError: it ended before it was ready; the message has its last line.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def seconds(self, steps: int) -> float:
        """What it takes for so many steps."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may print, too
                return json.loads(line)
        self._errors.seek(0)
        raise ConfigError(f"a contender stopped: {last_line(self._errors.read())}")


def last_line(said: bytes) -> str:
    """What a process that failed said last."""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def started(commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> Iterator:
    """The workers that could be started, and why the others couldn't: two dicts by name."""
    workers, reasons = {}, {}
    try:
        for name, (command, env) in commands.items():
            try:
                workers[name] = Worker(command, env)
            except DigitsError as error:
                reasons[name] = str(error)
        yield workers, reasons
    finally:
        for worker in workers.values():
            worker.close()


def steps_for(worker: Worker, seconds: float) -> int:
    """So many steps that they take about so long."""
    worker.seconds(5)
    return max(2, round(10 * seconds / worker.seconds(10)))


def in_turn(ours: Callable[[], float], peer: Callable[[], float], number: int) -> list[float]:
    """[ours, the peer's], ours first in every other round: what drifts then cancels."""
    if number % 2 == 0:
        first = ours()
        return [first, peer()]
    first = peer()
    return [ours(), first]


def ratio(pairs: Sequence[Sequence[float]]) -> dict[str, float]:
    """The median over rounds of ours to the peer's, and its range.

    Example:
      >>> ratio([[3, 2], [2, 2], [5, 2]])
      {'median': 1.5, 'low': 1.0, 'high': 2.5}
    """
    ratios = [ours / peer for ours, peer in pairs]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def is_reached(median: float, goal: float | None, kind: str) -> bool | None:
    """Whether a ratio reaches its goal: images a second are to be more, seconds less.

    Example:
      >>> is_reached(1.2, 1.3, "step"), is_reached(0.7, 0.8, "process")
      (False, True)
    """
    if goal is None:
        return None
    return median >= goal if kind == "step" else median <= goal


def busy_cores(seconds: float = 0.2) -> float:
    """Cores that others keep busy while ours sleep; 0 where the system doesn't say.

    It matters: threads that wait for each other by spinning, as PyTorch's do, get ten times
    slower where one of them has to share its core.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    counts = []
    for pause in (seconds, 0):
        user, nice, system, _, _, *more = map(int, stat.read_text().split("\n")[0].split()[1:9])
        counts.append(user + nice + system + sum(more))
        time.sleep(pause)
    return (counts[1] - counts[0]) / os.sysconf("SC_CLK_TCK") / seconds


def run_process(command: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
    """A whole process: seconds from its start to its exit, and the accuracy that it printed.

    Raises:
      ConfigError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(command, env=dict(env), capture_output=True)
    seconds = time.perf_counter() - began
    found = re.search(r"test accuracy ([\d.]+)%", done.stdout.decode(errors="replace"))
    if done.returncode or not found:
        words = " ".join(command[1:4])
        raise ConfigError(f"{words} ended with {done.returncode}: {last_line(done.stderr)}")
    return {"seconds": seconds, "accuracy": float(found[1]) / 100}


def python(module: str, *flags: str) -> list[str]:
    """The command of a module."""
    return [sys.executable, "-m", module, *flags]


def fresh_folder(scratch: Path) -> Path:
    """A new folder."""
    return Path(tempfile.mkdtemp(dir=scratch))
