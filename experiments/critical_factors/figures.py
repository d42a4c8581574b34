"""The figures of the study: the ranking of the factors, and robustness."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from digits_jax.plotting import BLUE, MUTED, ORANGE, new_figure, styled
from experiments.critical_factors.effects import Effect, Row, by_level, points
from experiments.critical_factors.images import CORRUPTIONS

Ranked = dict[str, dict[str, tuple[Effect, Effect]]]
STYLES: dict[str, dict[str, Any]] = {
    "mlp": {"color": ORANGE, "marker": "s", "markersize": 4.5},
    "cnn": {"color": BLUE, "marker": "o", "markersize": 4.5},
}


@styled
def draw_ranking(ranked: Ranked) -> Figure:
    """Draws each factor's largest effect, a panel for each architecture."""
    title = (
        "Each factor's largest significant effect against the baseline, or its largest "
        "(points of validation accuracy, 95% intervals; hollow: none is significant)"
    )
    figure = new_figure(title, 10, 1.5 + 0.42 * len(ranked))
    for axes, arch in zip(figure.subplots(1, 2), STYLES, strict=True):
        axes.grid(True)
        for place, archs in enumerate(ranked.values()):
            if arch not in archs:
                axes.text(0, place, "  not of this network", va="center", color=MUTED)
                continue
            effect, _ = archs[arch]
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
        axes.set_yticks(range(len(ranked)), [name.replace("_", " ") for name in ranked])
        axes.set_ylim(len(ranked) - 0.4, -0.8)
        axes.set_xscale("symlog", linthresh=1)
        axes.margins(x=0.3)
        axes.xaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, 0, 1, 3]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g}" if v else "0"))
        axes.set(title=arch.upper(), xlabel="points (evenly spaced up to 1, then by powers)")
    return figure


@styled
def draw_robustness(rows: Iterable[Row]) -> Figure:
    """Draws accuracy over the severity of each corruption."""
    table = by_level(rows)
    title = (
        "Accuracy on the test images, corrupted more and more (0: unchanged), "
        "means and ranges over seeds"
    )
    figure = new_figure(title, 11, 11.5)
    grid = figure.subplots(5, 4)
    for axes, (name, (_, strengths)) in zip(grid.flat, CORRUPTIONS.items(), strict=False):
        steps = range(1, len(strengths) + 1)
        axes.grid(True)
        for arch, style in STYLES.items():
            levels = [table[arch, "none", "1"], *(table[arch, name, str(s)] for s in steps)]
            curve = [[row.accuracy for row in own.values()] for own in levels]
            means = [statistics.fmean(values) for values in curve]
            low = [max(0.0, m - min(v)) for m, v in zip(means, curve, strict=True)]
            high = [max(0.0, max(v) - m) for m, v in zip(means, curve, strict=True)]
            axes.errorbar([0, *steps], means, [low, high], capsize=2, **style)
        label = "pixels" if name == "off_centre" else "severity"
        axes.set(title=name.replace("_", " "), xlabel=label, ylim=(0, 102), xticks=[0, *steps])
    for axes in grid.flat[len(CORRUPTIONS) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    lines = [Line2D([], [], label=arch.upper(), **style) for arch, style in STYLES.items()]
    figure.legend(handles=lines, loc="upper right", ncols=2)
    return figure
