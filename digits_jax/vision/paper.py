"""The paper on a picture: a note on a desk, a photo pasted on a white page, a page of a book."""

import numpy as np
from PIL import Image
from scipy import ndimage

_COARSE = 200  # pixels of the longest side, at which paper is looked for
_MEDIAN = 9  # of them: strokes and lines are narrower than half of this
_EDGE = 4.0  # grey levels from a pixel to the next: shade changes by less
_SMALLEST, _LARGEST = 0.04, 0.95  # paper's share of the picture
_SHEET = 0.8  # the share of the smallest rectangle about it that a sheet in perspective fills
_ALONG = 0.1  # at most so much of one side of the picture is paper: strokes cover no side
_NEAR, _FAR = 4, 12  # pixels: how far from the paper its surroundings are compared with it
_LEVELS, _PIXELS = 12, 6  # levels from the paper, and so many pixels of it, are ink


def cover_surroundings(grey: np.ndarray) -> np.ndarray:
    """Covers what is around the paper with the paper's colour.

    1. The picture is scaled to a longest side of 200 and filtered by a median of 9x9 pixels, which
       removes strokes. Where it changes by less than 4 levels a pixel are regions.
    2. A region is paper if it covers at least 4% of the picture, fills four fifths of a rectangle,
       holds ink, surrounds no other region, and stays away from one side of the picture. There
       must be one such region alone: a shadow across a page leaves two.
    3. Beyond its edge the surroundings are darker or lighter: a line of squared paper is no edge.
    4. Each pixel outside of it takes the level that the filtered paper has nearest to it.

    Args:
      grey: uint8 [height, width].

    Returns:
      uint8 [height, width]: the picture itself where no paper is found or it fills the picture.
    """
    height, width = grey.shape
    scale = _COARSE / max(height, width)
    if scale > 1 or min(height, width) * scale < 3 * _MEDIAN:
        return grey
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BOX)
    coarse = np.asarray(image, np.float32)
    if _is_one_ground(coarse):  # most pictures; what follows takes 6 ms
        return grey
    light = _median(np.asarray(image), _MEDIAN).astype(np.float32)
    edges = ndimage.gaussian_gradient_magnitude(light, 1, mode="nearest") > _EDGE
    if not edges.any():
        return grey
    paper = _find_paper(coarse, light, ~edges)
    if paper is None:
        return grey
    nearest = np.empty((2, *paper.shape), np.int32)
    distance = np.empty(paper.shape)
    ndimage.distance_transform_edt(~paper, return_indices=True, distances=distance, indices=nearest)
    levels = light[nearest[0], nearest[1]]
    # Beyond a printed line, as of squared paper, the paper goes on.
    beyond = (distance > _NEAR) & (distance <= _FAR)
    if (np.abs(levels - light)[beyond] > _LEVELS).mean() < 0.6:
        return grey
    cover = Image.fromarray(levels.astype(np.uint8))
    cover = cover.resize((width, height), Image.Resampling.BILINEAR)
    inside = Image.fromarray(paper).resize((width, height), Image.Resampling.NEAREST)
    return np.where(np.asarray(inside), grey, np.asarray(cover))


def _median(grey: np.ndarray, size: int) -> np.ndarray:
    """The median of the size x size pixels about each, uint8 [h, w]; the border goes on outside."""
    # It is found bit by bit, from the highest: a median is at least v where at most half of the
    # pixels are below v. That takes 4 ms for 200x200, Pillow's filter 28 ms on grainy paper.
    height, width = grey.shape
    padded = np.pad(grey, size // 2, mode="edge")
    shifted = [padded[y : y + height, x : x + width] for y in range(size) for x in range(size)]
    median, count, is_below = np.zeros_like(grey), np.empty_like(grey), np.empty(grey.shape, bool)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        candidate = median | np.uint8(bit)
        count[:] = 0
        for each in shifted:
            np.less(each, candidate, out=is_below)
            np.add(count, is_below.view(np.uint8), out=count)
        np.copyto(median, candidate, where=count <= size * size // 2)
    return median


def _is_one_ground(coarse: np.ndarray) -> bool:
    """Whether nothing wider than strokes differs from the picture's border."""
    border = np.concatenate([coarse[0], coarse[-1], coarse[:, 0], coarse[:, -1]])
    other = np.abs(coarse - np.median(border)) > _LEVELS
    height, width = (side // _MEDIAN for side in other.shape)
    blocks = other[: height * _MEDIAN, : width * _MEDIAN].reshape(height, _MEDIAN, width, _MEDIAN)
    return not blocks.all((1, 3)).any()


def _find_paper(coarse: np.ndarray, light: np.ndarray, even: np.ndarray) -> np.ndarray | None:
    """The one even region that is paper with ink: bool [h, w]."""
    numbers = np.empty(even.shape, np.int32)
    ndimage.label(even, output=numbers)
    areas = np.bincount(numbers.ravel())
    areas[0] = 0
    large = np.flatnonzero(areas >= _SMALLEST * even.size)
    papers = []
    for number in large:
        region = numbers == number
        # The even ground of a plain picture fails at this test, which is cheap.
        if (
            min(side.mean() for side in (region[0], region[-1], region[:, 0], region[:, -1]))
            > _ALONG
        ):
            continue
        filled = np.asarray(ndimage.binary_fill_holes(region))
        surrounds = np.isin(numbers[filled], large[large != number]).any()
        if surrounds or filled.mean() > _LARGEST or not _is_rectangular(filled):
            continue
        inner = ndimage.binary_erosion(filled, iterations=2, border_value=1).astype(bool)
        depth = np.abs(coarse[inner] - light[inner])
        if (depth > max(_LEVELS, 6 * np.median(depth))).sum() >= _PIXELS:
            papers.append(filled)
    return papers[0] if len(papers) == 1 else None


def _is_rectangular(region: np.ndarray) -> bool:
    # The first and the last pixel of each row reach as far as all pixels in every direction.
    rows = np.flatnonzero(region.any(1))
    last = region.shape[1] - 1 - region[rows, ::-1].argmax(1)
    y, x = np.tile(rows, 2), np.concatenate([region[rows].argmax(1), last])
    angles = np.radians(np.arange(0, 90, 3))[:, None]
    across = np.ptp(x * np.cos(angles) + y * np.sin(angles), axis=1) + 1
    down = np.ptp(y * np.cos(angles) - x * np.sin(angles), axis=1) + 1
    return region.sum() >= _SHEET * float((across * down).min())
