"""Rows of digits in one picture: where each digit is, and which of them touch.

grey: uint8 [height, width]; ink: float32 [h, w] in [0, 1], see `digits_jax.vision.ink`.
score: a model as a function, uint8 [n, 28, 28] -> probabilities float32 [n, classes]. Those of
smoothed labels serve best: sharper ones make a pair that touches look as sure as a digit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from digits_jax.vision.digit import Piece, find_pieces, gap, place_digit, unite
from digits_jax.vision.ink import find_ink

Score = Callable[[np.ndarray], np.ndarray]

MOST_PARTS = 12  # of one connected piece
_CUTS_PER_HEIGHT = 5  # candidates, in as much of a connected piece as it is high
# How much surer, in mean log probability, a model must be of the parts than of the whole: for
# a piece as wide as one digit may be (in heights of the line), and for a wider one.
_WIDE = 1.05
_DOUBT_NARROW, _DOUBT_WIDE = 1.0, 0.3
# Taken off a part's log probability: for the ink that its cut crosses, and for what it is wider
# than the line is high (a digit seldom is), both in heights of the line.
_CROSSING, _WIDENESS = 1.0, 1.0
ASIDE = 0.08  # how far beside a digit a small piece of it may be, in heights of the line


@dataclass(frozen=True, eq=False)
class Glyph:
    """One digit of a line.

    Attributes:
      image: uint8 [28, 28], what a model sees.
      box: (left, top, right, bottom) in pixels of the picture, right and bottom not in it.
    """

    image: np.ndarray
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class _Part:
    """Ink that may be one digit: ``ink`` fills ``box``, in pixels of the ink.

    ``crossed`` is the ink under the cut at its right, in heights of the line.
    """

    ink: np.ndarray
    box: tuple[int, int, int, int]
    crossed: float = 0.0


def find_lines(grey: np.ndarray) -> list[list[Glyph]]:
    """Lines of digits, top to bottom, each from left to right; touching digits stay together.

    Args:
      grey: uint8 [height, width].

    Returns:
      A list of lines, empty for a blank page.

    Raises:
      DataError: an array of another type or shape.

    Example:
      >>> page = np.full((60, 100), 255, np.uint8)
      >>> page[20:40, 10:14] = page[20:40, 50:54] = 0
      >>> [[glyph.box for glyph in line] for line in find_lines(page)]
      [[(10, 20, 14, 40), (50, 20, 54, 40)]]
    """
    ink, rows = _find_rows(grey)
    return [_glyphs([_join(ink, *group) for group in row], ink, grey) for row in rows]


def read_line(grey: np.ndarray, score: Score) -> list[Glyph]:
    """The digits of a picture with one line, from left to right.

    Every piece is taken whole or cut into up to ``MOST_PARTS``, as the model is surest. Cuts
    run from top to bottom where they cross the least ink. For each number of parts, dynamic
    programming finds the cuts with the greatest sum of log probabilities (of each part's most
    probable class); the number is that with the greatest mean, where parts must be better
    than the whole by more than a margin, so that a 0 doesn't become two 1s.

    Args:
      grey: uint8 [height, width].
      score: the model.

    Returns:
      The digits; empty for a blank page.

    Raises:
      DataError: an array of another type or shape.

    Example:
      >>> page = np.full((60, 100), 255, np.uint8)
      >>> page[20:40, 10:14] = page[20:40, 50:54] = 0
      >>> len(read_line(page, lambda images: np.full((len(images), 10), 0.1, np.float32)))
      2
    """
    ink, rows = _find_rows(grey, one=True)
    return _read_row(ink, rows[0], grey, score) if rows else []


def read_page(grey: np.ndarray, score: Score) -> list[list[Glyph]]:
    """The digits of a picture with several lines; see :func:`read_line`.

    Args:
      grey: uint8 [height, width].
      score: the model.

    Returns:
      Lines from top to bottom, each from left to right; empty for a blank page.

    Raises:
      DataError: an array of another type or shape.
    """
    ink, rows = _find_rows(grey)
    return [_read_row(ink, row, grey, score) for row in rows]


# --- pieces, digits, rows ------------------------------------------------------------------


def _find_rows(grey, one=False):
    """The ink and, for each row, its digits as (numbers of pieces, labels, box)."""
    ink = find_ink(grey)
    labels, pieces = find_pieces(ink)
    if not pieces:
        return ink, []
    # Of what height digits are here: half of the ink is in pieces at least as high.
    heights = [p.box[3] - p.box[1] for p in pieces]
    height = _weighted_median(heights, [p.weight for p in pieces])
    large = [p for p in pieces if p.box[3] - p.box[1] >= 0.45 * height]
    small = [p for p in pieces if p.box[3] - p.box[1] < 0.45 * height]
    least = 0.02 * float(np.median([p.weight for p in large]))
    rows = [large] if one else _split_rows(large)
    groups = [_group(row) for row in rows]
    for piece in small:
        if piece.weight >= least:
            _attach(piece, groups, height)
    ordered = [sorted(row, key=lambda group: group[1][0] + group[1][2]) for row in groups]
    ordered.sort(key=lambda row: np.mean([box[1] + box[3] for _, box in row]))
    return ink, [[(labels, pieces, box) for pieces, box in row] for row in ordered]


def _weighted_median(values, weights):
    order = np.argsort(values)
    total = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(values)[order][np.searchsorted(total, total[-1] / 2)])


def _split_rows(pieces: list[Piece]):
    """Rows of pieces: each is in the row of the piece to its left that it overlaps most."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: p.box[0]):
        best, most = None, 0.35
        for row in rows:
            last = row[-1].box
            low, high = max(last[1], piece.box[1]), min(last[3], piece.box[3])
            share = (high - low) / min(last[3] - last[1], piece.box[3] - piece.box[1])
            if share > most:
                best, most = row, share
        if best is None:
            rows.append([piece])
        else:
            best.append(piece)
    return rows


def _group(pieces: list[Piece]):
    """Pieces one above the other are one digit: [(pieces, box)]."""
    groups = []
    for piece in sorted(pieces, key=lambda p: p.box[0]):
        if groups:
            others, box = groups[-1]
            shared = min(box[2], piece.box[2]) - max(box[0], piece.box[0])
            if shared > 0.6 * min(box[2] - box[0], piece.box[2] - piece.box[0]):
                groups[-1] = ([*others, piece], unite(box, piece.box))
                continue
        groups.append(([piece], piece.box))
    return groups


def _attach(piece, rows, height):
    """Gives a small piece to the digit over, under or close by; else it is a speck, or a separator.

    The dash of a date and the dots of a time stand beside digits, the broken bar of a 5 above.
    """
    near = [(gap(piece.box, row[i][1]), row, i) for row in rows for i in range(len(row))]
    distance, row, i = min(near, key=lambda item: item[0])
    aside = max(piece.box[0] - row[i][1][2], row[i][1][0] - piece.box[2])
    if distance <= 0.3 * height and aside <= ASIDE * height:
        pieces, box = row[i]
        row[i] = ([*pieces, piece], unite(box, piece.box))


def _join(ink, labels, pieces, box):
    left, top, right, bottom = box
    inside = np.isin(labels[top:bottom, left:right], [p.number for p in pieces])
    return _Part(np.where(inside, ink[top:bottom, left:right], 0), box)


def _glyphs(parts, ink, grey):
    scale = np.array([grey.shape[1] / ink.shape[1], grey.shape[0] / ink.shape[0]] * 2)
    found = [(place_digit(part.ink), part.box) for part in parts]
    return [
        Glyph(image, tuple(int(v) for v in np.rint(np.array(box) * scale)))
        for image, box in found
        if image is not None
    ]


# --- cutting -------------------------------------------------------------------------------


def _read_row(ink, row, grey, score):
    parts = [_join(ink, *group) for group in row]
    height = float(np.median([part.ink.shape[0] for part in parts]))
    options = [_cut(part, height) for part in parts]
    images, index = [], {}
    for number, pieces in enumerate(options):
        for span, part in pieces.items():
            image = place_digit(part.ink)
            if image is not None:
                index[number, span] = len(images)
                images.append(image)
    if not images:
        return []
    logs = np.log(np.clip(score(np.stack(images)).max(axis=1), 1e-4, 1))
    chosen = []
    for number, pieces in enumerate(options):
        known = {
            span: logs[index[number, span]]
            - _CROSSING * part.crossed
            - _WIDENESS * max(part.ink.shape[1] / height - 1, 0)
            for span, part in pieces.items()
            if (number, span) in index
        }
        spans = _choose(known, parts[number].ink.shape[1] / height)
        chosen += [pieces[span] for span in spans]
    return _glyphs(chosen, ink, grey)


def _choose(logs: dict[tuple[int, int], float], width: float) -> list[tuple[int, int]]:
    """Which spans between cuts are digits.

    Args:
      logs: log probability of each span (i, j) of candidate cuts; the whole is (0, last).
      width: of the whole, in heights of the line.

    Returns:
      Spans that follow each other from 0 to the last cut.

    Example:
      >>> _choose({(0, 1): -0.1, (1, 2): -0.1, (0, 2): -3.0}, 1.2)
      [(0, 1), (1, 2)]
      >>> _choose({(0, 1): -0.1, (1, 2): -0.1, (0, 2): -0.1}, 0.8)
      [(0, 2)]
    """
    last = max((stop for _, stop in logs), default=0)
    doubt = _DOUBT_WIDE if width > _WIDE else _DOUBT_NARROW
    # best[j]: the greatest sum over spans from 0 to cut j, by the number of spans so far.
    best = {0: (0.0, [])}
    choice, most = [(0, last)] if (0, last) in logs else [], logs.get((0, last), -np.inf)
    for count in range(1, MOST_PARTS + 1):
        fresh = {}
        for (start, stop), value in logs.items():
            if start in best:
                total = best[start][0] + value
                if stop not in fresh or total > fresh[stop][0]:
                    fresh[stop] = total, [*best[start][1], (start, stop)]
        best = fresh
        if count > 1 and last in best:
            mean = best[last][0] / count - doubt
            if mean > most:
                choice, most = best[last][1], mean
    return choice


def _cut(part, height):
    """All that may be one digit in a part: {(i, j): part between cuts i and j}."""
    tall, wide = part.ink.shape
    seams = _find_seams(part.ink, height) if wide > 0.45 * height else []
    # A seam is the first column to its right in each row; the first and last are the borders.
    crossed = [0.0, *(cost / height for cost, _ in seams), 0.0]
    seams = [np.zeros(tall, int), *(seam for _, seam in seams), np.full(tall, wide)]
    column = np.arange(wide)[None, :]
    spans = {}
    for i in range(len(seams) - 1):
        for j in range(i + 1, len(seams)):
            inside = (column >= seams[i][:, None]) & (column < seams[j][:, None])
            ink = np.where(inside, part.ink, 0)
            rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
            if (i, j) != (0, len(seams) - 1) and (
                not rows.size or rows[-1] - rows[0] < 0.5 * height or np.ptp(columns) > 1.3 * height
            ):
                continue
            left, top = part.box[0] + int(columns[0]), part.box[1] + int(rows[0])
            box = left, top, part.box[0] + int(columns[-1]) + 1, part.box[1] + int(rows[-1]) + 1
            cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            spans[i, j] = _Part(cut, box, crossed[j])
    return spans


def _find_seams(ink, height):
    """Paths from top to bottom, left to right: the ink that each crosses, and its columns."""
    wide = ink.shape[1]
    reach, margin = max(round(0.15 * height), 1), max(round(0.1 * height), 1)
    found = []
    for middle in range(margin, wide - margin + 1, max(round(0.06 * height), 1)):
        low, high = max(middle - reach, 1), min(middle + reach + 1, wide)
        if high - low < 1:
            continue
        cost, seam = _cheapest_path(ink[:, low:high])
        if cost <= 0.45 * height:
            found.append((cost, seam + low))
    kept, most = [], 2 + round(_CUTS_PER_HEIGHT * wide / height)
    for cost, seam in sorted(found, key=lambda item: item[0]):
        if all(np.abs(seam - other).mean() >= 0.1 * height for _, other in kept):
            kept.append((cost, seam))
    return sorted(kept[:most], key=lambda item: item[1].mean())


def _cheapest_path(ink):
    """The ink under the path from the first to the last row that crosses least, and the path."""
    tall, wide = ink.shape
    cost = ink[0].astype(np.float64)
    steps = np.zeros((tall, wide), np.int8)
    side = 0.05  # a step aside costs as much ink: paths are straight where nothing is gained
    for row in range(1, tall):
        padded = np.pad(cost, 1, constant_values=np.inf)
        options = np.stack([padded[:-2] + side, padded[1:-1], padded[2:] + side])
        best = options.argmin(axis=0)
        steps[row] = best - 1
        cost = options[best, np.arange(wide)] + ink[row]
    path = np.empty(tall, int)
    path[-1] = cost.argmin()
    for row in range(tall - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, path[row]]
    return float(cost.min()), path
