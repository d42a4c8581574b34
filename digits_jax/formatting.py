"""Numbers, names and tables as text. Undefined numbers (None) are "–".

Names of files, folders and classes are untrusted. Each form of output has one function that escapes
them: `plain` for a terminal, `markdown`, `csv_cell`, and `to_html`, which does what Jinja does.
"""

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from digits_jax.errors import printable

if TYPE_CHECKING:
    import jinja2


def plain(text: object) -> str:
    r"""Escapes line breaks, control characters and marks that change the direction of writing.

    Examples:
      >>> plain("a\x1b[2J\n")
      'a\\x1b[2J\\n'
    """
    return printable(str(text))


def markdown(text: object) -> str:
    r"""Escapes what Markdown or HTML would take for markup, in tables too.

    Examples:
      >>> print(markdown("[a](javascript:b) <c>|d"))
      \[a\](javascript:b) \<c\>\|d
    """
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", plain(text))


def to_html(text: object) -> str:
    """Escapes what HTML would take for markup.

    Examples:
      >>> to_html("<b>")
      '&lt;b&gt;'
    """
    return html.escape(plain(text))


def html_table(rows: Mapping[str, object], title: str = "") -> str:
    """Makes a table of names and values, as a notebook shows it."""
    caption = f"<caption>{to_html(title)}</caption>" if title else ""
    cells = (f"<tr><th>{to_html(k)}</th><td>{to_html(v)}</td></tr>" for k, v in rows.items())
    return f"<table>{caption}{''.join(cells)}</table>"


def template(path: Path) -> "jinja2.Template":
    """Loads a Jinja template; in HTML it escapes markup by itself, in Markdown by ``|md``."""
    import jinja2  # takes a moment, and `--help` comes by here

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown
    return environment.get_template(path.name)


def csv_cell(value: object) -> object:
    """Marks text that a spreadsheet would take for a formula by an apostrophe; numbers stay.

    Examples:
      >>> csv_cell("=1+1"), csv_cell(-1.5), csv_cell("cnn")
      ("'=1+1", -1.5, 'cnn')
    """
    if not isinstance(value, str):
        return value
    return f"'{plain(value)}" if value.lstrip().startswith(tuple("=+-@")) else plain(value)


def markdown_table(
    rows: Iterable[Sequence[object]], columns: Sequence[str], align: str = "lr"
) -> str:
    """Writes a Markdown table.

    Args:
      rows: the cells of each row, as many as there are columns; None is shown as "–". They are
        Markdown: `markdown` escapes untrusted text.
      columns: the headings.
      align: "l" or "r" for each column; the last letter stands for all further columns.

    Examples:
      >>> print(markdown_table([["cnn", "99.60%", 8], ["a|b", None, 9]], ["net", "right", "n"]))
      | net | right | n |
      |---|--:|--:|
      | cnn | 99.60% | 8 |
      | a\\|b | – | 9 |
    """
    sides = align + align[-1] * (len(columns) - len(align))
    rule = "|".join("--:" if side == "r" else "---" for side in sides[: len(columns)])
    lines = [[_cell(cell) for cell in line] for line in (columns, *rows)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, f"|{rule}|", *body])


def _cell(value: object) -> str:
    text = "–" if value is None else " ".join(str(value).split())
    return re.sub(r"(?<!\\)\|", r"\\|", text)  # a bar that `markdown` escaped stays


def fixed(value: float | None, digits: int, sign: str = "") -> str:
    """Formats with `digits` decimals and a true minus sign; sign="+" marks positive numbers too.

    Examples:
      >>> fixed(-0.0001, 3), fixed(-1.5, 1), fixed(1500, 0, "+"), fixed(None, 1)
      ('0.000', '−1.5', '+1,500', '–')
    """
    if value is None:
        return "–"
    value = round(float(value), digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:{sign},.{digits}f}".replace("-", "−")


def count(value: float | None, sign: str = "") -> str:
    """Formats a count, or a mean of counts: one decimal, none for whole numbers and from 100 on.

    Examples:
      >>> count(3), count(3.04), count(1234.5), count(2.5, "+"), count(-1000.0, "+")
      ('3', '3.0', '1,234', '+2.5', '−1,000')
    """
    if value is None:
        return "–"
    whole = abs(value) >= 100 or abs(value - round(value)) < 1e-9
    text = fixed(value, 0 if whole else 1, sign)
    return "0" if text == "+0" else text


def plural(number: float | str, noun: str) -> str:
    """Formats a count with its noun; a number that is already text is kept.

    Examples:
      >>> plural(1, "seed"), plural(0, "error"), plural(3, "process"), plural("0.75", "epoch")
      ('1 seed', '0 errors', '3 processes', '0.75 epochs')
    """
    text = number if isinstance(number, str) else count(number)
    ending = "" if text == "1" else "es" if noun.endswith("s") else "s"
    return f"{text} {noun}{ending}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """Formats a fraction as a percentage: 0.98765 is 98.77%."""
    return "–" if fraction is None else f"{fixed(100 * fraction, digits)}%"


def interval(
    bounds: Sequence[float] | None, show: Callable[[float], str] = percent, empty: str = "–"
) -> str:
    """Formats an interval.

    Examples:
      >>> interval((0.9, 0.95)), interval((-1.0, 1.5), lambda end: fixed(end, 1)), interval(None)
      ('[90.00%, 95.00%]', '[−1.0, 1.5]', '–')
    """
    return empty if bounds is None else f"[{', '.join(show(end) for end in bounds)}]"


def mean_sd(values: Iterable[float], digits: int = 2, factor: float = 1.0) -> str:
    """Formats mean ± sample standard deviation; of one value, the value alone.

    Examples:
      >>> mean_sd([0.991, 0.993], factor=100), mean_sd([5.0], 1)
      ('99.20 ± 0.14', '5.0')
    """
    values = list(values)
    text = fixed(factor * mean(values), digits)
    return text if len(values) < 2 else f"{text} ± {fixed(factor * stdev(values), digits)}"


def p_value(p: float) -> str:
    """Formats a p-value with two digits."""
    return "below 1e-300" if p < 1e-300 else f"{p:.2g}"


def duration(seconds: float) -> str:
    """Formats a time with three digits and the unit that suits it.

    Examples:
      >>> duration(0.0000123), duration(0.0456), duration(1.5), duration(123.4)
      ('12.3 µs', '45.6 ms', '1.50 s', '123 s')
    """
    factor, unit = next(
        (f, u) for f, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * f >= 1 or u == "µs"
    )
    value = seconds * factor
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
