"""The one error that a user's input can cause, and how its message shows what was given."""

import reprlib


class InputError(ValueError):
    """Something that the user gave can't be used.

    The message is one line that says what was given, what is allowed and what to do; what can't
    be printed on a line, as a file's name or its contents may hold, is escaped.
    Programs print it and exit with status 2; library callers catch it as a ``ValueError``.
    Anything else that escapes is a bug of ours and keeps its traceback.

    Example:
      >>> raise InputError("--epochs is -1; it must be a positive number")
      Traceback (most recent call last):
      digits_jax.errors.InputError: --epochs is -1; it must be a positive number
    """

    status = 2  # of a program that ends with it

    def __init__(self, message: object = ""):
        super().__init__(_printable(str(message)))


class PeerError(InputError):
    """Another process, with which this one trains, has gone, or has stalled."""

    status = 1


def _printable(text):
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60
_SHORT.maxlevel = 3


def quoted(value: object) -> str:
    """``repr`` of what a message quotes, cut to a part of a line, however long or deep it is.

    Example:
      >>> quoted([24, "x"]), len(quoted("y" * 10_000))
      ("[24, 'x']", 60)
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"


def shown(value: object) -> str:
    """As `quoted`, but text has no quotes, as on a command line.

    Example:
      >>> shown("cnn"), shown(0.5), len(shown("y" * 10_000))
      ('cnn', '0.5', 80)
    """
    if not isinstance(value, str):
        return quoted(value)
    value = _printable(value[:1000])
    return value if len(value) <= 80 else f"{value[:60]}...{value[-17:]}"
