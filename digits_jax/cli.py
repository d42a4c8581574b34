"""What the programs share: parsing, and errors as one line."""

import argparse
import atexit
import contextlib
import dataclasses
import difflib
import errno
import io
import os
import re
import select
import signal
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Sequence

from digits_jax.errors import ConfigError, DigitsError

T = typing.TypeVar("T")

# What a disk, its permissions or what lies on it do to a program that did nothing wrong.
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP),
)


def parse(kind: type[T], argv: Sequence[str], *, doc: str, default: T | None = None) -> T:
    """Parses a command line into a dataclass.

    Lists may be written with commas: ``--channels=32,64``, as well as ``--channels 32 64``.

    Args:
      kind: a dataclass.
      argv: the arguments, without the program's name.
      doc: of the program: what it does, a colon, and how it is called.
      default: instead of the dataclass's own defaults.

    Raises:
      ConfigError: an unknown flag, or a value of the wrong type.
      SystemExit: status 0, after ``--help``.
    """
    import tyro  # here, so that Ctrl-C is one line from a program's start

    given = argv
    argv = [
        x
        for a in argv
        for x in (
            [a.partition("=")[0], *a.partition("=")[2].split(",")]
            if a.startswith(("--channels=", "--hidden-sizes="))
            else [a]
        )
    ]
    said = io.StringIO()
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                args=argv,
                prog=" ".join(doc.split(": ")[1].split()[:3]),
                description=doc,
                config=(tyro.conf.DisallowNone,),
                **extra,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(_explain(said.getvalue(), kind, given)) from None


def parse_known(kind: type[T], argv: Sequence[str]) -> T:
    """Parses the flags of a dataclass and ignores all others."""
    import tyro

    given = [argument for argument in argv if argument not in ("-h", "--help")]
    return tyro.cli(kind, args=given, return_unknown_args=True, add_help=False)[0]


def _flags(kind):
    """The flags of a dataclass, and the type of each, None left out: int for ``int | None``."""
    return {
        f"--{field.name.replace('_', '-')}": _plain_type(field.type)
        for field in dataclasses.fields(kind)
    }


def _plain_type(annotation):
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _check_flags(kind, argv):
    flags = _flags(kind)
    off = {f"--no-{flag[2:]}": flag for flag, type_ in flags.items() if type_ is bool}
    allowed = [*flags, *off]
    for place, argument in enumerate(argv):
        following = argv[place + 1] if place + 1 < len(argv) else "--"
        written, equals, value = argument.partition("=")
        flag = written.replace("_", "-")
        if not flag.startswith("--"):
            continue
        if flag not in allowed:
            close = [name for name in sorted(allowed) if name.startswith(flag)]
            close = close or difflib.get_close_matches(flag, allowed, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"unknown flag {written}; {hint}--help lists them all")
        flag = off.get(flag, flag)
        if flags[flag] is bool:
            if equals:
                raise ConfigError(
                    f"{argument}: it is a switch; give {flag}, or --no-{flag[2:]}, with no value"
                )
        elif (equals and not value and flags[flag] in _WANTED) or (
            not equals and following.startswith("--")
        ):
            raise ConfigError(f"{written} needs a value: give {_WANTED.get(flags[flag], 'a word')}")


_WANTED = {tuple[int, ...]: "whole numbers, like 32,64", int: "a whole number", float: "a number"}


def _split_lists(kind, argv):
    lists = {f for f, type_ in _flags(kind).items() if typing.get_origin(type_) is tuple}
    out, in_list = [], False
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if flag.startswith("-"):
            in_list = flag.replace("_", "-") in lists
        if in_list and equals:
            out += [flag, *value.split(",")]
        elif in_list and not flag.startswith("-"):
            out += argument.split(",")
        else:
            out.append(argument)
    return out


def _explain(text, kind, argv):
    """One line for what tyro says, which speaks of types, for programmers."""
    text = _one_line(text)
    flag = re.match(r"Error parsing (--[\w-]+)", text)
    wanted = _WANTED.get(_flags(kind).get(flag[1])) if flag else None
    if wanted:
        given = " ".join(argv).replace("_", "-").partition(flag[1])[2].lstrip("= ").split(" --")[0]
        return f"{flag[1]}={given}: give {wanted}"
    if text.startswith("Missing value for argument"):
        return re.sub(r"Missing value for argument '(.*?)'.*", r"\1 needs a value", text)
    missing = re.match(r"Missing from .*?: (\w+) (.*?)\. \(required\)", text)
    if missing:
        return f"{missing[1]} is missing: {missing[2].lower()} (--help shows how)"
    if text.startswith("Unrecognized options: "):
        word = text.removeprefix("Unrecognized options: ").split(" (--help")[0]
        return f"{word}: not understood; flags begin with --, and --help lists them"
    return text


def _one_line(text):
    """tyro explains errors in a box of several lines; ours are one line."""
    text = re.sub(r"\x1b\[[0-9;]*m|[─-╿]|-{3,}", " ", text)
    text = re.sub(r"(Argument helptext|For full helptext|Got errors).*", " ", text, flags=re.S)
    headings = (
        r"^\s*(Parsing error|Value error|Missing argument|Unrecognized options|Required options)"
    )
    text = " ".join(re.sub(headings, "", text).split())
    return f"{text or 'the arguments cannot be used'} (--help lists what is allowed)"


class Parser(argparse.ArgumentParser):
    """argparse, for programs whose arguments aren't the fields of a configuration.

    Raises:
      ConfigError: where argparse would print its usage and exit.
    """

    def error(self, message):
        """One line, as everywhere."""
        raise ConfigError(f"{message} (--help shows how)")


# How long the main thread has to come to a signal's handler, once that is to end the process.
_PATIENCE_SECONDS = 1.0
# And how long whoever has something to save has for it: clusters kill after that time.
_AT_MOST_SECONDS = 30.0


def _leave(number, _frame=None):
    with contextlib.suppress(Exception):  # the output may be just being written
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"stopped\n")
    os._exit(128 + number)


@contextlib.contextmanager
def _leaving_on_signals():
    """SIGINT and SIGTERM end the process there and then, with status 128 + the signal.

    Python's own KeyboardInterrupt is swallowed, or becomes a crash, where it strikes the imports
    of an extension module, a call back from XLA or the clearing up at exit. Whoever has something
    to save or to remove (training, the preparation of data) puts a handler of its own in front of
    this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone.
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    # The interpreter writes the numbers of signals there as they come, from C.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reading,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writing)  # which ends the thread
        thread.join()
        os.close(reading)


def _watch(reading):
    """Ends the process where the main thread is where no handler of Python's is called.

    That is in XLA: compiling may take many seconds, and a collective waits for ever when another
    process has gone. The first signal is left to whoever saves something on it; a second isn't.
    """
    seen = number = 0
    while True:
        # What hasn't ended so long after it was asked never will, or will be killed anyway.
        if seen and not select.select([reading], [], [], _AT_MOST_SECONDS)[0] and _may_end(number):
            _leave(number)
        byte = os.read(reading, 1)
        if not byte:
            return
        number = byte[0]
        if number not in (signal.SIGINT, signal.SIGTERM):
            continue
        seen += 1
        if signal.getsignal(number) is _leave or (seen > 1 and _may_end(number)):
            time.sleep(_PATIENCE_SECONDS)  # the main thread's words are better
            _leave(number)


def _may_end(number):
    """Whether a signal is ours to act on: a handler that isn't marked has plans of its own."""
    handler = signal.getsignal(number)
    return handler is _leave or getattr(handler, "ends_when_stuck", False)


def _make_output_safe():
    """Output that is closed, or that can't show a letter of a path, is no reason to fail.

    And a line is there when it is said, also for who reads it through a pipe (`| tee log`).
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the process's life
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def run_program(main: Callable[[Sequence[str]], int | None]) -> int:
    """Runs a program, and turns what its user did into one line and an exit status.

    Args:
      main: takes the arguments; returns a status, or None for 0.

    Returns:
      0; 2 for bad input; 1 where the disk or another process failed; 128 + N where signal N
      stopped it.
    """
    _make_output_safe()
    with _leaving_on_signals():
        status = _run(main)
    for number in (signal.SIGINT, signal.SIGTERM):
        # All is done: a signal now would make a failure of it, while Python clears up.
        if status == 0 and threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_IGN)
    if status == 141:
        # Nobody reads our output, and Python would complain when it flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def leave(status: int) -> typing.NoReturn:
    """Ends the process with a status, without taking the interpreter apart.

    To free one by one the objects of JAX, Flax and Orbax took half a second of a training of
    seven. What is registered for the end is done as ever, and output is flushed.

    Args:
      status: of `run_program`.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if not all(thread.daemon for thread in others):
        sys.exit(status)  # which waits for them
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 141
    except OSError as error:
        print(f"error: {error.strerror} (output)", file=sys.stderr)
        status = status or 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def _run(main):
    try:
        return main(sys.argv[1:]) or 0
    except DigitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141  # The reader of our output has gone, as `| head` does.
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; free some space, then start again" if full else ""
        print(f"error: {error.strerror}{where}{advice}", file=sys.stderr)
        return 1
