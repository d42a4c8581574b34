"""Digits that touch: where a connected piece of ink is cut, by the network's confidence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import ndimage

from digits_jax.vision.digit import THRESHOLD, place_digit
from digits_jax.vision.frames import connected

Box = tuple[int, int, int, int]  # left, top, right, bottom; see `digits_jax.vision`
Span = tuple[int, int]  # from one candidate cut to another

MAX_PARTS = 12  # of one connected piece
# What may be digits on one picture, whose images take the time: each doubtful part has 40 to 230.
# All parts of printed text are doubtful.
MAX_SPANS = 4000
_WIDE = 1.05  # of the line's height: one digit is seldom wider
_LITTLE_DOUBT = 0.75  # the least probability of a part that isn't cut; smoothed labels give 0.9
# By how much, in mean log probability, the parts must be better than the whole: for a piece up to
# ``_WIDE``, and for a wider one.
_MARGIN_NARROW, _MARGIN_WIDE = 0.5, 0.2
# Taken off a part's log probability: for the ink that its cut crosses, and for what it is wider
# than the line is high (a digit seldom is), both in heights of the line. Without the first,
# 38 of 50 rows of three digits that touch are right, with it 42
# (`python -m experiments.rows --split=validation --count=50`).
_CROSSING, _WIDENESS = 1.0, 1.0
_ASIDE_COST = 0.05  # a step aside costs as much ink: paths are straight where nothing is gained
_NARROWEST = 0.45  # of the line's height: a part that is cut
_WIDEST = 1.3  # of the line's height: what is cut out
_FINEST = 40  # pixels of the line's height where cuts are looked for
# Cuts stay about an axis: how far they may lead from it, in heights of the line, and its slants.
# Those near to an axis part strokes side by side; others go around the end of a stroke.
_AXES = (0.03, (-0.3, 0.0, 0.3, 0.6)), (0.12, (0.0, 0.3)), (0.35, (0.0,))
_MOST_INK = 0.6  # of the line's height, across one cut
_CUTS_PER_HEIGHT, _MOST_CUTS = 14, 60  # in as much of a part as it is high, and in all
_DIFFERENT = 0.08  # of the ink of a part as wide as high: the least between two cuts
_CROSSED = 0.01  # of the height squared: the ink between two cuts that cross, if they do
_SCRAP = 0.3  # of the largest connected ink on its side: less is joined to the other side


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


def split_touching(
    rows: list[list[Part]], score: Callable[[np.ndarray], np.ndarray]
) -> list[list[Part]]:
    """Splits the parts of rows of digits where that makes digits of them.

    A part that is a digit with little doubt stays as it is. Another is taken uncut or cut into up
    to ``MAX_PARTS``; cuts run from top to bottom where they cross little ink. For each number of
    parts, dynamic programming finds the cuts with the greatest sum of log probabilities (of each
    part's most probable class); the number is that with the greatest mean, where parts must be
    better than the whole by more than a margin, so that a 0 doesn't become two 1s. The widest are
    cut first; once there are ``MAX_SPANS`` between cuts, the others stay as they are.

    Args:
      rows: parts from left to right, at least one in each.
      score: probabilities of the classes, uint8 [n, 28, 28] -> float32 [n, classes]: less than 1
        together where an image may be no digit.
    """
    if not rows:
        return []
    parts = [part for row in rows for part in row]
    heights = [float(np.median([part.ink.shape[0] for part in row])) for row in rows for _ in row]
    widths = [part.ink.shape[1] / height for part, height in zip(parts, heights, strict=True)]
    wholes = score(np.stack([part.image for part in parts])).max(axis=1)
    options: list[dict[Span, Part]] = [{(0, 1): part} for part in parts]
    count = 0
    for number in sorted(range(len(parts)), key=lambda number: -widths[number]):
        # Cutting is what takes time: few parts need it.
        if count < MAX_SPANS and (wholes[number] < _LITTLE_DOUBT or widths[number] > _WIDE):
            options[number] = cut(parts[number], heights[number])
            count += len(options[number])
    spans = [(number, span) for number, found in enumerate(options) for span in found]
    images = np.stack([options[number][span].image for number, span in spans])
    logs = np.log(np.clip(score(images).max(axis=1), 1e-4, 1))
    values: list[dict[Span, float]] = [{} for _ in parts]
    for (number, span), log in zip(spans, logs, strict=True):
        part = options[number][span]
        too_wide = max(part.ink.shape[1] / heights[number] - 1, 0)
        values[number][span] = log - _CROSSING * part.crossed - _WIDENESS * too_wide
    chosen = iter(
        [found[span] for span in choose_cuts(value, width)]
        for found, value, width in zip(options, values, widths, strict=True)
    )
    return [[part for _ in row for part in next(chosen)] for row in rows]


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


def cut(part: Part, height: float) -> dict[Span, Part]:
    """All that may be one digit in a part: {(i, j): what is between cuts i and j}."""
    tall, wide = part.ink.shape
    many = _NARROWEST * height < wide < MAX_PARTS * _WIDEST * height
    seams = _find_seams(part.ink, height) if many else []
    crossed = [0.0, *(ink for ink, _ in seams), 0.0]
    # What is to the left of each cut; the first and last are the borders.
    lefts = [
        np.zeros((tall, wide), bool),
        *(left for _, left in seams),
        np.ones((tall, wide), bool),
    ]
    last = len(lefts) - 1
    inked = part.ink > THRESHOLD
    # The columns where each cut has something to its right, and to its left.
    starts = [int((~left).any(axis=0).argmax()) for left in lefts]
    stops = [wide - int(left.any(axis=0)[::-1].argmax()) for left in lefts]
    spans = {}
    for i, j in combinations(range(last + 1), 2):
        both = slice(starts[j], stops[i])
        crossing = lefts[i][:, both] & ~lefts[j][:, both] & inked[:, both]
        if i and j < last and np.count_nonzero(crossing) > _CROSSED * height**2:
            continue
        first, between = starts[i], slice(starts[i], stops[j])
        ink = np.where(lefts[j][:, between] & ~lefts[i][:, between], part.ink[:, between], 0)
        inside = ink > THRESHOLD
        rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if (i, j) != (0, last) and (
            not rows.size or np.ptp(rows) < 0.5 * height or np.ptp(cols) > _WIDEST * height
        ):
            continue
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1))
        x, y = part.box[0] + first, part.box[1]
        box = (x + left, y + top, x + right, y + bottom)
        spans[i, j] = Part(ink[top:bottom, left:right], box, crossed[j])
    return spans


def _find_seams(ink: np.ndarray, height: float) -> list[tuple[float, np.ndarray]]:
    """Cuts from top to bottom, left to right.

    Returns:
      Of each cut, the ink that it crosses in heights of the line, and what is to its left.
    """
    shape, step = ink.shape, max(int(height / _FINEST), 1)
    padded = np.pad(ink, [(0, -side % step) for side in shape])
    tall, wide = (side // step for side in padded.shape)
    ink, height = padded.reshape(tall, step, wide, step).mean((1, 3)), height / step
    middles = np.arange(wide, step=max(round(0.06 * height), 1))
    found: list[tuple[float, np.ndarray]] = []
    for share, slants in _AXES:
        reach = max(round(share * height), 1)
        axes = np.rint(np.multiply.outer(slants, tall / 2 - np.arange(tall))).astype(int)
        axes = (middles[:, None, None] + axes).reshape(-1, tall)  # columns
        columns = axes[:, :, None] + np.arange(-reach, reach + 1)
        windows = ink[np.arange(tall)[:, None], columns.clip(0, wide - 1)]
        windows[(columns < 0) | (columns >= wide)] = 0
        costs, paths = _cheapest_paths(windows)
        # A seam is the first column to its right in each row.
        found += zip((costs / height).tolist(), paths + axes - reach, strict=True)
    inked, x = ink > THRESHOLD, np.arange(wide)
    total = int(np.count_nonzero(inked))
    least = _DIFFERENT * total * height / wide
    most = min(_CUTS_PER_HEIGHT * wide / height, _MOST_CUTS)
    kept: list[tuple[int, float, np.ndarray]] = []
    # All ink at one side isn't a cut; nor is what a cheaper path, or what becomes of it, cuts.
    others = [(0, np.zeros_like(inked)), (total, inked)]

    def is_new(left: np.ndarray) -> bool:
        count = np.count_nonzero(left)
        near = (other for size, other in others if abs(size - count) < least)
        return all(np.count_nonzero(left ^ other) >= least for other in near)

    for cost, seam in sorted(found, key=lambda item: item[0]):
        if cost > _MOST_INK or len(kept) >= most:
            break
        left = x < seam[:, None]
        if is_new(left & inked):
            joined = _join_scraps(inked, left)
            size = int(np.count_nonzero(joined & inked))
            if is_new(joined & inked):
                kept.append((size, cost, joined))
                others.append((size, joined & inked))
            others.append((int(np.count_nonzero(left & inked)), left & inked))
    kept.sort(key=lambda item: item[:2])
    grown = [(cost, left.repeat(step, 0).repeat(step, 1)) for _, cost, left in kept]
    return [(cost, left[: shape[0], : shape[1]]) for cost, left in grown]


def _join_scraps(inked: np.ndarray, left: np.ndarray) -> np.ndarray:
    """What is to the left of a cut, where scraps that it cuts off go to the other side.

    Ends of strokes that reach over a cut hang together with their digit on the other side alone.
    """
    left = left.copy()
    for side in (True, False):
        own = inked & (left == side)
        labels = connected(own)
        sizes = np.bincount(labels.ravel())[1:]
        if len(sizes) < 2:
            continue
        other = inked & (left != side)
        beside = np.asarray(ndimage.binary_dilation(other, np.ones((3, 3))), bool)
        touching = np.bincount(labels[beside], minlength=len(sizes) + 1)[1:] > 0
        scraps = 1 + np.flatnonzero(touching & (sizes < _SCRAP * sizes.max()))
        left[np.isin(labels, scraps)] = not side
    return left


def _cheapest_paths(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In windows [n, h, w], the paths [n, h] down that cross the least ink, and that ink [n]."""
    # All windows together: their loops in Python took most of the time to read a line.
    count, tall, wide = ink.shape
    steps = np.empty((tall, count, wide), np.int32)
    best = np.zeros((count, wide))
    x = np.arange(wide)
    for row in range(tall):
        # Along the row to the right or to the left, over all that lies between.
        passed = np.cumsum(ink[:, row] + _ASIDE_COST, axis=1, dtype=np.float64)
        before = passed - ink[:, row] - _ASIDE_COST
        right, left = best - before, (best + passed)[:, ::-1]
        from_left, from_right = (np.minimum.accumulate(v, axis=1) for v in (right, left))
        at_left = np.maximum.accumulate(np.where(right == from_left, x, 0), axis=1)
        at_right = np.maximum.accumulate(np.where(left == from_right, x, 0), axis=1)
        to_right, to_left = from_left + passed, from_right[:, ::-1] - before
        steps[row] = np.where(to_right <= to_left, at_left, wide - 1 - at_right[:, ::-1])
        best = np.minimum(to_right, to_left) - _ASIDE_COST
    paths = np.empty((count, tall), int)
    paths[:, -1] = best.argmin(axis=1)
    for row in range(tall - 1, 0, -1):
        paths[:, row - 1] = steps[row, np.arange(count), paths[:, row]]
    return best.min(axis=1), paths
