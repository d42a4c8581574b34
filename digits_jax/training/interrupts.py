"""Ctrl-C and SIGTERM: finish the step, save, and leave."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


class Interrupted(Exception):  # noqa: N818 - it isn't an error
    """Training was asked to stop, and has saved what it had.

    Attributes:
      signal_number: what asked.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """Whether a signal came, and which."""

    signal_number: int | None = None

    def check(self) -> None:
        """Raises an `Interrupted` where one came."""
        if self.signal_number is not None:
            raise Interrupted("stopped", self.signal_number)


@contextlib.contextmanager
def stop_on_signals(last_words: str = "") -> Iterator[StopRequest]:
    """While open, the first SIGINT or SIGTERM is noted; a second one acts as it did before.

    Args:
      last_words: printed when the second one comes, before it acts.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread alone.
        return
    previous = {}

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number, _frame):
        if request.signal_number is None:
            request.signal_number = number
            return
        with contextlib.suppress(OSError):
            os.write(2, f"{last_words}\n".encode() if last_words else b"")
        restore()
        signal.raise_signal(number)

    note.ends_when_stuck = True  # to whoever watches: a second one needn't wait for us
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
