"""What a process knows of the others, and which of them keeps the rest from getting on."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from digits_jax.training.lines import Line


@dataclass(frozen=True)
class Limits:
    """How long the processes wait for each other, in seconds.

    Attributes:
      join_seconds: for all to come, at the start.
      beat_seconds: between two signs of life.
      silent_seconds: without one, a process counts as stopped or lost.
      stall_seconds: in which a main thread must get on: longer than anything that it does
        between two calls of `Group.note` takes (compiling, scoring, saving).
      leave_seconds: for a process that fails to clear up.
    """

    join_seconds: float = 20.0
    beat_seconds: float = 1.0
    silent_seconds: float = 15.0
    stall_seconds: float = 300.0
    leave_seconds: float = 10.0


@dataclass
class Peer:
    """A process, as another one sees it.

    Attributes:
      line: to it.
      name: of its machine and process.
      heard: when it gave a sign of life, by `time.monotonic` here, as all times.
      gone: whether its line has closed.
      doing: what its main thread does.
      step: how far that is.
      since: when it last got on; 0 while nothing is known.
      where: in which line of code it is.
      waits: whether it waits there for something, as in a collective.
    """

    line: Line | None
    name: str
    heard: float
    gone: bool = False
    doing: str = "starting"
    step: int = 0
    since: float = 0.0
    where: str = ""
    waits: bool = False

    def take(self, message: dict, now: float) -> None:
        """Notes what it says of itself."""
        self.doing, self.step, self.since = message["doing"], message["step"], now - message["for"]
        self.where, self.waits = message["where"], message["waits"]

    def __str__(self):
        return f"{self.doing} at step {self.step}" if self.step else self.doing


def find_lost(peers: Mapping[int, Peer], now: float, silent_seconds: float) -> str | None:
    """Says which process is gone or silent, if one is.

    Args:
      peers: by their number.
      now: by `time.monotonic`.
      silent_seconds: for which one may give no sign of life.

    Example:
      >>> find_lost({1: Peer(None, "node7, process id 9", heard=100.0)}, 116.0, 15.0)[:56]
      'process 1 (node7, process id 9) has been silent for 16 s'
    """
    for index, peer in peers.items():
        who = f"process {index} ({peer.name})"
        if peer.gone:
            return f"{who} has gone: it was killed or crashed; last seen {peer}"
        silent = now - peer.heard
        if silent > silent_seconds:
            return (
                f"{who} has been silent for {silent:.0f} s: it is stopped, or its machine or the "
                f"network is down; last seen {peer}"
            )
    return None


def find_stalled(peers: Mapping[int, Peer], now: float, stall_seconds: float) -> str | None:
    """Says which process's main thread doesn't get on, if one doesn't.

    One that waits in JAX may do so because another one doesn't come; it is blamed only where all
    wait. Of several it is the one that is least far.

    Args:
      peers: by their number.
      now: by `time.monotonic`.
      stall_seconds: in which each has to get on.

    Example:
      >>> waiting = Peer(None, "", 0.0, doing="training", step=7, since=1.0, waits=True)
      >>> sleeping = Peer(None, "", 0.0, doing="training", step=7, since=1.0, where="a.py:1 f")
      >>> find_stalled({0: waiting, 1: sleeping}, 61.0, 50.0)
      'process 1 has stalled: training at step 7, it has not got on for 60 s (in a.py:1 f)'
    """
    known = {index: peer for index, peer in peers.items() if peer.since}
    busy = {index: peer for index, peer in known.items() if not peer.waits}
    late = {i: p for i, p in (busy or known).items() if now - p.since > stall_seconds}
    if not late:
        return None
    index = min(late, key=lambda i: (late[i].step, late[i].since))
    peer = late[index]
    where = f" (in {peer.where})" if peer.where else ""
    return (
        f"process {index} has stalled: {peer}, it has not got on for {now - peer.since:.0f} s"
        f"{where}"
    )


def whereabouts(thread_id: int) -> tuple[str, bool]:
    """Where a thread is: the innermost frame that isn't JAX's; and whether it is in JAX."""
    frame = innermost = sys._current_frames().get(thread_id)
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in ("jax", "jaxlib"):
        frame = frame.f_back
    if not frame:
        return "", False
    name = os.path.basename(frame.f_code.co_filename)
    return f"{name}:{frame.f_lineno} {frame.f_code.co_name}", frame is not innermost
