"""The ink of one digit -> the 28x28 image that MNIST's makers would have made of it."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

IMAGE_SIZE, BOX = 28, 20
THRESHOLD = 0.1  # of ink: fainter pixels don't count for a box or a connected piece
# Stroke widths of MNIST's training images, in pixels of the 20x20 box, as `stroke_width`
# measures them: percentiles 5 and 95 are 1.8 and 3.65, the median is 2.5. Strokes outside
# the limits are brought to the widths beside them.
THIN, THICK = 1.7, 3.9
FROM_THIN, FROM_THICK = 2.1, 3.4
_FINE = 80  # pixels of the longest side where strokes are measured and changed


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
       box of all pixels over 0.1 is cut out again. Other strokes stay as in step 1.
    4. The box is scaled to a longest side of 20, keeping its aspect (the shorter side rounded,
       at least 1), by averaging areas: output pixel i is the mean of the input from i/s to
       (i+1)/s, pixels at the ends by their parts. Then it is divided by its maximum.
    5. It is put into 28x28 so that the centre of mass, each pixel at its middle, comes
       nearest to the middle of the picture at (14, 14), moved by whole pixels, inside.

    Args:
      ink: float [h, w] in [0, 1].

    Returns:
      uint8 [28, 28], or None where no pixel is over 0.1.

    Examples:
      >>> ink = np.zeros((100, 100), np.float32)
      >>> ink[10:90, 70:80] = 1
      >>> image = place_digit(ink)
      >>> np.flatnonzero(image.any(axis=1))[[0, -1]], np.flatnonzero(image.any(axis=0))[[0, -1]]
      (array([ 4, 23]), array([13, 14]))

    Reference:
      LeCun, Cortes and Burges, The MNIST database: http://yann.lecun.com/exdb/mnist/
    """
    cropped = _crop(ink)
    if cropped is None:
        return None
    small = _scale_to(_adjust_strokes(cropped), BOX, enlarge=_area_weights)
    small = small / small.max()
    height, width = small.shape
    mass = small.sum()
    y = (small.sum(1) @ (np.arange(height) + 0.5)) / mass
    x = (small.sum(0) @ (np.arange(width) + 0.5)) / mass
    top = min(max(int(np.floor(IMAGE_SIZE / 2 - y + 0.5)), 0), IMAGE_SIZE - height)
    left = min(max(int(np.floor(IMAGE_SIZE / 2 - x + 0.5)), 0), IMAGE_SIZE - width)
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    image[top : top + height, left : left + width] = np.floor(255 * small + 0.5)
    return image


def stroke_width(ink: np.ndarray) -> float:
    """Measures strokes: twice the area of ink over the length of its outline, in pixels.

    Examples:
      >>> round(stroke_width(np.ones((1000, 10))), 1)
      9.9
    """
    padded = np.pad(ink, 1)
    down, right = np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]
    return float(2 * padded.sum() / max(np.hypot(down, right).sum(), 1e-9))


def _crop(ink: np.ndarray) -> np.ndarray | None:
    """The box of all pixels over ``THRESHOLD``; None where there are none."""
    rows = np.flatnonzero((ink > THRESHOLD).any(axis=1))
    columns = np.flatnonzero((ink > THRESHOLD).any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else None


def _adjust_strokes(ink: np.ndarray) -> np.ndarray:
    """Steps 2 and 3 of `place_digit`."""
    fine = _scale_to(ink, _FINE, enlarge=_bilinear_weights)
    fine = fine / fine.max()
    width = stroke_width(fine) * BOX / _FINE
    if THIN <= width <= THICK:
        return ink
    target = FROM_THIN if width < THIN else FROM_THICK
    radius = abs(width - target) / 2 / (1 - target / BOX) * _FINE / BOX
    reach = int(np.ceil(radius))
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    change = ndimage.grey_dilation if width < THIN else ndimage.grey_erosion
    changed = _crop(change(np.pad(fine, reach), footprint=i * i + j * j <= radius * radius))
    return ink if changed is None else changed


def _scale_to(ink: np.ndarray, longest: int, enlarge: Callable) -> np.ndarray:
    height, width = ink.shape
    scale = longest / max(height, width)
    sizes = [(side, max(round(side * scale), 1)) for side in (height, width)]
    rows, columns = ((enlarge if new > old else _area_weights)(old, new) for old, new in sizes)
    return rows @ ink @ columns.T


def _area_weights(old: int, new: int) -> np.ndarray:
    """float32 [new, old]: the part of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    low = np.maximum(edges[:-1, None], np.arange(old)[None, :])
    high = np.minimum(edges[1:, None], np.arange(1, old + 1)[None, :])
    return (np.maximum(high - low, 0) * (new / old)).astype(np.float32)


def _bilinear_weights(old: int, new: int) -> np.ndarray:
    """float32 [new, old]: linear interpolation between the middles of pixels."""
    middles = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(middles[:, None] - np.arange(old)[None, :]), 0).astype(np.float32)
