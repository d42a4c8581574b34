"""The processes of one training: they agree, tell each other how far they are, and end together.

A thread of each process keeps a line to process 0 (see `digits_jax.training.lines`), which hears
from all: over it they say what they are doing and why they fail. A main thread that waits in a
collective for one that is gone can't be reached by a signal handler of Python's; the thread ends
the process then, after one line that says who has gone.
"""

import contextlib
import json
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from digits_jax.errors import ConfigError, DigitsError, PeerError
from digits_jax.training.lines import Line
from digits_jax.training.peers import Limits, Peer, find_lost, find_stalled, whereabouts

TURN_SECONDS = 0.25
# A verdict comes before the exception that its cause raises here, or after it; the exception,
# which lets the program clear up, may have that long.
GRACE_SECONDS = 1.5
RELAUNCH = "; start all again, with --resume"


class Group:
    """This process among those that train together; a single one is a group as well.

    Attributes:
      index: of this process.
      count: of all processes.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        lines: dict[int, Line] | None = None,
        names: dict[int, str] | None = None,
        limits: Limits | None = None,
    ):
        now = time.monotonic()
        self.index, self.count = index, count
        self._limits = limits or Limits()
        self._peers = {i: Peer(line, names[i], now) for i, line in (lines or {}).items()}
        self._changed = threading.Condition()
        self._main = threading.get_ident()
        self._stderr = _keep_stderr() if lines else 2
        self._noted = ("starting", 0, now)
        self._waits_for: str | None = None
        self._asked = 0
        self._said: dict[str, dict[int, Any]] = {}
        self._answers: dict[str, list] = {}
        self.verdict: str | None = None
        self._published = False  # the verdict is what another process said of itself
        self._judged = False  # the verdict has been told, by the thread or by an exception
        self._leaving = False
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="group", daemon=True)
        if self._peers:
            self._thread.start()

    # --- what the main thread calls ---------------------------------------------------------

    def note(self, phase: str, step: int = 0) -> None:
        """Says that the main thread gets on; it costs less than a microsecond.

        Args:
          phase: what it does now, like "training".
          step: how far it is.
        """
        self._noted = (phase, step, time.monotonic())

    def gather(self, name: str, value: Any = None) -> list:
        """Waits for all processes, and gives each what all have said, by their number.

        All call it in the same order. It ends when all have come or one fails: there is no
        collective in it, and no time limit but that on a process's progress.

        Args:
          name: of what is gathered, for errors.
          value: plain JSON.

        Raises:
          ConfigError: another process has failed.
        """
        value = json.loads(json.dumps(value))  # the same types in all
        if self.count == 1:
            return [value]
        self._asked += 1
        key = f"{self._asked}:{name}"
        self._waits_for = name
        try:
            if self.index:
                self._peers[0].line.send(say=key, value=value)
            else:
                self._hear_said(0, key, value)
            with self._changed:
                while key not in self._answers:
                    if self.verdict:
                        self._judged = True
                        raise self.verdict_error()
                    self._changed.wait(TURN_SECONDS)  # with a limit: for signal handlers
                return self._answers.pop(key)
        finally:
            self._waits_for = None
            self._noted = (*self._noted[:2], time.monotonic())

    def barrier(self, name: str) -> None:
        """Waits until all processes are here; see `gather`."""
        self.gather(name)

    def first_says(self, name: str, value: Any | Callable[[], Any] = None) -> Any:
        """Process 0's value, for all; where it is a function, only process 0 calls it.

        An DigitsError that the function raises is raised in every process.

        Args:
          name: of what is said, for errors.
          value: plain JSON, or a function that returns it.
        """
        if self.index == 0 and callable(value):
            value = value()  # its error goes out of `join`, and from there to the others
        return self.gather(name, None if self.index else value)[0]

    def in_turn(self, name: str, make: Callable[[], Any]) -> Any:
        """Calls a function in process 0 first, then in the others: it may prepare files.

        Args:
          name: of what is made, for errors.
          make: without arguments.
        """
        if self.index == 0:
            made = make()
        self.barrier(name)
        return made if self.index == 0 else make()

    def agree(self, values: dict[str, Any]) -> None:
        """Raises an DigitsError in every process where not all have given the same.

        Args:
          values: plain JSON, by the names of what was given.
        """
        everyone = self.gather("the comparison of configurations", values)
        for index, other in enumerate(everyone):
            for name in dict.fromkeys([*everyone[0], *other]):
                first, second = everyone[0].get(name), other.get(name)
                if first != second:
                    self._judged = True  # by each for itself, with the same words
                    raise ConfigError(
                        f"{name} is {_short(second)} in process {index} and {_short(first)} in "
                        "process 0; start all processes with the same configuration"
                    )

    def fail(self, reason: str) -> None:
        """Says why this process fails; the others end with that, and this one must leave now."""
        with self._changed:
            self._leaving = True
            told, self._judged = self._judged, True
        if self._finished or not self._peers:
            return
        threading.Thread(target=self._leave, args=("",), daemon=True).start()
        if told:
            return
        reason = " ".join(reason.split())
        if self.index:
            self._peers[0].line.send(failed=reason)
        else:
            self._tell(f"process 0: {reason}", published=True)

    def finish(self) -> None:
        """Waits until all have come to a good end, and ends the watch."""
        if not self._peers:
            return
        self.gather("the end")
        with self._changed:
            self._finished = True

    def close(self) -> None:
        """After `finish`: hangs up; process 0, on which the others lean, after all of them."""
        if self.index == 0:
            until = time.monotonic() + self._limits.leave_seconds
            while time.monotonic() < until and not all(p.gone for p in self._peers.values()):
                time.sleep(0.01)
        for peer in self._peers.values():
            peer.gone = True
            peer.line.close()

    def wait_for_verdict(self, seconds: float) -> str | None:
        """What has happened to another process, where that is found within some seconds."""
        with self._changed:
            self._leaving = True
            self._changed.wait_for(lambda: self.verdict, seconds)
            self._judged = self._judged or self.verdict is not None
            return self.verdict

    def verdict_error(self) -> DigitsError:
        """What has happened to another process, as an error here."""
        return (DigitsError if self._published else PeerError)(self.verdict)

    # --- the thread -------------------------------------------------------------------------

    def _run(self):
        turn = time.monotonic()
        self._beat(turn)
        beat = turn
        with selectors.DefaultSelector() as selector:
            for index, peer in self._peers.items():
                selector.register(peer.line.socket, selectors.EVENT_READ, index)
            while not all(peer.gone for peer in self._peers.values()):
                try:
                    ready = selector.select(TURN_SECONDS)
                except (OSError, ValueError):
                    return  # closed at the end
                now = time.monotonic()
                if now - turn > self._limits.silent_seconds / 3:
                    for peer in self._peers.values():  # This process itself was stopped.
                        peer.heard = max(peer.heard, now - self._limits.silent_seconds / 2)
                turn = now
                for key, _ in ready:
                    if not self._listen(key.data, now):
                        selector.unregister(key.fileobj)
                if now - beat >= self._limits.beat_seconds:
                    beat = now
                    self._beat(now)
                if not (self._finished or self.verdict):
                    self._judge(now)

    def _listen(self, index, now):
        peer = self._peers[index]
        try:
            for message in peer.line.receive():
                peer.heard = now
                self._take(index, peer, message, now)
        except (EOFError, ValueError, KeyError, TypeError):
            peer.gone = True
        return not peer.gone

    def _take(self, index, peer, message, now):
        if "doing" in message:
            peer.take(message, now)
        elif "say" in message:
            self._hear_said(index, message["say"], message["value"])
        elif "all" in message:
            self._answer(message["all"], message["values"])
        elif "failed" in message:
            peer.gone = True
            self._end(f"process {index}: {message['failed']}", published=True)
        elif "end" in message:
            self._end(message["end"], published=message["published"])

    def _hear_said(self, index, key, value):
        with self._changed:
            said = self._said.setdefault(key, {})
            said[index] = value
            if len(said) < self.count:
                return
            del self._said[key]
        values = [said[i] for i in range(self.count)]
        # First here: who hears of the end hangs up, which the thread would take for its death.
        self._answer(key, values)
        for peer in self._peers.values():
            peer.line.send(all=key, values=values)

    def _answer(self, key, values):
        with self._changed:
            if key.endswith(":the end"):
                self._finished = True  # from here on the others may hang up
            self._answers[key] = values
            self._changed.notify_all()

    def _beat(self, now):
        message = self._own(now)
        for peer in self._peers.values():
            if not peer.gone:
                peer.line.send(**message)

    def _own(self, now):
        phase, step, since = self._noted
        where, waits = whereabouts(self._main)
        if self._waits_for:
            where, waits = f"for {self._waits_for}", True
        return {"doing": phase, "step": step, "for": now - since, "where": where, "waits": waits}

    def _judge(self, now):
        line = find_lost(self._peers, now, self._limits.silent_seconds)
        if self.index == 0 and not line:
            own = Peer(None, "", now)
            own.take(self._own(now), now)
            everyone = {0: own, **self._peers}
            line = find_stalled(everyone, now, self._limits.stall_seconds)
        if line:
            self._end(f"{line}{RELAUNCH}")

    def _end(self, line, published=False):
        with self._changed:
            if self._finished or self.verdict:
                return
            self.verdict, self._published = line, published
            self._changed.notify_all()
        if self.index == 0:
            self._tell(line, published)
        threading.Thread(target=self._leave, args=(line,), daemon=True).start()

    def _tell(self, line, published):
        for peer in self._peers.values():
            if not peer.gone:
                peer.line.send(end=line, published=published)

    def _leave(self, line):
        """Ends the process, unless the main thread is doing so by itself."""
        time.sleep(GRACE_SECONDS)
        with self._changed:
            told, self._judged = self._judged, True
            leaving = self._leaving or told
        if leaving:
            time.sleep(self._limits.leave_seconds)
        flush = threading.Thread(target=_flush, daemon=True)
        flush.start()
        flush.join(0.5)
        if not told:
            with contextlib.suppress(OSError):
                os.write(self._stderr, f"error: {line}\n".encode())
        os._exit(1)


def _keep_stderr():
    """For the last line, also while the standard error is held back."""
    try:
        return os.dup(2)
    except OSError:
        return 2  # closed


def _flush():
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
