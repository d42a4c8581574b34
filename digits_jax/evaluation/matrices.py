"""Square figures: confusion matrices, and the overlap of every two runs."""

import textwrap

import numpy as np

from digits_jax.evaluation.resampling import BetweenOrWithin
from digits_jax.evaluation.style import (
    LIGHT,
    NARROW,
    WIDE,
    Theme,
    fixed,
    new_figure,
    plural,
    themed,
)


@themed
def confusions(
    table_a, table_b, names: tuple[str, str], classes, sure: bool = True, *, theme: Theme = LIGHT
):
    """Both confusion matrices, their diagonals muted, and their difference.

    Args:
      table_a, table_b: [classes, classes], rows the labels, columns the answers.
      names: of the classifiers.
      classes: the classes' names.
      sure: the two differ in accuracy beyond chance; else no confusion is singled out.
      theme: the colours.

    Returns:
      A Figure, 10 inches wide.

    Example:
      >>> tables = np.array([[5, 2], [1, 5]]), np.array([[7, 0], [1, 5]])
      >>> confusions(*tables, ("A", "B"), ["0", "1"]).get_suptitle()
      'The largest change from A to B: 0 read as 1, 2 images less often'
    """
    difference = _errors_only(table_b) - _errors_only(table_a)
    # Rounded, so that among equals the first is found, whatever their last bits.
    largest = np.abs(difference).round(9).argmax()
    label, answer = np.unravel_index(largest, difference.shape)
    change = difference[label, answer]
    title = f"{names[0]} and {names[1]} confuse the same classes equally often"
    if change and (abs(change) < 1 or not sure):
        title = f"No confusion stands out between {names[0]} and {names[1]}"
    elif change:
        title = f"The largest change from {names[0]} to {names[1]}: {classes[label]} read as "
        way = "less" if change < 0 else "more"
        title += f"{classes[answer]}, {plural(abs(change), 'image')} {way} often"
    wrapped = max(map(len, names)) * 2 > 20  # the third heading then takes two lines
    figure = new_figure(title, WIDE, 3.3 if wrapped else 3.05)
    panels = figure.subplots(1, 3)
    size = len(difference)
    top = max(_errors_only(table_a).max(), _errors_only(table_b).max(), 1)
    reach = max(np.abs(difference).max(), 1)
    spread = _colours(theme.b, theme.background, theme.a)
    shades = _colours(theme.background, theme.wrong)
    drawn = (
        (_errors_only(table_a), f"{names[0]}: images", shades, 0, top),
        (_errors_only(table_b), f"{names[1]}: images", shades, 0, top),
        (difference, f"{names[1]} minus {names[0]}: images", spread, -reach, reach),
    )
    for axes, (table, head, cmap, low, high) in zip(panels, drawn, strict=True):
        texts = np.array([[fixed(v, 0) if np.rint(v) else "" for v in row] for row in table])
        _heat(axes, table, texts, (cmap, low, high), classes, theme, shrink=0.8)
        axes.set(title=textwrap.fill(head, 34), xlabel="answer", ylabel="label")
        axes.tick_params(length=0, labelrotation=0, labelsize=8.5 if size <= 12 else 5)
    return figure


@themed
def overlap_matrix(
    found: BetweenOrWithin,
    counts: tuple[int, int],
    names: tuple[str, str],
    seeds: tuple[list[int], list[int]] | None = None,
    *,
    theme: Theme = LIGHT,
):
    """How alike any two runs fail: a square per pair, A's runs first.

    Args:
      found: of `between_or_within`.
      counts: number of runs of A and of B.
      names: of the classifiers.
      seeds: the numbers of A's runs and of B's; by default 1, 2, ...
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> from digits_jax.evaluation import between_or_within
      >>> a, b = [[1, 1, 0, 0], [1, 1, 1, 0]], [[0, 0, 1, 0], [0, 0, 1, 1]]
      >>> found = between_or_within([0] * 4, a, b, resamples=100)
      >>> overlap_matrix(found, (2, 2), ("A", "B")).axes[0].get_ylabel()
      ''
    """
    what = {"error_consistency": "error consistency κ", "jaccard": "Jaccard index"}[found.measure]
    within = (found.within_a + found.within_b) / 2
    sign = {"error_consistency": "κ", "jaccard": "Jaccard"}[found.measure]
    kinds = f"({sign} {fixed(within, 2)})"
    title = f"Runs of one kind agree more in what they get wrong {kinds} than "
    if found.p_value > 0.05 or found.excess <= 0:
        title = f"No sign that runs of one kind agree more in what they get wrong {kinds} than "
    title += f"{names[0]} with {names[1]} ({sign} {fixed(found.between, 2)}); "
    title += f"p = {found.p_value:.2g}"
    runs = sum(counts)
    figure = new_figure(title, NARROW, min(max(0.33 * runs + 1.4, 2.9), 5.2))
    if max(map(len, names)) > 10:
        names = ("A", "B")
    axes = figure.add_subplot()
    seeds = seeds or tuple(list(range(1, count + 1)) for count in counts)
    labels = [f"{name} {seed}" for name, own in zip(names, seeds, strict=True) for seed in own]
    off = found.matrix[~np.eye(runs, dtype=bool)]
    texts = np.array([[fixed(value, 2) for value in row] for row in found.matrix])
    look = (_colours(theme.background, theme.b), min(0, off.min()), off.max())
    _heat(axes, found.matrix, texts, look, labels, theme, label=what, shrink=0.8)
    for edge in (axes.axhline, axes.axvline):
        edge(counts[0], color=theme.text, lw=2)
    axes.tick_params(length=0, labelsize=8.5)
    axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="y", labelrotation=0)
    return figure


def _heat(axes, table, texts, look, labels, theme, **bar) -> None:
    """A heat map without its diagonal; numbers in black or white, whichever reads better."""
    import seaborn as sns

    cmap, low, high = look
    size = len(table)
    axes.set_facecolor(theme.grid)  # shows through on the diagonal
    diagonal = np.eye(size, dtype=bool)
    ticks = {"xticklabels": labels, "yticklabels": labels, "square": True, "cbar_kws": bar}
    sns.heatmap(table, mask=diagonal, cmap=cmap, vmin=low, vmax=high, ax=axes, **ticks)
    if size > 12:
        return
    for row, column in zip(*np.nonzero(~diagonal), strict=True):
        shade = np.array(cmap((table[row, column] - low) / (high - low or 1))[:3])
        linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
        # 0.18: where black and white have the same contrast by WCAG's formula.
        ink = "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else "white"
        place = {"ha": "center", "va": "center", "fontsize": 7.5}
        axes.text(column + 0.5, row + 0.5, texts[row, column], color=ink, **place)


def _errors_only(table) -> np.ndarray:
    return np.asarray(table, np.float64) * (1 - np.eye(len(table)))


def _colours(*stops):
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("room", stops)
