"""Frozen dataclasses whose fields are converted to their types and checked when they are made."""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import tyro

from digits_jax.errors import ConfigError, quoted, shown

T = TypeVar("T")
# Flags of programs, whose help needn't say that they are off or not given by default.
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
Optional = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
MAX_INT = 2**31 - 1  # the largest size that XLA takes
_PATHS = ("dataset", "workdir", "data_dir", "teacher", "init_from")
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


class Range(NamedTuple):
    """The numbers that a field may have."""

    low: float = 0
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False


class Checked:
    """A frozen dataclass that converts its fields to their types and checks them."""

    _ranges: ClassVar[Mapping[str, Range]] = {}

    def __init_subclass__(cls, *, ranges: Mapping[str, Range]) -> None:
        cls._ranges = ranges

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _converted(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.name in self._ranges:
                for number in value if isinstance(value, tuple) else (value,):
                    if isinstance(number, int | float):
                        _check_range(field.name, number, self._ranges[field.name])
        for message in self._broken_rules():
            raise ConfigError(message)

    def _broken_rules(self) -> Iterator[str]:
        """The message of each rule across fields that doesn't hold."""
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Any, source: str) -> Self:
        """Makes a configuration from plain values, as `to_dict` gives them.

        Args:
          values: a dictionary; a field that is missing has its default.
          source: where the values came from, for the error.

        Raises:
          ConfigError: a field is unknown or has a value that isn't allowed.
        """
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: expected an object with the fields of {cls.__name__}")
        if unknown := values.keys() - names:
            raise ConfigError(f"{source}: unknown field {quoted(min(unknown))}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None


def _converted(field: dataclasses.Field, value: Any) -> Any:
    """The value as the field's type has it."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # NumPy's scalars, as sweeps give them
    if field.name in _PATHS and isinstance(value, str | os.PathLike):
        value = os.path.expanduser(os.fspath(value))
    annotation = field.type
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    allowed = []
    for kind in typing.get_args(annotation) if union else (annotation,):
        if kind is types.NoneType:
            if value is None:
                return None
        elif typing.get_origin(kind) is Literal:
            if isinstance(value, str) and value in typing.get_args(kind):
                return value
            allowed += typing.get_args(kind)
        elif typing.get_origin(kind) is tuple:
            if isinstance(value, list | tuple) and all(type(each) is int for each in value):
                return tuple(value)
            allowed.append("a list of whole numbers")
        else:
            if kind is float and type(value) is int:
                return float(value) if abs(value) < 2**63 else math.inf
            if type(value) is kind:  # not isinstance: bool is a subclass of int
                return value
            allowed.append(_TYPE_NAMES[kind])
    raise ConfigError(f"{field.name}={shown(value)}: allowed: {', '.join(allowed)}")


def _check_range(name: str, number: float, allowed: Range) -> None:
    low, high, low_open, high_open = allowed
    low_fits = low < number if low_open else low <= number
    high_fits = number < high if high_open else number <= high
    finite = -math.inf < number < math.inf  # math.isfinite raises for a huge integer
    if low_fits and high_fits and finite:
        return
    words = f"{'more than' if low_open else 'at least'} {low:g}"
    if high < math.inf:
        words += f" and {'less than' if high_open else 'at most'} {high:.10g}"
    raise ConfigError(f"{name}={shown(number)}: must be {words}{'' if finite else ' and finite'}")


def can_be_a_path(path: str) -> bool:
    """Returns whether the system takes a text as a path."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
