"""Folders that are written aside and renamed into place."""

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

# Windows has no SIGHUP: a terminal or a connection that is closed.
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Makes a folder in ``parent`` to write in before renaming, and removes it afterwards.

    SIGINT, SIGTERM and SIGHUP remove it before they do what they did: the handlers of our programs
    end the process at once, without any ``finally``.

    Raises:
      OSError: ``parent`` can't be written.
    """
    folder = Path(tempfile.mkdtemp(prefix=".digits_jax-", dir=parent))

    def handle(number: int, _frame: FrameType | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(number, previous[number])
        signal.raise_signal(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():  # only it receives signals
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handle)
    try:
        yield folder
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


def first_writable(folders: list[Path]) -> Path | None:
    """Returns the first folder in which files can be created, made if necessary; or None.

    It tries, because permission bits don't tell everything. A folder that can't be written is left
    alone even by root, whom the bits don't stop.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o222:
                with scratch_folder(folder):
                    return folder
    return None
