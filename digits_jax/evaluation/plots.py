"""Figures of a comparison: arrays and names in, a matplotlib Figure out; nothing is written.

Every title states the finding. seaborn is imported by the figures that use it.
"""

import textwrap

import numpy as np

from digits_jax.evaluation.calibration import Reliability
from digits_jax.evaluation.metrics import ClassAccuracy, wilson_interval
from digits_jax.evaluation.overlap import ErrorOverlap
from digits_jax.evaluation.repairs import Repair
from digits_jax.evaluation.style import (
    LIGHT,
    NARROW,
    Theme,
    count_text,
    new_figure,
    plural,
    signed_count,
    themed,
)

FEWEST = 10  # answers that a bin of the reliability curve needs to be drawn


@themed
def overlap_diagram(
    overlap: ErrorOverlap,
    name_a: str,
    name_b: str,
    interval: tuple[float, float] | None = None,
    *,
    theme: Theme = LIGHT,
):
    """Both sets of errors as circles whose areas, and common area, are the numbers of images.

    Args:
      overlap: of two runs or two groups.
      name_a, name_b: the classifiers' names.
      interval: the 95% interval of the repair rate, for the title.
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> from digits_jax.evaluation import error_overlap
      >>> found = error_overlap([0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0])
      >>> overlap_diagram(found, "A", "B").get_suptitle()
      "B gets 50% of A's errors right"
    """
    from matplotlib.patches import Circle, Patch

    if overlap.repair_rate is None:
        others = f"{name_b} makes {plural(overlap.errors_b, 'error')}"
        title = f"{name_a} makes no errors; {others if overlap.errors_b else 'nor does ' + name_b}"
    else:
        bounds = f" [{interval[0]:.0%}, {interval[1]:.0%}]" if interval else ""
        title = f"{name_b} gets {overlap.repair_rate:.0%}{bounds} of {name_a}'s errors right"
    figure = new_figure(title, NARROW, 4.1)
    axes = figure.add_subplot()
    total = max(overlap.errors_a, overlap.errors_b, 1e-9)
    r_a, r_b = np.sqrt(overlap.errors_a / total), np.sqrt(overlap.errors_b / total)
    apart = _distance(r_a, r_b, np.pi * overlap.both_wrong / total)
    circle_a = Circle((0, 0), r_a, facecolor=theme.a, lw=0)
    axes.add_patch(circle_a)
    axes.add_patch(Circle((apart, 0), r_b, facecolor=theme.b, lw=0))
    common = Circle((apart, 0), r_b, facecolor=theme.both, lw=0)
    axes.add_patch(common)
    common.set_clip_path(circle_a)
    left, right = min(-r_a, apart - r_b), max(r_a, apart + r_b)
    pad = max(3.1 - (right - left), 0.1) / 2
    axes.set(xlim=(left - pad, right + pad), ylim=(-1.02, 1.02), aspect="equal")
    axes.axis("off")
    axes.set_title(f"{name_a}: {plural(overlap.errors_a, 'error')}", loc="left")
    # At the other corner, so that two long names can't meet.
    axes.text(
        *(1, -0.02, f"{name_b}: {plural(overlap.errors_b, 'error')}"),
        transform=axes.transAxes,
        ha="right",
        va="top",
    )
    same = f"{count_text(overlap.both_wrong_same_label)} with the same answer"
    expected = f"{count_text(overlap.expected_both_wrong)} expected by chance"
    parts = (
        (theme.a, f"{count_text(overlap.only_a_wrong)} only {name_a} wrong: repaired by {name_b}"),
        (theme.both, f"{count_text(overlap.both_wrong)} both wrong: {same}, {expected}"),
        (theme.b, f"{count_text(overlap.only_b_wrong)} only {name_b} wrong: new errors"),
    )
    handles = [Patch(color=colour, label=textwrap.fill(text, 62)) for colour, text in parts]
    figure.legend(handles=handles, loc="outside lower left")
    return figure


@themed
def accuracy_by_class(
    a: ClassAccuracy, b: ClassAccuracy, names: tuple[str, str], classes, *, theme: Theme = LIGHT
):
    """Accuracy of each class with its 95% interval, the largest gain on top.

    Args:
      a, b: of the two classifiers.
      names: theirs.
      classes: the classes' names.
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> from digits_jax.evaluation import class_accuracy
      >>> one, two = class_accuracy([0, 1], [0, 0]), class_accuracy([0, 1], [0, 1])
      >>> accuracy_by_class(one, two, ("A", "B"), ["0", "1"]).get_suptitle()
      'No class differs clearly between\\nA and B (95% intervals overlap)'
    """
    shown = [c for c, count in enumerate(a.counts) if count]
    gains = {c: b.accuracy[c] - a.accuracy[c] for c in shown}
    shown.sort(key=lambda c: (gains[c], -c))
    title = _classes_title(a, b, names, shown)
    figure = new_figure(title, NARROW, 0.33 * len(shown) + 1.1)
    axes = figure.add_subplot()
    rows = np.arange(len(shown))
    looks = ((a, names[0], theme.a, "o", 0.14), (b, names[1], theme.b, "s", -0.14))
    for found, name, colour, marker, shift in looks:
        middle = np.array([100 * found.accuracy[c] for c in shown])
        ends = np.array([found.accuracy_ci95[c] for c in shown]).T * 100
        bars = np.abs(ends - middle)
        style = {"fmt": marker, "color": colour, "ms": 5, "lw": 1.6}
        axes.errorbar(middle, rows + shift, xerr=bars, label=name, **style)
    axes.set_yticks(rows, [str(classes[c]) for c in shown])
    axes.set(xlabel="accuracy in % (bars: 95% interval, Wilson)", ylabel="class")
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=2)
    return figure


def _classes_title(a: ClassAccuracy, b: ClassAccuracy, names, shown: list[int]) -> str:
    """Only classes whose intervals don't meet count: a gain alone may be two images."""
    ahead = []
    for low, high in ((b, a), (a, b)):
        ahead.append(sum(low.accuracy_ci95[c][1] < high.accuracy_ci95[c][0] for c in shown))
    sides = [f"{names[i]} is clearly ahead on {ahead[i]}" for i in (1, 0) if ahead[i]]
    if not sides:
        return f"No class differs clearly between {names[0]} and {names[1]} (95% intervals overlap)"
    return f"{', '.join(sides)} of {len(shown)} classes (95% intervals apart)"


@themed
def seeds_spread(
    accuracies_a, accuracies_b, names: tuple[str, str], count: int, *, theme: Theme = LIGHT
):
    """Each run's accuracy, with mean and standard deviation; Wilson's interval for a lone run.

    Args:
      accuracies_a, accuracies_b: float [seeds], fractions.
      names: of the classifiers.
      count: number of test images.
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> seeds_spread([0.9, 0.91], [0.95, 0.96], ("A", "B"), 100).get_suptitle()
      'Every run of B beats every run of A'
    """
    import seaborn as sns

    groups = [100 * np.asarray(g, np.float64) for g in (accuracies_a, accuracies_b)]
    low, high = sorted(range(2), key=lambda i: groups[i].mean())
    if groups[high].min() > groups[low].max():
        title = f"Every run of {names[high]} beats every run of {names[low]}"
    else:
        title = f"The runs of {names[0]} and {names[1]} overlap in accuracy"
    if max(map(len, groups)) == 1:
        title = f"{names[0]} {groups[0][0]:.2f}%, {names[1]} {groups[1][0]:.2f}% right"
    figure = new_figure(title, NARROW, 2.3)
    axes = figure.add_subplot()
    labels = []
    for row, (values, colour) in enumerate(zip(groups, (theme.a, theme.b), strict=True)):
        mean, marker = values.mean(), "os"[row]
        if len(values) > 1:
            bar, what = values.std(ddof=1), f"{mean:.2f} ± {values.std(ddof=1):.2f}%"
            what += f"\n{len(values)} seeds"
        else:
            ends = wilson_interval(mean / 100 * count, count)
            bar = np.abs(100 * np.array(ends) - mean)[:, None]
            what = f"{mean:.2f}%\n1 seed"
        axes.errorbar(mean, row + 0.26, xerr=bar, fmt="|", ms=12, color=theme.text, capsize=3)
        # Three heights in turn: equal accuracies stay apart, and the figure is reproducible.
        heights = row + 0.09 * (np.arange(len(values)) % 3 - 1)
        look = {"color": colour, "marker": marker, "s": 55, "alpha": 0.85, "legend": False}
        sns.scatterplot(x=values, y=heights, ax=axes, **look)
        labels.append(f"{names[row]}\n{what}")
    axes.set_yticks(range(2), labels)
    spans = {len(g) > 1: "sd" if len(g) > 1 else "one seed: Wilson's 95% interval" for g in groups}
    bars = ", ".join(spans[several] for several in sorted(spans, reverse=True))
    axes.set(xlabel=f"test accuracy in %\n(bars: {bars})", ylabel="", ylim=(1.5, -0.5))
    axes.grid(axis="x")
    return figure


@themed
def repairs(
    found: list[Repair],
    names: tuple[str, str],
    classes,
    sure: bool = True,
    *,
    theme: Theme = LIGHT,
):
    """The confusions with the largest gains and losses: repaired to the right, new to the left.

    Args:
      found: of `repairs_by_confusion`, sorted by gain; those without a gain are left out.
      names: of the classifiers.
      classes: the classes' names.
      sure: the two differ in accuracy beyond chance; else no confusion is singled out.
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> from digits_jax.evaluation import repairs_by_confusion
      >>> found = repairs_by_confusion([4, 4, 7], [9, 9, 7], [4, 4, 2])
      >>> repairs(found, ("A", "B"), list("0123456789")).get_suptitle()
      'B gains most where 4 is read as 9: 2 images fewer, net'
    """
    found = [repair for repair in found if signed_count(repair.gain) != "0"]
    shown = found if len(found) <= 16 else [*found[:12], *found[-4:]]
    title = _repairs_title(shown, names, classes, sure)
    figure = new_figure(title, NARROW, 0.27 * max(len(shown), 3) + 1.2)
    axes = figure.add_subplot()
    rows = np.arange(len(shown))[::-1]
    right, left = f"{names[1]} repairs", f"{names[1]} newly gets wrong"
    axes.barh(rows, [r.repaired for r in shown], color=theme.b, label=right, height=0.72)
    axes.barh(rows, [-r.new_errors for r in shown], color=theme.a, label=left, height=0.72)
    reach = max([1, *(max(r.repaired, r.new_errors) for r in shown)])
    for row, repair in zip(rows, shown, strict=True):
        place = (repair.repaired + 0.02 * reach, row)
        axes.text(*place, signed_count(repair.gain), va="center", fontsize=8.5)
    if len(found) > len(shown):
        axes.axhline(3.5, color=theme.muted, lw=0.8, ls=":")
    axes.set_yticks(rows, [f"{classes[r.label]} read as {classes[r.answer]}" for r in shown])
    axes.set_xlabel("images (the number beside a bar: repaired minus new)")
    axes.margins(x=0.12, y=0.02)
    axes.xaxis.set_major_formatter(lambda value, _: count_text(abs(value)))
    axes.axvline(0, color=theme.muted, lw=0.8)
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=2 if len(left) < 34 else 1)
    return figure


def _repairs_title(shown: list[Repair], names, classes, sure: bool) -> str:
    if not shown:
        return f"{names[1]} gains on no confusion"
    most = max(abs(repair.gain) for repair in shown)
    if not sure or most < 1:
        return f"No confusion stands out between {names[0]} and {names[1]}"
    # Among equals the first by label and answer, as in the title of the confusion matrices.
    largest = min(
        (r for r in shown if abs(r.gain) > most - 1e-9), key=lambda r: (r.label, r.answer)
    )
    verb, way = ("gains", "fewer") if largest.gain > 0 else ("loses", "more")
    title = f"{names[1]} {verb} most where {classes[largest.label]} is read as "
    return f"{title}{classes[largest.answer]}: {plural(most, 'image')} {way}, net"


@themed
def reliability_diagrams(
    before: tuple[Reliability, Reliability],
    after: tuple[Reliability | None, Reliability | None],
    names: tuple[str, str],
    *,
    theme: Theme = LIGHT,
):
    """Accuracy against confidence, before and after temperature scaling, and how many answers.

    Args:
      before: of A and of B, as trained.
      after: the same at the fitted temperature; None where there is none.
      names: of the classifiers.
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> from digits_jax.evaluation import reliability
      >>> curve = reliability([0, 1], [[3.0, 0.0], [3.0, 0.0]])
      >>> reliability_diagrams((curve, curve), (None, None), ("A", "B")).get_suptitle()
      'A is over-confident (ECE 45.3%),\\nB is over-confident (ECE 45.3%)'
    """
    from matplotlib.lines import Line2D

    title = ", ".join(f"{n} is {_verdict(c)}" for n, c in zip(names, before, strict=True))
    figure = new_figure(title, NARROW, 4.2)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1.2))
    for column, colour in enumerate((theme.a, theme.b)):
        top, bottom = grid[0, column], grid[1, column]
        curve = before[column]
        top.plot([0, 100], [0, 100], color=theme.muted, lw=1, ls=":")
        _curve(top, curve, fmt="os"[column], color=colour)
        heading = f"{names[column]}: ECE {curve.ece:.2%}"
        if after[column] is not None:
            look = {"fmt": "D", "color": theme.text, "mfc": theme.background}
            _curve(top, after[column], **look)
            heading += f", then {after[column].ece:.2%}"
        widths = 100 * np.diff(curve.edges)
        share = 100 * curve.counts / curve.counts.sum()
        bottom.bar(100 * curve.edges[:-1], share, widths, align="edge", color=colour, log=True)
        top.set_title(textwrap.fill(heading, 31), fontsize=9)
        top.grid()
        bottom.grid(axis="y")
        bottom.set_xlabel("confidence in %")
    grid[0, 0].set(ylabel="accuracy in %", xlim=(0, 102), ylim=(-2, 104))
    grid[1, 0].set_ylabel("answers in %")
    plain = Line2D([], [], color=theme.muted, marker="o", ms=5, label="as trained")
    empty = {"marker": "D", "mfc": theme.background, "ms": 5}
    fitted = Line2D([], [], color=theme.text, label="at the fitted temperature", **empty)
    handles = [plain, fitted] if any(after) else [plain]
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return figure


def _curve(axes, curve: Reliability, fmt: str, **style) -> None:
    full = curve.counts >= FEWEST  # fewer answers make a line of noise
    if not full.any():
        return
    accuracy = 100 * curve.accuracy[full]
    low, high = wilson_interval(curve.accuracy[full] * curve.counts[full], curve.counts[full])
    bars = np.maximum(0, [accuracy - 100 * low, 100 * high - accuracy])
    x = 100 * curve.confidence[full]
    axes.errorbar(x, accuracy, yerr=bars, fmt=fmt, ms=4, lw=1.1, ls="-", elinewidth=0.8, **style)


def _verdict(curve: Reliability) -> str:
    full = curve.counts > 0
    weights = curve.counts[full] / curve.counts.sum()
    gap = float((weights * (curve.confidence[full] - curve.accuracy[full])).sum())
    word = "over-confident" if gap > 0 else "under-confident"
    return (
        f"well calibrated (ECE {curve.ece:.1%})"
        if curve.ece < 0.01
        else (f"{word} (ECE {curve.ece:.1%})")
    )


def _distance(r_a: float, r_b: float, area: float) -> float:
    """How far apart the centres of two circles are whose common area is `area`."""
    near, far = abs(r_a - r_b), r_a + r_b
    if area <= 0:
        return far + 0.05
    if area >= np.pi * min(r_a, r_b) ** 2 * (1 - 1e-9):
        return near
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if _lens(middle, r_a, r_b) > area else (near, middle)
    return (near + far) / 2


def _lens(d: float, r_a: float, r_b: float) -> float:
    """The common area of two circles that cut each other."""
    x = (d**2 + r_a**2 - r_b**2) / (2 * d)
    half_a, half_b = np.arccos(np.clip(x / r_a, -1, 1)), np.arccos(np.clip((d - x) / r_b, -1, 1))
    chord = d * np.sqrt(max(0.0, r_a**2 - x**2))
    return r_a**2 * half_a + r_b**2 * half_b - chord
