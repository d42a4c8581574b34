"""Anybody's picture of a digit -> the 28x28 that MNIST uses. NumPy and SciPy, no model.

grey: uint8 [height, width], 0 black and 255 white, of either polarity.
ink: float32 [h, w] in [0, 1], how much ink each pixel holds; 0 is paper.
glyph: uint8 [28, 28], 0 the paper and 255 the ink, as in the data set.
"""

from dataclasses import dataclass

import numpy as np

from digits_jax.vision.ink import find_ink

SIZE, BOX = 28, 20
THRESHOLD = 0.1
# Stroke widths of MNIST's training images, in pixels of the 20x20 box, as `stroke_width`
# measures them: percentiles 5 and 95 are 1.8 and 3.65, the median is 2.5. Strokes outside
# the limits are brought to the widths beside them.
THIN, THICK = 1.7, 3.9
FROM_THIN, FROM_THICK = 2.1, 3.4
_FINE = 80  # pixels of the longest side where strokes are measured and changed


def read_digit(grey: np.ndarray) -> np.ndarray | None:
    """The one digit of a picture, placed as MNIST's makers did.

    The heaviest connected piece is the digit; other pieces are of it where they are near and
    not tiny (the bar of a 5). What runs along the picture's border is not.

    Args:
      grey: uint8 [height, width].

    Returns:
      uint8 [28, 28], or None where there is no ink.

    Raises:
      DataError: an array of another type or shape.

    Example:
      >>> page = np.full((60, 80), 255, np.uint8)
      >>> page[20:50, 40:44] = 0
      >>> glyph = read_digit(page)
      >>> glyph.shape, int(glyph.max()), read_digit(np.full((9, 9), 200, np.uint8))
      ((28, 28), 255, None)
    """
    ink = find_ink(grey)
    labels, pieces = find_pieces(ink)
    if not pieces:
        return None
    main = pieces[0]
    kept, box = [main.number], main.box
    rest = [p for p in pieces[1:] if p.weight > 0.012 * main.weight]
    grown = True
    while grown:
        grown = False
        for piece in list(rest):
            reach = 0.25 if piece.weight > 0.1 * main.weight else 0.12
            if gap(piece.box, box) <= reach * main.longest:
                kept.append(piece.number)
                box = unite(piece.box, box)
                rest.remove(piece)
                grown = True
    return place_digit(np.where(np.isin(labels, kept), ink, 0))


# --- pieces --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A connected piece of ink.

    Attributes:
      number: in the array of labels.
      box: (left, top, right, bottom) in pixels of the ink, right and bottom not in it.
      weight: the sum of its ink.
    """

    number: int
    box: tuple[int, int, int, int]
    weight: float

    @property
    def longest(self) -> int:
        """The longer side of its box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


def find_pieces(ink: np.ndarray) -> tuple[np.ndarray, list[Piece]]:
    """Connected pieces that can be writing, heaviest first: no specks, no frame of the picture.

    Args:
      ink: float [h, w] in [0, 1].

    Returns:
      labels, int32 [h, w] with 0 for paper, and the pieces; a label need not have one.

    Example:
      >>> ink = np.zeros((20, 30), np.float32)
      >>> ink[5:15, 4:7] = ink[8:12, 20:25] = 1
      >>> [piece.box for piece in find_pieces(ink)[1]]
      [(4, 5, 7, 15), (20, 8, 25, 12)]
    """
    from scipy import ndimage

    labels, count = ndimage.label(ink > THRESHOLD, np.ones((3, 3)))
    weights = ndimage.sum_labels(ink, labels, np.arange(1, count + 1))
    pieces = [
        Piece(number, (box[1].start, box[0].start, box[1].stop, box[0].stop), float(weight))
        for number, (box, weight) in enumerate(
            zip(ndimage.find_objects(labels), weights, strict=True), 1
        )
    ]
    # Where everything is a frame, it is a digit cut out closely.
    pieces = [p for p in pieces if not _is_frame(p.box, *ink.shape)] or pieces
    least = max(3, 0.008 * max(ink.shape))
    pieces = sorted((p for p in pieces if p.longest >= least), key=lambda p: -p.weight)
    return labels, pieces


def _is_frame(box, height, width):
    left, top, right, bottom = box
    sides = (left == 0) + (top == 0) + (right == width) + (bottom == height)
    return sides >= 2 and (right - left > 0.9 * width or bottom - top > 0.9 * height)


def gap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Pixels between two boxes (left, top, right, bottom), 0 where they meet.

    Example:
      >>> gap((0, 0, 5, 5), (8, 9, 10, 10))
      5.0
    """
    across = max(b[0] - a[2], a[0] - b[2], 0)
    down = max(b[1] - a[3], a[1] - b[3], 0)
    return float(np.hypot(across, down))


def unite(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The box around two boxes (left, top, right, bottom).

    Example:
      >>> unite((0, 0, 5, 5), (8, 9, 10, 10))
      (0, 0, 10, 10)
    """
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


# --- placing -------------------------------------------------------------------------------


def place_digit(ink: np.ndarray) -> np.ndarray | None:
    """Places ink as MNIST's makers did: scaled into 20x20, its centre of mass in 28x28.

    1. The box of all pixels over 0.1 is cut out.
    2. Stroke width. The box is scaled to a longest side of 80 (averaging areas where that
       shrinks, bilinear where it enlarges), divided by its maximum, and padded by one pixel
       of 0. With forward differences dx and dy, the width is
       ``w = 2 sum(ink) / sum(sqrt(dx² + dy²)) / 4`` pixels of the 20x20 box: twice the area
       over the length of the outline.
    3. If w < ``THIN`` (1.7) or w > ``THICK`` (3.9), the 80 pixels' image is padded with zeros.
       For thin strokes each pixel takes the maximum over a disk about it, for thick ones the
       minimum. A disk is the offsets (i, j) with i² + j² <= r², and
       ``r = 4 |w - t| / 2 / (1 - t / 20)`` brings the width to t, which is ``FROM_THIN`` (2.1)
       or ``FROM_THICK`` (3.4), once the box, by now 2r larger or smaller, is scaled to 20. The
       box of all pixels over 0.1 is cut out anew. Other strokes stay as in step 1.
    4. The box is scaled to a longest side of 20, keeping its aspect (the shorter side rounded,
       at least 1), by averaging areas: output pixel i is the mean of the input from i/s to
       (i+1)/s, pixels at the ends by their parts. Then it is divided by its maximum.
    5. It is put into 28x28 so that the centre of mass, each pixel at its middle, comes
       nearest to the middle of the picture at (14, 14), moved by whole pixels, inside.

    Args:
      ink: float [h, w] in [0, 1].

    Returns:
      uint8 [28, 28], or None where no pixel is over 0.1.

    Example:
      >>> ink = np.zeros((100, 100), np.float32)
      >>> ink[10:90, 70:80] = 1
      >>> glyph = place_digit(ink)
      >>> np.flatnonzero(glyph.any(axis=1))[[0, -1]], np.flatnonzero(glyph.any(axis=0))[[0, -1]]
      (array([ 4, 23]), array([13, 14]))

    Reference:
      LeCun, Cortes and Burges, The MNIST database: http://yann.lecun.com/exdb/mnist/
    """
    ink = cut_out(ink)
    if ink is None:
        return None
    fine = _adjust_strokes(ink)
    small = _scale_to(ink if fine is None else fine, BOX)
    small = small / small.max()
    height, width = small.shape
    mass = small.sum()
    y = (small.sum(1) @ (np.arange(height) + 0.5)) / mass
    x = (small.sum(0) @ (np.arange(width) + 0.5)) / mass
    top = min(max(int(np.floor(SIZE / 2 - y + 0.5)), 0), SIZE - height)
    left = min(max(int(np.floor(SIZE / 2 - x + 0.5)), 0), SIZE - width)
    glyph = np.zeros((SIZE, SIZE), np.uint8)
    glyph[top : top + height, left : left + width] = np.floor(255 * small + 0.5)
    return glyph


def cut_out(ink):
    """The box of all pixels over ``THRESHOLD``; None where there are none."""
    rows = np.flatnonzero((ink > THRESHOLD).any(axis=1))
    columns = np.flatnonzero((ink > THRESHOLD).any(axis=0))
    if not rows.size:
        return None
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def stroke_width(fine: np.ndarray) -> float:
    """The width of strokes: twice the area over the length of the outline, in pixels.

    Args:
      fine: float [h, w] in [0, 1].

    Returns:
      The width, at least 0.

    Example:
      >>> round(stroke_width(np.ones((1000, 10))), 1)
      9.9
    """
    padded = np.pad(fine, 1)
    down, right = np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]
    return float(2 * padded.sum() / max(np.hypot(down, right).sum(), 1e-9))


def _adjust_strokes(ink):
    """The box at 80 pixels with strokes of a usual width; None where they have it already."""
    from scipy import ndimage

    fine = _scale_to(ink, _FINE)
    fine = fine / fine.max()
    width = stroke_width(fine) * BOX / _FINE
    if THIN <= width <= THICK:
        return None
    target = FROM_THIN if width < THIN else FROM_THICK
    radius = abs(width - target) / 2 / (1 - target / BOX) * _FINE / BOX
    reach = int(np.ceil(radius))
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = i * i + j * j <= radius * radius
    if width < THIN:
        return cut_out(ndimage.grey_dilation(np.pad(fine, reach), footprint=disk))
    return cut_out(ndimage.grey_erosion(np.pad(fine, reach), footprint=disk))


def _scale_to(ink, longest):
    """Scaled so that the longest side is ``longest``: by areas, or bilinear where enlarged."""
    height, width = ink.shape
    scale = longest / max(height, width)
    size = [max(round(side * scale), 1) for side in (height, width)]
    matrices = []
    for old, new in zip((height, width), size, strict=True):
        enlarge = new > old and longest != BOX
        matrices.append((_bilinear_weights if enlarge else _area_weights)(old, new))
    return matrices[0] @ ink @ matrices[1].T


def _area_weights(old, new):
    """float32 [new, old]: the part of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    low = np.maximum(edges[:-1, None], np.arange(old)[None, :])
    high = np.minimum(edges[1:, None], np.arange(1, old + 1)[None, :])
    return (np.maximum(high - low, 0) * (new / old)).astype(np.float32)


def _bilinear_weights(old, new):
    """float32 [new, old]: linear interpolation between the middles of pixels."""
    where = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(where[:, None] - np.arange(old)[None, :]), 0).astype(np.float32)
