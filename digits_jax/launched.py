"""A process that the launcher has started: its output, its state and its end."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

TERM_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], index: int, cores: set[int] | None = None) -> "Launched":
    """Starts a process that doesn't outlive this one (on Linux), with its output in pipes.

    It is in a process group of its own: a terminal's Ctrl-C reaches the launcher alone, which
    passes it on once; a second one would make it leave without having saved.

    Args:
      command: the program and its arguments.
      index: its number among the processes.
      cores: that it may use; None for all.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        preexec_fn=_die_with(os.getpid(), cores) if sys.platform == "linux" else None,
    )
    return Launched(process, index)


def _die_with(parent, cores):
    libc = ctypes.CDLL(None)  # loaded before the fork

    def in_child():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if cores:
            os.sched_setaffinity(0, cores)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return in_child


class Launched:
    """A started process; it is signalled only while it is ours, and never by its name.

    Attributes:
      index: its number among the processes.
    """

    def __init__(self, process: subprocess.Popen, index: int):
        self.index = index
        self._process = process
        self._stopped_since: float | None = None
        self._stopped = False
        self._readers: list[threading.Thread] = []

    @property
    def running(self) -> bool:
        """Whether it hasn't ended; a stopped one hasn't."""
        return self._process.poll() is None

    @property
    def status(self) -> int:
        """Its exit status, 128 + N where signal N ended it; 0 while it runs, 1 if stopped."""
        code = self._process.poll()
        if self._stopped:
            return 128 + signal.SIGSTOP
        return 0 if code is None else code if code >= 0 else 128 - code

    def stopped_for(self) -> float:
        """Seconds since it was first seen stopped (by SIGSTOP, say)."""
        if not self.running or not hasattr(os, "waitid"):
            return 0.0
        look, seen = os.WSTOPPED | os.WNOHANG | os.WNOWAIT, None
        with contextlib.suppress(ChildProcessError):  # it has just ended
            seen = os.waitid(os.P_PID, self._process.pid, look)
        if seen is None:
            self._stopped_since = None
            return 0.0
        self._stopped_since = self._stopped_since or time.monotonic()
        return time.monotonic() - self._stopped_since

    def what_happened(self) -> str:
        """How it failed, in words."""
        who = f"process {self.index} (process id {self._process.pid})"
        code = self._process.poll()
        if code is None:
            self._stopped = True
            return f"{who} is stopped, for {self.stopped_for():.0f} s"
        if code >= 0:
            return f"{who} ended with status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{who} was ended by {name}"

    def send(self, number: int) -> None:
        """Sends a signal, where it still runs; one that is stopped is woken for it."""
        for each in (number, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(each)

    def kill(self) -> None:
        """Ends it at once, and waits for that, and for the end of its output."""
        if self.running:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(1.0)  # not for ever: a child of its own may hold the pipe

    def show_output(self, prefix: str) -> None:
        """Passes on what it writes, each line with a prefix."""
        pairs = ((self._process.stdout, 1), (self._process.stderr, 2))
        for pipe, target in pairs:
            reader = threading.Thread(target=_pass_on, args=(pipe, target, prefix), daemon=True)
            reader.start()
            self._readers.append(reader)


def end_all(processes: Sequence[Launched]) -> None:
    """Ends processes: by SIGTERM, and by SIGKILL those for which that isn't enough."""
    for process in processes:
        process.send(signal.SIGTERM)
    until = time.monotonic() + TERM_SECONDS
    while any(process.running for process in processes) and time.monotonic() < until:
        time.sleep(0.02)
    for process in processes:
        process.kill()


def _pass_on(pipe, target, prefix):
    # Where nobody reads any more, closing the pipe tells the process so.
    with pipe, contextlib.suppress(OSError, ValueError):
        for line in pipe:
            os.write(target, prefix.encode() + line.rstrip(b"\n") + b"\n")
