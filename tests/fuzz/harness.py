"""Gives a reader thousands of damaged files and says what became of each.

Every input has a number; the number alone, with the reader's name, is the seed of its damage.
``DIGITS_JAX_FUZZ_NUMBER=1234`` repeats that one input of each reader that is run.
"""

import contextlib
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutations import encode, mutate_bytes, mutate_json, mutate_lines

from digits_jax.errors import DigitsError

NUMBER_VARIABLE = "DIGITS_JAX_FUZZ_NUMBER"
LIMIT_SECONDS = 10.0
MEMORY_BYTES = 600_000_000  # more than a picture of the largest size allowed takes
LONGEST_MESSAGE = 300  # letters, without the file's folder
MOST_FAILURES = 10


@dataclass(frozen=True)
class Target:
    """A file of a reader's folder, and how it is damaged.

    Attributes:
      file: its path in the folder.
      kind: what it is to the mutator: "bytes", "json", "lines" or "bytes+json" (either).
      payload: what is damaged, where that isn't the file itself: the file's bytes -> bytes.
      rebuild: (the file's bytes, damaged payload) -> the file's new bytes, whole around it.
    """

    file: str
    kind: str = "bytes"
    payload: Callable[[bytes], bytes] | None = None
    rebuild: Callable[[bytes, bytes], bytes] | None = None


@dataclass(frozen=True)
class Reader:
    """A reader, and what is right of it.

    Attributes:
      make: writes whole files into a folder.
      read: (the folder) -> a result, or an DigitsError.
      right: (result, the result of the whole files, case) -> asserts that the result is one
        that may be; ``case`` is the `Case`.
      targets: what is damaged, by turns.
      refuses: whether it may raise an DigitsError at all.
      restored: the files that are put back before each input, as reading changes them.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    right: Callable[[Any, Any, "Case"], None]
    targets: tuple[Target, ...]
    refuses: bool = True
    restored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One damaged input: the target, what was damaged, before and after, and where it lies."""

    target: Target
    folder: Path
    before: bytes
    after: bytes


class HangError(BaseException):
    """A reader took too long; no ``except Exception`` of its own stops this."""


@contextlib.contextmanager
def time_limit(seconds=LIMIT_SECONDS):
    """Raises a HangError in the main thread after some seconds."""

    def on_alarm(*_):
        raise HangError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def damage(data, kind, seed):
    """Damaged bytes: what the seed, a string, makes of them."""
    source = random.Random(seed)
    if kind == "bytes+json":
        kind = source.choice(("bytes", "json"))
    if kind == "bytes":
        return mutate_bytes(data, source)
    mutate = {"json": mutate_json, "lines": mutate_lines}[kind]
    return encode(mutate(data.decode(), source))


def assert_clear(error, folder, file):
    """An error's message is one line, not long, and names the file, or the run's folder."""
    message = str(error)
    assert message.isprintable(), f"not one printable line: {message!r}"
    plain = message.replace(str(folder), "")
    assert len(plain) <= LONGEST_MESSAGE, f"{len(plain)} letters: {message!r}"
    assert str(folder) in message or file in message, f"names no file: {message}"


def _read(reader, folder):
    """The result, and the error: one of the two is None."""
    try:
        return reader.read(folder), None
    except DigitsError as error:
        return None, error


def _one(reader, folder, whole, expected, target, seed):
    """None, or what was wrong."""
    path = folder / target.file
    before = target.payload(whole[target.file]) if target.payload else whole[target.file]
    after = damage(before, target.kind, seed)
    path.write_bytes(target.rebuild(whole[target.file], after) if target.rebuild else after)
    case = Case(target, folder, before, after)
    try:
        with time_limit(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result, refusal = _read(reader, folder)
            if refusal is None:
                reader.right(result, expected, case)
            else:
                assert reader.refuses, f"it may not refuse: {refusal}"
                assert_clear(refusal, folder, target.file)
        assert not warned, f"warned: {warned[0].message}"
    except (Exception, HangError) as error:
        last = "".join(traceback.format_exception(error, limit=-4))
        return f"{last}  input, {len(after)} bytes: {after[:300]!r}"
    return None


def fuzz(name, reader, count, folder):
    """Tries ``count`` damaged inputs.

    Returns:
      The number of those tried, and what was wrong, in words that say how to repeat each.
    """
    reader.make(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    whole = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    times = {file: (folder / file).stat().st_mtime_ns for file in whole}
    expected = reader.read(folder)
    only = os.environ.get(NUMBER_VARIABLE)
    numbers = range(count) if only is None else [int(only)]
    wrong = []
    for tried, number in enumerate(numbers, 1):  # noqa: B007 - how many, at the end
        target = reader.targets[number % len(reader.targets)]
        for file in {*reader.restored, *(t.file for t in reader.targets)} - {target.file}:
            if file in reader.restored or len(reader.targets) > 1:
                _put_back(folder / file, whole[file], times[file])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = _one(reader, folder, whole, expected, target, f"{name}/{number}")
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * (
            1 if sys.platform == "darwin" else 1024
        )
        if said is None and more > MEMORY_BYTES:
            said = f"it took {more / 1e6:.0f} MB more than any before"
        if said:
            again = f"{NUMBER_VARIABLE}={number} python -m pytest tests/fuzz -k '{name}'"
            wrong.append(f"{name}, {target.file}, number {number} (repeat: {again})\n{said}")
            if len(wrong) >= MOST_FAILURES:
                break
    return tried, wrong


def _put_back(path, data, modified):
    # Sizes and times tell most changes: whatever is as it was isn't written again.
    status = path.stat() if path.exists() else None
    if status and (status.st_size, status.st_mtime_ns) == (len(data), modified):
        return
    path.write_bytes(data)
    os.utime(path, ns=(modified, modified))
