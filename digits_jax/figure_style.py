"""The one style of figures.

A figure's title states the finding. The colours are Okabe and Ito's, told apart by every kind of
colour vision; shape or position says the same again. A figure is 5.2 inches wide, so that it reads
at the width of a phone, or 10 where it has several panels. A notebook shows a figure that is the
last expression of a cell. matplotlib is imported when the first figure is drawn.
"""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
NARROW, WIDE = 5.2, 10.0  # inches
ORANGE, BLUE, GREEN, PINK = "#E69F00", "#0072B2", "#009E73", "#CC4C8F"
TEXT, MUTED, GRID, DARK_GREY = "#1c1c1c", "#6b6b6b", "#dddddd", "#4d4d4d"

_STYLE = {
    "text.color": TEXT,
    "text.parse_math": False,  # a name may hold dollars
    "axes.labelcolor": TEXT,
    "axes.edgecolor": MUTED,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": GRID,
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


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Replaces the user's settings by the style of this file."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE}
    del settings["backend"]  # a Figure without pyplot needs none, and it isn't reset
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name's letters that the font hasn't
        yield


def styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Runs a drawing function in the style of this file."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        with style():
            figure = draw(*args, **kwargs)
            # Ticks are made on the first draw, from the settings of that moment.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout stands; saving needn't find it again
        return figure

    return wrapper


def new_figure(title: str, width: float, height: float) -> "Figure":
    """Makes a Figure whose title, wrapped to its width, stands above `height` inches of plot.

    Examples:
      >>> new_figure("B is better", 5.2, 3.0).get_suptitle()
      'B is better'
    """
    lines = textwrap.wrap(title, int(width * 10.6), break_on_hyphens=False)
    figure = _figure_class()(figsize=(width, height + 0.21 * len(lines) + 0.1))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=11, fontweight="bold")
    return figure


@cache
def _figure_class() -> type["Figure"]:
    # Not pyplot, which keeps every figure in a global list and chooses a backend for screens. Only
    # with pyplot does IPython know how to show a Figure.
    from matplotlib.figure import Figure

    class InlineFigure(Figure):
        def _repr_png_(self) -> bytes:
            stream = io.BytesIO()
            save_figure(self, stream)
            return stream.getvalue()

    return InlineFigure


def save_figure(figure: "Figure", path: Path | BinaryIO) -> None:
    """Writes a figure as PNG, whatever the user's settings are."""
    with style():
        figure.savefig(path, format="png")
