"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Something that the user gave can't be used.

    The message is one line that says what was given, what is allowed and what to do.
    Programs print it and exit with status 2; library callers catch it as a ``ValueError``.
    Anything else that escapes is a bug of ours and keeps its traceback.

    Example:
      >>> raise InputError("--epochs is -1; it must be a positive number")
      Traceback (most recent call last):
      digits_jax.errors.InputError: --epochs is -1; it must be a positive number
    """
