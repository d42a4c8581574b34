"""Shared by the programs: the command line as a dataclass, and errors as one line.

`python -m digits_jax.train --arch=cnn` and `digits-jax train --arch=cnn` are the same.
"""

import ast
import contextlib
import difflib
import errno
import gc
import importlib
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from digits_jax.errors import ConfigError, DigitsError
from digits_jax.hardware import JAX_SETTINGS, record_compilation_cache, version_of

T = TypeVar("T")

# Name -> module.
PROGRAMS = {
    **{name: name for name in ("train", "evaluate", "compare", "predict", "export")},
    "models": "list_models",
    **{name: name for name in ("benchmark", "checkpoints", "launch")},
}
# Errors of the disk and its permissions, for which the program isn't to blame.
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP),
)
# Messages of tyro, joined to one line without quotes, and ours; the first match counts.
_MESSAGES = (
    (r"Unrecognized options: (--?[^ ,=]+)", r"unknown flag \1"),
    (r"Unrecognized options: (.*?)(, | For full)", r"\1: not understood; flags begin with --"),
    (r"Missing value for argument (\S+)\.", r"\1 needs a value"),
    (r"invalid choice (.*) for argument (\S+)\. Expected one of \((.*?),?\)", r"\2=\1: give \3"),
    (r"Error parsing (\S+): no type matching (.*?) could be .*? from \[(.*?)\]", r"\1=\3: give \2"),
    (r"Error parsing (\S+): (.*?)( Argument helptext| For full)", r"\1: \2"),
    (r"Missing from .*?: (\S+) (.*?) \(required\)", r"\1 is missing: \2"),
    (r"(.*?)( For full|$)", r"\1"),
)
# The dataclass of the program that runs, whose fields a library's error may name.
_parsed: list[Any] = []


def parse(kind: type[T], argv: Sequence[str], *, doc: str, default: T | None = None) -> T:
    """Parses a command line into a dataclass.

    Lists may be written with commas: ``--channels=32,64``, as well as ``--channels 32 64``.

    Args:
      kind: a dataclass; nested ones are flat with ``tyro.conf.OmitArgPrefixes``.
      argv: the arguments, without the program's name.
      doc: of the program: what it does, a colon, and how it is called.
      default: instead of the dataclass's own defaults.

    Raises:
      ConfigError: an unknown flag, or a value that isn't allowed.
      SystemExit: status 0, after ``--help`` or ``--version``.
    """
    if "--version" in argv:
        _print_version()
        raise SystemExit(0)
    prog = " ".join(doc.partition(": ")[2].split()[:3])
    extra = {} if default is None else {"default": default}
    return _tyro(kind, argv, prog=prog, description=doc, **extra)


def parse_known(kind: type[T], argv: Sequence[str]) -> T:
    """Parses the flags of a dataclass and ignores all others, and ``--help``."""
    given = [argument for argument in argv if argument not in ("-h", "--help")]
    return _tyro(kind, given, return_unknown_args=True, add_help=False)[0]


def _tyro(kind: Any, argv: Sequence[str], **options: Any) -> Any:
    import tyro  # here, so that Ctrl-C is one line from a program's start

    _parsed[:] = [kind]
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_comma_list)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind, args=argv, config=(tyro.conf.DisallowNone,), registry=registry, **options
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        cause: BaseException | None = stop
        while cause and not isinstance(cause, DigitsError):  # a dataclass may check its fields
            cause = cause.__context__
        raise cause or ConfigError(_explain(said.getvalue(), argv)) from None


def _comma_list(info: Any) -> Any:
    """tyro's rule for a flag that takes several values: commas or spaces between them."""
    from tyro.conf import Positional
    from tyro.constructors import PrimitiveConstructorSpec

    item, *rest = typing.get_args(info.type) or (None,)
    if rest != [...] or item not in (int, float, str) or Positional in info.markers:
        return None

    def read(words: list[str]) -> tuple:
        if not words:
            raise ValueError("no value")
        return tuple(item(value) for word in words for value in word.split(","))

    name = {int: "INT", float: "FLOAT", str: "STR"}[item]
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{name},{name},...",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def _explain(text: str, argv: Sequence[str]) -> str:
    """One line for what tyro says in a box of several."""
    text = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]", " ", text).replace("'", "")
    text = " ".join(text.split())
    pattern, words = next(each for each in _MESSAGES if re.search(each[0], text))
    text = re.search(pattern, text).expand(words)  # pyright: ignore[reportOptionalMemberAccess]
    if text.startswith("unknown flag"):
        word, flags = text.split()[-1].replace("_", "-"), _flags()
        close = [flag for flag in flags if flag.startswith(word)]
        close = close or difflib.get_close_matches(word, flags, 1)
        return f"{text}; " + (f"did you mean {close[0]}?" if close else "--help lists them all")
    for argument in argv:  # a switch takes no value, and tyro names the value alone
        flag, _, value = argument.partition("=")
        if flag.startswith("--") and value and text.startswith(f"{value}: not understood"):
            return f"{argument}: is a switch; give {flag} without a value"
    return text


def _flags() -> list[str]:
    """The flags of the program that runs, as its help has them."""
    import tyro

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(_parsed[0], args=["--help"])
    return re.findall(r"--[a-z][a-z0-9-]*", text.getvalue())


def with_flags(message: str) -> str:
    """Replaces the arguments that a library's message names by flags of the program that runs."""
    if not _parsed:
        return message
    if re.match(r"[^=\s]*[/.][^=\s]*: ", message):  # a file's fields aren't flags
        return message
    names = {flag[2:].replace("-", "_") for flag in _flags()}

    def flag(match: re.Match) -> str:
        # Without an underscore a name may be an ordinary word, but at the start.
        unambiguous = match.start() == 0 or "_" in match[1] or match[2] == "="
        known = match[1] in names and unambiguous
        return f"--{match[1].replace('_', '-')}{match[2]}" if known else match[0]

    return re.sub(r"(?<![\w/.-])([a-z_]+)(=|\b)", flag, message)


def _end_on_signal(number: int, _frame: FrameType | None = None) -> None:
    """Ends the process at once."""
    # KeyboardInterrupt is swallowed, or becomes an ImportError or a crash, during the import of an
    # extension module, a callback from XLA or the cleanup at exit. Code that has something to save
    # (training, the preparation of data) installs its own handler.
    with contextlib.suppress(Exception):  # the output may be just being written
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"stopped\n")
    os._exit(128 + number)


def run_program(main: Callable[[Sequence[str]], int | None]) -> int:
    """Runs a program; reports an error in one line and by the exit status.

    SIGINT and SIGTERM end it as soon as Python runs again: not within a compilation of XLA.

    Args:
      main: takes the arguments; returns a status, or None for 0.

    Returns:
      0; 2 for bad input; 1 for a full disk, another process's failure or a bug, with its traceback;
      141 where the output is closed. A signal N ends the process with status 128 + N.
    """
    # Imports and tracing make many objects that stay. At Python's threshold of 700 objects, garbage
    # collection took 0.19 s of the 1.3 s that training's imports take; here it takes 0.12 s.
    gc.set_threshold(20_000)
    # JAX reads them when it is imported. Each key of ours names its implementation; a default that
    # JAX doesn't know would be an error.
    for name in (*JAX_SETTINGS, "jax_default_prng_impl"):
        os.environ.pop(name.upper(), None)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the process's life
        elif hasattr(stream, "reconfigure"):
            # Characters that can't be encoded are escaped, and a pipe gets each line at once.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_on_signal)
    _parsed.clear()
    # Programs draw into files, in their own style: the user's backend may be missing here, and a
    # warning about the font list isn't useful.
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        status = main(sys.argv[1:]) or 0
        sys.stdout.flush()
        return status
    except DigitsError as error:
        message, status = with_flags(str(error)), error.status
    except KeyboardInterrupt:  # raised by a handler other than ours
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            traceback.print_exc()
            return 1
        message, status = str(error.strerror), 1
        if error.filename is not None:
            message += f" ({error.filename})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; free some space, then start again"
    except Exception:
        traceback.print_exc()
        return 1
    print(f"error: {message}", file=sys.stderr)
    return status


def leave(status: int) -> NoReturn:
    """Ends the process with a status, without freeing the interpreter's objects.

    Freeing those of JAX, Flax and Orbax took 1 to 1.8 s after a quick training (two busy cores),
    and a process that fails among several would wait there for the others.
    """
    record_compilation_cache()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def _print_version() -> None:
    print(f"digits_jax {version_of('digits_jax') or '(not installed)'}")


def _describe(program: str) -> str:
    """The first words of a program's docstring, without importing it."""
    source = Path(__file__).with_name(f"{PROGRAMS[program]}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split(": ")[0]


def _dispatch(argv: Sequence[str]) -> int | None:
    program = argv[0] if argv else "--help"
    if program == "--version":
        _print_version()
        return 0
    if program in ("-h", "--help"):
        lines = (f"  {name:12}{_describe(name)}" for name in PROGRAMS)
        print("usage: digits-jax PROGRAM [FLAGS]", "", *lines, sep="\n")
        print("", "digits-jax PROGRAM --help lists the flags of one.", sep="\n")
        return 0 if argv else 2
    if program not in PROGRAMS:
        close = difflib.get_close_matches(program, PROGRAMS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{program}: unknown program; {hint}give one of {', '.join(PROGRAMS)}")
    return importlib.import_module(f"digits_jax.{PROGRAMS[program]}").main(argv[1:])


def main() -> NoReturn:
    """Runs ``digits-jax PROGRAM ...``."""
    leave(run_program(_dispatch))


if __name__ == "__main__":
    main()
