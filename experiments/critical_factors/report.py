"""The study's rows, the effects of levels with intervals over seeds, its tables and figures.

The effect of a level is the mean over seeds of its accuracy minus that of the baseline with the
same seed (the same initial parameters, where the sizes agree, and the same order of the same
images), in percentage points.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter
from scipy.special import stdtrit

from digits_jax import ConfigError, Dataset
from digits_jax.figure_style import BLUE, MUTED, ORANGE, new_figure, styled
from digits_jax.files import replace_files
from digits_jax.formatting import fixed, interval, markdown_table, mean_sd, plural
from experiments.critical_factors.factors import FACTORS, Factors, Settings, is_baseline
from experiments.critical_factors.images import CORRUPTIONS

STYLES: dict[str, dict[str, Any]] = {
    "mlp": {"color": ORANGE, "marker": "s", "markersize": 4.5},
    "cnn": {"color": BLUE, "marker": "o", "markersize": 4.5},
}


class Row(NamedTuple):
    """How many images a network classifies correctly.

    ``factor`` is a factor or a corruption of the test images, ``level`` one of the factor's or the
    severity, ``seconds`` those of the training, or its share of several that were trained together.
    """

    arch: str
    factor: str
    level: str
    seed: int
    correct: int
    count: int
    seconds: float
    device: str

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.correct / self.count


def read_rows(path: Path) -> dict[tuple, Row]:
    """Reads a CSV table by (arch, factor, level, seed); one that isn't there has no rows."""
    if not path.exists():
        return {}
    kinds = Row.__annotations__
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            rows = [Row(**{name: kinds[name](line[name]) for name in line}) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a table of this study ({error!r}); delete it, or give another --output"
        ) from None
    return {row[:4]: row for row in rows}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table; the old one stays until the new one is complete."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Row._fields, *rows])
    replace_files({path: text.getvalue().encode()})


def by_level(rows: Iterable[Row]) -> dict[tuple[str, str, str], dict[int, Row]]:
    """Groups rows by (arch, factor, level), and in each by seed."""
    table = defaultdict(dict)
    for row in rows:
        table[row[:3]][row.seed] = row
    return table


# --- effects -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """What a level changes against the baseline: percentage points, with the ends of an interval.

    Examples:
      >>> str(Effect("mlp", "width", "8", "8", -1.0, -1.25, -0.75))
      '**−1.00** [−1.25, −0.75]'
    """

    arch: str
    factor: str
    level: str
    group: str  # levels of which the best counts in the ranking: an optimizer's
    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        bold = "**" if self.is_significant else ""
        return f"{bold}{points(self.mean)}{bold} {interval((self.low, self.high), points)}"


def points(value: float, digits: int = 2) -> str:
    """Formats percentage points, with a sign."""
    return fixed(value, digits, "+") if math.isfinite(value) else f"{value:+}"


def mean_interval(
    values: Sequence[float], least_deviation: float = 0.0
) -> tuple[float, float, float]:
    r"""Computes a mean and Student's 95% interval: :math:`\bar d \pm t_{n-1}\, s / \sqrt n`.

    Args:
      values: one of each seed.
      least_deviation: a lower bound of the standard deviation. Counts are whole numbers: three
        seeds that happen to agree to the image don't prove that all would.

    Returns:
      (mean, low, high); of a single value the interval is infinite.

    Examples:
      >>> [round(v, 2) for v in mean_interval([1.0, 2.0, 3.0])]
      [2.0, -0.48, 4.48]
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    deviation = max(stdev(values), least_deviation)
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half


def find_effects(
    factors: Factors, baselines: Mapping[str, Settings], rows: Iterable[Row]
) -> list[Effect]:
    """Computes the effect of every level that has rows but the baseline's."""
    table = by_level(rows)
    found = []
    for factor, archs in factors.items():
        for arch, levels in archs.items():
            own = {label: table.get((arch, factor, label), {}) for label in levels}
            base = next(own[k] for k, v in levels.items() if is_baseline(v, baselines[arch]))
            for label, runs in own.items():
                seeds = sorted(runs.keys() & base.keys())
                if not seeds or runs is base:
                    continue
                changes = [runs[seed].accuracy - base[seed].accuracy for seed in seeds]
                bounds = mean_interval(changes, 100 / runs[seeds[0]].count)
                group = levels[label].get("optimizer", label)
                found.append(Effect(arch, factor, label, group, *bounds))
    return found


Ranked = dict[str, dict[str, tuple[Effect, Effect]]]


def rank(effects: Iterable[Effect]) -> Ranked:
    """Ranks factors by their largest significant effect.

    Each optimizer counts with its best level: a learning rate that suits another optimizer says
    nothing about this one.

    Returns:
      For each factor, the first first, and each architecture: the largest significant effect (the
      largest, where none is), and that of the best level.
    """
    groups: dict[str, dict[str, dict[str, Effect]]] = defaultdict(lambda: defaultdict(dict))
    for each in effects:
        own = groups[each.factor][each.arch]
        own[each.group] = max(each, own.get(each.group, each), key=lambda e: e.mean)
    ranked = {
        factor: {
            arch: (
                max(own.values(), key=lambda e: (e.is_significant, abs(e.mean))),
                max(own.values(), key=lambda e: e.mean),
            )
            for arch, own in archs.items()
        }
        for factor, archs in groups.items()
    }

    def size(factor: str) -> float:
        return max(abs(e.mean) * e.is_significant for e, _ in ranked[factor].values())

    return {factor: ranked[factor] for factor in sorted(ranked, key=size, reverse=True)}


# --- tables --------------------------------------------------------------------------------


def write_report(
    folder: Path, dataset: Dataset, baselines: Mapping[str, Settings], factors: Factors
) -> str:
    """Writes report.md and its figures, of all rows in a folder; returns the ranked table."""
    rows = list(read_rows(folder / "factors.csv").values())
    robustness = list(read_rows(folder / "robustness.csv").values())
    effects = find_effects(factors, baselines, rows)
    ranked = rank(effects)
    draw_ranking(ranked).savefig(folder / "ranking.png", dpi=110)
    draw_robustness(robustness).savefig(folder / "robustness.png", dpi=110)
    significant = sum(effect.is_significant for effect in effects)
    counts = sorted({len(runs) for runs in by_level(rows).values()})
    parts = [
        "# What influences recognition, and how much",
        f"{dataset.name}: trained on up to {len(dataset.train):,} images, on "
        f"{'; '.join(sorted({row.device for row in rows}))}. Every number about a factor is of the "
        f"{len(dataset.validation):,} images of the validation split, with "
        f"{plural(' to '.join(map(str, counts)), 'seed')} and the last step; the test images have "
        "no part in it. The baseline, of which each level changes one factor, is the preset "
        "`quick` without augmentation, in float32: what needs a longer training to pay off, as "
        "augmentation does, shows its price here and not its worth.",
        "## What changes accuracy most",
        "![ranking](ranking.png)",
        ranking_table(ranked),
        "An effect is the mean over seeds of the difference to the baseline with the same seed, "
        f"its interval Student's (95%). Of {len(effects)} levels {significant} have an interval "
        f"that excludes 0; if no level had any effect, about {0.05 * len(effects):.0f} would. The "
        "largest of several effects is a little too large: it was chosen for it. Of each optimizer "
        "the best learning rate counts. The factors are ordered by the larger of both networks' "
        "significant effects.",
        "## Every level",
        *(level_table(factor, factors, effects, rows) for factor in ranked),
        "## Robustness",
        "![robustness](robustness.png)",
        f"The baseline networks of {plural(len({row.seed for row in robustness}), 'seed')} on the "
        f"{len(dataset.test):,} test images, corrupted in the style of MNIST-C, by code of our "
        "own: compare these numbers with each other, not with those on MNIST-C's files. The "
        "networks have seen no such change in training. CNN − MLP: the mean over seeds, and "
        "Student's interval (95%).",
        robustness_table(robustness),
    ]
    replace_files({folder / "report.md": ("\n\n".join(parts) + "\n").encode()})
    return f"{ranking_table(ranked)}\n\n{folder / 'report.md'}: the report, with figures beside it"


def ranking_table(ranked: Ranked) -> str:
    """Makes a row for each factor, those with the largest effects first."""
    columns = ["#", "factor"]
    for arch in STYLES:
        columns += [f"{arch.upper()}: largest effect, points", f"{arch.upper()}: best level"]
    rows = []
    for place, (factor, archs) in enumerate(ranked.items(), start=1):
        cells: list[object] = [place, factor.replace("_", " ")]
        for arch in STYLES:
            if arch not in archs:
                cells += [None, None]
                continue
            largest, best = archs[arch]
            first = f"{largest.level}: {largest}"
            cells.append(first if largest.is_significant else f"none significant ({first})")
            cells.append(f"{best.level}: {best}" if best.low > 0 else "none above the baseline")
        rows.append(cells)
    return markdown_table(rows, columns, "rl")


def level_table(
    factor: str, factors: Factors, effects: Iterable[Effect], rows: Iterable[Row]
) -> str:
    """Makes the heading and the table of a factor: accuracy and effect of every level."""
    found = {(e.arch, e.level): str(e) for e in effects if e.factor == factor}
    table, levels = by_level(rows), factors[factor]
    title, axis = FACTORS[factor]
    columns = [axis]
    for arch in levels:
        columns += [f"{arch.upper()}: accuracy", "effect, points"]
    lines = []
    for label in dict.fromkeys(label for own in levels.values() for label in own):
        cells: list[object] = [label]
        for arch in levels:
            runs = table.get((arch, factor, label), {}).values()
            cells.append(f"{mean_sd([run.accuracy for run in runs])}%" if runs else None)
            cells.append(found.get((arch, label), "the baseline" if runs else None))
        lines.append(cells)
    return f"### {title}\n\n{markdown_table(lines, columns, 'l')}"


def robustness_table(rows: Iterable[Row]) -> str:
    """Makes a row for each corruption, those where the CNN leads most first."""
    table = by_level(rows)
    lines: list[tuple[float, list[object]]] = []
    for name, count in {"none": 1, **{k: len(v) for k, (_, v) in CORRUPTIONS.items()}}.items():
        runs = [[table[arch, name, str(k)] for k in range(1, count + 1)] for arch in STYLES]
        shown = sorted({1, count // 2 + 1, count})
        title = name.replace("_", " ")
        if name == "off_centre":
            title += f" by {', '.join(map(str, shown))} pixels"
        cells: list[object] = [title]
        for own in runs:
            means = [fmean(row.accuracy for row in own[k - 1].values()) for k in shown]
            cells.append(", ".join(fixed(mean, 1) for mean in means))
        seeds = sorted(set.intersection(*(set(step) for own in runs for step in own)))
        mlp, cnn = ([fmean(step[seed].accuracy for step in own) for seed in seeds] for own in runs)
        mean, *bounds = mean_interval([b - a for a, b in zip(mlp, cnn, strict=True)])
        cells.append(f"{points(mean, 1)} {interval(bounds, lambda end: points(end, 1))}")
        lines.append((mean if name != "none" else math.inf, cells))
    columns = ["corruption", *(f"{arch.upper()}, % at severity 1, 3, 5" for arch in STYLES)]
    columns.append("CNN − MLP over all severities, points")
    ordered = sorted(lines, key=lambda line: line[0], reverse=True)
    return markdown_table([cells for _, cells in ordered], columns, "l")


# --- figures -------------------------------------------------------------------------------


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
            means = [fmean(values) for values in curve]
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
