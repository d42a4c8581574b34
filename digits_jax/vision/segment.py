"""A picture's pieces of ink, the digits that they make, and rows of digits.

Ink is found once, by `segment`; what it returns is read as one digit or as rows of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from scipy import ndimage

from digits_jax.vision.digit import THRESHOLD
from digits_jax.vision.frames import connected
from digits_jax.vision.ink import LONGEST, find_ink
from digits_jax.vision.marks import Mark, is_slash, name_mark
from digits_jax.vision.touching import Box, Part, split_touching

# A network as a function, uint8 [n, 28, 28] -> probabilities float32 [n, classes], together less
# than 1 where an image may be no digit. Those of smoothed labels serve best: sharper ones make a
# pair that touches look as certain as a digit.
Score = Callable[[np.ndarray], np.ndarray]

# Pages whose digits are lower than this, in pixels of their ink, are processed at a larger size.
_LOW, _LONGEST_PAGE = 24, 3000
_MAX_PIECES = 20_000  # on one page; the time to sort them into rows grows with their square
# Mean score of a page's parts: upright 0.76 to 0.92, the least where a third of its digits touch;
# otherwise at most 0.66. Above the first, no other direction is tried, below the second none taken.
_CONFIDENT, _TURNED = 0.84, 0.7
_DISC = 12  # pixels: smaller ones are dots
_ASIDE = 0.08  # how far beside a digit a small piece of it may be, in heights of the line


@dataclass(frozen=True)
class Piece:
    """A connected piece of ink: its label in `Segmentation.labels`, and the sum of its ink."""

    label: int
    box: Box
    weight: float

    @property
    def height(self) -> int:
        """Of its box."""
        return self.box[3] - self.box[1]

    @property
    def longest(self) -> int:
        """The longer side of its box."""
        return max(self.box[2] - self.box[0], self.height)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The ink of a picture and its connected pieces.

    Attributes:
      shape: (height, width) of the picture.
      ink: float32 [h, w] in [0, 1], see `find_ink`.
      labels: int32 [h, w], 0 for paper.
      pieces: those that can be writing, heaviest first: no specks, no frame of the picture.
      too_small: how many others were left out as specks.
    """

    shape: tuple[int, int]
    ink: np.ndarray
    labels: np.ndarray
    pieces: list[Piece]
    too_small: int

    @property
    def digit_height(self) -> int:
        """How high digits are: half of the ink is in pieces at least as high."""
        by_height = sorted(self.pieces, key=lambda p: p.height)
        weights = np.cumsum([p.weight for p in by_height])
        return by_height[np.searchsorted(weights, weights[-1] / 2)].height if by_height else 0

    def turn(self) -> "Segmentation":
        """The picture after a quarter of a turn to the left."""
        width = self.ink.shape[1]
        pieces = [replace(piece, box=_turn(piece.box, width)) for piece in self.pieces]
        ink, labels = np.rot90(self.ink), np.rot90(self.labels)
        return Segmentation((self.shape[1], self.shape[0]), ink, labels, pieces, self.too_small)


@dataclass(frozen=True, eq=False)
class Glyph:
    """A digit that was found.

    Attributes:
      image: uint8 [28, 28], 0 the paper and 255 the ink: the input of a network.
      box: in pixels of the picture.
    """

    image: np.ndarray
    box: Box


Found = TypeVar("Found", Part, Glyph)


@dataclass(frozen=True, eq=False)
class Row(Generic[Found]):
    """The digits of a row, from left to right, and what else stands in it."""

    digits: list[Found]
    marks: list[Mark]


def segment(grey: np.ndarray, *, page: bool = False) -> Segmentation:
    """Finds the ink of a picture, uint8 [height, width], and its pieces that can be writing.

    Args:
      page: whether it holds several lines: it is then processed at a larger size if it has to be.

    Raises:
      DataError: an array of another type or shape.

    Examples:
      >>> page = np.full((60, 100), 255, np.uint8)
      >>> page[20:40, 10:14] = page[28:38, 50:54] = 0
      >>> [piece.box for piece in segment(page).pieces]
      [(10, 20, 14, 40), (50, 28, 54, 38)]
    """
    found = _segment(grey, LONGEST)
    if page and max(grey.shape) > LONGEST and found.digit_height < _LOW:
        return _segment(grey, _LONGEST_PAGE)
    return found


def _segment(grey: np.ndarray, longest: int) -> Segmentation:
    ink = find_ink(grey, longest)
    found = _find_pieces(grey.shape, ink)
    # Thresholded writing falls to dots that are a pixel or two apart. Once they meet, pieces are
    # 1.6 times as high or more, those of other writing at most 1.2 times. Low rows would meet, too.
    if found.digit_height >= 10 and len(found.pieces) + found.too_small >= 5:
        dots_met = ndimage.grey_erosion(ndimage.grey_dilation(ink, (5, 5)), (3, 3))
        met = _find_pieces(grey.shape, dots_met)
        if met.digit_height > 1.4 * found.digit_height:
            return met
    return found


def _find_pieces(shape: Any, ink: np.ndarray) -> Segmentation:
    labels = connected(ink > THRESHOLD)
    weights = ndimage.sum_labels(ink, labels, np.arange(1, labels.max() + 1))
    pieces = [
        Piece(label, (box[1].start, box[0].start, box[1].stop, box[0].stop), float(weight))
        for label, (box, weight) in enumerate(
            zip(ndimage.find_objects(labels), weights, strict=True), 1
        )
    ]
    # Where everything is a frame, it is a digit cut out closely.
    pieces = [p for p in pieces if not _is_frame(p.box, *ink.shape)] or pieces
    highest = max((p.height for p in pieces), default=0)
    pieces = [p for p in pieces if p.height == highest or not _is_disc(p)]
    least = max(3, 0.008 * min(max(ink.shape), LONGEST))
    large = sorted((p for p in pieces if p.longest >= least), key=lambda p: -p.weight)
    return Segmentation(shape, ink, labels, large[:_MAX_PIECES], len(pieces) - len(large))


def find_digit(found: Segmentation) -> Glyph | None:
    """Finds the one digit of a picture; None where there is no ink.

    The heaviest connected piece is the digit; other pieces are of it where they are near and
    not tiny (the bar of a 5). What runs along the picture's border is not.
    """
    if not found.pieces:
        return None
    main, *rest = found.pieces
    rest = [p for p in rest if p.weight > 0.012 * main.weight]
    digit = [main]

    def is_near(piece: Piece) -> bool:
        reach = 0.25 if piece.weight > 0.1 * main.weight else 0.12
        return _gaps(piece.box, _bounds(digit))[1] <= reach * main.longest

    while near := [p for p in rest if is_near(p)]:
        digit += near
        rest = [p for p in rest if p not in near]
    return _place(found, Row([_cut_out(found, digit)], [])).digits[0]


def read_digit(grey: np.ndarray) -> np.ndarray | None:
    """Places the one digit of a picture, uint8 [height, width], as MNIST's makers did.

    Returns:
      uint8 [28, 28], or None where there is no ink.

    Raises:
      DataError: an array of another type or shape.

    Examples:
      >>> page = np.full((60, 80), 255, np.uint8)
      >>> page[20:50, 40:44] = 0
      >>> image = read_digit(page)
      >>> image.shape, int(image.max()), read_digit(np.full((9, 9), 200, np.uint8))
      ((28, 28), 255, None)
    """
    digit = find_digit(segment(grey))
    return None if digit is None else digit.image


def read_line(found: Segmentation, score: Score) -> list[Row[Glyph]]:
    """Reads a picture with one row; see `split_touching`. There is none on a blank picture."""
    return _split(found, find_rows(found, single=True), score)


def read_page(found: Segmentation, score: Score) -> list[Row[Glyph]]:
    """Reads rows of digits, top to bottom, each from left to right; see `split_touching`.

    A page whose parts have a low mean probability is turned to where that is highest, by quarters
    of a turn. The boxes are those of the page as it was given.
    """
    pages = [(found, find_rows(found))]
    means = [_mean_score(pages[0][1], score)]
    if means[0] <= _CONFIDENT:
        for _ in range(3):
            found = found.turn()
            pages.append((found, find_rows(found)))
            means.append(_mean_score(pages[-1][1], score))
    turns = int(np.argmax(means)) if max(means) > _TURNED else 0
    found, rows = pages[turns]
    # In this direction alone: on a page of text, all parts would be cut in all four.
    result = _split(found, rows, score)
    for turn in range(-turns % 4):  # so many more bring the boxes back
        width = found.shape[(turn + 1) % 2]
        result = [_map_boxes(row, lambda box, width=width: _turn(box, width)) for row in result]
    return result


def _mean_score(rows: list[Row[Part]], score: Score) -> float:
    """The mean probability of the parts' most probable classes."""
    images = [part.image for row in rows for part in row.digits]
    return float(score(np.stack(images)).max(axis=1).mean()) if images else 0.0


def _split(found: Segmentation, rows: list[Row[Part]], score: Score) -> list[Row[Glyph]]:
    parts = split_touching([row.digits for row in rows], score)
    return [_place(found, Row(digits, row.marks)) for digits, row in zip(parts, rows, strict=True)]


def find_rows(found: Segmentation, *, single: bool = False) -> list[Row[Part]]:
    """Groups pieces into digits, and digits into rows; touching digits are one part.

    Small pieces over, under or close to a digit are of it; others are marks, or specks.

    Args:
      found: the picture.
      single: whether all is one row.

    Returns:
      Rows from top to bottom, each from left to right; none for a blank picture.

    Examples:
      >>> page = np.full((60, 100), 255, np.uint8)
      >>> page[20:40, 10:14] = page[20:40, 50:54] = 0
      >>> [[part.box for part in row.digits] for row in find_rows(segment(page))]
      [[(10, 20, 14, 40), (50, 20, 54, 40)]]
    """
    if not found.pieces:
        return []
    height = found.digit_height
    large = [p for p in found.pieces if p.height >= 0.45 * height]
    least = 0.02 * float(np.median([p.weight for p in large]))
    rows = [_stack(row) for row in ([large] if single else _split_rows(large))]
    small = [p for p in found.pieces if p.height < 0.45 * height and p.weight >= least]
    loose = _attach(small, [digit for row in rows for digit in row], height)
    for row in rows:
        row.sort(key=lambda digit: sum(_bounds(digit)[0::2]))
    rows.sort(key=lambda row: np.mean([sum(_bounds(digit)[1::2]) for digit in row]))
    return _add_marks([[_cut_out(found, digit) for digit in row] for row in rows], loose)


def _split_rows(pieces: list[Piece]) -> list[list[Piece]]:
    """Rows of pieces: each is in the row of the pieces to its left that it overlaps most."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: p.box[0]):
        best, most = [], 0.35
        for row in rows:
            for last in row[-2:]:  # the last may be one half of a broken digit
                low, high = max(last.box[1], piece.box[1]), min(last.box[3], piece.box[3])
                share = (high - low) / min(last.height, piece.height)
                if share > most:
                    best, most = row, share
        if not best:
            rows.append(best)
        best.append(piece)
    return rows


def _stack(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces one above the other are one digit."""
    digits: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: p.box[0]):
        if digits:
            left, _, right, _ = _bounds(digits[-1])
            shared = min(right, piece.box[2]) - max(left, piece.box[0])
            if shared > 0.6 * min(right - left, piece.box[2] - piece.box[0]):
                digits[-1].append(piece)
                continue
        digits.append([piece])
    return digits


def _add_marks(rows: list[list[Part]], loose: list[Piece]) -> list[Row[Part]]:
    """The rows, without slashes; their marks are these and the loose pieces that have a name."""
    result = []
    for parts in rows:
        slashes = [
            i for i in range(1, len(parts) - 1) if is_slash(parts[i], parts[:i] + parts[i + 1 :])
        ]
        digits = [part for i, part in enumerate(parts) if i not in slashes]
        marks = [Mark("slash", parts[i].box) for i in slashes]
        named = [(name_mark(piece.box, digits), piece.box) for piece in loose]
        marks += [Mark(kind, box) for kind, box in named if kind]
        result.append(Row(digits, sorted(marks, key=lambda mark: mark.box)))
    return result


def _attach(pieces: list[Piece], digits: list[list[Piece]], height: float) -> list[Piece]:
    """Adds small pieces to the digit over, under or close by, and returns the others."""
    # The dash of a date and the dots of a time stand beside digits, the broken bar of a 5 above.
    boxes, loose = np.array([_bounds(digit) for digit in digits]), []
    for piece in pieces:
        aside, gaps = _gaps(piece.box, boxes.T)
        nearest = int(gaps.argmin())
        if gaps[nearest] <= 0.3 * height and aside[nearest] <= _ASIDE * height:
            digits[nearest].append(piece)
            boxes[nearest] = _bounds(digits[nearest])
        else:
            loose.append(piece)
    return loose


def _cut_out(found: Segmentation, pieces: list[Piece]) -> Part:
    left, top, right, bottom = box = _bounds(pieces)
    inside = np.isin(found.labels[top:bottom, left:right], [p.label for p in pieces])
    return Part(np.where(inside, found.ink[top:bottom, left:right], 0), box)


def _place(found: Segmentation, row: Row[Part]) -> Row[Glyph]:
    """The digits of a row as a network takes them, and all boxes in pixels of the picture."""
    scale = np.divide(found.shape, found.ink.shape)[[1, 0, 1, 0]]

    def to_picture(box: Box) -> Box:
        left, top, right, bottom = np.rint(box * scale).astype(int).tolist()
        return left, top, right, bottom

    glyphs = Row([Glyph(part.image, part.box) for part in row.digits], row.marks)
    return _map_boxes(glyphs, to_picture)


def _map_boxes(row: Row[Glyph], change: Callable[[Box], Box]) -> Row[Glyph]:
    digits = [replace(glyph, box=change(glyph.box)) for glyph in row.digits]
    return Row(digits, [replace(mark, box=change(mark.box)) for mark in row.marks])


# --- boxes ---------------------------------------------------------------------------------


def _is_frame(box: Box, height: int, width: int) -> bool:
    left, top, right, bottom = box
    sides = (left == 0) + (top == 0) + (right == width) + (bottom == height)
    return sides >= 2 and (right - left > 0.9 * width or bottom - top > 0.9 * height)


def _turn(box: Box, width: int) -> Box:
    """The box after a quarter of a turn to the left of a picture of that width."""
    left, top, right, bottom = box
    return top, width - right, bottom, width - left


def _is_disc(piece: Piece) -> bool:
    """Whether a piece is filled and as wide as high: a punched hole, or a blot."""
    width, high = piece.box[2] - piece.box[0], piece.height
    return 0.8 < width / high < 1.25 and piece.weight > 0.65 * width * high and high > _DISC


def _bounds(pieces: list[Piece]) -> Box:
    left, top, right, bottom = zip(*(p.box for p in pieces), strict=True)
    return min(left), min(top), max(right), max(bottom)


def _gaps(box: Box, others: Any) -> tuple[Any, Any]:
    """Pixels from a box to another, or to each of several: sideways, negative where they overlap,
    and in all, 0 where they meet."""
    left, top, right, bottom = others
    aside = np.maximum(left - box[2], box[0] - right)
    down = np.maximum(top - box[3], box[1] - bottom)
    return aside, np.hypot(np.maximum(aside, 0), np.maximum(down, 0))
