"""The pictures of the study: factors, learning rates, the ranking, robustness, the corruptions."""

import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.critical_factors.corruptions import CORRUPTIONS, SEVERITIES, SHIFTS, corrupt
from experiments.critical_factors.factors import Factor
from experiments.critical_factors.ranking import Ranked, accuracies, mean_interval, signed
from experiments.critical_factors.results import FactorRow, RobustnessRow

# Okabe and Ito's, told apart by every kind of colour vision; the markers say the same again.
COLOURS = {"mlp": "#E69F00", "cnn": "#0072B2"}
MARKERS = {"mlp": "s", "cnn": "o"}
CURVES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
CURVE_MARKERS = ("o", "s", "^", "D")
_STYLE = {
    "backend": "agg",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
}


def draw_all(
    factors: Sequence[Factor],
    rows: Sequence[FactorRow],
    ranked: Sequence[Ranked],
    robustness: Sequence[RobustnessRow],
    images: np.ndarray,
    output: Path,
) -> list[str]:
    """Draws what there are rows for.

    Args:
      factors: in the order of the report.
      rows, ranked, robustness: what was found.
      images: uint8 [n, 28, 28, 1], to show corruptions of.
      output: folder of the PNG files.

    Returns:
      The names of the files.
    """
    # Matplotlib warns at length where there is no home folder to keep its font list in.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl

    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
        found = {}
        # A factor of the CNN alone has no rows where only the MLP was asked for.
        there = {row.factor for row in rows}
        factors = [factor for factor in factors if factor.name in there]
        plain = [factor for factor in factors if not _has_curves(factor)]
        if plain and rows:
            found["factors.png"] = _factors(plain, rows)
        if ranked:
            found["ranking.png"] = _ranking(ranked)
        for factor in factors:
            if _has_curves(factor) and rows:
                found[f"{factor.name}.png"] = _curves(factor, rows)
        if robustness:
            found["robustness.png"] = _robustness(robustness)
            found["corruptions.png"] = _corruptions(images)
        for name, figure in found.items():
            figure.savefig(output / name)
    return list(found)


def _has_curves(factor):
    return any(level.curve for levels in factor.levels.values() for level in levels)


def _figure(title, width, height, rows, columns):
    # Not pyplot, which keeps every figure in a global list and chooses a backend for screens.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def _spread(own, arch, factor, levels):
    """Of each level that has rows: the level, its mean, and its interval's half length."""
    found = []
    for level in levels:
        values = [row.accuracy for row in own.get((arch, factor.name, level.label), {}).values()]
        if values:
            mean, low, _ = mean_interval(values)
            found.append((level, mean, mean - low if math.isfinite(low) else 0.0))
    return found


def _factors(factors, rows):
    own = accuracies(rows)
    columns = min(4, len(factors))
    lines = -(-len(factors) // columns)
    title = (
        "Accuracy on the validation split, one factor changed at a time\n"
        "(95% intervals over seeds; filled: the baseline)"
    )
    figure, grid = _figure(title, 3.1 * columns, 2.7 * lines + 0.9, lines, columns)
    for axes, factor in zip(grid.flat, factors, strict=False):
        _factor(axes, factor, own)
    for axes in grid.flat[len(factors) :]:
        axes.set_visible(False)
    _legend(figure, [arch for arch in COLOURS if any(row.arch == arch for row in rows)])
    return figure


def _legend(figure, archs):
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=COLOURS[a], marker=MARKERS[a], label=a.upper()) for a in archs]
    figure.legend(handles=marks, loc="upper right", ncols=len(marks))


def _factor(axes, factor, own):
    labels = list(dict.fromkeys(v.label for levels in factor.levels.values() for v in levels))
    is_kind = factor.scale == "kinds"
    shown = []
    for arch, levels in factor.levels.items():
        found = _spread(own, arch, factor, levels)
        if not found:
            continue
        aside = {"mlp": -0.12, "cnn": 0.12}[arch] if is_kind else 0
        places = [labels.index(v.label) + aside if is_kind else v.value for v, _, _ in found]
        means, halves = [m for _, m, _ in found], [h for _, _, h in found]
        style = {"color": COLOURS[arch], "ms": 4.5, "capsize": 2, "lw": 1.2}
        line = "" if is_kind else "-"
        axes.errorbar(places, means, halves, marker=MARKERS[arch], mfc="white", ls=line, **style)
        for place, (level, mean, _) in zip(places, found, strict=True):
            rows = own[arch, factor.name, level.label].values()
            if any(row.baseline for row in rows):
                axes.plot([place], [mean], MARKERS[arch], color=COLOURS[arch], ms=6, zorder=5)
        shown += zip(means, halves, strict=True)
    axes.set_title(factor.subject, loc="left")
    axes.set_xlabel(factor.axis)
    axes.set_ylabel("accuracy (%)")
    _limit(axes, shown)
    if is_kind:
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif factor.scale == "log":
        values = {v.value for levels in factor.levels.values() for v in levels}
        _log_axis(axes, values)


def _limit(axes, shown):
    """All means and, where they don't flatten what it shows, their intervals.

    Those of a few seeds may be wider than all that is between the means: they leave the picture.
    """
    if shown:
        low, high = min(m for m, _ in shown), max(m for m, _ in shown)
        room = max(0.12 * (high - low), 0.15)
        most = max(high - low, 0.5)
        down = min(low - min(m - h for m, h in shown), most)
        up = min(max(m + h for m, h in shown) - high, most)
        axes.set_ylim(low - max(2 * room, down + room), min(100, high + max(2 * room, up + room)))


def _log_axis(axes, values):
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    values = sorted(values)
    # Neighbours closer than half an octave would be printed over each other.
    kept = values[:1]
    for value in values[1:]:
        if value > 1.9 * kept[-1]:
            kept.append(value)
    if values[-1] / values[0] > 50:
        kept = [value for value in kept if f"{value:e}"[0] in "135"] or kept
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value):
    return f"{value / 1000:g}k" if value >= 1000 and not value % 1000 else f"{value:g}"


def _curves(factor, rows):
    own = accuracies(rows)
    archs = [arch for arch in factor.levels if any(row.arch == arch for row in rows)]
    title = f"{factor.subject}: a curve each, accuracy on the validation split (95% intervals)"
    figure, grid = _figure(title, 4.6 * len(archs) + 0.4, 3.6, 1, len(archs))
    for axes, arch in zip(grid.flat, archs, strict=True):
        found = _spread(own, arch, factor, factor.levels[arch])
        curves = defaultdict(list)
        for level, mean, half in found:
            curves[level.curve].append((level.value, mean, half))
        for place, (name, points) in enumerate(curves.items()):
            values, means, halves = zip(*points, strict=True)
            # The first is the widest: adam's curve lies on adamw's.
            style = {"ms": 7.5, "lw": 3.5} if place == 0 else {"ms": 4.5, "lw": 1.4}
            style |= {"color": CURVES[place], "marker": CURVE_MARKERS[place], "capsize": 2}
            axes.errorbar(values, means, halves, label=name, **style)
        best = max((mean for _, mean, _ in found), default=100.0)
        axes.set_xscale("log")
        # What hasn't learned at all would flatten the rest.
        lowest = min((mean for _, mean, _ in found), default=0.0)
        floor = max(lowest - 0.5, best - 12)
        axes.set_ylim(floor, min(100, best + 0.6))
        for level, mean, _ in found:
            if mean < floor:
                place, words = (level.value, floor), f"  {level.curve} {level.value:g}: {mean:.1f}%"
                axes.annotate("↓" + words, place, (0, 4), textcoords="offset points", fontsize=7.5)
        axes.set_title(arch.upper(), loc="left")
        axes.set_xlabel(factor.axis)
        axes.set_ylabel("accuracy (%)")
        axes.legend(loc="lower right")
    return figure


def _ranking(ranked):
    archs = [arch for arch in COLOURS if any(arch in each.largest for each in ranked)]
    title = (
        "What changes accuracy most: each factor's largest sure effect against the baseline, or\n"
        "its largest (points of validation accuracy, 95% intervals; hollow: none is sure)"
    )
    height = 1.5 + 0.42 * len(ranked)
    figure, grid = _figure(title, 5.0 * len(archs), height, 1, len(archs))
    for axes, arch in zip(grid.flat, archs, strict=True):
        for place, each in enumerate(ranked):
            effect = each.largest.get(arch)
            if effect is None:
                axes.text(0, place, "  not this network's", va="center", color="#6b6b6b")
                continue
            half = effect.high - effect.mean if math.isfinite(effect.high) else 0.0
            fill = COLOURS[arch] if effect.is_sure else "white"
            axes.errorbar(
                [effect.mean],
                [place],
                xerr=half,
                marker=MARKERS[arch],
                ms=6,
                capsize=3,
                color=COLOURS[arch],
                mfc=fill,
            )
            # Near zero away from it, for its line; elsewhere to where there is room.
            to_the_left = (effect.mean > 0) == (abs(effect.mean) >= 1.5)
            side, align = ((7, "left"), (-7, "right"))[to_the_left]
            axes.annotate(
                f"{effect.level}: {signed(effect.mean)}",
                (effect.mean, place),
                (side, 5),
                textcoords="offset points",
                ha=align,
                fontsize=7.5,
            )
        axes.axvline(0, color="#6b6b6b", lw=1)
        axes.set_yticks(range(len(ranked)), [each.factor.name.replace("_", " ") for each in ranked])
        axes.set_ylim(len(ranked) - 0.4, -0.8)
        axes.set_xscale("symlog", linthresh=1)
        _round_ticks(axes, [e.largest[arch] for e in ranked if arch in e.largest])
        axes.set_xlabel("points (evenly spaced up to 1, then by powers)")
        axes.set_title(arch.upper(), loc="left")
    return figure


def _round_ticks(axes, shown):
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    most = max(max(abs(e.mean) for e in shown), 1.0)
    up = [v for v in (0.5, 1, 3, 10, 30, 100) if v < 2 * most]
    ends = [end for e in shown for end in (e.low, e.high) if math.isfinite(end)]
    left = max([2.5 * most, *(-1.2 * end for end in ends)])
    right = max([2.5 * max(e.mean for e in shown), *(1.2 * end for end in ends), 1.5])
    axes.set_xlim(-left, right)
    axes.xaxis.set_major_locator(FixedLocator([*(-v for v in reversed(up)), 0, *up]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))


def _robustness(rows):
    found = defaultdict(list)
    for row in rows:
        found[row.arch, row.corruption, row.severity].append(row.accuracy)
    archs = [arch for arch in COLOURS if any(row.arch == arch for row in rows)]
    title = (
        "Accuracy on the test images, changed more and more (0: as they are)\n"
        "means and ranges over seeds"
    )
    figure, grid = _figure(title, 11, 11.5, 5, 4)
    names = [*CORRUPTIONS, "off_centre", "inversion"]
    for axes, name in zip(grid.flat, names, strict=False):
        steps = SHIFTS if name == "off_centre" else (1,) if name == "inversion" else SEVERITIES
        for arch in archs:
            points = [(0, found[arch, "none", 1]), *((s, found[arch, name, s]) for s in steps)]
            points = [(s, values) for s, values in points if values]
            means = [statistics.fmean(values) for _, values in points]
            ends = [
                [max(0.0, mean - min(v)) for mean, (_, v) in zip(means, points, strict=True)],
                [max(0.0, max(v) - mean) for mean, (_, v) in zip(means, points, strict=True)],
            ]
            axes.errorbar(
                [s for s, _ in points],
                means,
                ends,
                color=COLOURS[arch],
                marker=MARKERS[arch],
                ms=4,
                capsize=2,
                lw=1.2,
            )
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_xlabel("pixels" if name == "off_centre" else "severity")
        axes.set_ylim(0, 102)
        axes.set_xticks([0, *steps])
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    _legend(figure, archs)
    return figure


def _corruptions(images):
    names = list(CORRUPTIONS)
    figure, grid = _figure("The corruptions: severities 1 to 5", 9.6, 0.95 * 8 + 0.5, 8, 2)
    for axes, name in zip(grid.flat, names, strict=False):
        few = images[:1]
        strip = [few, *(corrupt(name, few, severity) for severity in SEVERITIES)]
        picture = np.concatenate([np.pad(each[0, :, :, 0], 1) for each in strip], 1)
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_axis_off()
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    return figure
