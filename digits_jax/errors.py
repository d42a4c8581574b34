"""The errors that a user's input can cause, and how their messages show what was given."""

import reprlib


class DigitsError(ValueError):
    """What the user gave can't be used; the base of all errors that this package raises on purpose.

    The message is one line: what was given, what is allowed, what to do. Unprintable characters,
    as a file's name or contents may hold, are escaped. Programs print the line and exit with
    ``status``; library callers may catch a ``ValueError``. Any other exception that escapes is a
    bug and keeps its traceback.

    Examples:
      >>> raise ConfigError("epochs=-1: must be more than 0")
      Traceback (most recent call last):
      digits_jax.errors.ConfigError: epochs=-1: must be more than 0
    """

    status = 2  # the exit status of a program that ends with this error

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


class ConfigError(DigitsError):
    """An argument, a flag or a combination of them can't be used."""


class DataError(DigitsError):
    """A data set, a picture or an array of predictions can't be used."""


class CheckpointError(DigitsError):
    """A run's folder or a checkpoint is missing, damaged or another run's."""


class TrainingDivergedError(DigitsError):
    """The loss or the gradients of several steps in a row weren't finite."""


def printable(text: str) -> str:
    """Escapes what a terminal wouldn't print but obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60
_SHORT.maxlevel = 3


def quoted(value: object) -> str:
    """Returns the ``repr`` of a value for a message, cut to a part of a line.

    Examples:
      >>> quoted([24, "x"]), len(quoted("y" * 10_000))
      ("[24, 'x']", 60)
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"


def shown(value: object) -> str:
    """Returns `quoted`, but text without quotes, as on a command line.

    Examples:
      >>> shown("cnn"), shown(0.5), len(shown("y" * 10_000))
      ('cnn', '0.5', 80)
    """
    if not isinstance(value, str):
        return quoted(value)
    value = printable(value[:1000])
    return value if len(value) <= 80 else f"{value[:60]}...{value[-17:]}"
