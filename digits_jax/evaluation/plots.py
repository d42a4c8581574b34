"""Every figure of a comparison; each function returns one, whose title states the finding."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq

from digits_jax.evaluation.calibration import Reliability, reliability
from digits_jax.evaluation.comparison import ALPHA, Comparison
from digits_jax.evaluation.metrics import class_accuracy, confusion_matrix, wilson_interval
from digits_jax.figure_style import (
    BLUE,
    DARK_GREY,
    GREEN,
    GRID,
    MUTED,
    NARROW,
    ORANGE,
    PINK,
    TEXT,
    WIDE,
    new_figure,
    styled,
)
from digits_jax.formatting import count, fixed, interval, mean_sd, p_value, percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS, _MARKERS = (ORANGE, BLUE), "os"  # of A and of B
FEWEST = 10  # answers that a bin of the reliability curve needs to be drawn
MOST_TILES, _COLUMNS = 60, 6  # images on a sheet: ten rows, what a reader still looks at


def comparison_figures(
    found: Comparison, images: np.ndarray | None = None
) -> dict[str, Callable[[], "Figure"]]:
    """Returns what draws all figures that a comparison can have, in reading order.

    Args:
      found: of `compare`.
      images: uint8 [n, height, width, 1], the test set.

    Returns:
      Functions without arguments, by name. Without images there are no sheets of images, without
      an error no "repairs", and without two runs on each side no "overlap_matrix".
    """
    # In pairs, for a page of two columns: the two sheets of errors stand side by side.
    draw: dict[str, Callable[[], Figure]] = {
        "overlap": partial(overlap_circles, found),
        "seeds": partial(run_accuracies, found),
    }
    if images is not None:
        draw["errors_a"] = partial(error_sheet, found, images, 0)
        draw["errors_b"] = partial(error_sheet, found, images, 1)
        draw["hardest"] = partial(hardest_sheet, found, images)
    draw["classes"] = partial(class_accuracies, found)
    draw["confusion"] = partial(confusion_matrices, found)
    if found.by_confusion:
        draw["repairs"] = partial(confusion_gains, found)
    if found.between_or_within:
        draw["overlap_matrix"] = partial(run_overlaps, found)
    draw["reliability"] = partial(reliability_diagrams, found)
    return draw


def short_names(classes: Sequence[str]) -> list[str]:
    """Returns names that figures have room and letters for: the classes' own, or their numbers.

    Examples:
      >>> short_names(["4", "9"]), short_names(["four", "nine"])
      (['4', '9'], ['0', '1'])
    """
    # Matplotlib's font has the alphabets before Hebrew, and few letters of others.
    drawable = all(len(name) <= 3 and max(name, default="") < "\u0590" for name in classes)
    return list(classes) if drawable else [str(i) for i in range(len(classes))]


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
    parts = {
        ORANGE: f"{count(overlap.only_a_wrong)} only {a} wrong: repaired by {b}",
        DARK_GREY: f"{count(overlap.both_wrong)} both wrong: "
        f"{count(overlap.both_wrong_same_label)} with the same answer, "
        f"{count(overlap.expected_both_wrong)} expected by chance",
        BLUE: f"{count(overlap.only_b_wrong)} only {b} wrong: new errors",
    }
    handles = [Patch(color=color, label=textwrap.fill(text, 62)) for color, text in parts.items()]
    figure.legend(handles=handles, loc="outside lower left")
    return figure


def headline(found: Comparison) -> str:
    """States the repair rate with its interval, or that there are no errors to repair."""
    rate, (a, b) = found.overlap.repair_rate, found.names
    if rate is None:
        return f"{a} makes no errors, so there is nothing for {b} to repair"
    bounds = interval(found.interval("repair_rate"), lambda end: percent(end, 0), empty="")
    return " ".join(f"{b} gets {percent(rate, 0)} {bounds} of {a}'s errors right".split())


def circle_distance(r_a: float, r_b: float, area: float) -> float:
    """Finds the distance of the centres of two circles that have a common area.

    Examples:
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
    labels, bars = [], set()
    for row, values in enumerate(groups):
        mean = values.mean()
        ends = 100 * np.array(wilson_interval(mean / 100 * found.labels.size, found.labels.size))
        several = len(values) > 1
        bar = values.std(ddof=1) if several else np.abs(ends - mean)[:, None]
        bars.add("sd" if several else "one seed: Wilson's 95% interval")
        axes.errorbar(mean, row + 0.26, xerr=bar, fmt="|", ms=12, color=TEXT, capsize=3)
        # Three heights in turn: equal accuracies stay apart, and the figure is reproducible.
        heights = row + 0.09 * (np.arange(len(values)) % 3 - 1)
        look = {"color": COLORS[row], "marker": _MARKERS[row], "s": 55, "alpha": 0.85}
        axes.scatter(values, heights, edgecolors="white", linewidths=0.6, **look)
        labels.append(f"{names[row]}\n{mean_sd(values)}%\n{plural(len(values), 'seed')}")
    axes.set_yticks(range(2), labels)
    text = f"test accuracy in %\n(bars: {', '.join(sorted(bars, reverse=True))})"
    axes.set(xlabel=text, ylim=(1.5, -0.5))
    axes.grid(axis="x")
    return figure


@styled
def class_accuracies(found: Comparison) -> "Figure":
    """Draws the accuracy of each class with its 95% interval, the largest gain on top."""
    names, classes = found.names, short_names(found.class_names)
    scores = [class_accuracy(found.labels, p, len(classes)) for p in found.predictions]
    # Only classes whose intervals don't meet count: a gain alone may be two images.
    ahead = [int((scores[1 - i].high < scores[i].low).sum()) for i in range(2)]
    sides = [f"{names[i]} is clearly ahead on {ahead[i]}" for i in (1, 0) if ahead[i]]
    (shown,) = np.nonzero(scores[0].counts)
    title = f"No class differs clearly between {names[0]} and {names[1]} (95% intervals overlap)"
    if sides:
        title = f"{', '.join(sides)} of {len(shown)} classes (95% intervals apart)"
    order = shown[np.lexsort((-shown, (scores[1].accuracy - scores[0].accuracy)[shown]))]
    figure = new_figure(title, NARROW, 0.33 * len(shown) + 1.1)
    axes = figure.add_subplot()
    rows = np.arange(len(shown))
    for i, shift in enumerate((0.14, -0.14)):
        low, middle, high = (
            100 * values[order] for values in (scores[i].low, scores[i].accuracy, scores[i].high)
        )
        bars = np.maximum(0, (middle - low, high - middle))
        look = {"fmt": _MARKERS[i], "color": COLORS[i], "ms": 5, "lw": 1.6}
        axes.errorbar(middle, rows + shift, xerr=bars, label=names[i], **look)
    axes.set_yticks(rows, [classes[int(c)] for c in order])
    axes.set(xlabel="accuracy in % (bars: 95% interval, Wilson)", ylabel="class")
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=2)
    return figure


# --- confusions ---------------------------------------------------------------------------


@styled
def confusion_matrices(found: Comparison) -> "Figure":
    """Draws both confusion matrices, their diagonals muted, and their difference."""
    (a, b), size = found.names, len(found.class_names)
    both = [confusion_matrix(found.labels, p, size) * (1 - np.eye(size)) for p in found.predictions]
    difference = both[1] - both[0]
    wrapped = max(len(a), len(b)) > 10  # the third heading then takes two lines
    title = f"What {a} and {b} confuse, and where they differ"
    figure = new_figure(title, WIDE, 3.3 if wrapped else 3.05)
    most, reach = max(1, np.max(both)), max(1, np.abs(difference).max())
    panels = (
        (both[0], f"{a}: images", ("white", PINK), (0, most)),
        (both[1], f"{b}: images", ("white", PINK), (0, most)),
        (difference, f"{b} minus {a}: images", (BLUE, "white", ORANGE), (-reach, reach)),
    )
    for axes, (table, head, colors, limits) in zip(figure.subplots(1, 3), panels, strict=True):
        _heat_map(axes, table, short_names(found.class_names), colors, limits, 0)
        axes.set(title=textwrap.fill(head, 34), xlabel="prediction", ylabel="label")
        axes.tick_params(labelsize=8.5 if size <= 12 else 5)
    return figure


@styled
def confusion_gains(found: Comparison) -> "Figure":
    """Draws the confusions with the largest gains and losses: repaired errors against new ones."""
    (a, b), classes = found.names, short_names(found.class_names)
    changes = [change for change in found.by_confusion if count(change.gain, "+") != "0"]
    shown = changes if len(changes) <= 16 else [*changes[:12], *changes[-4:]]
    # Rounded, so that among equals the first is found, whatever their last bits.
    largest = max(shown, key=lambda change: round(abs(change.gain), 9), default=None)
    if largest is None:
        title = f"{b} gains on no confusion"
    elif abs(largest.gain) < 1 or not found.significant:
        title = f"No confusion stands out between {a} and {b}"
    else:
        verb, way = ("gains", "fewer") if largest.gain > 0 else ("loses", "more")
        title = f"{b} {verb} most where {classes[largest.label]} is classified as "
        title += f"{classes[largest.answer or 0]}: {plural(abs(largest.gain), 'image')} {way}, net"
    figure = new_figure(title, NARROW, 0.27 * max(len(shown), 3) + 1.2)
    axes = figure.add_subplot()
    rows = np.arange(len(shown))[::-1]
    right, left = f"{b} repairs", f"{b} newly gets wrong"
    axes.barh(rows, [c.repaired for c in shown], color=BLUE, label=right, height=0.72)
    axes.barh(rows, [-c.new_errors for c in shown], color=ORANGE, label=left, height=0.72)
    for row, change in zip(rows, shown, strict=True):
        look = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8.5}
        axes.annotate(count(change.gain, "+"), (change.repaired, row), **look)
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
    _heat_map(axes, test.matrix, labels, ("white", BLUE), (min(0, off.min()), off.max()), 2, "κ")
    for line in (axes.axhline, axes.axvline):
        line(len(found.runs[0]) - 0.5, color=TEXT, lw=2)
    axes.tick_params(labelsize=8.5)
    axes.tick_params(axis="x", labelrotation=90)
    return figure


def _heat_map(
    axes: "Axes",
    table: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[str],
    limits: tuple[float, float],
    digits: int,
    what: str = "",
) -> None:
    """A heat map without its diagonal."""
    from matplotlib.colors import LinearSegmentedColormap

    size = len(table)
    shown = np.ma.masked_array(table, np.eye(size, dtype=bool))
    axes.set_facecolor(GRID)  # shows through on the diagonal
    palette = LinearSegmentedColormap.from_list("", colors)
    image = axes.imshow(shown, cmap=palette, vmin=limits[0], vmax=limits[1])
    figure: Any = axes.figure
    figure.colorbar(image, ax=axes, shrink=0.8, label=what).outline.set_visible(False)
    axes.set_xticks(range(size), labels)
    axes.set_yticks(range(size), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(size, size) if size <= 12 else ():
        value = float(table[row, column])
        if row != column and (digits or round(value)):
            # By brightness, to a person's eye: black or white, whichever reads better.
            red, green, blue, _ = palette((value - limits[0]) / (limits[1] - limits[0] or 1))
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
            look = {"color": ink, "ha": "center", "va": "center", "fontsize": 7.5}
            axes.text(column, row, fixed(value, digits), **look)


# --- confidence ---------------------------------------------------------------------------


@styled
def reliability_diagrams(found: Comparison) -> "Figure":
    """Draws accuracy against confidence, before and after temperature scaling."""
    from matplotlib.lines import Line2D

    before, after = [], []
    for runs, made in zip(found.runs, found.calibration, strict=True):
        labels = np.tile(found.labels, len(runs))
        before.append(reliability(labels, np.concatenate([run.logits for run in runs])))
        fitted = [each.temperature and each.temperature.temperature for each in made]
        scaled = [run.logits / t for run, t in zip(runs, fitted, strict=True) if t is not None]
        all_fitted = len(scaled) == len(runs)
        after.append(reliability(labels, np.concatenate(scaled)) if all_fitted else None)
    title = ", ".join(f"{n} is {_verdict(c)}" for n, c in zip(found.names, before, strict=True))
    figure = new_figure(title, NARROW, 4.2)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1.2))
    hollow: dict[str, Any] = {"color": TEXT, "mfc": "white"}
    for i, (color, curve, scaled) in enumerate(zip(COLORS, before, after, strict=True)):
        top, bottom = grid[0, i], grid[1, i]
        top.plot([0, 100], [0, 100], color=MUTED, lw=1, ls=":")
        _plot_curve(top, curve, fmt=_MARKERS[i], color=color)
        heading = f"{found.names[i]}: ECE {percent(curve.ece)}"
        if scaled is not None:
            _plot_curve(top, scaled, fmt="D", **hollow)
            heading += f", then {percent(scaled.ece)}"
        widths, share = 100 * np.diff(curve.edges), 100 * curve.counts / curve.counts.sum()
        bottom.bar(100 * curve.edges[:-1], share, widths, align="edge", color=color, log=True)
        top.set_title(textwrap.fill(heading, 31), fontsize=9)
        top.grid()
        bottom.yaxis.set_major_formatter("{x:g}")
        bottom.yaxis.set_minor_formatter("")
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


def _plot_curve(axes: "Axes", curve: Reliability, **style: Any) -> None:
    full = curve.counts >= FEWEST  # fewer answers make a line of noise
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


def error_sheet(found: Comparison, images: np.ndarray, side: int) -> "Figure":
    """Draws the images that one side gets wrong, framed by whether the other gets them right.

    A group's answer is its most frequent one, the smallest class if several are.
    """
    from scipy.stats import mode  # takes half a second to import

    answers = [mode(p, axis=0).mode for p in found.predictions]
    own, other = answers[side], answers[1 - side]
    a, b = found.names[side], found.names[1 - side]
    wrong = int((own != found.labels).sum())
    repaired = int(((own != found.labels) & (other == found.labels)).sum())
    title = f"{b} gets {repaired} of the {wrong} images right that {a} gets wrong"
    if wrong == 1:
        title = f"{a} gets 1 image wrong, {b} gets it {'right' if repaired else 'wrong too'}"
    elif not wrong:
        title = f"{a} gets no image wrong"
    tiles = error_tiles(found.labels, own, other, short_names(found.class_names))
    return image_sheet(images, tiles, title, (f"{b} is right", f"{b} is wrong too"))


def hardest_sheet(found: Comparison, images: np.ndarray) -> "Figure":
    """Draws the images that every run gets wrong; doubtful labels are framed."""
    tiles, number, classes = [], len(found.hardest), short_names(found.class_names)
    for image in found.hardest[: MOST_TILES // 2]:
        text = f"{classes[image.label]} → {classes[image.wrong_label]} {image.confidence:.0%}"
        tiles.append(Tile(image.index, text, False if image.known else None))
    title = "No image is wrong in every run"
    if tiles:
        verb = "image is" if number == 1 else "images are"
        title = f"{number} {verb} wrong in every run: is it the label?"
    known = any(tile.good is False for tile in tiles)
    return image_sheet(images, tiles, title, (None, "published as a doubtful label" * known))


def error_tiles(
    labels: np.ndarray, answers: np.ndarray, others: np.ndarray, classes: Sequence[str]
) -> list[Tile]:
    """Picks at most 60 of one classifier's errors, those that the other gets right first.

    Examples:
      >>> error_tiles(np.array([4, 7]), np.array([9, 7]), np.array([4, 7]), "0123456789")
      [Tile(index=0, text='4: 9 → 4 ✓', good=True)]
    """
    shown = np.flatnonzero(answers != labels)
    if len(shown) > MOST_TILES:
        shown = shown[np.linspace(0, len(shown) - 1, MOST_TILES).round().astype(int)]
    shown = shown[np.argsort(others[shown] != labels[shown], kind="stable")]
    tiles = []
    for i in shown.tolist():
        label, answer, other = (classes[int(each[i])] for each in (labels, answers, others))
        good = bool(others[i] == labels[i])
        tiles.append(Tile(i, f"{label}: {answer} → {other} {'✓' if good else '✗'}", good))
    return tiles


@styled
def image_sheet(
    images: np.ndarray,
    tiles: Sequence[Tile],
    title: str,
    frames: tuple[str | None, str | None],
) -> "Figure":
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
        axes.text(x + width / 2, y + 1.05 * height, tile.text, ha="center", va="top", fontsize=8)
    if not tiles:
        axes.text(canvas.shape[1] / 2, canvas.shape[0] / 2, "none", ha="center", color=MUTED)
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    if handles:
        figure.legend(handles=handles, loc="outside lower left")
    return figure
