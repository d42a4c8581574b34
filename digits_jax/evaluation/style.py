"""How every figure of this room looks: themes, titles, numbers.

The colours are Okabe and Ito's, told apart by every kind of colour vision; shape or position
says the same again. A figure is 5.2 inches wide, so that it reads at the width of a phone, or
10 where it has three panels. matplotlib is imported when the first figure is drawn.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

NARROW, WIDE = 5.2, 10.0  # inches


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; a and b are the two classifiers'."""

    background: str
    text: str
    muted: str
    grid: str
    a: str
    b: str
    both: str
    right: str
    wrong: str


LIGHT = Theme(
    *("#ffffff", "#1c1c1c", "#6b6b6b", "#dddddd"),
    *("#E69F00", "#0072B2", "#4d4d4d", "#009E73", "#CC4C8F"),
)
DARK = Theme(
    *("#17191d", "#ececec", "#9a9a9a", "#3a3d43"),
    *("#E69F00", "#56B4E9", "#c9c9c9", "#2fcf9f", "#F08CC0"),
)


def themed(draw: Callable) -> Callable:
    """Run a drawing function with its theme's rc settings, without touching the global ones."""

    @wraps(draw)
    def wrapper(*args, theme: Theme = LIGHT, **kwargs):
        import matplotlib as mpl

        with mpl.rc_context({**mpl.rcParamsDefault, **_settings(theme)}):
            figure = draw(*args, theme=theme, **kwargs)
            # Ticks are made on the first draw, from the settings of that moment.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout stands; saving needn't find it again
        return figure

    return wrapper


def _settings(theme: Theme) -> dict:
    return {
        "backend": "agg",
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.muted,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "figure.dpi": 150,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.06,
    }


def new_figure(title: str, width: float, height: float):
    """An empty Figure whose title, wrapped to its width, stands above `height` inches of plot.

    Args:
      title: the finding.
      width: inches.
      height: inches of plot, the title's lines come on top.

    Returns:
      A matplotlib Figure; it belongs to no window and needs no closing.

    Example:
      >>> new_figure("B is better", 5.2, 3.0).get_suptitle()
      'B is better'
    """
    from matplotlib.figure import Figure

    lines = _balanced(title, int(width * 10.6))
    figure = Figure(figsize=(width, height + 0.21 * len(lines) + 0.1))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=11, fontweight="bold")
    return figure


def _balanced(text: str, most: int) -> list[str]:
    """Lines of about equal length, none above `most` letters; a word that is longer is broken."""
    lines = textwrap.wrap(text, most, break_on_hyphens=False)
    for width in range(len(text) // max(len(lines), 1), most):
        balanced = textwrap.wrap(text, width, break_on_hyphens=False)
        if len(balanced) <= len(lines):
            return balanced
    return lines


def count_text(value: float) -> str:
    """A count of images, or a mean of counts, as text.

    Args:
      value: the count.

    Returns:
      Whole numbers, and those from 100 on, without decimals; others with one.

    Example:
      >>> count_text(3), count_text(3.04), count_text(1234.5)
      ('3', '3.0', '1,234')
    """
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:,.1f}"


def plural(value: float, noun: str) -> str:
    """A count with its noun.

    Args:
      value: the count, or a mean of counts.
      noun: in the singular, with a plural in -s.

    Returns:
      Only 1 itself is singular; a mean of 1.0 isn't.

    Example:
      >>> plural(1, "error"), plural(0, "error"), plural(2.5, "image")
      ('1 error', '0 errors', '2.5 images')
    """
    text = count_text(value)
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"


def fixed(value: float, digits: int, sign: str = "") -> str:
    """A number with so many decimals, a proper minus sign, and no minus before zero.

    Args:
      value: the number.
      digits: decimals.
      sign: "+" to write it before positive numbers and zero.

    Returns:
      The text.

    Example:
      >>> fixed(-0.0001, 3), fixed(-1.5, 1), fixed(1500, 0, "+")
      ('0.000', '−1.5', '+1,500')
    """
    value = round(float(value), digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:{sign},.{digits}f}".replace("-", "−")


def signed_count(value: float) -> str:
    """A difference of counts, or of means of counts, with its sign.

    Args:
      value: the difference.

    Returns:
      As `count_text`, with a sign.

    Example:
      >>> signed_count(-1000.0), signed_count(0.04), signed_count(2.5)
      ('−1,000', '0', '+2.5')
    """
    whole = abs(value) >= 100 or abs(value - round(value)) < 1e-9
    text = fixed(value, 0 if whole else 1, "+")
    return "0" if text in ("+0", "+0.0") else text
