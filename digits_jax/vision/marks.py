"""What stands in a row of digits and is none: dashes, dots, commas, slashes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from digits_jax.vision.digit import stroke_width
from digits_jax.vision.touching import Box, Part

# A slash is straight: the spread across it is that of its stroke. Drawn slashes measure 1.16 to
# 1.18, the slanted 1s of 400 rows of MNIST's images 1.3 or more. It leans to the right by 15
# degrees, and is higher than the row at both ends.
_STRAIGHT, _LEAN = 1.28, 0.268


@dataclass(frozen=True)
class Mark:
    """What is no digit: its kind ("minus", "dash", "dot", "comma" or "slash") and its box."""

    kind: str
    box: Box


def is_slash(part: Part, others: Sequence[Part]) -> bool:
    """Whether a part between digits is a slash."""
    y, x = np.nonzero(part.ink > 0.3)
    if len(y) < 9:
        return False
    spread = np.cov(x, y)
    lean = -spread[0, 1] / max(float(spread[1, 1]), 1e-9)
    across = float(np.sqrt(12 * max(np.linalg.eigvalsh(spread)[0], 0)))
    if lean < _LEAN or across > _STRAIGHT * stroke_width(part.ink):
        return False
    top, bottom = np.median([other.box[1::2] for other in others], axis=0)
    return part.box[1] < top and part.box[3] > bottom


def name_mark(box: Box, digits: Sequence[Part]) -> str | None:
    """Names a small piece of ink by its shape and its place in a row; None for a speck.

    Examples:
      >>> digits = [Part(np.ones((40, 30)), (left, 0, left + 30, 40)) for left in (50, 150)]
      >>> [name_mark(box, digits) for box in ((10, 18, 35, 22), (100, 18, 125, 22))]
      ['minus', 'dash']
      >>> [name_mark((98, y, 102, y + high), digits) for y, high in ((36, 4), (34, 14), (0, 4))]
      ['dot', 'comma', None]
    """
    left, top, right, bottom = box
    highest, lowest = np.median([digit.box[1::2] for digit in digits], axis=0)
    height, wide, high = lowest - highest, right - left, bottom - top
    start, end = digits[0].box[0] - 1.5 * height, digits[-1].box[2] + 1.5 * height
    if not start < left < right < end:
        return None
    middle = ((top + bottom) / 2 - highest) / height
    if wide >= 1.8 * high and wide >= 0.15 * height and 0.2 <= middle <= 0.8:
        return "minus" if right <= digits[0].box[0] else "dash"
    if max(wide, high) > 0.4 * height or not 0.2 <= middle <= 1.3:
        return None
    return "comma" if high >= 1.5 * wide and middle > 0.6 else "dot"
