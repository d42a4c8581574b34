"""Frames about digits: printed boxes, those of a form, circles."""

import numpy as np
from scipy import ndimage

_LOWEST = 12  # pixels
# What a frame encloses is at least this high, in heights of the hollow: the dot in a 0 is lower.
_ENCLOSED = 0.2
# A box fills this share of its bounding box, when filled: even one that is turned by 3 degrees. A
# circle fills 0.785, and is wider than a 0, in whose middle a loose stroke is its slash.
_RECTANGULAR, _ROUND = 0.88, 0.7
_WALL = 0.05  # of a hollow's height: so far from its sides a digit that touches them is found


def connected(inked: np.ndarray) -> np.ndarray:
    """Numbers connected pieces, diagonally connected ones too: int32 [h, w], from 1."""
    labels = np.empty(inked.shape, np.int32)
    ndimage.label(inked, np.ones((3, 3)), output=labels)
    return labels


def find_frames(inked: np.ndarray) -> np.ndarray:
    """Finds connected pieces of ink that are frames: hollow, about other ink, off the border.

    The digit in a box may touch its walls; it is then not part of the result. Empty boxes of the
    size of one that holds ink, as the unused ones of a form, are frames, too.

    Args:
      inked: bool [h, w].

    Returns:
      bool [h, w]: where frames are.

    Examples:
      >>> inked = np.zeros((20, 20), bool)
      >>> inked[1:17, 1:17] = True
      >>> inked[2:16, 2:16] = False
      >>> alone = find_frames(inked)
      >>> inked[5:12, 7] = True
      >>> int(find_frames(inked).sum()), int(alone.sum())
      (60, 0)
    """
    labels = connected(inked)
    frames = np.zeros(labels.shape, bool)
    sizes, empty = [], []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        height, width = size = np.array([side.stop - side.start for side in box])
        at_border = any(s.start == 0 or s.stop == n for s, n in zip(box, labels.shape, strict=True))
        if at_border or height < _LOWEST or width < _ROUND * height / 2:
            continue
        piece = labels[box] == number
        if piece.mean() > 0.5:
            continue
        filled = np.asarray(ndimage.binary_fill_holes(piece))
        rectangular = filled.mean() > _RECTANGULAR
        if (filled & ~piece).mean() < 0.4 or not (rectangular or width > _ROUND * height):
            continue
        enclosed, touching = _enclosed(labels[box], piece, filled & ~piece, rectangular)
        if enclosed:
            frames[box] |= piece & ~touching
            sizes.append(size)
        else:
            empty.append((box, size, piece))
    for box, size, piece in empty:
        if any(np.abs(other / size - 1).max() < 0.1 for other in sizes):
            frames[box] |= piece
    return frames


def _enclosed(
    labels: np.ndarray, piece: np.ndarray, hollows: np.ndarray, rectangular: bool
) -> tuple[bool, np.ndarray]:
    """Whether a piece encloses ink as high as a digit, and what of the piece is such ink."""
    found, touching = False, np.zeros(piece.shape, bool)
    numbers = np.empty(piece.shape, np.int32)
    ndimage.label(hollows, output=numbers)
    for number, box in enumerate(ndimage.find_objects(numbers), 1):
        height = box[0].stop - box[0].start
        inside = np.where(numbers[box] == number, labels[box], 0)
        found |= _highest(inside) >= _ENCLOSED * height
        margin = max(round(_WALL * height), 1)
        within = tuple(slice(side.start + margin, side.stop - margin) for side in box)
        if rectangular and _highest(connected(piece[within])) >= _ENCLOSED * height:
            found = touching[within] = True
    return found, touching & piece


def _highest(labels: np.ndarray) -> int:
    """The height of the highest piece, in pixels."""
    boxes = ndimage.find_objects(labels) if labels.size else []
    return max((box[0].stop - box[0].start for box in boxes if box), default=0)
