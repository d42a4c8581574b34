"""Digits that touch: where a connected piece of ink is cut, by the network's confidence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from digits_jax.vision.digit import place_digit

Box = tuple[int, int, int, int]  # left, top, right, bottom; see `digits_jax.vision`
Span = tuple[int, int]  # from one candidate cut to another

MAX_PARTS = 12  # of one connected piece
_CUTS_PER_HEIGHT = 5  # candidates, in as much of a connected piece as it is high
# By how much, in mean log probability, the parts must be better than the whole: for a piece as
# wide as one digit may be (in heights of the line), and for a wider one.
_WIDE = 1.05
_MARGIN_NARROW, _MARGIN_WIDE = 1.0, 0.3
# Taken off a part's log probability: for the ink that its cut crosses, and for what it is wider
# than the line is high (a digit seldom is), both in heights of the line.
_CROSSING, _WIDENESS = 1.0, 1.0
_ASIDE_COST = 0.05  # a step aside costs as much ink: paths are straight where nothing is gained


@dataclass(frozen=True, eq=False)
class Part:
    """Ink that may be one digit.

    Attributes:
      ink: float32 [h, w] in [0, 1], some of it over ``THRESHOLD``; it fills the box.
      box: in pixels of the picture's ink.
      crossed: the ink under the cut at its right, in heights of the line.
    """

    ink: np.ndarray
    box: Box
    crossed: float = 0.0

    @cached_property
    def image(self) -> np.ndarray:
        """The part as `place_digit` places it."""
        image = place_digit(self.ink)
        assert image is not None
        return image


def split_touching(parts: list[Part], score: Callable[[np.ndarray], np.ndarray]) -> list[Part]:
    """Splits the parts of a row of digits where the network is most confident of the result.

    Every part is taken uncut or cut into up to ``MAX_PARTS``. Cuts run from top to bottom where
    they cross the least ink. For each number of parts, dynamic programming finds the cuts with
    the greatest sum of log probabilities (of each part's most probable class); the number is
    that with the greatest mean, where parts must be better than the whole by more than a margin,
    so that a 0 doesn't become two 1s.

    Args:
      parts: from left to right, at least one.
      score: the network, uint8 [n, 28, 28] -> probabilities float32 [n, classes].
    """
    height = float(np.median([part.ink.shape[0] for part in parts]))
    options = [_cut(part, height) for part in parts]
    spans = [(number, span) for number, cut in enumerate(options) for span in cut]
    images = np.stack([options[number][span].image for number, span in spans])
    logs = np.log(np.clip(score(images).max(axis=1), 1e-4, 1))
    values: list[dict[Span, float]] = [{} for _ in parts]
    for (number, span), log in zip(spans, logs, strict=True):
        part = options[number][span]
        too_wide = max(part.ink.shape[1] / height - 1, 0)
        values[number][span] = log - _CROSSING * part.crossed - _WIDENESS * too_wide
    return [
        options[number][span]
        for number, part in enumerate(parts)
        for span in choose_cuts(values[number], part.ink.shape[1] / height)
    ]


def choose_cuts(logs: Mapping[Span, float], width: float) -> list[Span]:
    """Chooses spans between cuts, from 0 to the last one, that are digits.

    Args:
      logs: log probability of each span (i, j) of candidate cuts; the whole is (0, last).
      width: of the whole, in heights of the line.

    Examples:
      >>> choose_cuts({(0, 1): -0.1, (1, 2): -0.1, (0, 2): -3.0}, 1.2)
      [(0, 1), (1, 2)]
      >>> choose_cuts({(0, 1): -0.1, (1, 2): -0.1, (0, 2): -0.1}, 0.8)
      [(0, 2)]
    """
    last = max(stop for _, stop in logs)
    margin = _MARGIN_WIDE if width > _WIDE else _MARGIN_NARROW
    choice, most = [(0, last)], logs[0, last]
    # best[j]: the greatest sum over spans from 0 to cut j, by the number of spans so far.
    best: dict[int, tuple[float, list[Span]]] = {0: (0.0, [])}
    for count in range(1, MAX_PARTS + 1):
        longer: dict[int, tuple[float, list[Span]]] = {}
        for (start, stop), value in logs.items():
            if start in best:
                total = best[start][0] + value
                if stop not in longer or total > longer[stop][0]:
                    longer[stop] = total, [*best[start][1], (start, stop)]
        best = longer
        if count > 1 and last in best:
            mean = best[last][0] / count - margin
            if mean > most:
                choice, most = best[last][1], mean
    return choice


def _cut(part: Part, height: float) -> dict[Span, Part]:
    """All that may be one digit in a part: {(i, j): what is between cuts i and j}."""
    tall, wide = part.ink.shape
    seams = _find_seams(part.ink, height) if wide > 0.45 * height else []
    # A seam is the first column to its right in each row; the first and last are the borders.
    crossed = [0.0, *(cost / height for cost, _ in seams), 0.0]
    columns = [np.zeros(tall, int), *(seam for _, seam in seams), np.full(tall, wide)]
    last = len(columns) - 1
    x = np.arange(wide)[None, :]
    spans = {}
    for i, j in combinations(range(last + 1), 2):
        ink = np.where((x >= columns[i][:, None]) & (x < columns[j][:, None]), part.ink, 0)
        rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        if (i, j) != (0, last) and (
            not rows.size or np.ptp(rows) < 0.5 * height or np.ptp(cols) > 1.3 * height
        ):
            continue
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1))
        box = (part.box[0] + left, part.box[1] + top, part.box[0] + right, part.box[1] + bottom)
        spans[i, j] = Part(ink[top:bottom, left:right], box, crossed[j])
    return spans


def _find_seams(ink: np.ndarray, height: float) -> list[tuple[float, np.ndarray]]:
    """Paths from top to bottom, left to right: the ink that each crosses, and its columns."""
    wide = ink.shape[1]
    reach, margin = max(round(0.15 * height), 1), max(round(0.1 * height), 1)
    middles = np.arange(margin, wide - margin + 1, max(round(0.06 * height), 1))
    # Each path stays near its middle, and leaves ink at both sides.
    columns = middles[:, None] + np.arange(-reach, reach + 1)
    inside = (columns >= 1) & (columns < wide)
    windows = ink[:, columns.clip(1, wide - 1)].transpose(1, 0, 2)
    costs, paths = _cheapest_paths(np.where(inside[:, None], windows, np.float32(np.inf)))
    seams = paths + middles[:, None] - reach
    found = [
        (float(cost), seam)
        for cost, seam in zip(costs, seams, strict=True)
        if cost <= 0.45 * height
    ]
    kept: list[tuple[float, np.ndarray]] = []
    most = 2 + round(_CUTS_PER_HEIGHT * wide / height)
    for cost, seam in sorted(found, key=lambda item: item[0]):
        if all(np.abs(seam - other).mean() >= 0.1 * height for _, other in kept):
            kept.append((cost, seam))
    return sorted(kept[:most], key=lambda item: item[1].mean())


def _cheapest_paths(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In windows [n, h, w], the paths [n, h] down that cross the least ink, and that ink [n]."""
    # All windows together: their loops in Python took most of the time to read a line.
    count, tall, wide = ink.shape
    cost = ink[:, 0].astype(np.float64)
    padded = np.full((count, wide + 2), np.inf)
    steps = np.zeros((tall, count, wide), np.int8)
    for row in range(1, tall):
        padded[:, 1:-1] = cost
        left, right = padded[:, :-2] + _ASIDE_COST, padded[:, 2:] + _ASIDE_COST
        options = np.stack([left, padded[:, 1:-1], right])
        best = options.argmin(axis=0)
        steps[row] = best - 1
        cost = np.take_along_axis(options, best[None], 0)[0] + ink[:, row]
    paths = np.empty((count, tall), int)
    paths[:, -1] = cost.argmin(axis=1)
    for row in range(tall - 1, 0, -1):
        paths[:, row - 1] = paths[:, row] + steps[row, np.arange(count), paths[:, row]]
    return cost.min(axis=1), paths
