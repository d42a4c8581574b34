"""Numbers, machines and tables in words, for every report."""

from collections.abc import Callable, Sequence
from typing import Any


def duration(seconds: float) -> str:
    """A duration with a unit that suits it, and three digits.

    Example:
      >>> duration(0.0000123), duration(0.0456), duration(1.5), duration(123.4)
      ('12.3 µs', '45.6 ms', '1.50 s', '123 s')
    """
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            value = seconds * factor
            break
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def rate(flops: float | None) -> str:
    """Floating-point operations a second.

    Example:
      >>> rate(2.5e9), rate(3.14e12), rate(None)
      ('2.50 GFLOP/s', '3.14 TFLOP/s', '-')
    """
    if flops is None:
        return "-"
    for factor, unit in ((1e12, "T"), (1e9, "G")):
        if flops >= factor:
            return (
                f"{flops / factor:.3g} {unit}FLOP/s"
                if flops >= 1e13
                else (f"{flops / factor:.2f} {unit}FLOP/s")
            )
    return f"{flops / 1e6:.2f} MFLOP/s"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, words: int = 1) -> list[str]:
    """The lines of a Markdown table; all but the first columns are numbers.

    Args:
      heads: of the columns.
      rows: what stands in them.
      words: columns of words.

    Example:
      >>> table(["a", "b"], [["x", 1]])
      ['| a | b |', '|---|--:|', '| x | 1 |']
    """
    rule = "|".join("---" if i < words else "--:" for i in range(len(heads)))
    lines = [heads, *rows]
    made = [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]
    return [made[0], f"|{rule}|", *made[1:]]


def range_of(spread: dict[str, float], show: Callable[[float], str] = duration) -> str:
    """Of a spread, from its 10th to its 90th percentile.

    Example:
      >>> range_of({"p10": 1.0, "p90": 2.0})
      '1.00 s to 2.00 s'
    """
    return between(spread["p10"], spread["p90"], show)


def between(low: float, high: float, show: Callable[[float], str] = duration) -> str:
    """A range; of a single measurement there is none.

    Example:
      >>> between(1.0, 1.0), between(1.0, 2.0)
      ('-', '1.00 s to 2.00 s')
    """
    return "-" if low == high else f"{show(low)} to {show(high)}"


def where(machine: dict[str, Any]) -> str:
    """The machine in a few words.

    Example:
      >>> where({"device": "cpu", "processor": "Z80", "cores": 1})
      'Z80, 1 core'
    """
    processor = f"{machine['processor']}, {some(machine['cores'], 'core')}"
    return processor if machine["device"] == "cpu" else f"{machine['device']}; {processor}"


def some(count: float, thing: str) -> str:
    """A number of things.

    Example:
      >>> some(1, "seed"), some(3, "new process"), some(1.5, "epoch"), some(1.0, "epoch")
      ('1 seed', '3 new processes', '1.5 epochs', '1 epoch')
    """
    number = f"{count:.6g}" if isinstance(count, float) else str(count)
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number} {thing if number == '1' else plural}"


def percent(fraction: float | None) -> str:
    """A share of a hundred, to a tenth.

    Example:
      >>> percent(0.1234), percent(None)
      ('12.3%', '-')
    """
    return "-" if fraction is None else f"{fraction:.1%}"


def thousands(value: float) -> str:
    """A number without decimals, its thousands apart.

    Example:
      >>> thousands(12345.6)
      '12,346'
    """
    return f"{value:,.0f}"
