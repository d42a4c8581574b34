"""The figures of the study: factors, optimizers, the ranking, robustness, the corruptions."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from digits_jax.evaluation.plots import BLUE, GREEN, MUTED, ORANGE, PINK, new_figure, styled
from experiments.critical_factors.corruptions import CORRUPTIONS, corrupt
from experiments.critical_factors.factors import Factor, Level, Settings
from experiments.critical_factors.ranking import Ranked, Table, by_level, mean_interval, points
from experiments.critical_factors.rows import Row

STYLES: dict[str, dict[str, Any]] = {
    "mlp": {"color": ORANGE, "marker": "s", "markersize": 4.5},
    "cnn": {"color": BLUE, "marker": "o", "markersize": 4.5},
}
CURVES = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D")]


def draw_all(
    factors: Sequence[Factor],
    baselines: Mapping[str, Settings],
    rows: Sequence[Row],
    ranked: Sequence[Ranked],
    robustness: Sequence[Row],
    images: np.ndarray,
    folder: Path,
) -> set[str]:
    """Draws what there are rows for.

    Args:
      factors: all.
      baselines: by architecture.
      rows, ranked, robustness: what was measured.
      images: uint8 [n, 28, 28, 1], to show corruptions of.
      folder: of the PNG files.

    Returns:
      The names of the figures.
    """
    table = by_level(rows)
    measured = {row.factor for row in rows}
    plain = [f for f in factors if f.name in measured and not f.has_curves]
    figures = {}
    if plain:
        figures["factors"] = _draw_factors(plain, baselines, table)
    if ranked:
        figures["ranking"] = _draw_ranking(ranked)
    if "optimizer" in measured:
        factor = next(f for f in factors if f.name == "optimizer")
        figures["optimizer"] = _draw_optimizers(factor, table)
    if robustness:
        figures["robustness"] = _draw_robustness(robustness)
        figures["corruptions"] = _draw_corruptions(images[:1])
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    return set(figures)


def _subplots(title: str, size: tuple[float, float], rows: int, columns: int) -> tuple[Figure, Any]:
    figure = new_figure(title, *size)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.grid(True)
    return figure, grid


def _add_legend(figure: Figure, archs: Iterable[str]) -> None:
    lines = [Line2D([], [], label=arch.upper(), **STYLES[arch]) for arch in archs]
    figure.legend(handles=lines, loc="upper right", ncols=2)


def _points(table: Table, arch: str, factor: Factor) -> list[tuple[Level, float, float]]:
    """Each level that has rows, its mean, and half of its interval's length."""
    found = []
    for level in factor.levels[arch]:
        if runs := table.get((arch, factor.name, level.label)):
            mean, low, _ = mean_interval([run.accuracy for run in runs.values()])
            found.append((level, mean, mean - low if math.isfinite(low) else 0.0))
    return found


@styled
def _draw_factors(
    factors: Sequence[Factor], baselines: Mapping[str, Settings], table: Table
) -> Figure:
    columns = min(4, len(factors))
    lines = -(-len(factors) // columns)
    title = (
        "Accuracy on the validation split, one factor changed at a time "
        "(95% intervals over seeds; filled: the baseline)"
    )
    figure, grid = _subplots(title, (3.1 * columns, 2.7 * lines + 0.9), lines, columns)
    for axes, factor in zip(grid.flat, factors, strict=False):
        labels = list(dict.fromkeys(v.label for own in factor.levels.values() for v in own))
        kinds = factor.scale == "kinds"
        shown: list[tuple[float, float]] = []
        for arch in factor.levels:
            for level, mean, half in (found := _points(table, arch, factor)):
                place = _place(arch, level, labels, kinds)
                filled = level.is_baseline(baselines[arch])
                face = STYLES[arch]["color"] if filled else "white"
                axes.errorbar(place, mean, half, mfc=face, zorder=4, capsize=2, **STYLES[arch])
                shown.append((mean, half))
            if found and not kinds:
                places = [level.value for level, *_ in found]
                axes.plot(places, [m for _, m, _ in found], color=STYLES[arch]["color"], lw=1.2)
        axes.set(xlabel=factor.axis, ylabel="accuracy (%)")
        axes.set_title(factor.subject, loc="left")
        _limit(axes, shown)
        if kinds:
            axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
            axes.set_xlim(-0.5, len(labels) - 0.5)
        elif factor.scale == "log":
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
    for axes in grid.flat[len(factors) :]:
        axes.set_visible(False)
    _add_legend(figure, baselines)
    return figure


def _place(arch: str, level: Level, labels: list[str], kinds: bool) -> float:
    return labels.index(level.label) + {"mlp": -0.12, "cnn": 0.12}[arch] if kinds else level.value


def _limit(axes: Axes, shown: Sequence[tuple[float, float]]) -> None:
    """Shows all means and, where they don't flatten what is between the means, their intervals."""
    if shown:
        low, high = min(m for m, _ in shown), max(m for m, _ in shown)
        room = max(0.24 * (high - low), 0.3)
        most = max(high - low, 0.5)
        down = min(low - min(m - h for m, h in shown), most)
        up = min(max(m + h for m, h in shown) - high, most)
        axes.set_ylim(low - max(room, down + room / 2), min(100, high + max(room, up + room / 2)))


@styled
def _draw_optimizers(factor: Factor, table: Table) -> Figure:
    archs = [arch for arch in factor.levels if _points(table, arch, factor)]
    title = "Learning rates of each optimizer, accuracy on the validation split (95% intervals)"
    figure, grid = _subplots(title, (4.6 * len(archs) + 0.4, 3.6), 1, len(archs))
    for axes, arch in zip(grid.flat, archs, strict=True):
        found = _points(table, arch, factor)
        curves = defaultdict(list)
        for level, mean, half in found:
            curves[level.curve].append((level.value, mean, half))
        for place, (name, curve) in enumerate(curves.items()):
            values, means, halves = zip(*curve, strict=True)
            color, marker = CURVES[place]
            # The first is the widest: adam's curve lies on adamw's.
            size: dict[str, Any] = {"ms": 7.5, "lw": 3.5} if place == 0 else {"ms": 4.5, "lw": 1.2}
            axes.errorbar(
                values, means, halves, color=color, marker=marker, label=name, capsize=2, **size
            )
        axes.set_xscale("log")
        # What hasn't learned at all would flatten the rest.
        means = [mean for _, mean, _ in found]
        floor = max(min(means) - 0.5, max(means) - 12)
        axes.set_ylim(floor, min(100, max(means) + 0.6))
        for level, mean, _ in found:
            if mean < floor:
                axes.annotate(f"↓ {level.label}: {mean:.1f}%", (level.value, floor), fontsize=7.5)
        axes.set(title=arch.upper(), xlabel=factor.axis, ylabel="accuracy (%)")
        axes.legend(loc="lower right")
    return figure


@styled
def _draw_ranking(ranked: Sequence[Ranked]) -> Figure:
    archs = [arch for arch in STYLES if any(arch in each.largest for each in ranked)]
    title = (
        "Each factor's largest significant effect against the baseline, or its largest "
        "(points of validation accuracy, 95% intervals; hollow: none is significant)"
    )
    size = (5.0 * len(archs), 1.5 + 0.42 * len(ranked))
    figure, grid = _subplots(title, size, 1, len(archs))
    for axes, arch in zip(grid.flat, archs, strict=True):
        for place, each in enumerate(ranked):
            effect = each.largest.get(arch)
            if effect is None:
                axes.text(0, place, "  not of this network", va="center", color=MUTED)
                continue
            half = effect.high - effect.mean if math.isfinite(effect.high) else 0.0
            face = STYLES[arch]["color"] if effect.is_significant else "white"
            axes.errorbar(effect.mean, place, xerr=half, mfc=face, capsize=2, **STYLES[arch])
            # Near zero away from its line, elsewhere to where there is room.
            left = (effect.mean > 0) == (abs(effect.mean) >= 1.5)
            axes.annotate(
                f"{effect.level}: {points(effect.mean)}",
                (effect.mean, place),
                (-7 if left else 7, 5),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=7.5,
            )
        axes.axvline(0, color=MUTED, lw=1)
        axes.set_yticks(range(len(ranked)), [each.factor.name.replace("_", " ") for each in ranked])
        axes.set_ylim(len(ranked) - 0.4, -0.8)
        axes.set_xscale("symlog", linthresh=1)
        axes.margins(x=0.3)
        axes.xaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, 0, 1, 3]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g}" if v else "0"))
        axes.set(title=arch.upper(), xlabel="points (evenly spaced up to 1, then by powers)")
    return figure


@styled
def _draw_robustness(rows: Sequence[Row]) -> Figure:
    table = by_level(rows)
    archs = [arch for arch in STYLES if any(row.arch == arch for row in rows)]
    title = (
        "Accuracy on the test images, corrupted more and more (0: unchanged), "
        "means and ranges over seeds"
    )
    figure, grid = _subplots(title, (11, 11.5), 5, 4)
    for axes, (name, (_, strengths)) in zip(grid.flat, CORRUPTIONS.items(), strict=False):
        steps = range(1, len(strengths) + 1)
        for arch in archs:
            runs = {s: table.get((arch, name, str(s)), {}) for s in steps}
            runs[0] = table.get((arch, "none", "1"), {})
            curve = {
                s: [r.accuracy for r in own.values()] for s, own in sorted(runs.items()) if own
            }
            means = [statistics.fmean(values) for values in curve.values()]
            low = [max(0.0, m - min(v)) for m, v in zip(means, curve.values(), strict=True)]
            high = [max(0.0, max(v) - m) for m, v in zip(means, curve.values(), strict=True)]
            axes.errorbar(list(curve), means, [low, high], capsize=2, **STYLES[arch])
        label = "pixels" if name == "off_centre" else "severity"
        axes.set(title=name.replace("_", " "), xlabel=label, ylim=(0, 102), xticks=[0, *steps])
    for axes in grid.flat[len(CORRUPTIONS) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    _add_legend(figure, archs)
    return figure


@styled
def _draw_corruptions(image: np.ndarray) -> Figure:
    names = [name for name, (_, strengths) in CORRUPTIONS.items() if len(strengths) == 5]
    figure, grid = _subplots(
        "The corruptions: severities 0 to 5", (9.6, 8.1), -(-len(names) // 2), 2
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        strip = [image, *(corrupt(name, image, severity) for severity in range(1, 6))]
        picture = np.concatenate([np.pad(each[0, :, :, 0], 1) for each in strip], 1)
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(name.replace("_", " "))
    return figure
