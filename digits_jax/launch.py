"""Trains in several processes on this machine: python -m digits_jax.launch --num-processes=2 -- \
--arch=cnn --preset=quick"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.fields import Checked, Optional, Range
from digits_jax.files import SIGNALS
from digits_jax.train import parse_arguments

POLL_SECONDS = 0.05
# A process may be stopped (SIGSTOP) for so long.
STOPPED_SECONDS = 5.0
# When one has failed, the others may print what they know of it.
OTHERS_SECONDS = 2.0
# A process that is asked to end saves first; see `digits_jax.training.interrupts`.
SAVE_SECONDS = 30.0
TERM_SECONDS = 5.0
RANGES = {"num_processes": Range(1, 64), "devices_per_process": Range(1)}
TRAIN = (sys.executable, "-m", "digits_jax.train")


@dataclass(frozen=True)
class Arguments(Checked, ranges=RANGES):
    """The launcher's own flags; those of train follow after --."""

    num_processes: int
    """Processes to start."""
    devices_per_process: Optional[int] = None
    """--devices of each process (default: its share of the cores)."""


def main(argv: Sequence[str]) -> int:
    """Parses, starts, watches."""
    place = list(argv).index("--") if "--" in argv else len(argv)
    ours, theirs = argv[:place], argv[place + 1 :]
    args = parse(Arguments, ours, doc=__doc__ or "")
    if place == len(argv):
        raise ConfigError(
            "the flags of train are missing: give them after --, as in "
            "python -m digits_jax.launch --num-processes=2 -- --arch=cnn --preset=quick"
        )
    for flag in theirs:
        given = ["--coordinator", "--num-processes", "--process-id"]
        given += ["--devices"] if args.devices_per_process else []
        if flag.partition("=")[0].replace("_", "-") in given:
            raise ConfigError(f"{flag}: launch gives it to each process; leave it out after --")
    trained = parse_arguments(theirs)  # one error message, not one from each; --help ends here
    if trained.config.ensemble > 1 and args.num_processes > 1:
        raise ConfigError(
            f"num_processes={args.num_processes}: an ensemble is trained by one process; give 1"
        )
    return launch([*TRAIN, *theirs], args.num_processes, args.devices_per_process)


def launch(
    command: Sequence[str],
    num_processes: int,
    devices_per_process: int | None = None,
    *,
    stopped_seconds: float = STOPPED_SECONDS,
) -> int:
    """Runs a command in several processes until all are done or one fails; then ends the others.

    Args:
      command: what each runs, with --coordinator, --num-processes and --process-id behind it.
      stopped_seconds: for which one may be stopped (SIGSTOP).

    Returns:
      0, or the status of the first that failed: 128 + N where signal N ended it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    place = [f"--coordinator={address}", f"--num-processes={num_processes}"]
    devices = [] if devices_per_process is None else [f"--devices={devices_per_process}"]
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if previous[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: received.append(number))
    processes: list[_Process] = []
    try:
        for index in range(num_processes):
            own = [*place, f"--process-id={index}"] if num_processes > 1 else []
            processes.append(_Process(index, num_processes, [*command, *devices, *own]))
            if not devices and num_processes > 1 and hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                share = {cores[i % len(cores)] for i in range(index, len(cores), num_processes)}
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(processes[-1].popen.pid, share or cores)
        return _watch(processes, received, stopped_seconds)
    finally:
        _end(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Process:
    """A started process, and how it failed."""

    def __init__(self, index: int, count: int, command: Sequence[str]):
        self.index = index
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A terminal's Ctrl-C reaches the launcher alone, which passes it on once: a second one
            # would end a process before it has saved.
            process_group=0,
        )
        self.stopped_since = time.monotonic()
        prefix = f"[{index}] ".encode() if count > 1 else b""
        self.readers = []
        for pipe, target in ((self.popen.stdout, 1), (self.popen.stderr, 2)):
            reader = threading.Thread(target=_pass_on, args=(pipe, target, prefix), daemon=True)
            reader.start()
            self.readers.append(reader)

    def failure(self, stopped_seconds: float) -> tuple[int, str] | None:
        """Its exit status and what happened, once it has failed or is stopped."""
        who = f"process {self.index} (process id {self.popen.pid})"
        code = self.popen.poll()
        if code is not None and code >= 0:
            return (code, f"{who} ended with status {code}") if code else None
        if code is not None:
            name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
            return 128 - code, f"{who} was ended by {name}"
        look = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        now = time.monotonic()
        if not hasattr(os, "waitid") or os.waitid(os.P_PID, self.popen.pid, look) is None:
            self.stopped_since = now
        elif (seconds := now - self.stopped_since) >= stopped_seconds:
            return 128 + signal.SIGSTOP, f"{who} is stopped, for {seconds:.0f} s"
        return None


def _pass_on(pipe: IO[bytes], target: int, prefix: bytes) -> None:
    # Where our output is closed, closing the pipe tells the process so.
    with pipe, contextlib.suppress(OSError, ValueError):
        for line in pipe:
            if not line.startswith(b"[Gloo] Rank"):  # one for each device, from C++
                os.write(target, prefix + line.rstrip(b"\n") + b"\n")


def _watch(processes: list[_Process], received: list[int], stopped_seconds: float) -> int:
    """Waits until all have ended; returns the status."""
    first: tuple[int, str] | None = None
    deadline: float | None = None
    while any(process.popen.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if received and deadline is None:
            _send(processes, received[0])
            deadline = now + SAVE_SECONDS
        if first is None and not received and (first := _first_failure(processes, stopped_seconds)):
            _say(f"{first[1]}; ending the others")
            deadline = now + (0 if first[0] == 128 + signal.SIGSTOP else OTHERS_SECONDS)
        if deadline and (now > deadline or len(received) > 1):
            _end(processes)
    status, what = first or _first_failure(processes, stopped_seconds) or (0, "")
    # 2: the arguments can't be used; 141: the output is closed.
    if status and not received:
        advice = "" if status in (2, 141) else "; restart with --resume --workdir=..."
        _say(f"{what}; all have ended{advice}")
    return status


def _first_failure(processes: list[_Process], stopped_seconds: float) -> tuple[int, str] | None:
    """The one that failed first. Its death ends others with status 1, or by JAX with SIGABRT."""
    failures = [failure for p in processes if (failure := p.failure(stopped_seconds))]
    return min(failures, key=lambda f: (f[0] in (1, 128 + signal.SIGABRT), -f[0]), default=None)


def _send(processes: list[_Process], number: int) -> None:
    for process in processes:
        for each in (number, signal.SIGCONT):  # one that is stopped is woken for it
            with contextlib.suppress(ProcessLookupError):
                process.popen.send_signal(each)


def _end(processes: list[_Process]) -> None:
    """Ends processes: by SIGTERM, and by SIGKILL those for which that isn't enough."""
    _send(processes, signal.SIGTERM)
    until = time.monotonic() + TERM_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(max(0.0, until - time.monotonic()))
        process.popen.kill()
        process.popen.wait()
        for reader in process.readers:
            reader.join(1.0)  # with a limit: its own child may hold the pipe


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"launch: {text}\n".encode())


if __name__ == "__main__":
    leave(run_program(main))
