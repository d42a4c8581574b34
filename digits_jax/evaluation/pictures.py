"""Sheets of test images with the answers they got: uint8 [n, 28, 28, 1] in, a Figure out."""

from dataclasses import dataclass

import numpy as np

from digits_jax.evaluation.style import LIGHT, NARROW, Theme, new_figure, themed

COLUMNS = 6
MOST = 60  # images on a sheet: ten rows, what a reader still looks at


@dataclass(frozen=True)
class Tile:
    """One image of a sheet: its index in the test set, the text below it, and its frame.

    good: True frames it solid in the colour of "right", False dashed in that of "wrong",
    None leaves it without a frame.
    """

    index: int
    text: str
    good: bool | None


@themed
def image_sheet(
    images,
    tiles: list[Tile],
    title: str,
    frames: tuple[str | None, str | None] | None,
    *,
    theme: Theme = LIGHT,
):
    """Images in rows of six, framed, each with its text.

    Args:
      images: uint8 [n, height, width, 1], the whole test set.
      tiles: those to show, in order.
      title: the finding.
      frames: what a solid and what a dashed frame means, None for one that doesn't occur.
      theme: the colours.

    Returns:
      A Figure.

    Example:
      >>> tiles = [Tile(1, "4: 9 → 4", True)]
      >>> sheet = image_sheet(np.zeros((2, 28, 28, 1), np.uint8), tiles, "1 error", ("a", "b"))
      >>> sheet.get_suptitle()
      '1 error'
    """
    from matplotlib.patches import Patch, Rectangle

    rows = max(1, -(-len(tiles) // COLUMNS))
    step = 1.34  # an image is 1 high; the rest is its text and the space to the next
    height = rows * step * NARROW / (COLUMNS * 1.12) + (0.55 if frames else 0.1)
    figure = new_figure(title, NARROW, height)
    axes = figure.add_subplot()
    for place, tile in enumerate(tiles):
        x, y = 1.12 * (place % COLUMNS), -step * (place // COLUMNS)
        picture = np.asarray(images[tile.index])[..., 0]
        axes.imshow(
            picture, cmap="gray", vmin=0, vmax=255, extent=(x, x + 1, y, y + 1), aspect="equal"
        )
        if tile.good is not None:
            colour, line = (theme.right, "-") if tile.good else (theme.wrong, (0, (2, 1)))
            frame = Rectangle((x, y), 1, 1, fill=False, ec=colour, lw=2.4, ls=line)
            axes.add_patch(frame)
        axes.text(x + 0.5, y - 0.07, tile.text, ha="center", va="top", fontsize=8)
    if not tiles:
        axes.text(3, 0.5, "none", ha="center", va="center", color=theme.muted)
    axes.set(xlim=(-0.06, 1.12 * COLUMNS - 0.06), ylim=(-step * rows + 0.96, 1.06))
    axes.axis("off")
    if frames:
        good = Patch(fill=False, ec=theme.right, lw=2, label=frames[0])
        bad = Patch(fill=False, ec=theme.wrong, lw=2, ls=(0, (2, 1)), label=frames[1])
        handles = [patch for patch, text in zip((good, bad), frames, strict=True) if text]
        figure.legend(handles=handles, loc="outside lower left")
    return figure


def evenly(indices: np.ndarray, most: int = MOST) -> np.ndarray:
    """At most `most` of the indices, evenly spaced, so that a sheet shows the usual and the odd.

    Args:
      indices: int [m].
      most: the largest number to keep.

    Returns:
      int [min(m, most)], in the same order.

    Example:
      >>> evenly(np.arange(10), 3)
      array([0, 4, 9])
    """
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)]


def error_tiles(labels, answers, others, classes, most: int = MOST) -> tuple[list[Tile], int]:
    """The tiles of one classifier's errors, those that the other gets right first.

    Args:
      labels: int [n].
      answers: int [n], of the classifier whose errors are shown.
      others: int [n], of the other.
      classes: the classes' names.
      most: the largest number of tiles, drawn evenly from all errors.

    Returns:
      (tiles, number of errors in all). A tile's text is "label: answer → the other's".

    Example:
      >>> error_tiles(np.array([4, 7]), np.array([9, 7]), np.array([4, 7]), "0123456789")
      ([Tile(index=0, text='4: 9 → 4 ✓', good=True)], 1)
    """
    wrong = np.flatnonzero(answers != labels)
    shown = evenly(wrong, most)
    shown = shown[np.argsort(others[shown] != labels[shown], kind="stable")]
    tiles = []
    for i in shown:
        good = bool(others[i] == labels[i])
        text = f"{classes[labels[i]]}: {classes[answers[i]]} → {classes[others[i]]}"
        tiles.append(Tile(int(i), f"{text} {'✓' if good else '✗'}", good))
    return tiles, len(wrong)
