"""Every figure, in one style: of a comparison, and of a training.

Functions take results and return a matplotlib Figure whose title states the finding; nothing is
written. The colours are Okabe and Ito's, told apart by every kind of colour vision; shape or
position says the same again. A figure is 5.2 inches wide, so that it reads at the width of a
phone, or 10 where it has three panels. matplotlib is imported when the first figure is drawn.
"""

import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from scipy.optimize import brentq

from digits_jax.evaluation.calibration import Reliability, reliability
from digits_jax.evaluation.comparison import ALPHA, Comparison
from digits_jax.evaluation.error_analysis import plurality_vote
from digits_jax.evaluation.metrics import class_accuracy, confusion_matrix, wilson_interval
from digits_jax.formatting import count, fixed, interval, mean_sd, p_value, percent, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
NARROW, WIDE = 5.2, 10.0  # inches
ORANGE, BLUE, GREEN, PINK = "#E69F00", "#0072B2", "#009E73", "#CC4C8F"
TEXT, MUTED, GRID, DARK_GREY = "#1c1c1c", "#6b6b6b", "#dddddd", "#4d4d4d"
COLORS = (ORANGE, BLUE)  # of A and of B
_MARKERS = "os"
_FEWEST = 10  # answers that a bin of the reliability curve needs to be drawn
_MOST_TILES, _COLUMNS = 60, 6  # images on a sheet: ten rows, what a reader still looks at

_STYLE = {
    "text.color": TEXT,
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


def styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Runs a drawing function in the style of this file, without touching the global settings."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        # Matplotlib warns at length where there is no home folder to keep its font list in.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib as mpl

        settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE}
        del settings["backend"]  # a Figure without pyplot needs none, and it isn't reset
        with mpl.rc_context(settings):
            figure = draw(*args, **kwargs)
            # Ticks are made on the first draw, from the settings of that moment.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout stands; saving needn't find it again
        return figure

    return wrapper


def new_figure(title: str, width: float, height: float) -> "Figure":
    """Makes a Figure whose title, wrapped to its width, stands above `height` inches of plot.

    Example:
      >>> new_figure("B is better", 5.2, 3.0).get_suptitle()
      'B is better'
    """
    # Not pyplot, which keeps every figure in a global list and chooses a backend for screens.
    from matplotlib.figure import Figure

    lines = textwrap.wrap(title, int(width * 10.6), break_on_hyphens=False)
    figure = Figure(figsize=(width, height + 0.21 * len(lines) + 0.1))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=11, fontweight="bold")
    return figure


@dataclass(frozen=True)
class Drawn:
    """A figure of the report; `name` is that of its file."""

    name: str
    figure: "Figure"
    caption: str
    wide: bool = False


def comparison_figures(
    found: Comparison, classes: Sequence[str], images: np.ndarray | None = None
) -> tuple[list[Drawn], list[str]]:
    """Draws all figures that a comparison can have, in reading order.

    Args:
      found: of `compare`.
      classes: the classes' names, short enough for an axis.
      images: uint8 [n, height, width, 1], the test set.

    Returns:
      The figures, and for each one that is left out a sentence with the reason.
    """
    grouped, (a, b) = found.grouped, found.names
    means = ", means over all pairs of runs" if grouped else ""
    # In pairs, for a page of two columns: the two sheets of errors stand side by side.
    drawn, left_out = [], []
    caption = f"Areas are proportional to numbers of images{means}."
    drawn.append(Drawn("overlap", overlap_circles(found), caption))
    caption = "Each point is one run, scored on the whole test set."
    drawn.append(Drawn("seeds", run_accuracies(found), caption))
    if images is None:
        left_out.append("the misclassified images, because no data set was named")
    else:
        drawn += _image_sheets(found, classes, images)
    caption = "Intervals are over the images of the class; the largest gain is on top."
    drawn.append(Drawn("classes", class_accuracies(found, classes), caption))
    caption = "Errors only: the diagonal is grey."
    caption += " Means over the runs of each group." if grouped else ""
    drawn.append(Drawn("confusion", confusion_matrices(found, classes), caption, wide=True))
    if found.by_confusion:
        caption = "The confusions with the largest gains, and below the line the largest losses; "
        caption += "those that gain as many as they lose are left out."
        drawn.append(Drawn("repairs", error_changes(found, classes), caption))
    else:
        left_out.append("gains by confusion, because neither makes an error")
    if found.between_or_within:
        caption = "Each square is the error consistency of two runs, which corrects for their "
        caption += f"accuracies. The runs of {a} (A) come first, then those of {b} (B). The "
        caption += "permutation test gives the names A and B to the runs in every way."
        drawn.append(Drawn("overlap_matrix", run_overlaps(found), caption))
    else:
        left_out.append(f"the overlap of any two runs ({found.between_or_within_reason})")
    caption = "On the dotted line confidence equals accuracy. Bars: 95% intervals, Wilson. "
    caption += "Below: the share of answers with that confidence, as trained, on a log scale. "
    caption += f"Bins of fewer than {_FEWEST} answers have no point. Under-confident: the "
    caption += "accuracy is above the confidence, often because of label smoothing in training."
    caption += " All runs of a group are pooled." if grouped else ""
    drawn.append(Drawn("reliability", reliability_diagrams(found), caption))
    return drawn, left_out


# --- the two sets of errors ---------------------------------------------------------------


@styled
def overlap_circles(found: Comparison) -> "Figure":
    """Draws both sets of errors as circles; areas, the common one too, are numbers of images."""
    from matplotlib.patches import Circle, Patch

    overlap, (a, b) = found.overlap, found.names
    figure = new_figure(headline(found), NARROW, 4.1)
    axes = figure.add_subplot()
    total = max(overlap.errors_a, overlap.errors_b, 1e-9)
    r_a, r_b = np.sqrt(overlap.errors_a / total), np.sqrt(overlap.errors_b / total)
    apart = circle_distance(r_a, r_b, np.pi * overlap.both_wrong / total)
    circle_a = Circle((0, 0), r_a, facecolor=ORANGE, lw=0)
    common = Circle((apart, 0), r_b, facecolor=DARK_GREY, lw=0)
    for circle in (circle_a, Circle((apart, 0), r_b, facecolor=BLUE, lw=0), common):
        axes.add_patch(circle)
    common.set_clip_path(circle_a)
    left, right = min(-r_a, apart - r_b), max(r_a, apart + r_b)
    pad = max(3.1 - (right - left), 0.1) / 2
    axes.set(xlim=(left - pad, right + pad), ylim=(-1.02, 1.02), aspect="equal")
    axes.axis("off")
    axes.set_title(f"{a}: {plural(overlap.errors_a, 'error')}", loc="left")
    # At the other corner, so that two long names can't meet.
    place = {"transform": axes.transAxes, "ha": "right", "va": "top"}
    axes.text(1, -0.02, f"{b}: {plural(overlap.errors_b, 'error')}", **place)
    both = f"{count(overlap.both_wrong)} both wrong: {count(overlap.both_wrong_same_label)} with "
    both += f"the same answer, {count(overlap.expected_both_wrong)} expected by chance"
    parts = (
        (ORANGE, f"{count(overlap.only_a_wrong)} only {a} wrong: repaired by {b}"),
        (DARK_GREY, both),
        (BLUE, f"{count(overlap.only_b_wrong)} only {b} wrong: new errors"),
    )
    handles = [Patch(color=color, label=textwrap.fill(text, 62)) for color, text in parts]
    figure.legend(handles=handles, loc="outside lower left")
    return figure


def headline(found: Comparison) -> str:
    """States the repair rate with its interval, or that there are no errors to repair."""
    overlap, (a, b) = found.overlap, found.names
    if overlap.repair_rate is None:
        return f"{a} makes no errors, so there is nothing for {b} to repair"
    bounds = interval(found.interval("repair_rate"), lambda end: percent(end, 0), empty="")
    rate = f"{percent(overlap.repair_rate, 0)} {bounds}".rstrip()
    return f"{b} gets {rate} of {a}'s errors right"


def circle_distance(r_a: float, r_b: float, area: float) -> float:
    """Finds the distance of the centres of two circles that have a common area.

    Example:
      >>> circle_distance(1.0, 0.5, 0.0) > 1.5, circle_distance(1.0, 0.5, np.pi * 0.25)
      (True, 0.5)
    """
    near, far = abs(r_a - r_b), r_a + r_b
    if area <= 0:
        return far + 0.05
    if area >= np.pi * min(r_a, r_b) ** 2 * (1 - 1e-9):
        return near

    def excess(d: float) -> float:
        x = (d**2 + r_a**2 - r_b**2) / (2 * d)
        half_a, half_b = np.arccos(np.clip([x / r_a, (d - x) / r_b], -1, 1))
        chord = d * np.sqrt(max(0.0, r_a**2 - x**2))
        return r_a**2 * half_a + r_b**2 * half_b - chord - area

    root: Any = brentq(excess, max(near, 1e-12), far)
    return root


# --- accuracies ---------------------------------------------------------------------------


@styled
def run_accuracies(found: Comparison) -> "Figure":
    """Draws each run's accuracy, with mean and standard deviation; Wilson's interval for one."""
    names, groups = found.names, [100 * values for values in found.accuracies]
    low, high = sorted(range(2), key=lambda i: groups[i].mean())
    if not found.grouped:
        title = f"{names[0]} {groups[0][0]:.2f}%, {names[1]} {groups[1][0]:.2f}% accuracy"
    elif groups[high].min() > groups[low].max():
        title = f"Every run of {names[high]} is more accurate than every run of {names[low]}"
    else:
        title = f"The runs of {names[0]} and {names[1]} overlap in accuracy"
    figure = new_figure(title, NARROW, 2.3)
    axes = figure.add_subplot()
    labels, bars = [], []
    for row, values in enumerate(groups):
        mean = values.mean()
        if len(values) > 1:
            bar = values.std(ddof=1)
            bars.append("sd")
        else:
            ends = wilson_interval(mean / 100 * found.labels.size, found.labels.size)
            bar = np.abs(100 * np.array(ends) - mean)[:, None]
            bars.append("one seed: Wilson's 95% interval")
        axes.errorbar(mean, row + 0.26, xerr=bar, fmt="|", ms=12, color=TEXT, capsize=3)
        # Three heights in turn: equal accuracies stay apart, and the figure is reproducible.
        heights = row + 0.09 * (np.arange(len(values)) % 3 - 1)
        look = {"color": COLORS[row], "marker": _MARKERS[row], "s": 55, "alpha": 0.85}
        axes.scatter(values, heights, edgecolors="white", linewidths=0.6, **look)
        labels.append(f"{names[row]}\n{mean_sd(values)}%\n{plural(len(values), 'seed')}")
    axes.set_yticks(range(2), labels)
    text = f"test accuracy in %\n(bars: {', '.join(sorted(set(bars), reverse=True))})"
    axes.set(xlabel=text, ylim=(1.5, -0.5))
    axes.grid(axis="x")
    return figure


@styled
def class_accuracies(found: Comparison, classes: Sequence[str]) -> "Figure":
    """Draws the accuracy of each class with its 95% interval, the largest gain on top."""
    names = found.names
    scores = [class_accuracy(found.labels, p, found.num_classes) for p in found.predictions]
    shown = [c for c, images in enumerate(scores[0].counts) if images]
    values = [np.array([100 * (score.accuracy[c] or 0.0) for c in shown]) for score in scores]
    ends = [100 * np.array([score.accuracy_ci95[c] for c in shown]) for score in scores]
    # Only classes whose intervals don't meet count: a gain alone may be two images.
    ahead = [int((ends[1 - i][:, 1] < ends[i][:, 0]).sum()) for i in range(2)]
    sides = [f"{names[i]} is clearly ahead on {ahead[i]}" for i in (1, 0) if ahead[i]]
    title = f"No class differs clearly between {names[0]} and {names[1]} (95% intervals overlap)"
    if sides:
        title = f"{', '.join(sides)} of {len(shown)} classes (95% intervals apart)"
    figure = new_figure(title, NARROW, 0.33 * len(shown) + 1.1)
    axes = figure.add_subplot()
    order: list[int] = np.lexsort((-np.array(shown), values[1] - values[0])).tolist()
    rows = np.arange(len(shown))
    for i, shift in enumerate((0.14, -0.14)):
        middle, bars = values[i][order], np.abs(ends[i][order].T - values[i][order])
        look = {"fmt": _MARKERS[i], "color": COLORS[i], "ms": 5, "lw": 1.6}
        axes.errorbar(middle, rows + shift, xerr=bars, label=names[i], **look)
    axes.set_yticks(rows, [classes[shown[i]] for i in order])
    axes.set(xlabel="accuracy in % (bars: 95% interval, Wilson)", ylabel="class")
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=2)
    return figure


# --- confusions ---------------------------------------------------------------------------


@styled
def confusion_matrices(found: Comparison, classes: Sequence[str]) -> "Figure":
    """Draws both confusion matrices, their diagonals muted, and their difference."""
    a, b = found.names
    size = found.num_classes
    tables = [
        confusion_matrix(found.labels, p, size) * (1 - np.eye(size)) for p in found.predictions
    ]
    difference = tables[1] - tables[0]
    # Rounded, so that among equals the first is found, whatever their last bits.
    label, answer = divmod(int(np.abs(difference).round(9).argmax()), size)
    change = difference[label, answer]
    title = f"{a} and {b} confuse the same classes equally often"
    if change and (abs(change) < 1 or not found.significant):
        title = f"No confusion stands out between {a} and {b}"
    elif change:
        title = f"The largest change from {a} to {b}: {classes[label]} classified as "
        way = "less" if change < 0 else "more"
        title += f"{classes[answer]}, {plural(abs(change), 'image')} {way} often"
    wrapped = max(len(a), len(b)) > 10  # the third heading then takes two lines
    figure = new_figure(title, WIDE, 3.3 if wrapped else 3.05)
    most, reach = max(table.max() for table in [*tables, np.ones(1)]), max(1, abs(change))
    shades, spread = _color_map("white", PINK), _color_map(BLUE, "white", ORANGE)
    panels = (
        (tables[0], f"{a}: images", shades, 0, most),
        (tables[1], f"{b}: images", shades, 0, most),
        (difference, f"{b} minus {a}: images", spread, -reach, reach),
    )
    for axes, (table, head, colors, low, high) in zip(figure.subplots(1, 3), panels, strict=True):
        texts = [[fixed(v, 0) if np.rint(v) else "" for v in row] for row in table]
        _heat_map(axes, table, texts, classes, colors, low, high)
        axes.set(title=textwrap.fill(head, 34), xlabel="prediction", ylabel="label")
        axes.tick_params(labelsize=8.5 if size <= 12 else 5)
    return figure


@styled
def error_changes(found: Comparison, classes: Sequence[str]) -> "Figure":
    """Draws the confusions with the largest gains and losses: repaired errors against new ones."""
    a, b = found.names
    changes = [change for change in found.by_confusion if count(change.gain, "+") != "0"]
    shown = changes if len(changes) <= 16 else [*changes[:12], *changes[-4:]]
    most = max((abs(change.gain) for change in shown), default=0)
    title = f"{b} gains on no confusion"
    if shown and (most < 1 or not found.significant):
        title = f"No confusion stands out between {a} and {b}"
    elif shown:
        # Among equals the first by label and answer, as in the title of the confusion matrices.
        equals = [change for change in shown if abs(change.gain) > most - 1e-9]
        largest = min(equals, key=lambda change: (change.label, change.answer))
        verb, way = ("gains", "fewer") if largest.gain > 0 else ("loses", "more")
        title = f"{b} {verb} most where {classes[largest.label]} is classified as "
        title += f"{classes[largest.answer or 0]}: {plural(most, 'image')} {way}, net"
    figure = new_figure(title, NARROW, 0.27 * max(len(shown), 3) + 1.2)
    axes = figure.add_subplot()
    rows = np.arange(len(shown))[::-1]
    right, left = f"{b} repairs", f"{b} newly gets wrong"
    axes.barh(rows, [c.repaired for c in shown], color=BLUE, label=right, height=0.72)
    axes.barh(rows, [-c.new_errors for c in shown], color=ORANGE, label=left, height=0.72)
    reach = max([1, *(max(c.repaired, c.new_errors) for c in shown)])
    for row, change in zip(rows, shown, strict=True):
        place = (change.repaired + 0.02 * reach, row)
        axes.text(*place, count(change.gain, "+"), va="center", fontsize=8.5)
    if len(changes) > len(shown):
        axes.axhline(3.5, color=MUTED, lw=0.8, ls=":")
    axes.set_yticks(rows, [f"{classes[c.label]} → {classes[c.answer or 0]}" for c in shown])
    axes.set_ylabel("label → prediction")
    axes.set_xlabel("images (the number beside a bar: repaired minus new)")
    axes.margins(x=0.12, y=0.02)
    axes.xaxis.set_major_formatter(lambda value, _: count(abs(value)))
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=2 if len(left) < 34 else 1)
    return figure


@styled
def run_overlaps(found: Comparison) -> "Figure":
    """Draws the error consistency of any two runs: a square per pair, A's runs first."""
    test, names = found.between_or_within["error_consistency"], found.names
    more = "Runs of one kind agree more"
    if test.p_value > ALPHA or test.excess <= 0:
        more = "No sign that runs of one kind agree more"
    title = f"{more} in their errors (κ {fixed((test.within_a + test.within_b) / 2, 2)}) than "
    title += f"{names[0]} with {names[1]} (κ {fixed(test.between, 2)}); p = {p_value(test.p_value)}"
    size = len(test.matrix)
    figure = new_figure(title, NARROW, min(max(0.33 * size + 1.4, 2.9), 5.2))
    axes = figure.add_subplot()
    labels = []
    for side, name, runs in zip("AB", names, found.runs, strict=True):
        seeds = [run.results.get("seed") for run in runs]
        if None in seeds or len(set(seeds)) < len(seeds):
            seeds = range(1, len(runs) + 1)
        labels += [f"{name if max(map(len, names)) <= 10 else side} {seed}" for seed in seeds]
    off = test.matrix[~np.eye(size, dtype=bool)]
    texts = [[fixed(value, 2) for value in row] for row in test.matrix]
    colors = _color_map("white", BLUE)
    _heat_map(axes, test.matrix, texts, labels, colors, min(0, off.min()), off.max(), "κ")
    for line in (axes.axhline, axes.axvline):
        line(len(found.runs[0]) - 0.5, color=TEXT, lw=2)
    axes.tick_params(labelsize=8.5)
    axes.tick_params(axis="x", labelrotation=90)
    return figure


def _heat_map(
    axes: Any,
    table: np.ndarray,
    texts: Sequence[Sequence[str]],
    labels: Sequence[str],
    colors: Any,
    low: float,
    high: float,
    what: str = "",
) -> None:
    """A heat map without its diagonal; numbers in black or white, whichever reads better."""
    size = len(table)
    shown = np.ma.masked_array(table, np.eye(size, dtype=bool))
    axes.set_facecolor(GRID)  # shows through on the diagonal
    image = axes.imshow(shown, cmap=colors, vmin=low, vmax=high)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label=what).outline.set_visible(False)
    axes.set_xticks(range(size), labels)
    axes.set_yticks(range(size), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(size, size) if size <= 12 else ():
        if row == column:
            continue
        shade = np.array(colors((table[row, column] - low) / (high - low or 1))[:3])
        linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
        # 0.18: where black and white have the same contrast by WCAG's formula.
        ink = "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else "white"
        place = {"ha": "center", "va": "center", "fontsize": 7.5}
        axes.text(column, row, texts[row][column], color=ink, **place)


def _color_map(*stops: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("", stops)


# --- confidence ---------------------------------------------------------------------------


@styled
def reliability_diagrams(found: Comparison) -> "Figure":
    """Draws accuracy against confidence, before and after temperature scaling."""
    from matplotlib.lines import Line2D

    names, before, after = found.names, [], []
    for runs, made in zip(found.runs, found.calibration, strict=True):
        labels = np.tile(found.labels, len(runs))
        before.append(reliability(labels, np.concatenate([run.logits for run in runs])))
        fitted = [run.temperature.temperature if run.temperature else None for run in made]
        scaled = [run.logits / t for run, t in zip(runs, fitted, strict=True) if t is not None]
        all_fitted = len(scaled) == len(runs)
        after.append(reliability(labels, np.concatenate(scaled)) if all_fitted else None)
    title = ", ".join(f"{n} is {_verdict(c)}" for n, c in zip(names, before, strict=True))
    figure = new_figure(title, NARROW, 4.2)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1.2))
    hollow: dict[str, Any] = {"color": TEXT, "mfc": "white"}
    for i, (color, curve, scaled) in enumerate(zip(COLORS, before, after, strict=True)):
        top, bottom = grid[0, i], grid[1, i]
        top.plot([0, 100], [0, 100], color=MUTED, lw=1, ls=":")
        _plot_curve(top, curve, fmt=_MARKERS[i], color=color)
        heading = f"{names[i]}: ECE {percent(curve.ece)}"
        if scaled is not None:
            _plot_curve(top, scaled, fmt="D", **hollow)
            heading += f", then {percent(scaled.ece)}"
        widths, share = 100 * np.diff(curve.edges), 100 * curve.counts / curve.counts.sum()
        bottom.bar(100 * curve.edges[:-1], share, widths, align="edge", color=color, log=True)
        top.set_title(textwrap.fill(heading, 31), fontsize=9)
        top.grid()
        bottom.grid(axis="y")
        bottom.set_xlabel("confidence in %")
    grid[0, 0].set(ylabel="accuracy in %", xlim=(0, 102), ylim=(-2, 104))
    grid[1, 0].set_ylabel("answers in %")
    handles = [Line2D([], [], color=MUTED, marker="o", ms=5, label="as trained")]
    if any(after):
        text = "at the fitted temperature"
        handles.append(Line2D([], [], marker="D", ms=5, label=text, **hollow))
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return figure


def _plot_curve(axes: Any, curve: Reliability, **style: Any) -> None:
    full = curve.counts >= _FEWEST  # fewer answers make a line of noise
    if not full.any():
        return
    accuracy = 100 * curve.accuracy[full]
    right = np.minimum(curve.accuracy * curve.counts, curve.counts)[full]
    low, high = wilson_interval(right, curve.counts[full])
    bars = np.maximum(0, [accuracy - 100 * low, 100 * high - accuracy])
    look = {"ms": 4, "lw": 1.1, "ls": "-", "elinewidth": 0.8}
    axes.errorbar(100 * curve.confidence[full], accuracy, yerr=bars, **look, **style)


def _verdict(curve: Reliability) -> str:
    if curve.ece < 0.01:
        return f"well calibrated (ECE {percent(curve.ece, 1)})"
    gap = np.nansum((curve.confidence - curve.accuracy) * curve.counts)
    return f"{'over' if gap > 0 else 'under'}-confident (ECE {percent(curve.ece, 1)})"


# --- images -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """One image of a sheet, the text below it, and its frame: solid (good), dashed, or none."""

    index: int
    text: str
    good: bool | None


def _image_sheets(found: Comparison, classes: Sequence[str], images: np.ndarray) -> list[Drawn]:
    answers = [plurality_vote(p, found.num_classes)[0] for p in found.predictions]
    voted = ""
    if found.grouped:
        voted = " A group's answer here is its most frequent one, so the counts differ from the "
        voted += "headline's, which are means over runs."
    drawn = []
    for own, other in ((0, 1), (1, 0)):
        a, b = found.names[own], found.names[other]
        tiles, wrong = error_tiles(found.labels, answers[own], answers[other], classes)
        fixed_too = int(((answers[own] != found.labels) & (answers[other] == found.labels)).sum())
        title = f"{b} gets {fixed_too} of the {wrong} images right that {a} gets wrong"
        if wrong == 1:
            title = f"{a} gets 1 image wrong, {b} gets it {'right' if fixed_too else 'wrong too'}"
        elif not wrong:
            title = f"{a} gets no image wrong"
        shown = "All of them" if len(tiles) == wrong else f"{len(tiles)} of them, evenly drawn"
        caption = f"{shown}. Below each image: its label: {a}'s answer → {b}'s.{voted}"
        figure = image_sheet(images, tiles, title, (f"{b} is right", f"{b} is wrong too"))
        drawn.append(Drawn(f"errors_{'ab'[own]}", figure, caption))
    tiles = [
        Tile(
            image.index,
            f"{classes[image.label]} → {classes[image.wrong_label]} {image.confidence:.0%}",
            False if image.known else None,
        )
        for image in found.hardest[:30]
    ]
    title = "No image is wrong in every run"
    if tiles:
        verb = "image is" if len(found.hardest) == 1 else "images are"
        title = f"{len(found.hardest)} {verb} wrong in every run: is it the label?"
    caption = "By mean confidence in the wrong answer. Below each image: its label → the answer "
    caption += "and that confidence."
    known = any(tile.good is False for tile in tiles)
    frames = (None, "published as a doubtful label") if known else (None, None)
    return [*drawn, Drawn("hardest", image_sheet(images, tiles, title, frames), caption)]


def error_tiles(
    labels: np.ndarray,
    answers: np.ndarray,
    others: np.ndarray,
    classes: Sequence[str],
    most: int = _MOST_TILES,
) -> tuple[list[Tile], int]:
    """Picks the tiles of one classifier's errors, those that the other gets right first.

    Args:
      labels, answers, others: int [n], the truth and both classifiers' answers.
      most: the largest number of tiles, evenly drawn from all errors.

    Returns:
      The tiles, and the number of errors. A tile's text is "label: answer → the other's".

    Example:
      >>> error_tiles(np.array([4, 7]), np.array([9, 7]), np.array([4, 7]), "0123456789")
      ([Tile(index=0, text='4: 9 → 4 ✓', good=True)], 1)
    """
    wrong = np.flatnonzero(answers != labels)
    shown = wrong
    if len(wrong) > most:
        shown = wrong[np.linspace(0, len(wrong) - 1, most).round().astype(int)]
    shown = shown[np.argsort(others[shown] != labels[shown], kind="stable")]
    tiles = []
    for i in shown.tolist():
        label, answer, other = int(labels[i]), int(answers[i]), int(others[i])
        text = f"{classes[label]}: {classes[answer]} → {classes[other]}"
        text += " ✓" if other == label else " ✗"
        tiles.append(Tile(i, text, other == label))
    return tiles, len(wrong)


@styled
def image_sheet(
    images: np.ndarray,
    tiles: Sequence[Tile],
    title: str,
    frames: tuple[str | None, str | None] = (None, None),
) -> Any:
    """Draws images in rows of six, framed, each with its text.

    Args:
      images: uint8 [n, height, width, 1], the whole test set.
      tiles: those to show, in order.
      title: the finding.
      frames: what a solid and what a dashed frame means, None for one that doesn't occur.
    """
    from matplotlib.patches import Patch, Rectangle

    looks = {True: {"ec": GREEN, "ls": "-"}, False: {"ec": PINK, "ls": (0, (2, 1))}}
    legend = zip(frames, looks.values(), strict=True)
    handles = [Patch(fill=False, lw=2, label=text, **look) for text, look in legend if text]
    # One canvas of pixels: drawing sixty small images takes ten times as long.
    height, width = images.shape[1:3]
    step_x, step_y = round(1.12 * width), round(1.34 * height)  # the texts go between the rows
    rows = max(1, -(-len(tiles) // _COLUMNS))
    canvas = np.full((rows * step_y, _COLUMNS * step_x), 255, np.uint8)
    inches = NARROW * canvas.shape[0] / canvas.shape[1] + (0.55 if handles else 0.1)
    figure = new_figure(title, NARROW, inches)
    axes = figure.add_subplot()
    for place, tile in enumerate(tiles):
        y, x = step_y * (place // _COLUMNS), step_x * (place % _COLUMNS)
        canvas[y : y + height, x : x + width] = images[tile.index][..., 0]
        if tile.good is not None:
            look = {"lw": 2.4, "clip_on": False, **looks[tile.good]}
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, **look))
        place_of_text = (x + width / 2, y + 1.05 * height)
        axes.text(*place_of_text, tile.text, ha="center", va="top", fontsize=8)
    if not tiles:
        axes.text(canvas.shape[1] / 2, canvas.shape[0] / 2, "none", ha="center", color=MUTED)
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    if handles:
        figure.legend(handles=handles, loc="outside lower left")
    return figure


# --- a training ---------------------------------------------------------------------------


def plot_curves(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draws loss and error rate, training and validation, against epochs, into a PNG file.

    Args:
      rows: what ``metrics.jsonl`` holds; "epoch", "train_loss", "train_accuracy",
        "validation_loss" and "validation_accuracy" are used.
      path: of the PNG file.
      title: what was trained.

    Example:
      >>> import tempfile
      >>> row = {"epoch": 1, "train_loss": 0.3, "train_accuracy": 0.9, "validation_loss": 0.2,
      ...        "validation_accuracy": 0.95}
      >>> path = Path(tempfile.mkdtemp()) / "curves.png"
      >>> plot_curves([row], path, title="mlp")
      >>> path.stat().st_size > 1000
      True
    """
    _curves(rows, title).savefig(path)


@styled
def _curves(rows: Sequence[dict[str, Any]], title: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    accuracy = percent(rows[-1]["validation_accuracy"])
    figure = new_figure(f"{title}: validation accuracy {accuracy} at the end", WIDE, 3.3)
    loss, error = figure.subplots(1, 2)
    epochs, all_errors = [row["epoch"] for row in rows], []
    for split, color in (("train", BLUE), ("validation", ORANGE)):
        look = {"color": color, "marker": "o", "markersize": 3}
        name = "training" if split == "train" else split
        loss.plot(epochs, [row[f"{split}_loss"] for row in rows], label=name, **look)
        all_errors.append([100 * (1 - row[f"{split}_accuracy"]) for row in rows])
        error.plot(epochs, all_errors[-1], **look)
    loss.set_ylabel("cross-entropy (nats)")
    error.set_ylabel("error rate (%)")
    errors = np.ravel(all_errors)
    least = min(errors[errors > 0], default=1.0)
    if (errors == 0).any():
        # A log axis has no place for zero: below the least error, a linear piece down to it.
        error.set_yscale("symlog", linthresh=least, linscale=0.4)
        error.set_ylim(bottom=0)
    else:
        error.set_yscale("log")
    # Ticks within a decade get labels: error rates often span less than a factor of ten.
    for axis, shown in (("major", lambda v: v == 0 or v >= 0.9 * least), ("minor", _is_2_or_5)):
        getattr(error.yaxis, f"set_{axis}_formatter")(
            lambda value, _, shown=shown: f"{value:g}" if shown(value) else ""
        )
    for axes in (loss, error):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.7)
    loss.legend()
    return figure


def _is_2_or_5(value: float) -> bool:
    return f"{value:e}"[0] in "25"
