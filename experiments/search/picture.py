"""The picture of a search: accuracy against each value, and against time."""

from collections.abc import Sequence
from typing import Any, BinaryIO

from digits_jax.benchmarks.words import some
from digits_jax.evaluation.plots import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PINK,
    TEXT,
    WIDE,
    new_figure,
    styled,
)
from experiments.search.halving import TRAINED, Row
from experiments.search.loop import Search
from experiments.search.report import winner
from experiments.search.space import SPACES, ByOptimizer, LogUniform, show

COLUMNS = 5
# Rungs differ in shape and size, too: the higher, the larger.
_SHAPES = ("o", "^", "s", "D", "P")
_SIZES = (14, 30, 44, 56, 68)
_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def draw(search: Search, rows: Sequence[Row], file: BinaryIO) -> None:
    """Writes the picture as a PNG.

    Args:
      search: what was searched.
      rows: of all trials.
      file: open for writing.
    """
    _figure(search, list(rows)).savefig(file, format="png")


def value_of(row: Row, name: str) -> Any:
    """A row's value in a panel; hidden sizes have two: how many, and how wide.

    Example:
      >>> row = {"values": {"hidden_sizes": [64, 64], "dropout": 0.1}}
      >>> value_of(row, "layers"), value_of(row, "width"), value_of(row, "dropout")
      (2, 64, 0.1)
    """
    values = row["values"]
    if name in ("layers", "width"):
        return len(values["hidden_sizes"]) if name == "layers" else values["hidden_sizes"][0]
    value = values[name]
    return show(value) if isinstance(value, list | tuple) else value


def error_rate(row: Row) -> float:
    """Of the validation images; half an error where there is none, as the axis is logarithmic.

    Example:
      >>> error_rate({"correct": 90, "count": 100}), error_rate({"correct": 100, "count": 100})
      (0.1, 0.005)
    """
    return max(row["count"] - row["correct"], 0.5) / row["count"]


@styled
def _figure(search, rows):
    names = list(SPACES[search.arch])
    lines = len(names) // COLUMNS + 1
    best = winner(rows)
    said = "no trial was trained to the end"
    if best is not None:
        said = f"the best reaches {best['correct'] / best['count']:.2%} in validation"
    trials = len({row["trial"] for row in rows})
    title = f"{some(trials, 'trial')} of the {search.arch} on {search.dataset}: {said}"
    figure = new_figure(title, WIDE, 2.15 * lines + 0.3)
    grid = figure.add_gridspec(lines, COLUMNS)
    first = None
    for place, name in enumerate(names):
        line, column = divmod(place, COLUMNS)
        axes = first = figure.add_subplot(grid[line, column], sharey=first)
        _panel(axes, search, rows, name)
        _accuracy_axis(axes, rows, labels=column == 0)
    line, column = divmod(len(names), COLUMNS)
    axes = figure.add_subplot(grid[line, column:], sharey=first)
    _over_time(axes, rows)
    _accuracy_axis(axes, rows, labels=column == 0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _panel(axes, search, rows, name):
    kind = SPACES[search.arch][name]
    axes.set_title(name.replace("_", " "), loc="left")
    axes.tick_params("x", labelsize=8)
    if isinstance(kind, LogUniform | ByOptimizer):
        axes.set_xscale("log")
    choices = getattr(kind, "values", None)
    if choices:
        places = {show(choice): place for place, choice in enumerate(choices)}
        for row in rows:  # what the preset has, and isn't among the choices
            places.setdefault(show(value_of(row, name)), len(places))
        axes.set_xticks(range(len(places)), [_word(name, text) for text in places], fontsize=8)
        if max(map(len, places)) > 5:
            axes.tick_params("x", labelrotation=25)
        axes.set_xlim(-0.6, len(places) - 0.4)

    def x(row):
        value = value_of(row, name)
        if not choices:
            return value
        # Side by side, and where they are again in the next picture.
        return places[show(value)] + (row["trial"] * 0.618034 % 1 - 0.5) * 0.6

    _points(axes, rows, x)
    if axes.get_xscale() == "log":
        _few_ticks(axes, [x(row) for row in rows])
    elif not choices:
        axes.locator_params("x", nbins=3)


def _few_ticks(axes, values):
    """Where values lie so near each other that the axis has no two decades, their ends."""
    low, high = min(values), max(values)
    if high < 30 * low:
        ticks = [low] if high < 1.5 * low else [low, high]
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.set_xticks([], minor=True)


def _word(name, text):
    return {"True": "yes", "False": "no"}.get(text, text) if name == "batch_norm" else text


def _points(axes, rows, x):
    """Trained trials by rung; the others as crosses on the lower edge."""
    colours = (MUTED, BLUE, ORANGE, GREEN, PINK)
    for rung in sorted({row["rung"] for row in rows}):
        here = [row for row in rows if row["rung"] == rung]
        trained = [row for row in here if row["status"] == TRAINED]
        axes.scatter(
            [x(row) for row in trained],
            [error_rate(row) for row in trained],
            s=_SIZES[rung],
            marker=_SHAPES[rung],
            facecolor="none" if rung == 0 else colours[rung],
            edgecolor=colours[0] if rung == 0 else "white",
            linewidth=0.8,
            zorder=2 + rung,
            label=some(here[0]["epochs"], "epoch"),
        )
    lost = [row for row in rows if row["status"] != TRAINED]
    if lost:
        axes.scatter(
            [x(row) for row in lost],
            [0.03] * len(lost),
            s=24,
            marker="x",
            color=PINK,
            transform=axes.get_xaxis_transform(),
            label="diverged",
        )


def _over_time(axes, rows):
    axes.set_title("seconds of the search; line: the best so far", loc="left")
    _points(axes, rows, lambda row: row["elapsed_seconds"])
    best, times, rates = 1.0, [], []
    for row in sorted(rows, key=lambda row: row["elapsed_seconds"]):
        if row["status"] == TRAINED and error_rate(row) < best:
            best = error_rate(row)
            times.append(row["elapsed_seconds"])
            rates.append(best)
    if times:
        end = max(row["elapsed_seconds"] for row in rows)
        axes.step([*times, end], [*rates, best], where="post", color=TEXT, lw=1, zorder=1)


def _accuracy_axis(axes, rows, *, labels):
    """Errors on a logarithm, the fewest on top, named by the accuracy that they leave."""
    rates = [error_rate(row) for row in rows if row["status"] == TRAINED] or [0.1]
    low, high = min(rates) / 1.4, min(1.0, max(rates) * 1.6)
    axes.set_yscale("log")
    axes.set_ylim(high, low)
    ticks = [tick for tick in _TICKS if low <= 1 - tick <= high]
    axes.set_yticks([1 - tick for tick in ticks], [f"{tick:.4g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_yticklabels([f"{100 * tick:.4g}%" for tick in ticks])
    axes.tick_params("y", labelleft=labels)
    axes.grid(axis="y")
    if labels:
        axes.set_ylabel("validation accuracy", fontsize=8.5)
