"""Anybody's picture of a digit -> the 28x28 that MNIST uses. NumPy and SciPy, no model.

grey: uint8 [height, width], 0 black and 255 white, of either polarity.
ink: float32 [h, w] in [0, 1], how much ink each pixel holds; 0 is paper.
glyph: uint8 [28, 28], 0 the paper and 255 the ink, as in the data set.
"""

from dataclasses import dataclass

import numpy as np

from digits_jax.errors import InputError

# Pictures are worked on at this size at most: a digit has 20 pixels in the end.
LONGEST = 1000
SIZE, BOX = 28, 20
THRESHOLD = 0.1
# Stroke widths of MNIST's training images, in pixels of the 20x20 box, as `stroke_width`
# measures them: percentiles 5 and 95 are 1.8 and 3.65, the median is 2.5. Strokes outside
# the limits are brought to the widths beside them.
THIN, THICK = 1.7, 3.9
FROM_THIN, FROM_THICK = 2.1, 3.4
_FINE = 80  # pixels of the longest side where strokes are measured and changed
_FAINTEST = 0.06  # less contrast than this is no ink


def read_digit(grey: np.ndarray) -> np.ndarray | None:
    """The one digit of a picture, placed as MNIST's makers did.

    The heaviest connected piece is the digit; other pieces are of it where they are near and
    not tiny (the bar of a 5). What runs along the picture's border is not.

    Args:
      grey: uint8 [height, width].

    Returns:
      uint8 [28, 28], or None where there is no ink.

    Raises:
      InputError: an array of another type or shape.

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


# --- ink -----------------------------------------------------------------------------------


def find_ink(grey: np.ndarray) -> np.ndarray:
    """How much ink each pixel holds, whatever the light, the paper and the polarity.

    1. A picture longer than ``LONGEST`` is averaged down to that.
    2. The paper's light is a quadratic surface, fitted to the border first and then to all
       that lies near it, and what is left of it, smoothed. Where pixels differ more from it
       to the dark side than to the light one, ink is dark.
    3. Rows and columns with a thin line from border to border are ruled: the line is taken
       away, the ink across it stays.
    4. The contrast is divided by that of the ink, and what doesn't rise above the noise is 0.

    Args:
      grey: uint8 [height, width].

    Returns:
      float32 [h, w] in [0, 1], of the picture's shape or, for a large one, less by one factor;
      all zeros for a blank page.

    Raises:
      InputError: an array of another type or shape.

    Example:
      >>> page = np.full((40, 40), 180, np.uint8)
      >>> page[10:30, 18:22] = 20
      >>> ink = find_ink(page)
      >>> float(ink[20, 20]), float(ink[5, 5])
      (1.0, 0.0)
    """
    small = _shrink(_check(grey))
    if small.max() == small.min():
        return np.zeros(small.shape, np.float32)
    depth, noise = _flatten(small.astype(np.float32))
    across, down = _find_rules(depth, noise), _find_rules(depth.T, noise)
    ruled = _ruled_pixels(depth.shape, across) | _ruled_pixels(depth.T.shape, down).T
    cleared, full = depth, _full_ink(depth[~ruled], noise)
    if full:
        cleared = _remove_rules(_remove_rules(depth, across, full).T, down, full).T
    elif ruled.any():
        # Nothing but lines from border to border: then it is a 1, cut out closely.
        full = _full_ink(depth.ravel(), noise)
    if not full:
        return np.zeros(small.shape, np.float32)
    ink = np.clip(cleared / full, 0, 1)
    ink[cleared < max(3.5 * noise, 0.08 * full)] = 0
    return _drop_faint(ink.astype(np.float32))


def _check(grey):
    if (
        not isinstance(grey, np.ndarray)
        or grey.dtype != np.uint8
        or grey.ndim != 2
        or not grey.size
    ):
        what = f"{grey.dtype} {list(grey.shape)}" if isinstance(grey, np.ndarray) else type(grey)
        raise InputError(f"a picture is {what}; give a uint8 array [height, width], not empty")
    return grey


def _shrink(grey):
    from PIL import Image

    height, width = grey.shape
    longest = max(height, width)
    if longest <= LONGEST:
        return grey
    size = [max(round(side * LONGEST / longest), 1) for side in (width, height)]
    image = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _flatten(grey):
    """The picture's depth below (or above) its paper, float32 [h, w], and the paper's noise.

    The depth is a share: of the paper's light where ink is dark, of what is missing to white
    where it is light.
    """
    from scipy import ndimage

    height, width = grey.shape
    step = max(max(height, width) // 64, 1)
    sample = grey[::step, ::step]
    y, x = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in (height, width))
    ys, xs = np.meshgrid(y[::step], x[::step], indexing="ij")
    terms = np.stack([np.ones_like(xs), xs, ys, xs * xs, xs * ys, ys * ys], -1)
    fit, spread = _fit_paper(terms, sample)
    far = max(4 * spread, 6)
    paper = (
        (fit[0] + fit[1] * x + fit[3] * x * x)[None, :]
        + (fit[2] * y + fit[5] * y * y)[:, None]
        + fit[4] * y[:, None] * x[None, :]
    ).astype(np.float32)
    # What the surface missed, from the paper alone: smooth over a good part of the picture.
    rest = (grey - paper)[::step, ::step]
    flat = (~ndimage.binary_dilation(np.abs(rest) > far)).astype(np.float32)
    sigma = max(sample.shape) / 10
    smooth = ndimage.gaussian_filter(np.stack([rest * flat, flat]), (0, sigma, sigma))
    correction = smooth[0] / (smooth[1] + 0.02)
    if step > 1:
        index = [
            np.minimum(np.arange(n) / step, s - 1)
            for n, s in zip(grey.shape, rest.shape, strict=True)
        ]
        correction = _interpolate(correction, *index)
    paper = np.clip(paper + correction, 0, 255)
    rest = grey - paper
    out = np.abs(rest) > far
    dark = -rest[out & (rest < 0)].sum() >= rest[out & (rest > 0)].sum()
    depth = -rest / np.maximum(paper, 20) if dark else rest / np.maximum(255 - paper, 20)
    quiet = np.abs(depth[~out]) if not out.all() else np.zeros(1)
    return depth, max(1.48 * float(np.median(quiet)), 0.004)


def _fit_paper(terms, sample):
    """The surface of the paper's light and the spread about it: from the border inwards.

    The border is paper even where ink is most of the picture. It is left for all of the
    picture where that gives a surface that much more lies on: a ruled line may run there.
    """
    margin = max(round(0.1 * min(sample.shape)), 1)
    ring = np.ones(sample.shape, bool)
    ring[margin:-margin, margin:-margin] = False
    fits = []
    for where in (ring, np.ones(sample.shape, bool)):
        fit = np.zeros(6)
        fit[0] = np.median(sample[where])
        fit, _ = _fit_surface(terms[where], sample[where], fit, 3, rounds=5)
        fit, spread = _fit_surface(terms.reshape(-1, 6), sample.ravel(), fit, 6, rounds=4)
        near = float((np.abs(sample - terms @ fit) < 10).mean())
        fits.append((fit, spread, near))
        if near > 0.6:
            break
    border, whole = fits[0], fits[-1]
    return whole[:2] if whole[2] > 1.4 * border[2] else border[:2]


def _fit_surface(terms, values, fit, order, rounds):
    """Reweighted least squares with the first ``order`` terms: what lies far off has no say.

    Returns the fit and the spread about it of what lies near.
    """
    for _ in range(rounds):
        rest = np.abs(values - terms @ fit)
        # The standard deviation by the 30th percentile: ink may be more than half of a picture.
        spread = max(float(np.quantile(rest, 0.3)) / 0.385, 1.5)
        weights = np.maximum(1 - (rest / (5 * spread)) ** 2, 0) ** 2
        weighted = terms[:, :order] * weights[:, None]
        # A little ridge: where paper is seen in a corner only, the surface stays level.
        ridge = np.diag([0.0] + [1e-3 * weights.sum() + 1e-6] * (order - 1))
        solved = np.linalg.solve(weighted.T @ terms[:, :order] + ridge, weighted.T @ values)
        fit = np.concatenate([solved, np.zeros(len(fit) - order)])
    return fit, spread


def _interpolate(values, rows, columns):
    """Bilinear samples of a coarse grid at every pair of the given rows and columns."""

    def along(array, where):
        low = np.minimum(where.astype(int), max(len(array) - 2, 0))
        part = (where - low)[:, None].astype(np.float32)
        return array[low] * (1 - part) + array[np.minimum(low + 1, len(array) - 1)] * part

    return along(along(values, rows).T, columns).T


@dataclass(frozen=True)
class _Rules:
    """Ruled lines that run across: rows (start, stop) once columns are moved up by ``shifts``."""

    shifts: np.ndarray
    rows: list[tuple[int, int]]


def _find_rules(depth, noise):
    """Lines across the picture, thin and from border to border, tilted by up to 3 degrees.

    The picture is looked at in 24 strips from left to right. At each slope, a row is as deep
    as all but the palest fifth of the strips are there; the slope that shows most is taken.
    """
    height, width = depth.shape
    if min(height, width) < 32:
        return _Rules(np.zeros(width, int), [])
    edges = np.linspace(0, width, 25).astype(int)
    capped = np.minimum(depth, 0.5)
    strips = np.add.reduceat(capped, edges[:-1], axis=1) / np.diff(edges)
    middles = (edges[:-1] + edges[1:]) / 2
    limit = max(noise, 0.025)
    if (strips.max(axis=0) > limit).mean() < 0.8:  # soon said of most pictures
        return _Rules(np.zeros(width, int), [])
    step = max(1.0 / width, 0.002)
    best, shown, found = 0.0, 0.0, []
    for number in range(int(0.055 / step) + 1):
        # Level lines are the rule: they show at once, and nothing else is looked for.
        if number == 2 and best == 0 and shown:
            break
        for slope in {number * step, -number * step}:
            shift, tall = _shifts(slope, middles, height, width)
            level = _row_levels(strips, shift, tall)
            ruled = _thin_runs(level > limit, max(0.05 * height, 4))
            total = sum(float((level[start:stop] ** 2).sum()) for start, stop in ruled)
            if total > 1.1 * shown:
                best, shown, found = slope, total, ruled
    if not shown:
        return _Rules(np.zeros(width, int), [])
    shift, _ = _shifts(best, np.arange(width) + 0.5, height, width)
    return _Rules(shift, [(start - 1, stop + 1) for start, stop in found])


def _shifts(slope, columns, height, width):
    """By how many rows each column is moved down, at least 0, and the height that is needed."""
    shift = np.floor(slope * (columns - width / 2) + abs(slope) * width / 2 + 0.5).astype(int)
    return shift, height + int(np.ceil(abs(slope) * width)) + 1


def _row_levels(strips, shift, tall):
    """The depth that four in five strips have in each row, of those that reach there."""
    moved = np.full((tall, strips.shape[1]), np.inf)
    rows = np.arange(len(strips))[:, None] + shift[None, :]
    moved[rows, np.arange(strips.shape[1])[None, :]] = strips
    there = np.isfinite(moved).sum(axis=1)
    rank = np.maximum((0.2 * (there - 1)).astype(int), 0)
    level = np.take_along_axis(np.sort(moved, axis=1), rank[:, None], 1)[:, 0]
    return np.where(there >= 0.4 * strips.shape[1], level, 0.0)


def _thin_runs(ruled, thickest):
    """(start, stop) of the runs of True that are no longer than ``thickest``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ruled.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a <= thickest]


def _ruled_pixels(shape, rules):
    """bool [h, w]: where the lines run."""
    ruled = np.zeros(shape, bool)
    columns = np.arange(shape[1])
    for start, stop in rules.rows:
        for row in range(start, stop):
            y = row - rules.shifts
            inside = (y >= 0) & (y < shape[0])
            ruled[y[inside], columns[inside]] = True
    return ruled


def _remove_rules(depth, rules, full):
    """Takes lines across away; ``full`` is the depth of ink."""
    from scipy import ndimage

    depth, columns = depth.copy(), np.arange(depth.shape[1])
    # A row of nothing above and below: there lies what is outside of the picture.
    padded = np.pad(depth, ((1, 1), (0, 0)))

    def row_at(row):
        return padded[np.clip(row - rules.shifts + 1, 0, len(padded) - 1), columns]

    for start, stop in rules.rows:
        # A stroke that crosses comes out within about the line's width of where it went in.
        reach = 2 * ((stop - start) // 2) + 1
        above, below = (ndimage.maximum_filter1d(row_at(r), reach) for r in (start - 1, stop))
        across = np.minimum(above, below)
        for row in range(start, stop):
            y = row - rules.shifts
            inside = (y >= 0) & (y < len(depth))
            if not inside.any():
                continue
            values = row_at(row)
            level = max(float(np.quantile(values[inside], 0.5)), 0.0)
            # Ink that is darker than the line shows on it; ink that is not must be guessed.
            trust = np.clip(2.2 - 3 * level / full, 0, 1)
            seen = full * np.clip((values - level) / max(full - level, 0.05 * full), 0, 1)
            new = trust * seen + (1 - trust) * np.minimum(across, values)
            depth[y[inside], columns[inside]] = new[inside]
    return depth


def _full_ink(depth, noise):
    """The depth of a pixel full of ink; 0 where there is none."""
    floor = max(6 * noise, _FAINTEST)
    inked = depth[depth > floor]
    if not inked.size:
        return 0.0
    top = np.quantile(inked, 0.97)
    return float(np.quantile(inked[inked >= 0.5 * top], 0.6))


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


def _drop_faint(ink):
    """Takes away pieces that are nowhere dark: noise, and the ringing of JPEG."""
    from scipy import ndimage

    labels, count = ndimage.label(ink > 0, np.ones((3, 3)))
    if count:
        dark = np.bincount(labels[ink >= 0.45], minlength=count + 1) > 0
        ink = np.where(dark[labels], ink, np.float32(0))
    return ink


# --- placing -------------------------------------------------------------------------------


def place_digit(ink: np.ndarray) -> np.ndarray | None:
    """Places ink as MNIST's makers did: scaled into 20x20, its centre of mass in 28x28.

    1. The box of all pixels over 0.1 is cut out.
    2. Stroke width. The box is scaled to a longest side of 80 (averaging areas where that
       shrinks, bilinear where it enlarges), divided by its maximum, and padded by one pixel
       of 0. With forward differences dx and dy, the width is
       ``w = 2 sum(ink) / sum(sqrt(dx² + dy²)) / 4`` pixels of the 20x20 box: twice the area
       over the length of the outline.
    3. If w < ``THIN`` (1.7), each pixel of the 80 takes the maximum over a disk; if w >
       ``THICK`` (3.9), the minimum. The disk's radius r is such that the width becomes
       ``FROM_THIN`` (2.1) or ``FROM_THICK`` (3.4) once the box, by now larger or smaller by
       2r, is scaled to 20: r = |w - t| / 2 / (1 - t / 20) * 4, for thin strokes with w at most
       what it is; pixels (i, j) with i² + j² <= r² are in the disk. The box is cut out anew.
       Else the box of step 1 is used as it is.
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
