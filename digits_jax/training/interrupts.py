"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save, and leave."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Windows has no SIGHUP: a terminal or a connection that is closed.
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_KEPT = (signal.SIG_IGN, None)


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
        """Raises `Interrupted` where one came."""
        if self.signal_number is not None:
            raise Interrupted("stopped", self.signal_number)


@contextlib.contextmanager
def stop_on_signals(last_words: str = "") -> Iterator[StopRequest]:
    """While open, the first signal is noted; a second one acts as it did before.

    Args:
      last_words: printed when the second one comes, before it acts.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread alone.
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # Ignored as in a background job or under nohup, or handled by C code: it stays so.
    previous = {n: handler for n, handler in handlers.items() if handler not in _KEPT}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        if request.signal_number is None:
            request.signal_number = number
            return
        if last_words:
            with contextlib.suppress(OSError):
                os.write(2, f"{last_words}\n".encode())
        restore()
        signal.raise_signal(number)

    for number in previous:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
