"""Square figures: confusion matrices, and the overlap of every two runs."""

import textwrap

import numpy as np

from digits_jax.evaluation.resampling import BetweenOrWithin
from digits_jax.evaluation.style import LIGHT, NARROW, WIDE, Theme, count_text, new_figure, themed


@themed
def confusions(table_a, table_b, names: tuple[str, str], classes, *, theme: Theme = LIGHT):
    """Both confusion matrices, their diagonals muted, and their difference.

    Args:
      table_a, table_b: [classes, classes], rows the labels, columns the answers.
      names: of the classifiers.
      classes: the classes' names.
      theme: the colours.

    Returns:
      A Figure, 10 inches wide.

    Example:
      >>> tables = np.array([[5, 2], [1, 5]]), np.array([[7, 0], [1, 5]])
      >>> confusions(*tables, ("A", "B"), ["0", "1"]).get_suptitle()
      'The largest change from A to B: 0 read as 1, 2 images less often'
    """
    difference = _errors_only(table_b) - _errors_only(table_a)
    label, answer = np.unravel_index(np.abs(difference).argmax(), difference.shape)
    change = difference[label, answer]
    title = f"{names[0]} and {names[1]} confuse the same classes equally often"
    if change:
        title = f"The largest change from {names[0]} to {names[1]}: {classes[label]} read as "
        way = "less" if change < 0 else "more"
        title += f"{classes[answer]}, {count_text(abs(change))} images {way} often"
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
        texts = np.where(np.rint(table) == 0, "", np.rint(table).astype(int).astype(str))
        _heat(axes, table, texts, (cmap, low, high), classes, theme, shrink=0.8)
        axes.set(title=textwrap.fill(head, 34), xlabel="answer", ylabel="label")
        axes.tick_params(length=0, labelrotation=0, labelsize=8.5 if size <= 12 else 5)
    return figure


@themed
def overlap_matrix(
    found: BetweenOrWithin, counts: tuple[int, int], names: tuple[str, str], *, theme: Theme = LIGHT
):
    """How alike any two runs fail: a square per pair, A's runs first.

    Args:
      found: of `between_or_within`.
      counts: number of runs of A and of B.
      names: of the classifiers.
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
    title = f"Two runs of a kind share more errors ({within:.2f}) than {names[0]} with {names[1]}"
    if found.p_value > 0.05 or found.excess <= 0:
        title = f"Two runs of a kind share errors ({within:.2f}) as {names[0]} does with {names[1]}"
    title += f" ({found.between:.2f}); p = {found.p_value:.2g}"
    runs = sum(counts)
    figure = new_figure(title, NARROW, min(max(0.33 * runs + 1.4, 2.9), 5.2))
    if max(map(len, names)) > 10:
        names = ("A", "B")
    axes = figure.add_subplot()
    labels = [f"{n} {i + 1}" for n, c in zip(names, counts, strict=True) for i in range(c)]
    off = found.matrix[~np.eye(runs, dtype=bool)]
    texts = np.array([[f"{value:.2f}" for value in row] for row in found.matrix])
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
