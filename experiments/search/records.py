"""A search's folder: what it searches, and a line for each trial that has ended.

search.json    the settings, which a search that goes on must have, too; versions, machine
trials.jsonl   one object for each trial on each rung, in the order in which they ended
search.md      the table and the winner's command
search.png     the picture
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from digits_jax.errors import ConfigError, shown
from digits_jax.runs import folder
from experiments.search.halving import DIVERGED, FAILED, TRAINED, Row

SETTINGS, TRIALS, TABLE, PICTURE = "search.json", "trials.jsonl", "search.md", "search.png"
_MOST_BYTES = 50_000_000


@contextlib.contextmanager
def hold(path: Path, settings: dict[str, Any], where: dict[str, Any]) -> Iterator[list[Row]]:
    """Keeps a search's folder to this process; makes it where there is none.

    Args:
      path: the folder.
      settings: of the search, in plain values.
      where: the machine and the versions, noted by the first call.

    Yields:
      The rows of the trials that have ended.

    Raises:
      ConfigError: it can't be written, another process has it, or it holds a run or a search of
        other settings.
    """
    with folder.hold_workdir(path, new=True):
        if (path / SETTINGS).exists():
            _check_same(path, folder.read_json(path / SETTINGS), settings)
        elif (path / TRIALS).exists():
            raise ConfigError(
                f"{path}: has {TRIALS}, but no {SETTINGS} to say what was searched; give another "
                "--workdir"
            )
        else:
            folder.write_json(path / SETTINGS, {**settings, **where})
        yield read_rows(path)


def _check_same(path, there, settings):
    there = there if isinstance(there, dict) else {}
    # As JSON has them: lists for tuples.
    for name, value in json.loads(json.dumps(settings)).items():
        if name not in there:
            raise ConfigError(f"{path / SETTINGS}: has no {name!r}; give another --workdir")
        if there[name] != value:
            raise ConfigError(
                f"{path} holds a search {_other(name, there[name], value)}; give another --workdir"
            )


def _other(name, old, new):
    if name == "space":
        return "in another space, of another version of this program"
    if name == "dataset_sha256":
        return "on another version of the data"
    return f"with {name}={shown(old)}, not {shown(new)}"


def append_row(path: Path, row: Row) -> None:
    """Adds a line, in one write; a line that a crash cut short stays a line of its own."""
    with folder.naming(path / TRIALS), open(path / TRIALS, "a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        cut_short = size and file.read(1) != b"\n"
        file.write(((cut_short and b"\n") or b"") + (json.dumps(row) + "\n").encode())
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """The lines that are whole, in their order; of two of one trial and rung the first counts.

    Raises:
      ConfigError: the file is there and can't be read.
    """
    try:
        with open(path / TRIALS, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            lines = file.read(size).splitlines() if size <= _MOST_BYTES else None
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path / TRIALS}: can't be read ({error.strerror})") from None
    if lines is None:
        raise ConfigError(f"{path / TRIALS}: has more than {_MOST_BYTES:,} bytes; is it ours?")
    found = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line.decode(errors="replace"))
            if _is_row(row):
                found.setdefault((row["trial"], row["rung"]), row)
    return list(found.values())


def _is_row(row):
    if not isinstance(row, dict) or not isinstance(row.get("values"), dict):
        return False
    whole, status = ("trial", "rung"), row.get("status")
    numbers = ("seconds", "train_seconds", "elapsed_seconds", "epochs")
    if status == TRAINED:
        whole, numbers = (*whole, "correct", "count"), (*numbers, "loss")
    elif status not in (DIVERGED, FAILED):
        return False
    return all(type(row.get(name)) is int and row[name] >= 0 for name in whole) and all(
        type(row.get(name)) in (int, float) and math.isfinite(row[name]) and row[name] >= 0
        for name in numbers
    )
