"""TensorBoard's event files, by tensorboardX's writer without the rest of it.

Importing the package imports PyTorch wherever that is installed: two seconds and 500 MB of which
nothing is used here. So its modules are imported under a package that has only its place.
"""

import importlib
import importlib.util
import sys
import time
import types
from pathlib import Path
from typing import Any

_PACKAGE = "tensorboardX"
_NEEDED = ("event_file_writer", "proto.event_pb2", "proto.summary_pb2")


def installed() -> bool:
    """Whether tensorboardX is here."""
    return _PACKAGE in sys.modules or importlib.util.find_spec(_PACKAGE) is not None


def _modules():
    names = [f"{_PACKAGE}.{name}" for name in _NEEDED]
    if not all(name in sys.modules for name in names):
        whole = sys.modules.get(_PACKAGE)
        if whole is None:
            place = types.ModuleType(_PACKAGE)
            place.__path__ = importlib.util.find_spec(_PACKAGE).submodule_search_locations
            sys.modules[_PACKAGE] = place
        try:
            for name in names:
                importlib.import_module(name)
        finally:
            if whole is None:  # Whoever imports the package later gets all of it.
                del sys.modules[_PACKAGE]
    return [sys.modules[name] for name in names]


class EventFile:
    """Writes numbers to an event file, in this thread.

    tensorboardX's own thread dies of a disk that is full, and whoever waits for it then waits for
    ever.

    Args:
      prefix: of the file's path.
    """

    def __init__(self, prefix: Path):
        files, self._events, self._summaries = _modules()
        self._writer = files.EventsWriter(str(prefix))

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """Adds numbers at a step, and sees to it that they are in the file.

        Raises:
          OSError: they can't be written.
        """
        for name, value in numbers.items():
            found = self._summaries.Summary.Value(tag=name, simple_value=value)
            summary = self._summaries.Summary(value=[found])
            self._writer.write_event(
                self._events.Event(wall_time=time.time(), step=step, summary=summary)
            )
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()


# What is imported ahead, in a thread, is to be there when the first number comes.
if installed():
    _modules()
