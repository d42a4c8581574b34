"""Ctrl-C, SIGTERM and SIGHUP: training finishes the step, saves and ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from digits_jax.files import SIGNALS


class Interrupted(Exception):  # noqa: N818 - it isn't an error
    """A signal stopped the training, after a checkpoint was saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """The first signal that came, if any."""

    signal_number: int | None = None

    def check(self) -> None:
        """Raises `Interrupted` if one came."""
        if self.signal_number is not None:
            raise Interrupted("stopped", self.signal_number)


@contextlib.contextmanager
def stop_on_signals(last_words: str = "") -> Iterator[StopRequest]:
    """Records the first signal while open; a second one acts as it did before.

    Args:
      last_words: printed when the second one comes, before it acts.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread alone.
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # Signals that are ignored (in a background job, by nohup) or handled by C code stay so.
    previous = {n: old for n, old in handlers.items() if old not in (signal.SIG_IGN, None)}

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
